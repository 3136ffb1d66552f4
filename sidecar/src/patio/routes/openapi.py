"""The OpenAPI document: what FastAPI makes of the routes, completed by examples and by the faults each route answers.

Built when it is asked for, so that an idle sidecar pays nothing. Beside what is generated it says two things: that
every fault has the one error shape, also where FastAPI would document its own, and what calls and answers look like.
`patio.document` writes it to a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

DESCRIPTION = (
    "The sidecar of one engine pod. Routes that change nothing are open to everyone who reaches the port. All others "
    "need the operator's signature from outside the pod (docs/concepts/access.md). From inside it, POST, PUT and "
    "DELETE with `Content-Type: application/json` need none; `GET /v1/drain` needs the proof of the pod's preStop hook."
)
ERROR = "#/components/schemas/ErrorBody"

_SQL = {
    "lora_name": "sql",
    "lora_path": "/adapters/sql",
    "source": None,
    "owner": "LoraAdapter/team-a/sql-expert",
    "revision": "3",
    "required": True,
    "state": "Loaded",
    "reason": "Loaded",
    "message": "",
    "retryable": True,
    "model": "sql",
    "attempts": 1,
    "since": 1795250210.2,
    "held_revision": "3",
    "prepared": None,
    "credentials_revision": None,
}
_DOWNLOAD = {"source": "hf://your-org/your-lora", "config": '{"hf_revision": "main"}', "async_download": True}

REQUESTS: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("post", "/v1/load_lora_adapter"): {
        "a folder": {"lora_name": "sql", "lora_path": "/adapters/sql"},
        "a source": {"lora_name": "sql", "source": "s3://models/lora/sql", "revision": "7", "wait": 0},
        "before a switch": {"lora_name": "sql", "source": "s3://models/lora/sql-8", "prepare": True, "wait": 0},
    },
    ("post", "/v1/unload_lora_adapter"): {"manually": {"lora_name": "sql"}},
    ("post", "/v1/download_model"): {"in the background": _DOWNLOAD},
    ("post", "/v1/drain"): {"less than the grace period": {"timeout": 25}},
}
"""Bodies that can be sent as they are, by method and path; the routes without /v1 take the same."""

ANSWERS: Mapping[tuple[str, str], Any] = {
    ("get", "/ready"): {"ready": True, "waiting_for": []},
    ("post", "/v1/load_lora_adapter"): _SQL,
    ("post", "/v1/unload_lora_adapter"): {"lora_name": "sql", "unloaded": True, "message": ""},
    ("get", "/v1/lora_adapters"): {
        "revision": "1f0c9a2e-7",
        "engine": "vllm",
        "engine_ready": True,
        "base_models": ["qwen3-8b"],
        "adapters": [_SQL],
        "capacity": {"batch": 4, "loaded": None},
        "on_disk": ["s3://models/lora/sql"],
    },
}

_UNSIGNED = (401, "ProofMissing", "From outside the pod, this call needs the operator's signature.", False)
_TOO_LARGE = (413, "BodyTooLarge", "The body exceeds the limit of this route.", False)
_INVALID = (400, "InvalidRequest", "lora_name: String should match pattern", False)

ERRORS: Mapping[tuple[str, str], tuple[tuple[int, str, str, bool], ...]] = {
    ("post", "/v1/load_lora_adapter"): (
        _INVALID,
        _UNSIGNED,
        _TOO_LARGE,
        (404, "AdapterNotFound", "Loading lora sql failed: No adapter found for /adapters/sql", False),
        (409, "Conflict", "Adapter sql belongs to LoraAdapter/team-b/sql on this pod.", False),
        (409, "TooManyAdapters", "This pod has orders for 2000 adapters, which is the limit.", False),
        (422, "AdapterRejected", "LoRA rank 64 is greater than max_lora_rank 16.", False),
        (502, "EngineUnauthorized", "The engine rejected the call: the key is wrong. Set ENGINE_API_KEY.", False),
        (503, "EngineError", "The engine answered 503.", True),
        (507, "NotStored", "The order could not be stored, so nothing was changed: No space left on device.", True),
    ),
    ("post", "/v1/unload_lora_adapter"): (
        _INVALID,
        _UNSIGNED,
        _TOO_LARGE,
        (404, "NotFound", "Adapter sql is neither desired nor loaded on this pod.", False),
        (507, "NotStored", "The order could not be stored, so nothing was changed: No space left on device.", True),
    ),
    ("post", "/v1/download_model"): (
        _INVALID,
        _UNSIGNED,
        _TOO_LARGE,
        (404, "SourceNotFound", "s3://models/lora/sql: the source has no files at this path.", False),
        (502, "SourceUnauthorized", "The source answered 403. These credentials may not read it.", False),
        (503, "SourceUnreachable", "The source does not answer.", True),
        (507, "NoSpace", "The files do not fit on the disk.", True),
    ),
    ("get", "/v1/downloads/{download_id}"): ((404, "NotFound", "There is no download 'x'.", False),),
    ("delete", "/v1/downloads/{download_id}"): (
        _UNSIGNED,
        (404, "NotFound", "There is no download 'x'.", False),
        (409, "InUse", "An adapter waits for this download. Unload the adapter to cancel it.", False),
    ),
    ("post", "/v1/drain"): (_INVALID, _UNSIGNED, _TOO_LARGE),
    ("get", "/v1/drain"): (_INVALID, _UNSIGNED),
    ("get", "/v1/lora_adapters"): (
        _INVALID,
        (429, "TooManyLongPolls", "Too many long-polls are open, from this caller or in total.", True),
    ),
}
"""Status, code, message and whether a retry can help, of the faults that a caller must be ready for."""


def add_document(app: FastAPI) -> None:
    """Have `/openapi.json` answer with the completed document."""
    built: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not built:
            built.update(_completed(app))
        return built

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def _completed(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes)
    for path, operations in document["paths"].items():
        versioned = path if path.startswith("/v1/") or f"/v1{path}" not in document["paths"] else f"/v1{path}"
        for method, operation in operations.items():
            _complete(operation, (method, versioned))
    for unused in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(unused, None)
    return document


def _complete(operation: dict[str, Any], key: tuple[str, str]) -> None:
    responses = operation["responses"]
    # FastAPI says that it answers 422 in a shape of its own; here that is 400 in the one error shape.
    responses.pop("422", None)
    for status, code, message, retryable in ERRORS.get(key, ()):
        body = {"error": {"code": code, "message": message, "retryable": retryable}}
        responses[str(status)] = {
            "description": code,
            "content": {"application/json": {"schema": {"$ref": ERROR}, "example": body}},
        }
    if key in REQUESTS:
        content = operation["requestBody"]["content"]["application/json"]
        content["examples"] = {name: {"value": value} for name, value in REQUESTS[key].items()}
    if key in ANSWERS:
        responses["200"].setdefault("content", {}).setdefault("application/json", {})["example"] = ANSWERS[key]
