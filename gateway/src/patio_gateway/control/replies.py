"""What Envoy answers itself, in OpenAI's shape of an error. Pure.

Each answer has a `code` that a client can tell apart, and 429 and 503 have Retry-After. What the front, an engine or
the program answers passes unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

RETRY_AFTER = 1
"""Seconds, of answers that say nothing better."""


@dataclass(frozen=True)
class Reply:
    """One answer of Envoy's own."""

    status: int
    type: str
    code: str
    message: str
    retry_after: int | None = None
    flags: tuple[str, ...] = ()
    """Envoy's response flags that it is for; without one: any answer of this status."""


REPLIES = (
    Reply(413, "invalid_request_error", "request_too_large", "The body of the request is too large for this gateway."),
    Reply(408, "invalid_request_error", "request_timeout", "The request did not arrive in time."),
    Reply(
        429,
        "rate_limit_error",
        "rate_limit_exceeded",
        "This key has used up its requests for now. Send the request again later.",
        retry_after=RETRY_AFTER,
    ),
    Reply(
        503,
        "service_unavailable_error",
        "no_worker",
        "No worker of the model takes requests now. Send the request again later.",
        retry_after=RETRY_AFTER,
        flags=("UH", "NC", "NR"),
    ),
    Reply(
        503,
        "service_unavailable_error",
        "worker_unreachable",
        "The model's worker did not answer: it ended the connection, or accepted none. Send the request again.",
        retry_after=RETRY_AFTER,
        flags=("UF", "UC", "UR", "LR", "UO", "URX"),
    ),
    Reply(
        503,
        "service_unavailable_error",
        "overloaded",
        "The gateway has too much to do. Send the request again later.",
        retry_after=RETRY_AFTER,
    ),
    Reply(502, "api_error", "bad_answer", "The model's worker answered with something that is not HTTP."),
    Reply(504, "api_error", "timeout", "The model's worker did not answer in time."),
)


def local_reply_config() -> dict[str, Any]:
    """Return Envoy's `local_reply_config`."""
    return {"mappers": [_mapper(reply) for reply in REPLIES]}


def has_status(status: int) -> dict[str, Any]:
    """Return Envoy's filter of answers with a status."""
    return {
        "status_code_filter": {
            "comparison": {"op": "EQ", "value": {"default_value": status, "runtime_key": "patio.unused"}}
        }
    }


def _mapper(reply: Reply) -> dict[str, Any]:
    status = has_status(reply.status)
    flags: dict[str, Any] = {"response_flag_filter": {"flags": list(reply.flags)}}
    mapper: dict[str, Any] = {
        "filter": {"and_filter": {"filters": [status, flags]}} if reply.flags else status,
        "body_format_override": {
            "json_format": {
                "error": {"message": reply.message, "type": reply.type, "param": None, "code": reply.code},
            },
        },
    }
    if reply.retry_after is not None:
        mapper["headers_to_add"] = [
            {
                "header": {"key": "retry-after", "value": str(reply.retry_after)},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ]
    return mapper
