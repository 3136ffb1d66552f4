"""What the front says to clients when it does not let a request go on, in the shape of OpenAI's errors. Pure.

An error has a `code` that a client can tell apart; 429 and 503 have Retry-After, and a header that keeps Envoy from
asking the front once more (decision 0041), which clients do not see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from patio_gateway.snapshot import Model, Start, StartPhase

MOST_TEXT = 256
"""Characters of what a client sent that are repeated to it."""


@dataclass(frozen=True)
class Answer:
    """An error."""

    status: int
    type: str
    code: str
    message: str
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, object]:
        """Return the body."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


def _invalid(status: int, code: str, message: str, param: str | None = None) -> Answer:
    return Answer(status, "invalid_request_error", code, message, param)


def _later(status: int, code: str, message: str, seconds: int) -> Answer:
    kind = "rate_limit_error" if status == 429 else "service_unavailable_error"
    headers = {"retry-after": str(seconds), "x-envoy-ratelimited": "true"}
    return Answer(status, kind, code, message, headers=headers)


def short(text: str) -> str:
    """Return a text of a client, cut."""
    return text if len(text) <= MOST_TEXT else text[:MOST_TEXT] + "..."


def no_path(method: str, path: str) -> Answer:
    """Return the answer to a path that neither the front nor any engine has."""
    return _invalid(404, "not_found", f"This gateway has no {method} {short(path)}.")


def wrong_method(method: str, path: str) -> Answer:
    """Return the answer to a path that has other methods."""
    return _invalid(405, "method_not_allowed", f"{short(path)} does not take {method}.")


def key_needed() -> Answer:
    """Return the answer to a request without a valid key."""
    message = "A request needs a valid API key: Authorization: Bearer KEY."
    return Answer(401, "invalid_request_error", "invalid_api_key", message, headers={"www-authenticate": "Bearer"})


def invalid_query(name: str, expected: str) -> Answer:
    """Return the answer to a parameter of the query that cannot be read."""
    return _invalid(400, "invalid_query", f"{name}: expected {expected}.", name)


def no_room() -> Answer:
    """Return the answer when the front keeps as many bytes of bodies as it may."""
    message = "The gateway reads as many bodies of requests as it may. Send the request again later."
    return _later(429, "queue_full", message, 1)


def failed() -> Answer:
    """Return the answer when the front itself failed."""
    return Answer(500, "api_error", "internal_error", "The gateway failed to answer. Its log says why.")


def no_model() -> Answer:
    """Return the answer to a request without a model."""
    return _invalid(400, "model_missing", "The request names no model: set `model` in its body.", "model")


def unknown_model(name: str) -> Answer:
    """Return the answer for a model that is not declared, or that the client may not use: it does not tell which."""
    message = (
        f"The model `{short(name)}` does not exist, or your key may not use it. GET /v1/models lists those it may use."
    )
    return _invalid(404, "model_not_found", message, "model")


def invalid_body(message: str, param: str | None) -> Answer:
    """Return the answer to a body that no engine would take."""
    return _invalid(400, "invalid_request_body", message, param)


def too_large(most: int) -> Answer:
    """Return the answer to a body of more than `most` bytes."""
    return _invalid(413, "request_too_large", f"The body of the request is larger than {most} bytes.")


def disabled(model: Model) -> Answer:
    """Return the answer for a model that has no worker and gets none."""
    message = (
        f"The model `{model.names[0]}` has no worker, and a request does not start one. Start its engine, or raise "
        f"workers.max of the endpoint {model.endpoint}."
    )
    return _later(503, "model_disabled", message, 60)


def model_full(model: Model) -> Answer:
    """Return the answer when `queue.max` requests wait for the model."""
    message = f"{model.queue.max} requests wait for the model `{model.names[0]}` already. {state(model)}"
    return _later(429, "queue_full", message, retry_seconds(model.start))


def gateway_full(model: Model) -> Answer:
    """Return the answer when the gateway holds as many requests or bytes as it may."""
    message = f"The gateway holds as many waiting requests as it may. {state(model)}"
    return _later(429, "queue_full", message, retry_seconds(model.start))


def too_late(model: Model, adapter: str | None, seconds: float) -> Answer:
    """Return the answer to a request that waited for `seconds`."""
    if adapter is not None and model.workers:
        message = (
            f"No worker of the model `{model.names[0]}` loaded the adapter `{short(adapter)}` within {seconds:g} s."
        )
        return _later(503, "adapter_load_timeout", message, retry_seconds(model.start))
    message = f"The model `{model.names[0]}` had no worker within {seconds:g} s. {state(model)}"
    return _later(503, "model_start_timeout", message, retry_seconds(model.start))


def sent_back_too_often(model: Model) -> Answer:
    """Return the answer to a request for which Envoy reached no worker again and again, although some were ready."""
    message = f"The workers of the model `{model.names[0]}` could not be reached, or came and went. Send it again."
    return _later(503, "worker_unreachable", message, 1)


def starting() -> Answer:
    """Return the answer while the gateway does not know its models yet."""
    return _later(503, "gateway_starting", "This replica of the gateway starts. Send the request again.", 1)


def stopping() -> Answer:
    """Return the answer to a request that waited, or would wait, when the gateway ends."""
    return _later(503, "gateway_stopping", "This replica of the gateway stops. Send the request again.", 1)


def fallback_failed(model: Model, reason: str) -> Answer:
    """Return the answer when the worker of a fallback did not answer."""
    message = f"The model `{model.names[0]}` has no worker, and its fallback did not answer: {short(reason)}"
    return _later(503, "worker_unreachable", message, 1)


def state(model: Model) -> str:
    """Return how far the start of a model has come, as sentences: the phase first, in one word."""
    if model.workers:
        return "State: Ready."
    start = model.start
    percent = f" {start.percent} %" if start.phase is StartPhase.DOWNLOADING and start.percent is not None else ""
    message = start.message.strip()
    sentence = f" {message}" if not message or message.endswith((".", "!", "?")) else f" {message}."
    return f"State: {start.phase.value}{percent}.{sentence}".rstrip()


def retry_seconds(start: Start) -> int:
    """Return after how many seconds another attempt makes sense."""
    seconds = {StartPhase.FAILING: 60, StartPhase.PULLING: 30, StartPhase.LOADING: 10}
    return seconds.get(start.phase, 15)
