"""Turns a configuration file's content into a backend's name and a constructor's arguments. Pure.

`factory` reads the file. A key that is not known is reported, with the key that may have been meant: it would
otherwise be left out without a word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping

CONSTRUCTOR = (
    *("port", "output_dir", "heartbeat_interval", "heartbeat_timeout", "startup_timeout", "stall_timeout"),
    *("stop_timeout", "gpu_release_timeout", "env_vars", "env_mode", "debug_mode", "strict_cleanup", "profile"),
)
"""Keys that go to the constructor as they are."""

KNOWN = frozenset(("backend", "model", "config", "launch_command", "binary_path", *CONSTRUCTOR))

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
    # The key is documented at the top as well; what stands in `config` counts more.
    if content.get("binary_path") and not config.get("binary_path"):
        config["binary_path"] = content["binary_path"]
    launch_command = content.get("launch_command")
    if launch_command is not None and (
        isinstance(launch_command, str) or not isinstance(launch_command, (list, tuple))
    ):
        raise ValueError("'launch_command' must be a list of words in configuration file")
    arguments: dict[str, Any] = {key: content[key] for key in CONSTRUCTOR if content.get(key) is not None}
    arguments["config"] = config
    return ServerSettings(
        backend=str(content.get("backend") or "vllm"),
        model=str(content["model"]),
        arguments=arguments,
        launch_command=tuple(str(word) for word in launch_command) if launch_command else None,
        warnings=tuple(_about_keys(content)),
    )


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
