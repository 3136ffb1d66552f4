"""Which paths are forwarded, and how: a table made of the config. Pure.

A path of a list goes to the same path of the engine. `/predict` and `/stream` are always there, whatever path
`predict_route` has at the engine: callers of Model Engine use these two. A path that both forwarders have serves calls
of both kinds; where a forwarder passes requests through, its paths are for all methods and its own alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.routing import compile_path

from patio_gateway.forwarder.config import Config, ConfigError, Forwarding, Stream, Sync

PROBES = ("/healthz", "/readyz")
PREDICT, STREAM = "/predict", "/stream"
METHODS = ("POST",)
ALL_METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS")


@dataclass(frozen=True)
class Engine:
    """Where an engine is."""

    host: str
    port: int

    @property
    def address(self) -> str:
        """For messages."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Target:
    """Where a path leads."""

    engine: Engine
    path: str | None = None
    """At the engine; None: the path of the request."""


@dataclass(frozen=True)
class ForwardedRoute:
    """A path, and what is done with its requests."""

    path: str
    sync: tuple[Sync, Target] | None = None
    stream: tuple[Stream, Target] | None = None
    passthrough: Target | None = None
    """Set: all methods pass through, and the other two are not set."""


def engine_of(forwarding: Forwarding) -> Engine:
    """Return where the engine of a forwarder is."""
    return Engine(forwarding.user_hostname, forwarding.user_port)


def routes(config: Config) -> tuple[ForwardedRoute, ...]:
    """Return the paths, in the order in which they are tried: without placeholders first.

    Raises:
        ConfigError: a path cannot be one, or is that of a probe.

    """
    passthrough: dict[str, Target] = {}
    sync: dict[str, tuple[Sync, Target]] = {}
    stream: dict[str, tuple[Stream, Target]] = {}
    for forwarding in config.forwardings:
        if forwarding.is_passthrough:
            for path in forwarding.more_routes:
                passthrough.setdefault(path, Target(engine_of(forwarding)))
    if config.sync is not None and not config.sync.is_passthrough:
        sync = {path: (config.sync, target) for path, target in _targets(config.sync, PREDICT).items()}
    if config.stream is not None and not config.stream.is_passthrough:
        stream = {path: (config.stream, target) for path, target in _targets(config.stream, STREAM).items()}
    paths = dict.fromkeys((*passthrough, *sync, *stream))
    for path in paths:
        _check(path)
    return tuple(
        ForwardedRoute(path, passthrough=passthrough[path])
        if path in passthrough
        else ForwardedRoute(path, sync.get(path), stream.get(path))
        for path in sorted(paths, key=lambda path: "{" in path)
    )


def _targets(forwarding: Forwarding, alias: str) -> dict[str, Target]:
    engine = engine_of(forwarding)
    own = {path: Target(engine) for path in (forwarding.predict_route, *forwarding.more_routes)}
    return {alias: Target(engine, forwarding.predict_route)} | own


def _check(path: str) -> None:
    if path in PROBES:
        raise ConfigError(f"The route {path} is a probe of the forwarder itself.")
    try:
        compile_path(path)
    except (ValueError, AssertionError) as error:
        raise ConfigError(f"The route {path} cannot be used: {error}.") from None
