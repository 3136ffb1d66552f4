"""Sources: what a URI means, what it never can mean, and the `config` that goes with it."""

from __future__ import annotations

import json
import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from patio_protocol.adapters import LoadRequest
from patio_protocol.credentials import order_digest
from patio_protocol.downloads import DownloadRequest
from patio_protocol.sources import (
    MAX_CONFIG,
    Source,
    SourceConfig,
    SourceKind,
    check_endpoint,
    parse_source,
    read_config,
    without_secrets,
)

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
def test_source_is_taken_apart_and_written_again(uri: str, source: Source) -> None:
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
def test_what_names_no_source_is_rejected(uri: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse_source(uri)


def test_key_in_a_uri_is_not_repeated() -> None:
    with pytest.raises(ValueError, match="begin with") as raised:
        parse_source("s3://AKID:sek/ret@bucket/x")
    assert "sek" not in str(raised.value)


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


def test_config_is_a_json_object_in_a_string() -> None:
    config = {"hf_token": " t ", "hf_revision": "main", "endpoint": "obs.test.com/", "access_key": "", "region": None}
    assert read_config(SourceConfig.parse(json.dumps(config))) == {
        "hf_token": "t",
        "hf_revision": "main",
        "endpoint": "https://obs.test.com",
    }
    assert read_config(None) == read_config(SourceConfig.parse("  ")) == {}
    assert without_secrets(read_config(SourceConfig.parse(json.dumps(config)))) == {
        "hf_revision": "main",
        "endpoint": "https://obs.test.com",
    }


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "JSON object"),
        ("[]", "JSON object"),
        ('"sekret"', "JSON object"),
        ('{"acces_key": "sekret"}', "acces_key"),
        ('{"hf_token": {"a": "sekret"}}', "hf_token"),
        ('{"hf_token": "sek\\nret"}', "hf_token"),
        ('{"access_key": "sekret"}', "must be given together"),
        ('{"endpoint": "http://user:sekret@host"}', "endpoint"),
        ('{"hf_endpoint": "ftp://sekret"}', "hf_endpoint"),
        ('{"hf_revision": "../sekret"}', "hf_revision"),
        ('{"addressing_style": "sekret"}', "addressing_style"),
        ('{"region": "sek/ret"}', "region"),
    ],
)
def test_wrong_config_is_rejected_by_key_and_never_by_value(config: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        SourceConfig.parse(config)
    assert "sek" not in str(raised.value)


def test_no_request_shows_its_config() -> None:
    config = json.dumps({"hf_token": "sekret"})
    for request in (
        DownloadRequest(source="o/r", config=config),
        LoadRequest(lora_name="a", source="o/r", config=config),
    ):
        assert "sekret" not in repr(request)
        assert "sekret" not in str(request)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("gpt2", "openai-community/gpt2"),
        ("hf://gpt2", "lacks the organisation"),
        ("https://huggingface.co/org/repo", "is a web address"),
        ("hf://org/repo/tree/main/sub", "write hf://org/repo@revision/folder"),
    ],
)
def test_near_miss_of_a_repository_has_its_own_message(uri: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_source(uri)


@pytest.mark.parametrize(
    "endpoint", ["ftp://a", "http://", "http://u:p@h", "http://h/?q", "http://h x", "//h", "http://h:\u0669\u0660"]
)
def test_endpoint_is_a_plain_base_url(endpoint: str) -> None:
    with pytest.raises(ValueError, match="endpoint"):
        check_endpoint(endpoint)
    assert check_endpoint("obs.test.com") == "https://obs.test.com"
    assert check_endpoint("http://[::1]:9000/") == "http://[::1]:9000"


def test_config_is_on_the_wire_as_it_was_written() -> None:
    config = SourceConfig({"endpoint": "s3.example.com/", "region": " eu "})
    order = LoadRequest(lora_name="sql", source="s3://bucket/sql", config=config, owner="LoraAdapter/a/b", wait=0)
    wire = order.model_dump_json(exclude_none=True, exclude_unset=True)
    assert json.loads(wire)["config"] == '{"endpoint": "s3.example.com/", "region": " eu "}'
    assert LoadRequest.model_validate_json(wire) == order


def test_digest_of_an_order_is_the_one_of_earlier_versions() -> None:
    config = SourceConfig({"endpoint": "s3.example.com/", "region": " eu "})
    order = LoadRequest(
        lora_name="sql", source="s3://bucket/sql", config=config, owner="LoraAdapter/a/b", revision="1", wait=0
    )
    assert order_digest(order) == "c94554936db30ca459e3d1209c55c8277a2cbc27cafbd3b4e1bb43cef180d47f"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"region": "eu"}, "valid string"),
        (SourceConfig({"region": "sek/ret"}), "region"),
        (SourceConfig({"acces_key": "sekret"}), "acces_key"),
        (SourceConfig({"region": " " * MAX_CONFIG}), f"longer than {MAX_CONFIG}"),
        (" " * (MAX_CONFIG + 1), f"at most {MAX_CONFIG}"),
    ],
)
def test_config_that_no_order_can_have_is_rejected(config: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LoadRequest.model_validate({"lora_name": "a", "source": "o/r", "config": config})


def test_value_of_config_shows_keys_alone() -> None:
    assert repr(SourceConfig({"hf_token": "sekret", "region": "eu"})) == "SourceConfig(hf_token, region)"
