"""The config file: upstream's is read as it is, and each fault is one sentence."""

from __future__ import annotations

import pytest

from patio_gateway.forwarder.config import (
    MOST_BYTES,
    MOST_CONCURRENCY,
    MOST_ROUTES,
    RESULTS_VARIABLE,
    Config,
    ConfigError,
    Stream,
    Sync,
    read_config,
)
from patio_gateway.forwarder.overrides import MOST_OVERRIDES

from .forwarders import UPSTREAM


def read(text: str | bytes, *options: str, **variables: str) -> Config:
    data = text if isinstance(text, bytes) else text.encode()
    return read_config(data, "f.yaml", options, variables)


def test_upstreams_file_is_read_as_it_is() -> None:
    config = read(UPSTREAM)
    assert config == Config(sync=Sync(), stream=Stream(), max_concurrency=100)


def test_options_of_upstreams_page_change_the_file() -> None:
    config = read(
        UPSTREAM,
        "forwarder.sync.extra_routes=['/v1/chat/completions','/v1/completions']",
        "forwarder.stream.extra_routes=['/v1/chat/completions','/v1/completions']",
        "forwarder.sync.healthcheck_route=/health",
        "forwarder.stream.healthcheck_route=/health",
        "forwarder.max_concurrency=42",
    )
    assert [each.more_routes for each in config.forwardings] == [("/v1/chat/completions", "/v1/completions")] * 2
    assert [each.healthcheck_route for each in config.forwardings] == ["/health"] * 2
    assert config.max_concurrency == 42


def test_file_may_have_the_fields_without_their_heading() -> None:
    assert read("sync: {user_port: 8000}\nmax_concurrency: 7\n", "sync.predict_route=/x") == Config(
        sync=Sync(user_port=8000, predict_route="/x"), max_concurrency=7
    )


def test_json_is_read_too() -> None:
    assert read('{"forwarder": {"name": "f", "stream": {"routes": ["/a"], "extra_routes": ["/a", "/b"]}}}') == Config(
        name="f", stream=Stream(routes=("/a",), extra_routes=("/a", "/b"))
    )


def test_option_false_is_false_and_not_a_text() -> None:
    """Upstream takes the text `false` for true."""
    config = read(UPSTREAM, "forwarder.sync.forward_http_status=false", "forwarder.sync.batch_route=null")
    assert config.sync is not None
    assert config.sync.forward_http_status is False


@pytest.mark.parametrize("kind", ["", "default", "null"])
def test_kind_that_a_template_left_empty_is_the_default(kind: str) -> None:
    config = read(UPSTREAM, f"forwarder.sync.forwarder_type={kind}")
    assert config.sync is not None
    assert not config.sync.is_passthrough


@pytest.mark.parametrize(("text", "expected"), [("true", True), (" False ", False)])
def test_upstreams_variable_decides_for_both(text: str, expected: bool) -> None:
    config = read_config(UPSTREAM, "f", [], {RESULTS_VARIABLE: text})
    assert [each.serialize_results_as_string for each in config.forwardings] == [expected] * 2


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (b"\xff", [], "f.yaml is not YAML."),
        ("a: [", [], "f.yaml is not YAML."),
        ("a: 1\n---\nb: 2\n", [], "f.yaml is not YAML."),
        ("[" * 5000, [], "f.yaml is not YAML."),
        ("a: 2024-13-01", [], "f.yaml is not YAML."),
        ("- a", [], "expected fields"),
        ("1: 2", [], "expected fields"),
        ("", [], "expected `sync`, `stream` or both"),
        ("forwarder: null", [], "forwarder: Input should be a valid dictionary"),
        ("forwarder: {sync: null}", [], "expected `sync`, `stream` or both"),
        ("forwarder: {sync: {user_port: e 5005}}", [], "forwarder.sync.user_port: Input should be a valid integer"),
        ("forwarder: {sync: {user_port: 65536}}", [], "forwarder.sync.user_port: Input should be less than"),
        ("forwarder: {sync: {user_prot: 1}}", [], "forwarder.sync.user_prot: the forwarder has no such field."),
        ("forwarder: {sync: {}, max: 1}", [], "forwarder.max: the forwarder has no such field."),
        (UPSTREAM, ["forwarder.sync.use_grpc=true"], "forwarder.sync.use_grpc: gRPC is not supported"),
        (UPSTREAM, ["forwarder.stream.batch_route=/batch"], "forwarder.stream.batch_route: batch inference"),
        (UPSTREAM, ["forwarder.sync.user_hostname=example.com"], "forwarder.sync.user_hostname: "),
        (UPSTREAM, ["forwarder.sync.predict_route=predict"], "forwarder.sync.predict_route: "),
        (UPSTREAM, ["forwarder.sync.predict_route="], "forwarder.sync.predict_route: "),
        (UPSTREAM, ["forwarder.sync.healthcheck_route=/a b"], "forwarder.sync.healthcheck_route: "),
        (UPSTREAM, ["forwarder.sync.extra_routes=['/a?b']"], "forwarder.sync.extra_routes.0: "),
        (UPSTREAM, ["forwarder.sync.extra_routes=/a"], "forwarder.sync.extra_routes: "),
        (UPSTREAM, ["forwarder.sync.forwarder_type=grpc"], "forwarder.sync.forwarder_type: "),
        (UPSTREAM, ["forwarder.max_concurrency=0"], "forwarder.max_concurrency: "),
        (UPSTREAM, [f"forwarder.max_concurrency={MOST_CONCURRENCY + 1}"], "forwarder.max_concurrency: "),
        (UPSTREAM, ["forwarder.max_concurrency.a=1"], "forwarder.max_concurrency has no fields"),
        (UPSTREAM, ["a"], "expected KEY.PATH=VALUE"),
        (UPSTREAM, ["a=1"] * (MOST_OVERRIDES + 1), "more than 1000 times"),
        (b"#" * (MOST_BYTES + 1), [], f"longer than {MOST_BYTES} bytes"),
        (f"sync: {{routes: [{'/a,' * (MOST_ROUTES + 1)}]}}", [], "sync.routes: "),
        ('sync: {"a\\n\\u001b": 1}', [], "no such field"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nsync: {routes: &c [*c, *b]}", [], "f.yaml: "),
    ],
)
def test_fault_is_one_sentence(text: str | bytes, options: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text, *options)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()
    assert str(caught.value).endswith(".")


def test_variable_that_is_neither_is_an_error() -> None:
    with pytest.raises(ConfigError, match="neither true nor false"):
        read_config(UPSTREAM, "f", [], {RESULTS_VARIABLE: "yes"})


def test_limits_themselves_are_allowed() -> None:
    text = f"sync: {{routes: [{'/a,' * MOST_ROUTES}]}}\nmax_concurrency: {MOST_CONCURRENCY}\n"
    assert read(text + "#" * (MOST_BYTES - len(text)), *["sync.user_port=1"] * MOST_OVERRIDES).sync is not None
