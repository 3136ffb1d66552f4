"""Engines at URLs: what each look at one means, and which ModelEndpoints they make."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from patio_gateway.snapshot import Client, Snapshot, Worker
from patio_gateway.sources.listing import Listing
from patio_gateway.sources.static import (
    MOST_FAILURES,
    Engine,
    EngineState,
    EngineUrlError,
    StaticSource,
    after_answer,
    after_failure,
    models_of,
    parse_engine,
)
from patio_testing.model_gateway import Recorder, serving

ADDRESS = ("127.0.0.1", 8000)


@pytest.mark.parametrize(
    ("text", "engine"),
    [
        ("http://localhost:8000", Engine("localhost", 8000)),
        ("http://10.0.0.1", Engine("10.0.0.1", 80)),
        ("http://[::1]:8000/v1/", Engine("::1", 8000)),
        ("http://a:1=Qwen/Qwen3-8B", Engine("a", 1, "Qwen/Qwen3-8B")),
    ],
)
def test_url_of_an_engine_is_read(text: str, engine: Engine) -> None:
    assert parse_engine(text) == engine


@pytest.mark.parametrize(
    "text",
    ["", "localhost:8000", "https://a:1", "http://", "http://a:x", "http://a:99999", "http://u:p@a", "http://a/x", "x"],
)
def test_url_that_is_no_engine_is_an_error(text: str) -> None:
    with pytest.raises(EngineUrlError, match="--engine"):
        parse_engine(text)


def seen(port: int, *bases: str, adapters: frozenset[str] = frozenset(), model: str | None = None) -> EngineState:
    listing = Listing(bases, adapters) if bases else None
    return EngineState(Engine("e", port, model), ("10.0.0.1", port) if bases else None, listing)


def test_engines_with_one_model_are_workers_of_one_endpoint() -> None:
    (model,) = models_of([seen(1, "m", "alias"), seen(2, "m", adapters=frozenset({"sql"}))])
    assert (model.endpoint, model.names, model.adapters, model.can_wake) == (
        "static/m",
        ("m", "alias"),
        ("sql",),
        False,
    )
    assert model.workers == (
        Worker("e:1", ("10.0.0.1", 1)),
        Worker("e:2", ("10.0.0.1", 2), frozenset({"sql"})),
    )


def test_model_that_was_named_is_known_before_its_engine() -> None:
    (model,) = models_of([seen(1, model="m"), seen(2)])
    assert (model.names, model.workers) == (("m",), ())


def test_name_of_two_models_belongs_to_the_first() -> None:
    first, second = models_of([seen(1, "m", "both"), seen(2, "n", "both", adapters=frozenset({"m"}))])
    assert (first.names, second.names, second.adapters) == (("m", "both"), ("n",), ())


def test_engine_that_refuses_is_out_at_once_and_a_slow_one_late() -> None:
    up = after_answer(EngineState(Engine("e", 1)), ADDRESS, Listing(("m",), frozenset()))
    assert after_failure(up, is_refused=True).address is None
    late = up
    for number in range(1, MOST_FAILURES + 1):
        late = after_failure(late, is_refused=False)
        assert (late.address is None) == (number == MOST_FAILURES)
    # What it served is still known: the model exists, without a worker.
    assert models_of([late])[0].names == ("m",)
    assert after_answer(late, ADDRESS, Listing(("m",), frozenset())) == up


async def first_that(source: StaticSource, holds: Callable[[Snapshot], bool]) -> Snapshot:
    """Run a source until it publishes a snapshot that a test waits for."""
    found: asyncio.Future[Snapshot] = asyncio.get_running_loop().create_future()

    async def publish(snapshot: Snapshot) -> None:
        if holds(snapshot) and not found.done():
            found.set_result(snapshot)

    running = asyncio.create_task(source.run(publish))
    try:
        return await asyncio.wait_for(found, 60)
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def test_first_snapshot_has_what_all_engines_said() -> None:
    async def models(_: Request) -> Response:
        return JSONResponse({"data": [{"id": "m"}, {"id": "sql", "parent": "m"}]})

    async with serving(Recorder(models).app()) as address:
        source = StaticSource([Engine("localhost", address[1]), Engine("127.0.0.1", 9, "other")], lambda: None)
        snapshot = await first_that(source, lambda _: True)
    assert [(model.names, len(model.workers)) for model in snapshot.models] == [(("m",), 1), (("other",), 0)]
    assert snapshot.models[0].workers[0].adapters == {"sql"}
    assert not snapshot.closed


async def test_change_of_an_engine_or_key_is_published() -> None:
    adapters: list[str] = []
    clients: list[Client] = []

    async def models(_: Request) -> Response:
        return JSONResponse({"data": [{"id": "m"}, *({"id": name, "parent": "m"} for name in adapters)]})

    def changes(snapshot: Snapshot) -> bool:
        adapters[:] = ["sql"]
        clients[:] = [Client("a", "sk-0123456789")]
        return bool(snapshot.models[0].adapters and snapshot.clients)

    async with serving(Recorder(models).app()) as address:
        snapshot = await first_that(StaticSource([Engine(*address)], lambda: tuple(clients)), changes)
    assert snapshot.closed
    assert snapshot.models[0].workers[0].adapters == {"sql"}


@pytest.mark.parametrize("status", [200, 500])
async def test_answer_that_is_no_list_makes_no_worker(status: int) -> None:
    async def words(_: Request) -> Response:
        return PlainTextResponse("hello", status)

    async with serving(Recorder(words).app()) as address:
        source = StaticSource([Engine(*address, model="m")], lambda: None)
        snapshot = await first_that(source, lambda _: True)
    assert snapshot.models[0].workers == ()
