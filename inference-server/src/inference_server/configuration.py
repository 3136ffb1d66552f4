"""Turns a configuration file's content into a backend's name and a constructor's arguments. Pure.

`factory` reads the file, `command_line` makes a content of options. A key that is not known is reported, with the key
that may have been meant: it would otherwise be left out without a word.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Mapping, Sequence

CONSTRUCTOR = (
    *("port", "output_dir", "heartbeat_interval", "heartbeat_timeout", "startup_timeout", "stall_timeout"),
    *("stop_timeout", "drain_timeout", "gpu_release_timeout", "env_vars", "env_mode", "debug_mode", "strict_cleanup"),
    *("profile", "max_log_bytes", "restart", "restart_limit"),
)
"""Keys that go to the constructor as they are."""

FLEET = ("replicas", "servers", "stagger", "minimum")
"""Keys of several servers in one file; `fleet` has the rest."""

KNOWN = frozenset(("backend", "model", "config", "launch_command", "binary_path", *CONSTRUCTOR, *FLEET))

SECONDS = (
    *("heartbeat_interval", "heartbeat_timeout", "startup_timeout", "stall_timeout"),
    *("stop_timeout", "drain_timeout", "gpu_release_timeout"),
)
SWITCHES = ("debug_mode", "strict_cleanup")
LARGEST_PORT = 65535
MOST_SERVERS = 1000

UNUSED = frozenset({"host", "ports", "name", "description"})
"""Keys that the original's example files have and nothing reads."""


@dataclass(frozen=True)
class ServerSettings:
    """What a configuration asks for."""

    backend: str
    model: str
    arguments: Mapping[str, Any]
    launch_command: tuple[str, ...] | None = None
    warnings: tuple[str, ...] = ()


def merged(content: Mapping[str, Any], overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a configuration with other values on top: mappings are merged one level deep, the rest is replaced."""
    result = dict(content)
    for key, value in (overrides or {}).items():
        below = result.get(key)
        result[key] = dict(below, **value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return result


def settings_from(content: Mapping[str, Any]) -> ServerSettings:
    """Read a configuration.

    Raises:
        ValueError: a key is missing or has a value of the wrong kind.
    """
    if not content.get("model"):
        raise ValueError("'model' is required in configuration file")
    config = content.get("config") or {}
    if not isinstance(config, Mapping):
        raise ValueError("'config' must be a mapping in configuration file, not %r" % (config,))
    config = dict(config)
    _check_values(content)
    if content.get("servers") is not None or content.get("replicas", 1) != 1:
        raise ValueError("the configuration describes several servers: use fleet_from_config or `inference-server run`")
    # The key is documented at the top as well; what stands in `config` counts more.
    if content.get("binary_path") and not config.get("binary_path"):
        config["binary_path"] = content["binary_path"]
    launch_command = content.get("launch_command")
    if launch_command is not None and (
        isinstance(launch_command, str) or not isinstance(launch_command, (list, tuple))
    ):
        raise ValueError("'launch_command' must be a list of words in configuration file")
    arguments: dict[str, Any] = {key: content[key] for key in CONSTRUCTOR if content.get(key) is not None}
    arguments.update({key: float(arguments[key]) for key in SECONDS if isinstance(arguments.get(key), str)})
    arguments["config"] = config
    return ServerSettings(
        backend=str(content.get("backend") or "vllm"),
        model=str(content["model"]),
        arguments=arguments,
        launch_command=tuple(str(word) for word in launch_command) if launch_command else None,
        warnings=tuple(_about_keys(content)),
    )


def _check_values(content: Mapping[str, Any]) -> None:
    """Say which value is of the wrong kind, in the file's words."""
    for key in SECONDS:
        if content.get(key) is not None:
            _number(key, content[key], "seconds")
    for key in ("port", "max_log_bytes", "restart_limit"):
        if content.get(key) is not None:
            number = _number(key, content[key], "a whole number")
            if number != int(number) or (key == "port" and number > LARGEST_PORT):
                raise ValueError(_wrong(key, "a whole number", content[key]))
    for key in SWITCHES:
        if content.get(key) is not None and not isinstance(content[key], bool):
            raise ValueError(_wrong(key, "true or false", content[key]))
    for key in ("env_vars", "profile"):
        if content.get(key) is not None and not isinstance(content[key], Mapping):
            raise ValueError(_wrong(key, "a mapping", content[key]))
    for name in content.get("env_vars") or ():
        if not isinstance(name, str) or not name or "=" in name:
            raise ValueError("%r in 'env_vars' is not the name of a variable" % (name,))


def _number(key: str, value: Any, kind: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise ValueError(_wrong(key, kind, value))
    return number


def _wrong(key: str, kind: str, value: Any) -> str:
    return "%r must be %s, not %r" % (key, kind, value)


@dataclass(frozen=True)
class FleetSettings:
    """What a configuration asks for, of one server or of several."""

    contents: tuple[Mapping[str, Any], ...]
    """The configuration of each server, without the keys of the fleet."""
    stagger: float = 0.0
    """Seconds between two starts."""
    minimum: int | None = None
    """How many servers must be ready; None: all of them."""


def fleet_settings_from(content: Mapping[str, Any]) -> FleetSettings:
    """Read a configuration of one server, of `replicas` equal ones, or of `servers` that share the other keys.

    Raises:
        ValueError: a key of the fleet has a value of the wrong kind.
    """
    shared = {key: value for key, value in content.items() if key not in FLEET}
    servers = content.get("servers")
    if servers is None:
        servers = [{}]
    if not isinstance(servers, Sequence) or isinstance(servers, str) or not servers:
        raise ValueError(_wrong("servers", "a list with a mapping for each server", servers))
    contents: list[Mapping[str, Any]] = []
    for each in servers:
        if not isinstance(each, Mapping):
            raise ValueError(_wrong("servers", "a list with a mapping for each server", each))
        count = _count("replicas", each.get("replicas", content.get("replicas", 1)))
        own = {key: value for key, value in each.items() if key != "replicas"}
        contents += [merged(shared, own)] * count
        if len(contents) > MOST_SERVERS:
            raise ValueError("more than %d servers" % MOST_SERVERS)
    minimum = content.get("minimum")
    if minimum is not None and _count("minimum", minimum) > len(contents):
        raise ValueError("'minimum' is %s, of %d servers" % (minimum, len(contents)))
    return FleetSettings(
        tuple(contents),
        stagger=_number("stagger", content.get("stagger", 0), "seconds"),
        minimum=None if minimum is None else int(minimum),
    )


def _count(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_SERVERS:
        raise ValueError(_wrong(key, "a number from 1 to %d" % MOST_SERVERS, value))
    return value


def with_value(content: Mapping[str, Any], key: str, text: str) -> dict[str, Any]:
    """Return a configuration with one more value: `key` may have dots, the text is JSON if it can be read as such.

    Raises:
        ValueError: the key is empty, or leads through something that is not a mapping.
    """
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    first, dot, rest = key.partition(".")
    if not first or (dot and not rest):
        raise ValueError("%r is not the name of a key" % key)
    if not dot:
        return dict(content, **{first: value})
    below = content.get(first)
    if below is None:
        below = {}
    if not isinstance(below, Mapping):
        raise ValueError("%r is not a mapping, so it has no key %r" % (first, rest))
    return dict(content, **{first: with_value(below, rest, text)})


def with_engine_arguments(content: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """Return a configuration with further words for the engine's command line, after those that it has."""
    if not words:
        return dict(content)
    if content.get("launch_command"):
        return dict(content, launch_command=[*content["launch_command"], *words])
    config = dict(content.get("config") or {})
    # SGLang reads `api_server_args` only where it has no `server_args`.
    key = "server_args" if config.get("server_args") else "api_server_args"
    before = config.get(key) or []
    if isinstance(before, str):
        import shlex  # only here: most files have a list or a mapping

        before = shlex.split(before)
    config[key] = [*([before] if isinstance(before, Mapping) else before), *words]
    return dict(content, config=config)


def _about_keys(content: Mapping[str, Any]) -> tuple[str, ...]:
    import difflib  # see `OptionTable.nearest`

    warnings = []
    for key in content:
        if key in KNOWN or key in UNUSED:
            continue
        near = difflib.get_close_matches(str(key), KNOWN, n=1)
        hint = "; did you mean %r?" % near[0] if near else ""
        warnings.append("the key %r is not known and has no effect%s" % (key, hint))
    return tuple(warnings)


def variables_from(env_vars: Mapping[str, Any] | None) -> dict[str, str]:
    """Return environment variables as text: YAML makes numbers and booleans of what is not in quotes."""
    return {
        str(name): ("1" if value else "0") if isinstance(value, bool) else str(value)
        for name, value in (env_vars or {}).items()
        if value is not None
    }
