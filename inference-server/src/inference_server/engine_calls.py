"""What a running engine is asked to do: load and unload adapters, give its metrics.

Each call goes to a hook of another package first (`hooks`), which may know more of the engine: the sidecar's replaces
weights without mixing answers and tells faults apart. Without one, the engine's own route is called and the engine's
list of models read back: an adapter is loaded when the list has it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any, Mapping

from inference_server import hooks, http_check
from inference_server.errors import EngineError

ROUTES = {
    "vllm": ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"),
    "sglang": ("/load_lora_adapter", "/unload_lora_adapter"),
}
"""To load and to unload, by engine."""

CHANGE_SECONDS = 600.0
"""How long a load or unload may take: weights come from slow disks, and SGLang 0.5.23 unloads wait for requests."""

READ_SECONDS = 30.0
MAX_WORDS = 2000
"""Characters of an engine's answer that go into an error."""

NO_LORA = {
    "vllm": "start vLLM with --enable-lora and with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in env_vars",
    "sglang": "start SGLang with --enable-lora, and with one tokenizer worker and --dp-size 1",
}


@dataclass(frozen=True)
class Engine:
    """A running engine, as the calls need it."""

    kind: str
    """The backend's name."""
    url: str
    model: str
    """The name under which it serves its base model."""
    headers: Mapping[str, str]
    admin_headers: Mapping[str, str]

    def for_hooks(self) -> hooks.Server:
        """Return what hooks are given."""
        return {
            "engine": self.kind,
            "url": self.url,
            "model": self.model,
            "api_key": _key(self.headers),
            "admin_key": _key(self.admin_headers),
        }


def request_model(engine: Engine, name: str) -> str:
    """Return what a request puts in `model` to be answered by an adapter. Pure.

    SGLang answers a request for the bare name of an adapter with its base model, and with a 200.
    """
    return "%s:%s" % (engine.model, name) if engine.kind == "sglang" else name


def load(engine: Engine, name: str, path: str) -> None:
    """Load an adapter.

    Raises:
        EngineError: the engine rejects it, or does not list it afterwards.
    """
    path = os.path.abspath(path) if os.path.exists(path) else path  # else it is a name that the engine looks up
    if _call_hook("load_adapter", engine, name, path) is NotImplemented:
        _change(engine, 0, {"lora_name": name, "lora_path": path})
    if name not in _models(engine):
        raise EngineError("%s accepted the adapter %s, but does not list it in /v1/models" % (engine.kind, name))


def unload(engine: Engine, name: str) -> None:
    """Unload an adapter.

    Raises:
        EngineError: the engine does not, or lists it afterwards.
    """
    if _call_hook("unload_adapter", engine, name) is NotImplemented:
        _change(engine, 1, {"lora_name": name})
    if name in _models(engine):
        raise EngineError("%s still lists the adapter %s in /v1/models" % (engine.kind, name))


def metrics(engine: Engine, url: str) -> str:
    """Return the engine's metrics text, with what a hook adds.

    Raises:
        EngineError: the engine gives none.
    """
    text = own_metrics(engine, url)
    made = _call_hook("metrics", engine, text)
    return text if made is NotImplemented else str(made)


def own_metrics(engine: Engine, url: str) -> str:
    """Return the engine's metrics text as it is.

    Raises:
        EngineError: the engine gives none.
    """
    answer = http_check.get(url, READ_SECONDS, engine.headers)
    if answer is None:
        raise EngineError("%s does not answer" % url)
    if answer.status == 404:
        hint = "; start SGLang with --enable-metrics" if engine.kind == "sglang" else ""
        raise EngineError("%s: the engine has no metrics%s" % (url, hint), status=404)
    if answer.status != 200:
        raise EngineError("%s answered %d" % (url, answer.status), status=answer.status)
    if len(answer.body) >= http_check.MAX_BODY:
        raise EngineError("%s gives more than %d bytes" % (url, http_check.MAX_BODY))
    return answer.text


def words_of(text: str) -> str:
    """Return what an engine's answer says, without the JSON around it. Pure."""
    try:
        content: Any = json.loads(text)
    except ValueError:
        return text.strip()[:MAX_WORDS]
    if isinstance(content, dict):
        for key in ("error", "error_message", "message", "detail"):
            value = content.get(key)
            value = value.get("message") if isinstance(value, dict) else value
            if isinstance(value, str) and value:
                return value[:MAX_WORDS]
    return text.strip()[:MAX_WORDS]


def _call_hook(name: str, engine: Engine, *arguments: str) -> Any:
    """Return what a hook returns; NotImplemented if there is none, or none for this engine."""
    function = hooks.hook(name)
    if function is None:
        return NotImplemented
    try:
        return function(engine.for_hooks(), *arguments)
    except (ValueError, OSError) as error:
        raise EngineError(str(error)) from error


def _change(engine: Engine, index: int, body: Mapping[str, str]) -> None:
    if engine.kind not in ROUTES:
        raise EngineError("adapters of the backend %s cannot be changed at run time" % engine.kind)
    path = ROUTES[engine.kind][index]
    answer = http_check.post(engine.url + path, body, CHANGE_SECONDS, engine.admin_headers)
    if answer is None:
        raise EngineError("%s: no answer" % path)
    if answer.status in (404, 405) and words_of(answer.text) in ("Not Found", "Method Not Allowed"):
        raise EngineError("%s: %s" % (path, NO_LORA[engine.kind]), status=answer.status)
    if answer.status != 200:
        raise EngineError("%s answered %d: %s" % (path, answer.status, words_of(answer.text)), status=answer.status)


def _models(engine: Engine) -> frozenset[str]:
    ids = http_check.model_ids(http_check.get(engine.url + "/v1/models", READ_SECONDS, engine.headers))
    if ids is None:
        raise EngineError("%s gives no list of models" % engine.url)
    return ids


def _key(headers: Mapping[str, str]) -> str | None:
    value = headers.get("Authorization", "")
    return value[len("Bearer ") :] if value.startswith("Bearer ") else None
