"""Finds a body that no engine would take, before a worker is started for it. Pure.

`openai_types` has the types of OpenAI's document, loosely. Unknown fields pass, since engines have their own. A model
that has a worker never comes here: its engine says what is wrong, in its own words.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ValidationError

from patio_gateway.front.openai_types import (
    CreateChatCompletionRequest,
    CreateCompletionRequest,
    CreateEmbeddingRequest,
    CreateResponse,
)

MOST_BYTES = 1024 * 1024
"""A longer body is not looked at, and passes: its JSON would hold up other requests."""

TYPES: dict[str, type[BaseModel]] = {
    "chat/completions": CreateChatCompletionRequest,
    "completions": CreateCompletionRequest,
    "embeddings": CreateEmbeddingRequest,
    "responses": CreateResponse,
}
"""The type of a body, by the path below `/v1/`."""

INSTEAD = {
    "prompt": ("prompt_embeds",),
    "input": ("messages", "prompt_embeds"),
}
"""Fields that may be absent, or null, if another field is there: vLLM's own."""

NOT_EMPTY = ("messages",)
"""Lists without which no engine answers."""

Problem = tuple[str, str | None]
"""A sentence, and the field that it is about."""


def problem(path: str, content_type: str, body: bytes) -> Problem | None:
    """Return what is wrong with a POST's body, or None."""
    if not path.startswith(("/v1/", "/v2/")) or "multipart/" in content_type.lower() or len(body) > MOST_BYTES:
        return None
    wanted = TYPES.get(path[4:].rstrip("/"))
    if wanted is None:
        return None
    try:
        content: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        return f"The body is not valid JSON: {str(error)[:200]}.", None
    if not isinstance(content, dict):
        return "The body is not a JSON object.", None
    try:
        wanted.model_validate(content)
    except ValidationError as error:
        for each in error.errors(include_url=False, include_context=False, include_input=False):
            if not _is_fine(each, content):
                return _sentence(each)
    for name in NOT_EMPTY:
        if content.get(name) == []:
            return f"{name}: must not be empty.", name
    return None


def _is_fine(error: Any, content: dict[str, Any]) -> bool:
    """Return whether engines take what OpenAI's document does not."""
    field = error["loc"][0]
    if field == "model":
        # A header may have named it: the front knows it already.
        return content.get("model") is None
    return content.get(field) is None and any(name in content for name in INSTEAD.get(field, ()))


def _sentence(error: Any) -> Problem:
    where = ".".join(str(part) for part in error["loc"])[:200]
    message = str(error["msg"])
    return f"{where}: {message[:1].lower()}{message[1:]}.", str(error["loc"][0])[:100]


def model_in(body: bytes) -> str:
    """Return the model that a JSON body names; an empty text if it names none."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    model = content.get("model") if isinstance(content, dict) else None
    # A lone surrogate is in no name, and in no answer.
    return model.encode("utf-8", "replace").decode() if isinstance(model, str) else ""
