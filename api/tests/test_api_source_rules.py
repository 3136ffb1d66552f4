"""What `kubectl apply` lets through, the sidecar understands: the CRD's rules against `patio_protocol.sources`."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from patio.downloads.addresses import in_clear
from patio_api.source_rules import (
    FORMATS,
    IN_CLEAR,
    IN_THE_POD,
    MAX_URI_BYTES,
    NOT_IN_CLEAR,
    RULES,
    Rule,
    is_in_clear,
)
from patio_protocol.sources import check_endpoint, check_revision, parse_source

PLAIN = "a B7 org repo x-y a--b a..b a_b _ - . .. ... lora.lock ü %2F %2f %41 a:b main v1+2 {x} ' \\"
WORDS = st.sampled_from([*PLAIN.split(" "), "", "x y", "a" * 97, "é" * 40, "\x00", "\n", "\x7f", "\u2028"])
KINDS = "hf:// s3:// obs:// pvc:// file:// file:/// gs:// HF:// :// s3:/"
SCHEMES = st.sampled_from(["", *KINDS.split(" ")])
JOINTS = st.sampled_from(["/", "/", "/", "//", "@", "@", "", ":", "/./", "/../", "://"])


@st.composite
def uris(draw: st.DrawFn) -> str:
    """URIs that are nearly right, and nearly wrong."""
    text = draw(SCHEMES)
    for _ in range(draw(st.integers(1, 5))):
        text += draw(st.one_of(WORDS, st.text(max_size=4))) + draw(JOINTS)
    return text if draw(st.booleans()) else text.rstrip("/@:")


def by_rules(field: str, value: str) -> bool:
    return all(rule.keeps(value) for rule in FORMATS if rule.field == field)


def understood(uri: str) -> bool:
    try:
        parse_source(uri)
    except ValueError:
        return False
    return True


@settings(max_examples=1000, deadline=None)
@given(st.one_of(uris(), st.text(max_size=20)))
@example("org/repo")
@example("hf://org/repo@refs%2Fpr%2F1/folder/")
@example("s3://bucket")
@example("pvc:////a/b//")
@example("file:////a")
@example("hf://org/repo//")
def test_apply_and_the_sidecar_agree_on_what_a_source_is(uri: str) -> None:
    # Percent-encoding in a revision other than of / is right for the sidecar and not for apply: nobody needs it.
    encoded = re.sub("%2[Ff]", "", uri.partition("@")[2])
    if by_rules("uri", uri):
        assert understood(uri)
    elif understood(uri):
        assert "%" in encoded or len(uri.encode(errors="replace")) > MAX_URI_BYTES


@settings(max_examples=500, deadline=None)
@given(
    st.one_of(
        st.text(max_size=12), st.lists(WORDS, max_size=3).map("/".join), st.lists(WORDS, max_size=3).map(".".join)
    )
)
@example("refs/pr/1")
@example("a/")
@example("a.lock")
def test_apply_and_the_sidecar_agree_on_what_a_revision_is(revision: str) -> None:
    try:
        right = check_revision(revision) == revision
    except ValueError:
        right = False
    assert by_rules("revision", revision) == right


HOSTS = st.sampled_from(["s3.example.com", "127.0.0.1", "[::1]", "host", "a_b", "user:pw@host", "", "h?", "١٢"])


@settings(max_examples=500, deadline=None)
@given(
    st.builds(
        "".join,
        st.tuples(
            st.sampled_from(["", "http://", "https://", "ftp://", "://"]),
            HOSTS,
            st.sampled_from(["", ":9000", ":", ":123456", ":١٢"]),
            st.sampled_from(["", "/", "/path/~x", "/a b", "?q", "#"]),
        ),
    )
)
def test_endpoint_that_apply_accepts_is_read_by_the_sidecar(endpoint: str) -> None:
    try:
        check_endpoint(endpoint)
        understood = True
    except ValueError:
        understood = False
    if by_rules("endpoint", endpoint):
        assert understood
    elif understood:
        assert not endpoint.isascii()


@pytest.mark.parametrize("rule", FORMATS, ids=lambda rule: rule.message)
def test_no_rule_needs_what_re2_does_not_have(rule: Rule) -> None:
    assert not re.search(r"\(\?[=!<]|\\[1-9Zz]", rule.pattern)
    assert "'" not in rule.pattern, "it stands in quotes"


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["http://", "https://", "", "HTTP://"]),
    st.sampled_from(["localhost", "127.0.0.1", "127.9.9.9", "[::1]", "127.0.0.1.example.com", "localhostx", "minio"]),
    st.sampled_from(["", ":9000", "/x", ":9000/x"]),
)
def test_apply_and_the_sidecar_agree_on_what_is_in_clear(scheme: str, host: str, rest: str) -> None:
    endpoint = scheme + host + rest
    if not by_rules("endpoint", endpoint):
        return
    refused = re.search(IN_CLEAR, endpoint) is not None and re.search(IN_THE_POD, endpoint) is None
    assert refused == is_in_clear(endpoint) == in_clear(check_endpoint(endpoint))


def test_rules_on_clear_credentials_spare_what_is_stored() -> None:
    (rule,) = (rule["rule"] for rule in RULES if rule["message"] == NOT_IN_CLEAR)
    assert isinstance(rule, str)
    assert rule.startswith("self == oldSelf || "), "a status of a stored LoraAdapter can be written"
