"""Optional parts that other packages add by entry points. None is needed, and none is imported before it is used.

An entry point of the group `inference_server.hooks` names an object, most often a module, that may have these
functions:

- `metrics(server, text)` returns the engine's metrics text with more behind it.
- `load_adapter(server, name, path)` and `unload_adapter(server, name)` change the adapters of a running engine.

`server` is a mapping: `engine` (the backend's name), `url`, `model`, `api_key` and `admin_key` (None: there is none). A
function raises ValueError for what the engine will never accept and OSError for what may work later, with the reason as
text, and returns NotImplemented for an engine that it does not know. An entry point of the group
`inference_server.backends` names a class of servers; its own name is the backend's.
"""

from __future__ import annotations

import logging
from typing import Any, Callable, Mapping

HOOKS = "inference_server.hooks"
BACKENDS = "inference_server.backends"

Server = Mapping[str, "str | None"]

_loaded: dict[str, dict[str, Any]] = {}


def installed(group: str) -> dict[str, Any]:
    """Return what the entry points of a group name, by their names. One that cannot be imported is left out."""
    if group not in _loaded:
        _loaded[group] = _load(group)
    return _loaded[group]


def hook(name: str) -> Callable[..., Any] | None:
    """Return the function of this name that a package has put in, or None. Of several, the first by name."""
    found = (getattr(module, name, None) for _, module in sorted(installed(HOOKS).items()))
    return next((function for function in found if callable(function)), None)


def _load(group: str) -> dict[str, Any]:
    try:
        import importlib.metadata as metadata  # Python 3.8; imports more than the rest of the package
    except ImportError:
        return {}
    everything: Any = metadata.entry_points()
    points = everything.select(group=group) if hasattr(everything, "select") else everything.get(group, ())
    found = {}
    for point in points:
        try:
            found[point.name] = point.load()
        except (ImportError, AttributeError) as error:
            logging.getLogger(__name__).warning("the entry point %s of %s cannot be used: %s", point.name, group, error)
    return found
