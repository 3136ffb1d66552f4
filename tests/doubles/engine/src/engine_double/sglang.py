"""SGLang 0.5.23: its routes, its words, its way to end.

Recorded facts that shape this: an adapter is chosen by `BASE:ADAPTER` or `lora_path`, a bare adapter name answers
from the base; an unload does not stick, since the next request for the name loads it again from the old path; unloads
and evictions wait for the requests in flight, and every other load or unload waits behind them; on SIGTERM `/ready`
turns 503 at once and the port closes when the last request is done. Adapters and their order live in `loras`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from engine_double import metrics, recorded
from engine_double.batch import Generation, Weights
from engine_double.core import CompactJSON, Core, bearer, compact, read_body
from engine_double.loras import LoraError, Loras
from engine_double.settings import EngineKind

VERSION = "0.5.23"
DEFAULT_MAX_TOKENS = 16
DEFAULT_MODEL = "default"
UNGUARDED = ("/health", "/health_generate", "/ready", "/metrics")
ADMIN = ("/load_lora_adapter", "/unload_lora_adapter", "/start_profile", "/stop_profile")
"""Routes that only the admin key opens, where there is one."""

_LORA_IS_OFF = "LoRA is not enabled. Please set `--enable-lora` to enable LoRA."
_HANDLERS = {
    "LoadLoRAAdapterReqInput": ("load_lora_adapter", 1652),
    "UnloadLoRAAdapterReqInput": ("unload_lora_adapter", 1676),
}
"""Validated type -> the handler and the line of http_server.py that the error text quotes."""


class RequestError(Exception):
    """A 400 in the shape of the OpenAI routes."""

    def __init__(self, message: str, kind: str = "BadRequestError") -> None:
        super().__init__(message)
        self.content = {"object": "error", "message": message, "type": kind, "param": None, "code": 400}


class Sglang:
    """An SGLang server, as far as its recordings go."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self._workers = [Loras(core.settings, core.batch) for _ in range(core.settings.tokenizer_workers)]
        self._turn = itertools.cycle(self._workers)
        self._profiling = False
        self._unhealthy = False

    def routes(self) -> list[Route]:
        """What SGLang serves."""
        both = ["GET", "POST"]
        routes = [
            Route("/", self._root),
            Route("/ready", self._ready),
            Route("/health", self._health),
            Route("/health_generate", self._health),
            Route("/ping", self._ping),
            Route("/v1/models", self._models),
            Route("/v1/models/{model:path}", self._model),
            Route("/model_info", self._model_info),
            Route("/get_model_info", self._model_info),
            Route("/server_info", self._server_info),
            Route("/get_server_info", self._server_info),
            Route("/v1/loads", self._loads),
            Route("/load_lora_adapter", self._answering(self._load), methods=["POST"]),
            Route("/unload_lora_adapter", self._answering(self._unload), methods=["POST"]),
            Route("/v1/completions", self._answering(self._completion), methods=["POST"]),
            Route("/v1/chat/completions", self._answering(self._chat), methods=["POST"]),
            Route("/generate", self._generate, methods=["POST"]),
            Route("/pause_generation", self._pause, methods=["POST"]),
            Route("/continue_generation", self._continue, methods=["POST"]),
            Route("/flush_cache", self._flush_cache, methods=both),
            Route("/start_profile", self._start_profile, methods=both),
            Route("/stop_profile", self._stop_profile, methods=both),
        ]
        if self.core.settings.enable_metrics:
            routes += [Route("/metrics", self._metrics), Route("/metrics/", self._metrics)]
        return routes

    def is_authorised(self, path: str, authorization: str | None) -> bool:
        """Everything is guarded but health, readiness and metrics; the admin key opens other doors than the API key."""
        settings = self.core.settings
        if path.rstrip("/") in UNGUARDED:
            return True
        if path in ADMIN and settings.admin_api_key is not None:
            return bearer(settings.admin_api_key, authorization)
        return bearer(settings.api_key, authorization)

    def adapters(self) -> dict[str, str]:
        """Name -> path."""
        return {name: path for loras in self._workers for name, path in loras.listed().items()}

    def forget(self) -> None:
        """Back to the adapters of `--lora-paths`."""
        for loras in self._workers:
            loras.forget()

    @property
    def _loras(self) -> Loras:
        """The adapters of the worker that answers requests."""
        return self._workers[0]

    async def drain(self) -> None:
        """Not ready any more, but everything in flight is finished."""
        self.core.shutting_down = True
        await self.core.batch.idle()

    # Health and facts

    @property
    def _is_up(self) -> bool:
        core = self.core
        warm = core.age >= core.settings.warmup_seconds
        return warm and not core.shutting_down and not core.batch.paused

    async def _root(self, _: Request) -> Response:
        return CompactJSON("SGLang is running")

    async def _ready(self, _: Request) -> Response:
        return Response(status_code=200 if self._is_up and not self._unhealthy else 503)

    async def _health(self, _: Request) -> Response:
        core = self.core
        if core.shutting_down or core.age < core.settings.warmup_seconds:
            return Response(status_code=503)
        if core.batch.paused:
            await asyncio.sleep(core.settings.health_timeout_seconds)
            if core.batch.paused:
                self._unhealthy = True
                return Response(status_code=503)
        await asyncio.sleep(core.settings.health_seconds)
        self._unhealthy = False
        return Response()

    async def _ping(self, _: Request) -> Response:
        return Response()

    async def _models(self, _: Request) -> Response:
        settings = self.core.settings
        cards = [_card(name, name, None, settings.max_model_len) for name in settings.served_model_names]
        listed = next(self._turn).listed() if settings.lists_adapters else {}
        cards += [_card(name, path, settings.base_model, None) for name, path in listed.items()]
        return CompactJSON({"object": "list", "data": cards})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["model"]
        settings = self.core.settings
        if name not in settings.served_model_names:
            error = {
                "message": f"The model '{name}' does not exist",
                "type": "invalid_request_error",
                "param": "model",
                "code": "model_not_found",
            }
            return CompactJSON({"error": error}, status_code=404)
        return CompactJSON(_card(name, name, None, settings.max_model_len))

    async def _model_info(self, _: Request) -> Response:
        info = json.loads(recorded.text("sglang/model_info.json"))
        settings = self.core.settings
        info |= {
            "model_path": settings.model,
            "served_model_name": settings.base_model,
            "tokenizer_path": settings.model,
        }
        return CompactJSON(info)

    async def _server_info(self, _: Request) -> Response:
        info = json.loads(recorded.text("sglang/server_info.json"))
        settings = self.core.settings
        info |= {
            "model_path": settings.model,
            "tokenizer_path": settings.model,
            "served_model_name": settings.base_model,
            # SGLang 0.5.23 answers null if it was not set.
            "enable_lora": settings.enable_lora or None,
            "tokenizer_worker_num": settings.tokenizer_workers,
            "max_lora_rank": settings.max_lora_rank,
            "max_loras_per_batch": settings.max_loras,
            "max_loaded_loras": settings.max_loaded_loras,
            # SGLang 0.5.23: the list of the start, it does not follow loads.
            "lora_paths": [
                {"lora_id": uuid.uuid4().hex, "lora_name": name, "lora_path": path, "pinned": False}
                for name, path in settings.lora_modules
            ],
        }
        return CompactJSON(info)

    async def _loads(self, request: Request) -> Response:
        included = request.query_params.get("include", "all").split(",")
        loads = [self._load_of(rank, included) for rank in range(self.core.settings.dp_size)]
        if request.query_params.get("format") == "prometheus":
            lines = []
            for name, value in _flat(loads[0]):
                lines += [f"# TYPE sglang_{name} gauge", f'sglang_{name}{{dp_rank="0"}} {value}']
            return PlainTextResponse(
                "\n".join(lines) + "\n", headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"}
            )
        return CompactJSON(
            {
                "timestamp": datetime.now(UTC).isoformat(),
                "version": VERSION,
                "accelerator": None,
                "num_accelerators": 1,
                "loads": loads,
            }
        )

    def _load_of(self, rank: int, included: list[str]) -> dict[str, Any]:
        batch, settings = self.core.batch, self.core.settings
        running, waiting = batch.running.total(), batch.waiting.total()
        slots = self._slots_used()
        load: dict[str, Any] = {
            "timestamp": time.time(),
            "dp_rank": rank,
            "num_running_reqs": running,
            "num_waiting_reqs": waiting,
            "num_waiting_uncached_tokens": waiting,
            "num_used_tokens": 0,
            "num_total_tokens": 0,
            "num_active_tokens": 0,
            "num_prealloc_ready_tokens": 0,
            "max_total_num_tokens": 4096,
            "max_running_requests": settings.max_num_seqs,
            "token_usage": 0.0,
            "gen_throughput": running * batch.tokens_per_second,
            "cache_hit_rate": 0.0,
            "utilization": 0.0,
            "total_prefill_uncached_tokens": self.core.stats.prompt_tokens,
            "total_prefill_busy_us": 0,
            "decode_moments": [0.0] * 6,
        }
        sections: dict[str, dict[str, Any]] = {
            "memory": {"weight_gb": -0.002, "kv_cache_gb": 0.004, "graph_gb": 0.0, "token_capacity": 4096},
            "lora": {
                "slots_used": slots,
                "slots_total": settings.max_loras,
                "utilization": slots / settings.max_loras,
            },
            "disaggregation": {
                "mode": "null",
                "prefill_bootstrap_queue_reqs": 0,
                "prefill_inflight_queue_reqs": 0,
                "decode_prealloc_queue_reqs": 0,
                "decode_transfer_queue_reqs": 0,
                "decode_retracted_queue_reqs": 0,
                "kv_transfer_speed_gb_s": 0.0,
                "kv_transfer_latency_ms": 0.0,
            },
            "queues": {"waiting": waiting, "grammar": 0, "paused": 0, "retracted": 0, "prealloc_ready": 0},
        }
        if not settings.enable_lora:
            del sections["lora"]
        for name, section in sections.items():
            if "all" in included or name in included:
                load[name] = section
        return load

    async def _metrics(self, _: Request) -> Response:
        core, batch, settings = self.core, self.core.batch, self.core.settings
        slots = self._slots_used()
        snapshot = metrics.Snapshot(
            model=settings.base_model,
            started_at=core.started_at,
            stats=core.stats,
            gauges={
                "sglang:num_running_reqs": batch.running.total(),
                "sglang:num_queue_reqs": batch.waiting.total(),
                "sglang:gen_throughput": batch.running.total() * batch.tokens_per_second,
                "sglang:token_usage": 0,
                "sglang:full_token_usage": 0,
                "sglang:num_used_tokens": 0,
                "sglang:kv_used_tokens": 0,
                "sglang:cache_hit_rate": 0,
                "sglang:lora_pool_slots_used": slots,
                "sglang:lora_pool_slots_total": settings.max_loras,
                "sglang:lora_pool_utilization": slots / settings.max_loras,
                "sglang:http_requests_active": 0,
            },
        )
        return PlainTextResponse(
            metrics.render(EngineKind.SGLANG, snapshot),
            headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    def _slots_used(self) -> int:
        return min(self.core.settings.max_loras, sum(1 for name, n in self.core.batch.running.items() if name and n))

    # Adapters

    async def _load(self, request: Request) -> Response:
        body = await _validated(request, "LoadLoRAAdapterReqInput", ("lora_name", "lora_path"))
        loras = next(self._turn)
        return await self._changing(
            loras, lambda: loras.load(body["lora_name"], body["lora_path"], pinned=bool(body.get("pinned", False)))
        )

    async def _unload(self, request: Request) -> Response:
        body = await _validated(request, "UnloadLoRAAdapterReqInput", ("lora_name",))
        loras = next(self._turn)
        return await self._changing(loras, lambda: loras.unload(body["lora_name"]))

    async def _changing(self, loras: Loras, change: Callable[[], Any]) -> Response:
        if self.core.settings.dp_size > 1:
            return PlainTextResponse("Internal Server Error", status_code=500)
        if not self.core.settings.enable_lora:
            return _lora_answer(_LORA_IS_OFF, None, status=400)
        try:
            await change()
        except LoraError as error:
            return _lora_answer(str(error), error.loaded, status=400)
        return _lora_answer("", loras.in_load_order(), status=200)

    # Answers

    async def _completion(self, request: Request) -> Response:
        body = json.loads(await request.body())
        prompt = body.get("prompt", "")
        prompts = [prompt] if isinstance(prompt, str) else [str(item) for item in prompt]
        model, adapters = await self._resolve(body, len(prompts))
        max_tokens = body.get("max_tokens") or DEFAULT_MAX_TOKENS
        generations = [
            self._generation(adapter, prompt, max_tokens) for adapter, prompt in zip(adapters, prompts, strict=True)
        ]
        head = {"id": uuid.uuid4().hex, "object": "text_completion", "created": int(time.time()), "model": model}
        if body.get("stream"):
            return _stream(_completion_chunks(head, generations))
        texts = [await generation.read() for generation in generations]
        choices = [
            {
                "index": index,
                "text": text,
                "logprobs": None,
                "finish_reason": generation.finish_reason,
                "matched_stop": None,
            }
            for index, (text, generation) in enumerate(zip(texts, generations, strict=True))
        ]
        return CompactJSON({**head, "choices": choices, **_tail(generations)})

    async def _chat(self, request: Request) -> Response:
        body = json.loads(await request.body())
        prompt = " ".join(str(message.get("content", "")) for message in body["messages"])
        model, adapters = await self._resolve(body, 1)
        generation = self._generation(adapters[0], prompt, body.get("max_tokens") or DEFAULT_MAX_TOKENS)
        head = {"id": uuid.uuid4().hex, "object": "chat.completion", "created": int(time.time()), "model": model}
        if body.get("stream"):
            return _stream(_chat_chunks(head, generation))
        message = {"role": "assistant", "content": await generation.read(), "reasoning_content": None}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": generation.finish_reason,
            "matched_stop": None,
        }
        return CompactJSON({**head, "choices": [choice], **_tail([generation])})

    async def _generate(self, request: Request) -> Response:
        body = json.loads(await request.body())
        text = body["text"]
        prompts = [text] if isinstance(text, str) else text
        max_tokens = (body.get("sampling_params") or {}).get("max_new_tokens", 128)
        try:
            _, adapters = await self._resolve({"model": None, "lora_path": body.get("lora_path")}, len(prompts))
        except RequestError as error:
            return CompactJSON({"error": {"message": str(error)}}, status_code=400)
        answers = []
        for adapter, prompt in zip(adapters, prompts, strict=True):
            generation = self._generation(adapter, prompt, max_tokens)
            answer = await generation.read()
            answers.append(_native_answer(generation, answer))
        return CompactJSON(answers[0] if isinstance(text, str) else answers)

    async def _resolve(self, body: dict[str, Any], prompts: int) -> tuple[str, list[str | None]]:
        """The name to answer under and an adapter for each prompt, loaded again where it must be."""
        model = body.get("model") or DEFAULT_MODEL
        # SGLang 0.5.23: the part after the first colon is the adapter and wins over lora_path; no part is checked
        # against the served names, and a bare adapter name is just an unknown base model.
        named = model.partition(":")[2] or body.get("lora_path")
        adapters: list[str | None] = list(named) if isinstance(named, list) else [named] * prompts
        names = dict.fromkeys(name for name in adapters if name)
        settings = self.core.settings
        if names and not settings.enable_lora:
            raise RequestError(
                f"LoRA adapter '{next(iter(names))}' was requested, but LoRA is not enabled. Please launch the server "
                "with --enable-lora flag and preload adapters using --lora-paths or /load_lora_adapter endpoint."
            )
        if settings.max_loaded_loras is not None and len(names) > settings.max_loaded_loras:
            raise RequestError(
                f"Received request with {len(names)} unique loras requested but max loaded loras is "
                f"{settings.max_loaded_loras}"
            )
        for name in names:
            try:
                await self._loras.use(name)
            except LoraError as error:
                raise RequestError(str(error)) from error
        return model, adapters

    def _generation(self, adapter: str | None, prompt: str, max_tokens: int) -> Generation:
        weights = Weights(self._loras.weights(adapter) if adapter else self.core.settings.model)
        return Generation(self.core.batch, weights=weights, adapter=adapter, prompt=prompt, max_tokens=max_tokens)

    # The rest

    async def _pause(self, _: Request) -> Response:
        self.core.batch.pause()
        return CompactJSON({"message": "Generation paused successfully.", "status": "ok"})

    async def _continue(self, _: Request) -> Response:
        self.core.batch.resume()
        return CompactJSON({"message": "Generation continued successfully.", "status": "ok"})

    async def _flush_cache(self, _: Request) -> Response:
        return Response(
            "Cache flushed.\nPlease check backend logs for more details. (When there are running or waiting requests, "
            "the operation will not be performed.)\n"
        )

    async def _start_profile(self, _: Request) -> Response:
        self._profiling = True
        return Response("Start profiling.\n")

    async def _stop_profile(self, _: Request) -> Response:
        if not self._profiling:
            return PlainTextResponse("Internal Server Error", status_code=500)
        self._profiling = False
        return Response("Stop profiling. This will take some time.\n")

    def _answering(self, handler: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            try:
                response: Response = await handler(request)
            except RequestError as error:
                return CompactJSON(error.content, status_code=400)
            return response

        return answer


def _card(name: str, root: str, parent: str | None, max_model_len: int | None) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "sglang",
        "root": root,
        "parent": parent,
        "max_model_len": max_model_len,
    }


def _lora_answer(error: str, loaded: dict[str, str] | None, *, status: int) -> Response:
    content = {
        "rid": None,
        "http_worker_ipc": None,
        "success": not error,
        "error_message": error,
        "loaded_adapters": loaded,
    }
    return CompactJSON(content, status_code=status)


async def _validated(request: Request, kind: str, required: tuple[str, ...]) -> dict[str, Any]:
    """The body as an object with these strings, or SGLang's validation error, which is 400 in a shape of its own."""
    raw, media_type = await read_body(request)
    if not raw:
        raise _invalid(kind, [{"type": "missing", "loc": ("body",), "msg": "Field required", "input": None}])
    inside = f"function-after[build_struct(), {kind}]"

    def wrong_instance(value: Any) -> dict[str, Any]:
        return {
            "type": "is_instance_of",
            "loc": ("body", f"is-instance[{kind}]"),
            "msg": f"Input should be an instance of {kind}",
            "input": value,
            "ctx": {"class": kind},
        }

    if media_type != "application/json":
        no_dictionary = {
            "type": "dict_type",
            "loc": ("body", inside),
            "msg": "Input should be a valid dictionary",
            "input": raw,
        }
        raise _invalid(kind, [wrong_instance(raw), no_dictionary])
    try:
        body = json.loads(raw)
    except json.JSONDecodeError as error:
        # SGLang parses with another library; of its texts only this one is recorded.
        text = "unexpected character, expected a string key" if "property name" in error.msg else error.msg
        problem = {
            "type": "json_invalid",
            "loc": ("body", error.pos),
            "msg": "JSON decode error",
            "input": {},
            "ctx": {"error": text},
        }
        raise _invalid(kind, [problem]) from error
    problems = []
    for name in required:
        if name not in body:
            problems.append({"type": "missing", "loc": ("body", inside, name), "msg": "Field required", "input": body})
        elif not isinstance(body[name], str):
            problems.append(
                {
                    "type": "string_type",
                    "loc": ("body", inside, name),
                    "msg": "Input should be a valid string",
                    "input": body[name],
                }
            )
    if problems:
        raise _invalid(kind, [wrong_instance(body), *problems])
    valid: dict[str, Any] = body
    return valid


def _invalid(kind: str, problems: list[dict[str, Any]]) -> RequestError:
    handler, line = _HANDLERS[kind]
    noun = "error" if len(problems) == 1 else "errors"
    listed = "".join(f"  {problem}\n" for problem in problems)
    return RequestError(
        f"{len(problems)} validation {noun}:\n{listed}\n"
        f'  File "sglang/srt/entrypoints/http_server.py", line {line}, in {handler}\n'
        f"    POST /{handler} {problems}",
        "Bad Request",
    )


def _tail(generations: list[Generation]) -> dict[str, Any]:
    prompt = sum(generation.prompt_tokens for generation in generations)
    completion = sum(generation.tokens for generation in generations)
    return {
        "usage": {
            "prompt_tokens": prompt,
            "total_tokens": prompt + completion,
            "completion_tokens": completion,
            "prompt_tokens_details": None,
            "reasoning_tokens": 0,
            "completion_tokens_details": None,
        },
        "metadata": {
            "weight_version": "default",
            "weight_versions": [{"version": "default", "start": 0, "end": generations[0].tokens}],
        },
    }


def _native_answer(generation: Generation, text: str) -> dict[str, Any]:
    now = time.time()
    meta = {
        "id": uuid.uuid4().hex,
        "finish_reason": {"type": generation.finish_reason, "length": generation.tokens},
        "prompt_tokens": generation.prompt_tokens,
        "weight_version": "default",
        "num_retractions": 0,
        "storage_prefetch_wait": 0.0,
        "storage_staging_wait": 0.0,
        "forward_entry_time": now,
        "prefill_finished_time": now,
        "queue_time": 0.0,
        "reasoning_tokens": 0,
        "completion_tokens": generation.tokens,
        "cached_tokens": 0,
        "weight_versions": [{"version": "default", "start": 0, "end": generation.tokens}],
        "cached_tokens_details": {"device": 0, "host": 0},
        "dp_rank": None,
        "e2e_latency": 0.0,
        "request_received_ts": now,
        "first_token_latency": 0.0,
        "api_server_dispatch_finish_ts": now,
        "request_finished_ts": now,
        "decode_throughput": 0.0,
        "response_sent_to_client_ts": now,
    }
    return {"text": text, "output_ids": list(range(generation.tokens)), "meta_info": meta}


async def _completion_chunks(head: dict[str, Any], generations: list[Generation]) -> AsyncIterator[Any]:
    for index, generation in enumerate(generations):
        async for token in generation:
            yield {**head, "choices": [_text_choice(index, token, None)], "usage": None}
        yield {**head, "choices": [_text_choice(index, "", generation.finish_reason)], "usage": None}


def _text_choice(index: int, text: str, reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": reason, "matched_stop": None}


async def _chat_chunks(head: dict[str, Any], generation: Generation) -> AsyncIterator[Any]:
    head = {**head, "object": "chat.completion.chunk"}

    def chunk(delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason, "matched_stop": None}
        return {**head, "choices": [choice], "usage": None}

    yield chunk({"role": "assistant", "content": ""}, None)
    async for token in generation:
        yield chunk({"content": token}, None)
    yield chunk({}, generation.finish_reason)


def _stream(chunks: AsyncIterator[Any]) -> Response:
    async def events() -> AsyncIterator[str]:
        async for chunk in chunks:
            yield f"data: {compact(chunk)}\n\n"
        yield "data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


def _flat(load: dict[str, Any]) -> list[tuple[str, Any]]:
    """The numbers of one load, in the names of the Prometheus format."""
    flat: list[tuple[str, Any]] = []
    for name, value in load.items():
        if isinstance(value, dict):
            prefix = {"disaggregation": "disagg"}.get(name, name)
            flat += [(f"{prefix}_{key}", number) for key, number in value.items() if not isinstance(number, str)]
        elif not isinstance(value, list) and name != "dp_rank":
            flat.append((name, value))
    return flat
