"""The engines: vLLM, SGLang, a server with a command of its own, and the register of backends by name."""

from __future__ import annotations

import abc
import math
import os
import shutil
import sys
from typing import Any, Sequence, cast

from inference_server import arguments, checks, endpoints, engine_probe, hooks, options
from inference_server.errors import Cause, ServerStartupError
from inference_server.server import InferenceServer

REMOVED_ARGS = ("translate", "error", "pass")


class _Engine(InferenceServer):
    """What vLLM and SGLang have in common: Python modules with a table of options."""

    engine = ""
    module = ""

    def get_backend_name(self) -> str:
        """Return `vllm` or `sglang`."""
        return self.engine

    def get_binary_path(self) -> str:
        """Return the interpreter: `config["binary_path"]`, or `python`."""
        return str(self.config.get("binary_path") or "python")

    def get_health_endpoint(self) -> str:
        """Return the URL of `/health`."""
        return self.server_url + "/health"

    def list_endpoints(self) -> dict[str, str]:
        """Return the URLs of the server by name."""
        return endpoints.endpoints_of(self.engine, self.server_url, self.get_launch_arguments())

    @abc.abstractmethod
    def set_launch_arguments(self, words: Sequence[str]) -> None:
        """Replace the engine's arguments, after they were checked."""

    def expected_models(self) -> set[str]:
        """Return the served names, or the model's; nothing if a file may have others."""
        words = self.get_launch_arguments()
        if "--config" in words:
            return set()
        return set(arguments.values_of(words, "--served-model-name")) or {self.model}

    def get_request_headers(self) -> dict[str, str]:
        """Return the API key, if the engine was given one."""
        keys = arguments.values_of(self.get_launch_arguments(), "--api-key")
        key = keys[0] if keys else self.get_base_env().get("VLLM_API_KEY", "") if self.engine == "vllm" else ""
        return {"Authorization": "Bearer " + key} if key else {}

    def prepare(self, environment: dict[str, str]) -> tuple[int, ...] | None:
        """Check that the interpreter has the engine, and that the engine has the options."""
        installed = self._find_interpreter(environment)
        self._review_arguments(installed)
        return engine_probe.version_numbers(installed.version)

    def _find_interpreter(self, environment: dict[str, str]) -> engine_probe.Installed:
        chosen = shutil.which(self.binary_path, path=environment.get("PATH", os.defpath))
        installed = engine_probe.probe(chosen, self.engine, environment) if chosen else engine_probe.Installed(False)
        if installed.found is not False:
            return installed
        # `python` is whatever comes first on PATH, often not the interpreter that has the engine.
        if not self.config.get("binary_path") and self.binary_path == "python":
            own = engine_probe.probe(sys.executable, self.engine, environment)
            if own.found:
                self.logger.info("%s has no %s: using %s", chosen or "PATH", self.engine, sys.executable)
                self.binary_path = sys.executable
                return own
        raise ServerStartupError(
            "%s is not installed for %s" % (self.engine, chosen or self.binary_path)
            if chosen
            else "there is no program %s" % self.binary_path,
            cause=Cause.WRONG_PYTHON if chosen else Cause.NOT_FOUND,
            hint="set config['binary_path'] to the interpreter of the environment that has %s" % self.engine,
        )

    def check_program(self, environment: dict[str, str]) -> list[checks.CheckItem]:
        """Return what is found about the interpreter, and about the engine's options."""
        try:
            installed = self._find_interpreter(environment)
        except ServerStartupError as error:
            return [checks.about_error("program", error)]
        version = installed.version or "of an unknown version"
        items = [checks.CheckItem("program", checks.FINE, "%s has %s %s" % (self.binary_path, self.engine, version))]
        try:
            result, certain = self._judge_options(installed)
        except ServerStartupError as error:
            return [*items, checks.about_error("options", error)]
        if result is None:
            return items
        if not (certain and result.unknown):
            self.set_launch_arguments(result.words)
        return [*items, *checks.about_options(result, certain)]

    def _review_arguments(self, installed: engine_probe.Installed) -> None:
        result, certain = self._judge_options(installed)
        if result is None:
            return
        for finding in result.findings:
            self.logger.warning("%s%s", finding.message, ": " + finding.hint if finding.hint else "")
        if certain and result.unknown:
            raise ServerStartupError(
                "; ".join(finding.message for finding in result.unknown),
                cause=Cause.UNKNOWN_OPTION,
                hint="; ".join(finding.hint for finding in result.unknown if finding.hint),
            )
        self.set_launch_arguments(result.words)

    def _judge_options(self, installed: engine_probe.Installed) -> tuple[arguments.Review | None, bool]:
        """Return what is found about the options, and whether the table is that of the installed version."""
        table = options.options_of(self.engine)
        removed = str(self.config.get("removed_args", "translate"))
        if removed not in REMOVED_ARGS:
            raise ServerStartupError(
                "config['removed_args'] must be one of %s, not %r" % (", ".join(REMOVED_ARGS), removed),
                cause=Cause.INVALID_VALUE,
            )
        if table is None or removed == "pass":
            return None, False
        # An option may be new or gone in another version: only the version of the table is certain.
        certain = installed.version.split("+")[0] == table.version
        words = self.get_launch_arguments()
        return arguments.review(words, table, removed=removed if certain else "error"), certain


class VLLMServer(_Engine):
    """A vLLM server: `python -m vllm.entrypoints.openai.api_server`."""

    engine = "vllm"
    module = "vllm.entrypoints.openai.api_server"

    def __init__(self, model: str, **kwargs: Any) -> None:
        super().__init__(model, **kwargs)
        self.api_server_args: list[str] = arguments.normalize_server_args(
            self.config.get("api_server_args"), options.options_of(self.engine)
        )

    def get_launch_arguments(self) -> list[str]:
        """Return `api_server_args`, word by word."""
        return list(self.api_server_args)

    def set_launch_arguments(self, words: Sequence[str]) -> None:
        """Replace `api_server_args`."""
        self.api_server_args = list(words)

    def get_launch_command(self) -> list[str]:
        """Return the command of vLLM's API server."""
        return [
            *(self.binary_path, "-m", self.module),
            *("--model", self.model, "--port", str(self.port)),
            *self.api_server_args,
        ]

    def prepare(self, environment: dict[str, str]) -> tuple[int, ...] | None:
        """Check interpreter and options, and let vLLM wait for its engine as long as we do."""
        # vLLM ends a start by itself after 600 s, however long its caller would wait.
        environment.setdefault("VLLM_ENGINE_READY_TIMEOUT_S", str(max(600, math.ceil(self.startup_timeout))))
        return super().prepare(environment)


class SGLangServer(_Engine):
    """An SGLang server: `python -m sglang.launch_server`."""

    engine = "sglang"
    module = "sglang.launch_server"
    default_stop_timeout = 60.0
    """SGLang looks for a stop every 5 s, and drains in steps of 5 s."""

    def get_readiness_endpoints(self) -> list[str]:
        """Return `/ready`, and for a version without it `/health`, which generates a token."""
        # /v1/models of SGLang answers before the model can serve.
        return self._ready_or(self.get_health_endpoint())

    def get_heartbeat_endpoints(self) -> list[str]:
        """Return `/ready`, and for a version without it the list of models: neither generates a token.

        In SGLang 0.5.23, /health and /health_generate generate one with each call, which takes a second or more, and a
        call that fails while requests run marks the server unhealthy: it then stops without draining.
        """
        return self._ready_or(self.server_url + "/v1/models")

    def get_admin_headers(self) -> dict[str, str]:
        """Return the admin key, if the engine was given one: then changes take only that."""
        keys = arguments.values_of(self.get_launch_arguments(), "--admin-api-key")
        return {"Authorization": "Bearer " + keys[0]} if keys else self.get_request_headers()

    def _ready_or(self, url: str) -> list[str]:
        health = self.get_health_endpoint()
        if not health.endswith("/health"):
            return [health]  # a subclass has another way
        return [health[: -len("health")] + "ready", url]

    def __init__(self, model: str, **kwargs: Any) -> None:
        super().__init__(model, **kwargs)
        configured = self.config.get("server_args") or self.config.get("api_server_args")
        self.server_args: list[str] = arguments.normalize_server_args(configured, options.options_of(self.engine))

    def get_launch_arguments(self) -> list[str]:
        """Return `server_args`, word by word."""
        return list(self.server_args)

    def set_launch_arguments(self, words: Sequence[str]) -> None:
        """Replace `server_args`."""
        self.server_args = list(words)

    def get_launch_command(self) -> list[str]:
        """Return the command of SGLang's server."""
        return [
            *(self.binary_path, "-m", self.module),
            *("--model-path", self.model, "--port", str(self.port)),
            *self.server_args,
        ]


class CustomServer(InferenceServer):
    """A server with a command of its own, given word by word."""

    def __init__(self, model: str, launch_command: Sequence[str], backend: str = "custom", **kwargs: Any) -> None:
        self._backend = backend
        self._launch_command = [str(word) for word in launch_command]
        super().__init__(model, **kwargs)

    def get_backend_name(self) -> str:
        """Return the name that was given."""
        return self._backend

    def get_binary_path(self) -> str:
        """Return the command's first word."""
        return self._launch_command[0]

    def get_launch_command(self) -> list[str]:
        """Return the command as it was given."""
        return list(self._launch_command)

    def get_launch_arguments(self) -> list[str]:
        """Return the command without its first word."""
        return self._launch_command[1:]

    def get_health_endpoint(self) -> str:
        """Return the URL of `/health`."""
        return self.server_url + "/health"

    def list_endpoints(self) -> dict[str, str]:
        """Return the one URL that is known."""
        return {"health": self.get_health_endpoint()}


_backends: dict[str, type[InferenceServer]] = {"vllm": VLLMServer, "sglang": SGLangServer}


def register_backend(name: str, backend: type[InferenceServer]) -> None:
    """Make a class known by a name to `create_server` and configuration files."""
    _backends[name.lower()] = backend


def backend_class(name: str) -> type[InferenceServer]:
    """Return the class of a backend: one of this package, a registered one, or one that another package put in.

    Raises:
        ValueError: there is none of that name.
    """
    backend = _backends.get(name.lower()) or hooks.installed(hooks.BACKENDS).get(name.lower())
    if backend is None:
        names = {*_backends, *hooks.installed(hooks.BACKENDS)}
        raise ValueError("Unsupported backend: %s (known: %s)" % (name, ", ".join(sorted(names))))
    return cast("type[InferenceServer]", backend)
