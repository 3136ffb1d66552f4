"""Orders to sidecars: what is refused, and what never arrived, are told apart."""

from __future__ import annotations

import random

import httpx

from patio.api.protocol import ErrorBody, ErrorDetail
from patio_operator.placement.matching import load_request
from patio_operator.placement.plans import Load
from patio_operator.sidecars.orders import Orders

from builders import NOW, lora_adapter, pod


async def given(answers: dict[str, int | None]) -> tuple[set[str], int]:
    """Give a load to the pod at each address (None: it breaks off); return who refused, and how many are lost."""

    def answer(request: httpx.Request) -> httpx.Response:
        status = answers[request.url.host]
        if status is None:
            raise httpx.ReadError("connection reset", request=request)
        error = ErrorBody(error=ErrorDetail(code="Conflict", message="taken", retryable=False))
        return httpx.Response(status, content=error.model_dump_json())

    request = load_request(lora_adapter())
    orders = [Load(pod(f"pod-{ip}", ip=ip), "sql", request, "the pod does not have it") for ip in answers]
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        outcome = await Orders(http, random.Random(0), lambda _: httpx.Auth()).give(orders, NOW)
    assert all(refusal.until > NOW for refusal in outcome.refusals.values())
    return {uid for uid, _ in outcome.refusals}, outcome.undelivered


async def test_a_refusal_is_remembered_and_a_lost_order_is_given_again() -> None:
    assert await given({"10.0.0.1": 409, "10.0.0.2": None}) == ({"uid-pod-10.0.0.1"}, 1)


async def test_nothing_lost_nothing_to_give_again() -> None:
    assert await given({"10.0.0.1": 409}) == ({"uid-pod-10.0.0.1"}, 0)
