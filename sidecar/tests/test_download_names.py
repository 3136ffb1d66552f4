"""Sources, configs, names of listings: what is understood, what is refused, that nothing leaves its folder."""

from __future__ import annotations

import json
import posixpath
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from patio.downloads.faults import DownloadFault, of_status, redacted
from patio.downloads.names import check_listing, is_revision, key_of, safe_name, why_skipped
from patio.downloads.s3 import addressing_style, region_of
from patio_protocol.adapters import LoadRequest
from patio_protocol.downloads import DownloadReason, DownloadRequest
from patio_protocol.sources import Source, SourceKind, check_endpoint, parse_source, read_config, without_secrets

HF, S3, OBS, PVC, FILE = SourceKind


@pytest.mark.parametrize(
    ("uri", "source"),
    [
        ("microsoft/phi-2", Source(HF, "microsoft/phi-2", "")),
        ("org/repo@v1.0", Source(HF, "org/repo", "", "v1.0")),
        ("hf://org/repo", Source(HF, "org/repo", "")),
        ("hf://org/repo/loras/sql/", Source(HF, "org/repo", "loras/sql")),
        ("hf://org/repo@refs%2Fpr%2F1/sql", Source(HF, "org/repo", "sql", "refs/pr/1")),
        ("s3://bucket/a b/c+d", Source(S3, "bucket", "a b/c+d")),
        ("s3://bucket", Source(S3, "bucket", "")),
        ("s3://bucket/x%2e%2e/y", Source(S3, "bucket", "x%2e%2e/y")),
        ("obs://my.bucket/qwen/", Source(OBS, "my.bucket", "qwen")),
        ("pvc://models/x", Source(PVC, "", "models/x")),
        ("pvc:///mnt/models", Source(PVC, "", "/mnt/models")),
        ("file:///adapters/sql", Source(FILE, "", "/adapters/sql")),
    ],
)
def test_a_source_is_taken_apart_and_written_again(uri: str, source: Source) -> None:
    assert parse_source(uri) == source
    assert parse_source(str(source)) == source


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "repo",
        "a/b/c",
        "org/..",
        "../repo",
        "org/repo@../x",
        "hf://repo",
        "hf://org/repo/../other",
        "hf://org/repo@",
        "hf://org/re--po",
        "s3://",
        "s3:///etc",
        "s3://b/../../etc",
        "s3://bucket/../../etc",
        "s3://bucket/a/./b",
        "s3://bucket/a//b",
        "s3://a..b/c",
        "s3://bucket/a\x00b",
        "s3://bucket/a\nb",
        "obs://../x",
        "pvc://",
        "pvc://../x",
        "pvc:///",
        "file://relative",
        "file:///a/../b",
        "http://host/x",
        "S3://bucket/x",
        "s3://key:secret@bucket/x",
    ],
)
def test_what_names_no_source_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse_source(uri)


def test_a_key_in_a_uri_is_not_repeated() -> None:
    with pytest.raises(ValueError, match="begin with") as refused:
        parse_source("s3://AKID:sek/ret@bucket/x")
    assert "sek" not in str(refused.value)


@given(st.text(max_size=60), st.sampled_from(["", "hf://o/r/", "hf://", "s3://bucket/", "s3://", "pvc://", "file://"]))
def test_no_source_leaves_its_folder(text: str, scheme: str) -> None:
    try:
        source = parse_source(scheme + text)
    except ValueError:
        return
    assert ".." not in source.path.split("/")
    assert ".." not in source.name
    assert posixpath.normpath(posixpath.join("/fetched", source.path.lstrip("/"))).startswith("/fetched")
    assert source.path.startswith("/") <= (source.kind in (PVC, FILE))


def test_a_config_is_a_json_object_in_a_string() -> None:
    said = {"hf_token": " t ", "hf_revision": "main", "endpoint": "obs.test.com/", "access_key": "", "region": None}
    assert read_config(json.dumps(said)) == {"hf_token": "t", "hf_revision": "main", "endpoint": "https://obs.test.com"}
    assert read_config(None) == read_config("  ") == {}
    assert without_secrets(read_config(json.dumps(said))) == {
        "hf_revision": "main",
        "endpoint": "https://obs.test.com",
    }


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "JSON object"),
        ("[]", "JSON object"),
        ('"sekret"', "JSON object"),
        ('{"acces_key": "sekret"}', "acces_key"),
        ('{"hf_token": {"a": "sekret"}}', "hf_token"),
        ('{"hf_token": "sek\\nret"}', "hf_token"),
        ('{"access_key": "sekret"}', "belong together"),
        ('{"endpoint": "http://user:sekret@host"}', "endpoint"),
        ('{"hf_endpoint": "ftp://sekret"}', "hf_endpoint"),
        ('{"hf_revision": "../sekret"}', "hf_revision"),
        ('{"addressing_style": "sekret"}', "addressing_style"),
        ('{"region": "sek/ret"}', "region"),
    ],
)
def test_a_wrong_config_is_refused_by_key_and_never_by_value(config: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        read_config(config)
    assert "sek" not in str(refused.value)


def test_no_request_shows_its_config() -> None:
    config = json.dumps({"hf_token": "sekret"})
    for request in (
        DownloadRequest(source="o/r", config=config),
        LoadRequest(lora_name="a", source="o/r", config=config),
    ):
        assert "sekret" not in repr(request)
        assert "sekret" not in str(request)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "exactly one"),
        ({"lora_path": "/a", "source": "o/r"}, "exactly one"),
        ({"lora_path": "/a", "output_dir": "/b"}, "belong to a source"),
        ({"lora_path": "/a", "config": "{}"}, "belong to a source"),
        ({"source": "ftp://x/y"}, "not one of"),
        ({"source": "o/r", "output_dir": "relative"}, "output_dir"),
        ({"source": "o/r", "max_workers": 0}, "max_workers"),
    ],
)
def test_an_order_has_a_path_or_a_source(fields: dict[str, str], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        LoadRequest.model_validate({"lora_name": "a", **fields})


def test_who_orders_a_source_waits_long_unless_told_otherwise() -> None:
    assert LoadRequest(lora_name="a", lora_path="/a").patience == 60
    assert LoadRequest(lora_name="a", source="o/r").patience == 600
    assert LoadRequest(lora_name="a", source="o/r", wait=5).patience == 5
    assert LoadRequest(lora_name="a", source="o/r", async_download=True).patience == 0


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "/etc/passwd",
        "../x",
        "a/../b",
        "a//b",
        "a/./b",
        "a/",
        "a\\b",
        "a\x00b",
        "a\nb",
        ".patio/current",
        "x" * 256,
        "a/" * 600 + "b",
        "\ud800",
    ],
)
def test_hostile_names_are_not_safe(name: str) -> None:
    assert not safe_name(name)


@pytest.mark.parametrize("name", ["config.json", "a/b/c.safetensors", ".gitattributes", "..x", "größe.json", "a b"])
def test_plain_names_are_safe(name: str) -> None:
    assert safe_name(name)


@given(st.text(alphabet=st.one_of(st.sampled_from("./\\a\x00"), st.characters()), max_size=40))
def test_a_safe_name_stays_below_the_folder_that_it_is_put_in(name: str) -> None:
    if safe_name(name):
        joined = posixpath.normpath(posixpath.join("/fetched/folder", name))
        assert joined == f"/fetched/folder/{name}"
        assert PurePosixPath(joined).is_relative_to("/fetched/folder")


@pytest.mark.parametrize(
    "names", [["a.json", "../b"], ["a", "a"], ["a", "a/b"], ["a/b/c", "a/b"], [f"{i}" for i in range(10_001)]]
)
def test_a_hostile_listing_is_refused_whole(names: list[str]) -> None:
    with pytest.raises(DownloadFault) as refused:
        check_listing(names)
    assert refused.value.reason is DownloadReason.REFUSED
    assert not refused.value.retryable


def test_only_what_engines_read_and_no_code_is_fetched() -> None:
    taken = ["adapter_model.safetensors", "adapter_config.json", "README.md", "LICENSE", "tokenizer.model", "x/v.txt"]
    left = ["pytorch_model.bin", "a.pt", "x.pkl", "modeling.py", "logo.png", "a.gguf", "A.BIN", ".gitattributes"]
    assert [name for name in taken if why_skipped(name)] == []
    assert [name for name in left if not why_skipped(name)] == []


@pytest.mark.parametrize(
    "name", ["tokenizer.model.v3", "tokenizer.mm.model.v1", "spm.model.v1", "tokenizer.model.v7m1", "tekken.json"]
)
def test_tokenizers_of_mistrals_format_are_fetched(name: str) -> None:
    assert why_skipped(name) is None
    assert why_skipped(f"{name}.bin") is not None


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("gpt2", "openai-community/gpt2"),
        ("hf://gpt2", "without its organisation"),
        ("https://huggingface.co/org/repo", "is a web address"),
        ("hf://org/repo/tree/main/sub", "write hf://org/repo@revision/folder"),
    ],
)
def test_what_is_nearly_a_repository_is_told_apart(uri: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_source(uri)


@given(st.text(max_size=80), st.text(max_size=80), st.sampled_from(list(SourceKind)))
def test_the_folder_of_a_source_is_one_plain_name_of_its_own(name: str, path: str, kind: SourceKind) -> None:
    key = key_of(Source(kind, name, path), "")
    assert safe_name(key)
    assert "/" not in key
    assert not key.startswith(".")
    assert key != key_of(Source(kind, name, path), "https://elsewhere")
    assert is_revision(Path("/fetched", key, "0" * 16), Path("/fetched"))


@pytest.mark.parametrize(
    "path",
    ["/fetched/a/0000000000000000", "/fetched/0000000000000000", "/models/org/repo", "/fetched/hf-a-012345678901/x"],
)
def test_what_patio_did_not_fetch_is_no_revision(path: str) -> None:
    assert not is_revision(Path(path), Path("/fetched"))


@pytest.mark.parametrize(
    ("status", "reason", "passing"),
    [
        (401, DownloadReason.UNAUTHORIZED, False),
        (403, DownloadReason.UNAUTHORIZED, False),
        (404, DownloadReason.NOT_FOUND, False),
        (400, DownloadReason.REFUSED, False),
        (412, DownloadReason.CHANGED, True),
        (429, DownloadReason.FAULT, True),
        (500, DownloadReason.FAULT, True),
        (503, DownloadReason.FAULT, True),
    ],
)
def test_what_a_retry_mends_is_told_from_what_it_does_not(status: int, reason: DownloadReason, passing: bool) -> None:
    fault = of_status(status, "x")
    assert (fault.reason, fault.passing) == (reason, passing)


def test_secrets_are_taken_out_of_words() -> None:
    assert redacted("a sekret-long and sekret", ["sekret", "sekret-long", ""]) == "a *** and ***"


@pytest.mark.parametrize(
    ("endpoint", "region"),
    [
        (None, "us-east-1"),
        ("https://s3.eu-west-1.amazonaws.com", "eu-west-1"),
        ("https://obs.cn-north-4.myhuaweicloud.com", "cn-north-4"),
        ("https://obs.test.com", "us-east-1"),
        ("http://127.0.0.1:9000", "us-east-1"),
    ],
)
def test_the_region_is_read_from_the_endpoint(endpoint: str | None, region: str) -> None:
    assert region_of(endpoint) == region


def test_obs_wants_the_bucket_before_its_host_and_s3_leaves_it_to_the_library() -> None:
    assert addressing_style(OBS, "https://obs.cn-north-4.myhuaweicloud.com", None) == "virtual"
    assert addressing_style(OBS, "http://127.0.0.1:9000", None) == "path"
    assert addressing_style(OBS, "https://obs.test.com", "path") == "path"
    assert addressing_style(S3, "https://minio.example.com", None) == "auto"
    assert addressing_style(S3, "https://minio.example.com", "virtual") == "virtual"


@pytest.mark.parametrize(
    "endpoint", ["ftp://a", "http://", "http://u:p@h", "http://h/?q", "http://h x", "//h", "http://h:\u0669\u0660"]
)
def test_an_endpoint_is_a_plain_base_url(endpoint: str) -> None:
    with pytest.raises(ValueError, match="endpoint"):
        check_endpoint(endpoint)
    assert check_endpoint("obs.test.com") == "https://obs.test.com"
    assert check_endpoint("http://[::1]:9000/") == "http://[::1]:9000"
