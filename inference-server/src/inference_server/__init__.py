"""Inference servers started, watched, profiled and stopped from Python: vLLM, SGLang, or one of your own.

The flow of a start: `factory` or a caller makes a server (`backends`), `server` prepares the command with the pure
modules, `supervision` runs it under a `keeper`, `http_check` and `ports` prove that it serves, `watch` looks after it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inference_server.arguments import normalize_server_args
    from inference_server.async_server import (
        AsyncInferenceServer,
        AsyncSGLangServer,
        AsyncVLLMServer,
        create_async_server,
    )
    from inference_server.backends import CustomServer, SGLangServer, VLLMServer, register_backend
    from inference_server.checks import CheckItem, CheckReport
    from inference_server.cleanup import CleanupReport
    from inference_server.errors import (
        Cause,
        CleanupError,
        EngineError,
        FleetStartupError,
        InferenceServerError,
        ProfileError,
        ServerStartupError,
        ServerTimeoutError,
    )
    from inference_server.factory import create_server, load_server_config, server_from_config, start_server_from_config
    from inference_server.fleet import Fleet, fleet_from_config, start_many
    from inference_server.recording import Profile
    from inference_server.server import InferenceServer
    from inference_server.stopping import StopPlan, StopReport

__all__ = [
    "AsyncInferenceServer",
    "AsyncSGLangServer",
    "AsyncVLLMServer",
    "Cause",
    "CheckItem",
    "CheckReport",
    "CleanupError",
    "CleanupReport",
    "CustomServer",
    "EngineError",
    "Fleet",
    "FleetStartupError",
    "InferenceServer",
    "InferenceServerError",
    "Profile",
    "ProfileError",
    "SGLangServer",
    "ServerStartupError",
    "ServerTimeoutError",
    "StopPlan",
    "StopReport",
    "VLLMServer",
    "create_async_server",
    "create_server",
    "fleet_from_config",
    "load_server_config",
    "normalize_server_args",
    "register_backend",
    "server_from_config",
    "start_many",
    "start_server_from_config",
]

_MODULES = {
    "AsyncInferenceServer": "async_server",
    "AsyncSGLangServer": "async_server",
    "AsyncVLLMServer": "async_server",
    "Cause": "errors",
    "CheckItem": "checks",
    "CheckReport": "checks",
    "CleanupError": "errors",
    "CleanupReport": "cleanup",
    "CustomServer": "backends",
    "EngineError": "errors",
    "Fleet": "fleet",
    "FleetStartupError": "errors",
    "InferenceServer": "server",
    "InferenceServerError": "errors",
    "Profile": "recording",
    "ProfileError": "errors",
    "SGLangServer": "backends",
    "ServerStartupError": "errors",
    "ServerTimeoutError": "errors",
    "StopPlan": "stopping",
    "StopReport": "stopping",
    "VLLMServer": "backends",
    "create_async_server": "async_server",
    "create_server": "factory",
    "fleet_from_config": "fleet",
    "load_server_config": "factory",
    "normalize_server_args": "arguments",
    "register_backend": "backends",
    "server_from_config": "factory",
    "start_many": "fleet",
    "start_server_from_config": "factory",
}
"""The modules of the names, imported at their first use: who has the package only in an import pays nothing."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError("module %r has no attribute %r" % (__name__, name))
    module = __name__ + "." + _MODULES[name]
    __import__(module)
    value = getattr(sys.modules[module], name)
    globals()[name] = value
    return value
