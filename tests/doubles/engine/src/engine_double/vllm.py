"""vLLM 0.32.0: its routes, its words, its way to end.

Recorded facts that shape this: loading answers 500 for adapters that can never work; a name that is loaded is
400 unless `load_inplace`; a failed `load_inplace` leaves the old weights, one that works changes running requests;
error texts have their paths masked; unloading never waits; on SIGTERM every request ends with `abort` and the port
closes at once. Judges adapters with `adapters`, answers from `batch`.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from engine_double import metrics
from engine_double.adapters import Finding, inspect
from engine_double.batch import Generation, Weights
from engine_double.core import CompactJSON, Core, bearer, compact, read_body
from engine_double.settings import EngineKind

VERSION = "0.32.0"
FINGERPRINT = "vllm-0.32.0-double"
DEFAULT_MAX_TOKENS = 16

_MASKED = (
    re.compile(r"/(?:home|usr|opt|var|tmp|root|lib|mnt|srv)(?:/[\w.\-]+)+"),
    re.compile(r"(?:/[\w\-]+)+/[\w\-]+\.\w+"),
)


@dataclass(frozen=True)
class Adapter:
    """A loaded adapter."""

    path: str
    weights: Weights


class RequestError(Exception):
    """An error answer."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        for pattern in _MASKED:
            message = pattern.sub("<path>", message)
        self.status = status
        self.content = {"error": {"message": message, "type": kind, "param": param, "code": status}}


class Vllm:
    """A vLLM server, as far as its recordings go."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self._loaded: dict[str, Adapter] = {}
        self._profiling = False
        self._load_initial()

    def routes(self) -> list[Route]:
        """What vLLM serves; the routes for adapters only where they are switched on."""
        routes = [
            Route("/health", self._empty),
            Route("/ping", self._empty, methods=["GET", "POST"]),
            Route("/version", self._version),
            Route("/load", self._server_load),
            Route("/metrics", self._metrics),
            Route("/v1/models", self._models),
            Route("/v1/completions", self._answering(self._completion), methods=["POST"]),
            Route("/v1/chat/completions", self._answering(self._chat), methods=["POST"]),
        ]
        if self.core.settings.runtime_lora:
            routes += [
                Route("/v1/load_lora_adapter", self._answering(self._load), methods=["POST"]),
                Route("/v1/unload_lora_adapter", self._answering(self._unload), methods=["POST"]),
                Route("/adapters", self._answering(self._sagemaker_load), methods=["POST"]),
                Route("/adapters/{name:path}", self._answering(self._sagemaker_unload), methods=["DELETE"]),
            ]
        if self.core.settings.profiler:
            routes += [
                Route("/start_profile", self._answering(self._start_profile), methods=["POST"]),
                Route("/stop_profile", self._answering(self._stop_profile), methods=["POST"]),
            ]
        return routes

    def is_authorised(self, path: str, authorization: str | None) -> bool:
        """Only `/v1` is guarded."""
        return not path.startswith("/v1") or bearer(self.core.settings.api_key, authorization)

    def adapters(self) -> dict[str, str]:
        """Name -> path."""
        return {name: adapter.path for name, adapter in self._loaded.items()}

    def forget(self) -> None:
        """Back to the adapters of `--lora-modules`."""
        self._loaded.clear()
        self._load_initial()

    async def drain(self) -> None:
        """Abort everything; nothing is waited for."""
        self.core.batch.abort()

    # What is served

    async def _empty(self, _: Request) -> Response:
        return Response()

    async def _version(self, _: Request) -> Response:
        return CompactJSON({"version": VERSION})

    async def _server_load(self, _: Request) -> Response:
        # vLLM counts only with --enable-server-load-tracking.
        return CompactJSON({"server_load": 0})

    async def _metrics(self, _: Request) -> Response:
        batch = self.core.batch
        running, waiting = batch.running.total(), batch.waiting.total()
        snapshot = metrics.Snapshot(
            model=self.core.settings.base_model,
            started_at=self.core.started_at,
            stats=self.core.stats,
            gauges={
                "vllm:num_requests_running": running,
                "vllm:num_requests_waiting": waiting,
                "vllm:num_requests_waiting_by_reason": 0,
                "vllm:kv_cache_usage_perc": running / 4096,
            },
            max_lora=self.core.settings.max_loras if self.core.settings.enable_lora else None,
        )
        return PlainTextResponse(
            metrics.render(EngineKind.VLLM, snapshot),
            headers={"content-type": "text/plain; version=1.0.0; charset=utf-8"},
        )

    async def _models(self, _: Request) -> Response:
        settings = self.core.settings
        cards = [_card(name, settings.model, None, settings.max_model_len) for name in settings.served_model_names]
        cards += [_card(name, adapter.path, settings.base_model, None) for name, adapter in self._loaded.items()]
        return CompactJSON({"object": "list", "data": cards})

    async def _load(self, request: Request) -> Response:
        body = await _json_body(request, {"lora_name": str, "lora_path": str})
        self._add(body["lora_name"], body["lora_path"], in_place=bool(body.get("load_inplace", False)))
        return Response(f"Success: LoRA adapter '{body['lora_name']}' added successfully.")

    async def _unload(self, request: Request) -> Response:
        body = await _json_body(request, {"lora_name": str})
        self._remove(body["lora_name"])
        return Response(f"Success: LoRA adapter '{body['lora_name']}' removed successfully.")

    async def _sagemaker_load(self, request: Request) -> Response:
        body = await _json_body(request, {"name": str, "src": str})
        self._add(body["name"], body["src"], in_place=False)
        return Response(f"Adapter {body['name']} registered")

    async def _sagemaker_unload(self, request: Request) -> Response:
        name = request.path_params["name"]
        self._remove(name)
        return Response(f"Adapter {name} unregistered")

    async def _start_profile(self, _: Request) -> Response:
        if self._profiling:
            raise RequestError(
                409,
                "Conflict",
                "A profiling session is already active. Call /stop_profile before starting another session.",
            )
        self._profiling = True
        return Response()

    async def _stop_profile(self, _: Request) -> Response:
        self._profiling = False
        return Response()

    async def _completion(self, request: Request) -> Response:
        body = await _json_body(request, {})
        model, adapter = self._resolve(body.get("model"))
        prompts = body.get("prompt")
        if not prompts:
            raise RequestError(
                400,
                "BadRequestError",
                "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)",
                "prompt",
            )
        prompts = [prompts] if isinstance(prompts, str) else [str(prompt) for prompt in prompts]
        max_tokens = self._max_tokens(body.get("max_tokens"), DEFAULT_MAX_TOKENS)
        generations = [self._generation(adapter, prompt, max_tokens) for prompt in prompts]
        head = {
            "id": f"cmpl-{uuid.uuid4().hex[:16]}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        if body.get("stream"):
            return _stream(self._completion_chunks(head, generations, _wants_usage(body)))
        choices = [
            {
                "index": index,
                "text": await generation.read(),
                "logprobs": None,
                "finish_reason": generation.finish_reason,
                "stop_reason": None,
                "token_ids": None,
                "prompt_logprobs": None,
                "prompt_token_ids": None,
                "routed_experts": None,
            }
            for index, generation in enumerate(generations)
        ]
        return CompactJSON(
            {
                **head,
                "choices": choices,
                "service_tier": None,
                "system_fingerprint": FINGERPRINT,
                "usage": _usage(generations, details=True),
                "kv_transfer_params": None,
                "ec_transfer_params": None,
                "metrics": None,
            }
        )

    async def _chat(self, request: Request) -> Response:
        body = await _json_body(request, {"messages": list})
        model, adapter = self._resolve(body.get("model"))
        prompt = " ".join(str(message.get("content", "")) for message in body["messages"])
        limit = body.get("max_completion_tokens", body.get("max_tokens"))
        generation = self._generation(adapter, prompt, self._max_tokens(limit, self.core.settings.max_model_len))
        head = {
            "id": f"chatcmpl-{uuid.uuid4().hex[:16]}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
        }
        if body.get("stream"):
            return _stream(self._chat_chunks(head, generation, _wants_usage(body)))
        message = {
            "role": "assistant",
            "content": await generation.read(),
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            "reasoning": None,
        }
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": generation.finish_reason,
            "stop_reason": None,
            "token_ids": None,
            "routed_experts": None,
        }
        return CompactJSON(
            {
                **head,
                "choices": [choice],
                "service_tier": None,
                "system_fingerprint": FINGERPRINT,
                "usage": _usage([generation], details=True),
                "prompt_logprobs": None,
                "prompt_token_ids": None,
                "prompt_text": None,
                "kv_transfer_params": None,
                "ec_transfer_params": None,
                "metrics": None,
            }
        )

    # How it is done

    def _answering(self, handler: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            try:
                response: Response = await handler(request)
            except RequestError as error:
                return CompactJSON(error.content, status_code=error.status)
            return response

        return answer

    def _load_initial(self) -> None:
        for name, path in self.core.settings.lora_modules:
            self._loaded[name] = Adapter(path, Weights(inspect(path).digest))

    def _add(self, name: str, path: str, *, in_place: bool) -> None:
        if not name or not path:
            raise RequestError(400, "InvalidUserInput", "Both 'lora_name' and 'lora_path' must be provided.")
        if name in self.core.settings.served_model_names:
            raise RequestError(
                400, "InvalidUserInput", f"The lora adapter '{name}' conflicts with a served base model."
            )
        if name in self._loaded and not in_place:
            raise RequestError(
                400,
                "InvalidUserInput",
                f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, set "
                "'load_inplace' to True.",
            )
        digest = self._judge(name, path)
        existing = self._loaded.get(name)
        if existing is None:
            self._loaded[name] = Adapter(path, Weights(digest))
        else:
            # vLLM 0.32.0 keeps the adapter's number: running requests go on with what was loaded over it.
            existing.weights.digest = digest
            self._loaded[name] = Adapter(path, existing.weights)

    def _worker_failure(self, cause: str) -> RequestError:
        if not self.core.settings.one_process:
            cause = f"Worker failed with error '{cause}', please check the stack trace above for the root cause"
        return RequestError(500, "InternalServerError", f"Call to add_lora method failed: {cause}")

    def _judge(self, name: str, path: str) -> str:
        """The digest of an adapter that works; raise the worker's error for others."""
        settings = self.core.settings
        if not settings.enable_lora:
            raise self._worker_failure("LoRA is not enabled. Use --enable-lora to enable LoRA.")
        inspection = inspect(path)
        match inspection.finding:
            case Finding.NO_DIRECTORY | Finding.NO_CONFIG:
                raise RequestError(404, "NotFoundError", f"Loading lora {name} failed: No adapter found for {path}")
            case Finding.NOT_A_DIRECTORY:
                raise self._worker_failure(f"[Errno 20] Not a directory: '{path}/adapter_config.json'")
            case Finding.BROKEN_CONFIG:
                raise self._worker_failure(inspection.detail)
        if inspection.rank > settings.max_lora_rank:
            raise self._worker_failure(
                f"LoRA rank {inspection.rank} is greater than max_lora_rank {settings.max_lora_rank}."
            )
        if inspection.dora:
            raise self._worker_failure("vLLM does not yet support DoRA.")
        if inspection.finding is Finding.NO_WEIGHTS:
            raise self._worker_failure(f"{path} doesn't contain tensors")
        if inspection.finding is Finding.BROKEN_WEIGHTS:
            raise self._worker_failure(inspection.detail)
        return inspection.digest

    def _remove(self, name: str) -> None:
        if not name:
            raise RequestError(400, "InvalidUserInput", "'lora_name' needs to be provided to unload a LoRA adapter.")
        if self._loaded.pop(name, None) is None:
            raise RequestError(404, "NotFoundError", f"The lora adapter '{name}' cannot be found.")

    def _resolve(self, model: str | None) -> tuple[str, str | None]:
        """The name to answer under and the adapter to answer with."""
        names = self.core.settings.served_model_names
        if model is None or model in names:
            return model or names[0], None
        if model in self._loaded:
            return model, model
        raise RequestError(
            404, "NotFoundError", f"The model `{model}` does not exist. Valid aliases: {', '.join(names)}.", "model"
        )

    def _generation(self, adapter: str | None, prompt: str, max_tokens: int) -> Generation:
        weights = self._loaded[adapter].weights if adapter is not None else Weights(self.core.settings.model)
        return Generation(self.core.batch, weights=weights, adapter=adapter, prompt=prompt, max_tokens=max_tokens)

    def _max_tokens(self, max_tokens: int | None, default: int) -> int:
        limit = self.core.settings.max_model_len
        if max_tokens is None:
            return min(default, limit)
        if max_tokens < 1:
            raise RequestError(
                400,
                "BadRequestError",
                f"max_tokens must be at least 1, got {max_tokens}. (parameter=max_tokens, value={max_tokens})",
                "max_tokens",
            )
        if max_tokens > limit:
            raise RequestError(
                400,
                "BadRequestError",
                f"max_tokens={max_tokens} cannot be greater than max_model_len={limit}. Please request fewer output "
                f"tokens. (parameter=max_tokens, value={max_tokens})",
                "max_tokens",
            )
        return max_tokens

    async def _completion_chunks(
        self, head: dict[str, Any], generations: list[Generation], usage: bool
    ) -> AsyncIterator[Any]:
        for index, generation in enumerate(generations):
            async for token, reason in _ahead(generation):
                choice = {
                    "index": index,
                    "text": token,
                    "logprobs": None,
                    "finish_reason": reason,
                    "stop_reason": None,
                    "prompt_token_ids": None,
                    "token_ids": None,
                }
                yield {**head, "choices": [choice], **_last(reason is not None and not usage)}
        if usage:
            yield {**head, "choices": [], "usage": _usage(generations), **_last(True)}

    async def _chat_chunks(self, head: dict[str, Any], generation: Generation, usage: bool) -> AsyncIterator[Any]:
        head = {**head, "object": "chat.completion.chunk"}
        role_choice = {
            "index": 0,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        yield {**head, "choices": [role_choice], "prompt_token_ids": None, "prompt_text": None}
        async for token, reason in _ahead(generation):
            choice: dict[str, Any] = {
                "index": 0,
                "delta": {"content": token},
                "logprobs": None,
                "finish_reason": reason,
            }
            if reason is not None:
                choice["stop_reason"] = None
            choice["token_ids"] = None
            yield {**head, "choices": [choice], **_last(reason is not None and not usage)}
        if usage:
            yield {**head, "choices": [], "usage": _usage([generation]), **_last(True)}


def _card(name: str, root: str, parent: str | None, max_model_len: int | None) -> dict[str, Any]:
    created = int(time.time())
    permission = {
        "id": f"modelperm-{uuid.uuid4().hex[:16]}",
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "vllm",
        "root": root,
        "parent": parent,
        "max_model_len": max_model_len,
        "permission": [permission],
    }


async def _json_body(request: Request, required: dict[str, type]) -> dict[str, Any]:
    """The body as an object with these fields, or vLLM's validation error."""
    raw, media_type = await read_body(request)
    if media_type != "application/json":
        raise RequestError(
            400,
            "Bad Request",
            "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed",
        )
    if not raw:
        raise _invalid([{"type": "missing", "loc": "body", "msg": "Field required", "input": "None"}])
    try:
        body = json.loads(raw)
    except json.JSONDecodeError as error:
        problem = {
            "type": "json_invalid",
            "loc": f"body.{error.pos}",
            "msg": "JSON decode error",
            "input": "<dict of 0 items>",
            "ctx": {"error": error.msg},
        }
        raise _invalid([problem]) from error
    if not isinstance(body, dict):
        problem = {
            "type": "model_attributes_type",
            "loc": "body",
            "msg": "Input should be a valid dictionary or object to extract fields from",
            "input": _masked(body),
        }
        raise _invalid([problem])
    problems: list[dict[str, Any]] = []
    for name, kind in required.items():
        if name not in body:
            problems.append({"type": "missing", "loc": f"body.{name}", "msg": "Field required", "input": _masked(body)})
        elif not isinstance(body[name], kind):
            type_name = {"str": "string", "list": "list"}[kind.__name__]
            problems.append(
                {
                    "type": f"{type_name}_type",
                    "loc": f"body.{name}",
                    "msg": f"Input should be a valid {type_name}",
                    "input": _masked(body[name]),
                }
            )
    if problems:
        raise _invalid(problems)
    return body


def _invalid(problems: list[dict[str, Any]]) -> RequestError:
    noun = "error" if len(problems) == 1 else "errors"
    lines = "".join(f"\n  {problem}" for problem in problems)
    return RequestError(400, "Bad Request", f"{len(problems)} validation {noun}:{lines}", problems[0]["loc"])


def _masked(value: Any) -> str:
    """How vLLM shows what it was given without repeating it."""
    if isinstance(value, dict | list):
        return f"<{type(value).__name__} of {len(value)} items>"
    return str(value)


async def _ahead(generation: Generation) -> AsyncIterator[tuple[str, str | None]]:
    """Each token with None, the last one with the reason to end; an empty token where there was none."""
    previous: str | None = None
    async for token in generation:
        if previous is not None:
            yield previous, None
        previous = token
    yield previous or "", generation.finish_reason


def _stream(chunks: AsyncIterator[Any]) -> Response:
    async def events() -> AsyncIterator[str]:
        async for chunk in chunks:
            yield f"data: {compact(chunk)}\n\n"
        yield "data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


def _wants_usage(body: dict[str, Any]) -> bool:
    return bool((body.get("stream_options") or {}).get("include_usage"))


def _last(is_last: bool) -> dict[str, str]:
    return {"system_fingerprint": FINGERPRINT} if is_last else {}


def _usage(generations: list[Generation], *, details: bool = False) -> dict[str, Any]:
    prompt = sum(generation.prompt_tokens for generation in generations)
    completion = sum(generation.tokens for generation in generations)
    usage: dict[str, Any] = {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
    }
    if details:
        usage |= {"prompt_tokens_details": None, "completion_tokens_details": None}
    return usage
