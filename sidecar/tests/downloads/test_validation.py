"""Sources, configs, names of listings: what is understood, what is refused, that nothing leaves its folder."""

from __future__ import annotations

import posixpath
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patio.downloads.cache_keys import is_revision, key_of
from patio.downloads.errors import DownloadError, error_of_status, redacted
from patio.downloads.s3 import addressing_style, region_of
from patio.downloads.validation import check_listing, safe_name, why_skipped
from patio_protocol.downloads import DownloadReason
from patio_protocol.sources import Source, SourceKind

HF, S3, OBS, PVC, FILE = SourceKind


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
def test_safe_name_stays_below_the_folder_that_it_is_put_in(name: str) -> None:
    if safe_name(name):
        joined = posixpath.normpath(posixpath.join("/fetched/folder", name))
        assert joined == f"/fetched/folder/{name}"
        assert PurePosixPath(joined).is_relative_to("/fetched/folder")


@pytest.mark.parametrize(
    "names", [["a.json", "../b"], ["a", "a"], ["a", "a/b"], ["a/b/c", "a/b"], [f"{i}" for i in range(10_001)]]
)
def test_hostile_listing_is_rejected_whole(names: list[str]) -> None:
    with pytest.raises(DownloadError) as raised:
        check_listing(names)
    assert raised.value.reason is DownloadReason.REJECTED
    assert not raised.value.retryable


def test_only_what_engines_read_and_no_code_is_fetched() -> None:
    fetched = ["adapter_model.safetensors", "adapter_config.json", "README.md", "LICENSE", "tokenizer.model", "x/v.txt"]
    skipped = ["pytorch_model.bin", "a.pt", "x.pkl", "modeling.py", "logo.png", "a.gguf", "A.BIN", ".gitattributes"]
    assert [name for name in fetched if why_skipped(name)] == []
    assert [name for name in skipped if not why_skipped(name)] == []


@pytest.mark.parametrize(
    "name", ["tokenizer.model.v3", "tokenizer.mm.model.v1", "spm.model.v1", "tokenizer.model.v7m1", "tekken.json"]
)
def test_tokenizers_of_mistrals_format_are_fetched(name: str) -> None:
    assert why_skipped(name) is None
    assert why_skipped(f"{name}.bin") is not None


@given(st.text(max_size=80), st.text(max_size=80), st.sampled_from(list(SourceKind)))
def test_folder_of_a_source_is_one_plain_name_of_its_own(name: str, path: str, kind: SourceKind) -> None:
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
    ("status", "reason", "transient"),
    [
        (401, DownloadReason.UNAUTHORIZED, False),
        (403, DownloadReason.UNAUTHORIZED, False),
        (404, DownloadReason.NOT_FOUND, False),
        (400, DownloadReason.REJECTED, False),
        (412, DownloadReason.CHANGED, True),
        (429, DownloadReason.ERROR, True),
        (500, DownloadReason.ERROR, True),
        (503, DownloadReason.ERROR, True),
    ],
)
def test_retryable_faults_are_distinguished_from_others(status: int, reason: DownloadReason, transient: bool) -> None:
    fault = error_of_status(status, "x")
    assert (fault.reason, fault.transient) == (reason, transient)


def test_secrets_are_taken_out_of_messages() -> None:
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
def test_region_is_read_from_the_endpoint(endpoint: str | None, region: str) -> None:
    assert region_of(endpoint) == region


def test_obs_wants_bucket_in_host_s3_leaves_it_to_library() -> None:
    assert addressing_style(OBS, "https://obs.cn-north-4.myhuaweicloud.com", None) == "virtual"
    assert addressing_style(OBS, "http://127.0.0.1:9000", None) == "path"
    assert addressing_style(OBS, "https://obs.test.com", "path") == "path"
    assert addressing_style(S3, "https://minio.example.com", None) == "auto"
    assert addressing_style(S3, "https://minio.example.com", "virtual") == "virtual"
