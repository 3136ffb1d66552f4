"""Which paths a config forwards, and to where."""

from __future__ import annotations

import pytest

from patio_gateway.forwarder.config import Config, ConfigError, Stream, Sync
from patio_gateway.forwarder.routes import Engine, ForwardedRoute, Target, routes

ENGINE = Engine("localhost", 5005)
HERE = Target(ENGINE)


def table(config: Config) -> dict[str, ForwardedRoute]:
    return {route.path: route for route in routes(config)}


def test_paths_of_both_forwarders_are_one_route() -> None:
    sync, stream = Sync(extra_routes=("/a", "/b")), Stream(routes=("/b", "/c"))
    assert table(Config(sync=sync, stream=stream)) == {
        "/predict": ForwardedRoute("/predict", sync=(sync, HERE)),
        "/stream": ForwardedRoute("/stream", stream=(stream, HERE)),
        "/a": ForwardedRoute("/a", sync=(sync, HERE)),
        "/b": ForwardedRoute("/b", sync=(sync, HERE), stream=(stream, HERE)),
        "/c": ForwardedRoute("/c", stream=(stream, HERE)),
    }


def test_predict_leads_to_the_engines_own_path() -> None:
    found = table(Config(sync=Sync(predict_route="/v1/generate"), stream=Stream(predict_route="/v1/generate")))
    assert list(found) == ["/predict", "/v1/generate", "/stream"]
    leads = found["/predict"].sync, found["/stream"].stream
    assert [each and each[1] for each in leads] == [Target(ENGINE, "/v1/generate")] * 2
    assert found["/v1/generate"].sync is not None
    assert found["/v1/generate"].stream is not None


def test_passthrough_has_its_listed_paths_alone() -> None:
    stream = Stream(forwarder_type="passthrough", user_port=1, extra_routes=("/mcp", "/mcp/{path:path}"))
    sync = Sync(extra_routes=("/mcp", "/a"))
    found = table(Config(sync=sync, stream=stream))
    assert list(found) == ["/mcp", "/predict", "/a", "/mcp/{path:path}"]
    assert found["/mcp"] == ForwardedRoute("/mcp", passthrough=Target(Engine("localhost", 1)))


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/{a:nothing}", "/{a}/{a}"])
def test_path_that_cannot_be_served_is_an_error(path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        routes(Config(sync=Sync(extra_routes=(path,))))
    assert path in str(caught.value)
    assert str(caught.value).isprintable()


def test_address_of_an_engine_is_readable() -> None:
    assert [Engine(host, 1).address for host in ("localhost", "::1")] == ["localhost:1", "[::1]:1"]
