"""The double against the recordings, exchange by exchange, in the order in which they were made.

One test is one recorded server. Each recorded request goes to a double in the same state; status, content type and
body must be the same but for what changes from call to call. Generated texts are compared by what they are equal to:
where two recorded texts are the same, so are the double's, and the other way round. What is not doubled is listed
with its reason.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine_double import running_double
from engine_double.recorded import Exchange, more_vllm_exchanges, sglang_exchanges, vllm_exchanges
from engine_double.samples import write_adapter
from engine_double.server import Double
from patio_testing.deadline import DEADLINE

NOT_DOUBLED: Mapping[str, str] = {
    "lora: tokenize": "nothing in Patio asks for tokens",
    "plain: no key: /tokenize": "nothing in Patio asks for tokens",
    "A5: v1/models after (a1 is back: the waiting tiny:a1 request reloaded it)": "test_sglang_behaviour plays A5",
    "A7: start_profile wrong type": "bodies of the profiler are not read",
    "A7: stop_profile after num_steps already ended": "a profile of the double never ends by itself",
    "A8: openapi": "the double has no OpenAPI document",
    "A8: load_lora_adapter_from_tensors empty": "from_tensors is not doubled: Patio never sends it",
    "E: ONE string prompt with lora_path=[a0]: the scheduler dies": "the deadly requests are not doubled",
    "F: good payload: plain pickle.dumps(dict name->tensor), base64 (script ft.py pickle, body of 43241 bytes in "
    "ft_pickle.json)": "from_tensors is not doubled: Patio never sends it",
    "F: v1/models": "needs an adapter from tensors",
    "F: tiny:ft_pickle": "needs an adapter from tensors",
    "F: load again from tensors": "from_tensors is not doubled: Patio never sends it",
    "F: unload": "needs an adapter from tensors",
    "F: use it after the unload (implicit reload from path __tensor__)": "needs an adapter from tensors",
    "F: bad payload (3 zero bytes): the scheduler dies": "the deadly requests are not doubled",
}
"""Recorded exchanges that the double does not claim to answer."""

ONLY_KEYS: Mapping[str, str] = {
    "/v1/loads": "its numbers are those of the recorded machine",
    "/server_info": "its values are the recorded server's flags",
    "/get_server_info": "its values are the recorded server's flags",
}
"""Paths whose answers are compared by their keys."""

IN_ANY_ORDER: Mapping[str, str] = {
    "A6: v1/models after that": "the order of last use followed from 24 parallel requests",
    "A8: load while paused": "in between the recorded server was started again",
}

VOLATILE = {
    "api_server_dispatch_finish_ts",
    "cached_tokens",
    "cached_tokens_details",
    "created",
    "decode_throughput",
    "e2e_latency",
    "first_token_latency",
    "forward_entry_time",
    "output_ids",
    "prefill_finished_time",
    "queue_time",
    "request_finished_ts",
    "request_received_ts",
    "response_sent_to_client_ts",
    "system_fingerprint",
}
"""Fields that change from call to call. So do the ids of answers, which have no meaning."""

TEXTS = {"text", "content"}


@dataclass
class Comparison:
    """Finds differences between recorded answers and the double's; remembers which texts belong together."""

    shelf: str
    actual_for: dict[tuple[int, str], str] = field(default_factory=dict)
    expected_for: dict[str, tuple[int, str]] = field(default_factory=dict)

    def differences(self, exchange: Exchange, response: httpx.Response) -> list[str]:
        mismatches = []
        if response.status_code != exchange.status:
            mismatches.append(f"status {response.status_code}, recorded {exchange.status}: {response.text[:200]}")
        content_type = response.headers.get("content-type")
        if exchange.type_recorded and content_type != exchange.content_type:
            mismatches.append(f"content type {content_type}, recorded {exchange.content_type}")
        if not exchange.truncated:
            actual, expected = (
                response.text.replace(f"{self.shelf}/rec/", "rec/").replace(self.shelf, ""),
                exchange.answer,
            )
            mismatches += self._bodies(exchange, actual, expected)
        return [f"{exchange.name}: {difference}" for difference in mismatches]

    def _bodies(self, exchange: Exchange, actual: str, expected: str) -> Iterator[str]:
        path = exchange.path.partition("?")[0]
        if actual.startswith("data: ") and expected.startswith("data: "):
            yield from self._streams(actual, expected)
            return
        try:
            actual_value, expected_value = json.loads(actual), json.loads(expected)
        except json.JSONDecodeError:
            if path == "/v1/loads":
                actual, expected = _names(actual), _names(expected)
            if actual.rstrip("\n") != expected.rstrip("\n"):
                yield f"body {actual!r}, recorded {expected!r}"
            return
        if path in ONLY_KEYS:
            actual_value, expected_value = _keys(actual_value), _keys(expected_value)
        if exchange.name in IN_ANY_ORDER:
            actual_value, expected_value = _sorted(actual_value), _sorted(expected_value)
        yield from self._values("", actual_value, expected_value)

    def _streams(self, actual: str, expected: str) -> Iterator[str]:
        """First and last event; how many tokens an event carries is chance."""
        actual_events, expected_events = ([line for line in text.splitlines() if line] for text in (actual, expected))
        if actual_events[-1] != expected_events[-1]:
            yield f"last line {actual_events[-1]!r}, recorded {expected_events[-1]!r}"
        for index in (0, -2):
            actual_event, expected_event = (
                json.loads(events[index].removeprefix("data: ")) for events in (actual_events, expected_events)
            )
            for event in (actual_event, expected_event):
                for choice in event["choices"]:
                    for holder in (choice, choice.get("delta", {})):
                        holder.update({key: bool(holder[key]) for key in TEXTS & holder.keys()})
            yield from self._values(f"event {index}", actual_event, expected_event)

    def _values(self, location: str, actual: Any, expected: Any, tokens: int = 0) -> Iterator[str]:
        if isinstance(actual, dict) and isinstance(expected, dict):
            if list(actual) != list(expected):
                yield f"{location} keys {list(actual)}, recorded {list(expected)}"
            tokens = _tokens(expected) or tokens
            for key in [key for key in expected if key in actual and key not in VOLATILE]:
                if key == "id" and "root" not in expected:
                    continue
                if key in TEXTS and isinstance(expected[key], str):
                    yield from self._texts(f"{location}.{key}", actual[key], expected[key], tokens)
                else:
                    yield from self._values(f"{location}.{key}", actual[key], expected[key], tokens)
        elif isinstance(actual, list) and isinstance(expected, list):
            if len(actual) != len(expected):
                yield f"{location} {len(actual)} items, recorded {len(expected)}: {actual}"
            for index, (actual_item, expected_item) in enumerate(zip(actual, expected, strict=False)):
                yield from self._values(f"{location}[{index}]", actual_item, expected_item, tokens)
        elif actual != expected:
            yield f"{location} {actual!r}, recorded {expected!r}"

    def _texts(self, location: str, actual: str, expected: str, tokens: int) -> Iterator[str]:
        first_actual = self.actual_for.setdefault((tokens, expected), actual)
        if first_actual != actual:
            yield f"{location} {actual!r}, but {first_actual!r} where the recorded text was the same ({expected!r})"
        first_expected = self.expected_for.setdefault(actual, (tokens, expected))
        if first_expected != (tokens, expected):
            yield f"{location} {actual!r} for {expected!r} and for {first_expected!r}"


def _tokens(answer: Mapping[str, Any]) -> int:
    """How many tokens an answer has: another number makes another text of the same weights."""
    usage = answer.get("usage") or answer.get("meta_info") or {}
    return int(usage.get("completion_tokens", 0)) // max(1, len(answer.get("choices", [0])))


def _keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _keys(item) for key, item in value.items() if item != {}}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [_keys(item) for item in value]
    return None


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return sorted((_sorted(item) for item in value), key=json.dumps)
    return value


def _names(samples: str) -> str:
    """A Prometheus text without its values."""
    return "\n".join(line if line.startswith("#") else line.rpartition(" ")[0] for line in samples.splitlines())


Before = Mapping[str, Callable[[httpx.AsyncClient, Double], Awaitable[None]]]


async def replay(
    double: Double, exchanges: list[Exchange], shelf: Path, *, places: tuple[str, ...], before: Before | None = None
) -> list[str]:
    """Send everything recorded to a double; return every difference.

    Args:
        double: in the state in which the recording began.
        exchanges: of one server, in order.
        shelf: where the recorded places are on this machine.
        places: beginnings of recorded paths.
        before: what happened outside of HTTP before an exchange, by its title.
    """
    comparison = Comparison(str(shelf))
    differences: list[str] = []
    async with httpx.AsyncClient(base_url=double.url, timeout=DEADLINE) as client:
        for exchange in exchanges:
            if exchange.name in NOT_DOUBLED:
                continue
            if before and exchange.title in before:
                await before[exchange.title](client, double)
            body = exchange.body
            for place in places:
                if body is not None:
                    body = body.replace(f'"{place}', f'"{shelf}/{place.lstrip("/")}')
            response = await client.request(
                exchange.method, exchange.path, content=body, headers=dict(exchange.headers)
            )
            differences += comparison.differences(exchange, response)
    return differences


@pytest.fixture
def shelf() -> Iterator[Path]:
    """Under /tmp whatever TMPDIR says: vLLM masks such paths in its errors, and the recordings show that."""
    root = Path(tempfile.mkdtemp(prefix="double-", dir="/tmp"))
    yield root
    shutil.rmtree(root)


async def test_vllm_answers_as_recorded(shelf: Path) -> None:
    for index in range(3):
        write_adapter(shelf / f"adapters/lora{index}")
    write_bad(shelf / "adapters/bad", "r32", "dora", "noweights", "trunc", "badjson")
    write_adapter(shelf / "adapters/bad/kproj", modules=("k_proj",))
    async with running_double(
        engine="vllm", api_key="sekret", served_model_names=("tiny", "tiny-alias"), profiler=True
    ) as double:
        differences = await replay(double, list(vllm_exchanges()), shelf, places=("/adapters/",))
        assert not differences, "\n".join(differences)
        loaded = ["a0", "kproj", "b2", "b3", "b4", "b5", "b6", "x/../y", "x"]
        assert list(double.adapters) == loaded, "as the recorded list, without b1 and with what came after it"


async def test_vllm_answers_as_recorded_in_every_corner_of_lora(shelf: Path) -> None:
    write_e2e_adapters(shelf)
    async with running_double(engine="vllm", model=str(shelf / "srv/e2e/model")) as double:
        exchanges = [exchange for exchange in more_vllm_exchanges() if exchange.section == "lora"]
        # The recorded server had these two already.
        for name in ("lora-a", "lora-b"):
            async with httpx.AsyncClient(base_url=double.url, timeout=DEADLINE) as client:
                path = str(shelf / f"srv/e2e/adapters/{name}")
                await client.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": path})
        differences = await replay(double, exchanges, shelf, places=("/srv/e2e/",))
    assert not differences, "\n".join(differences)


async def test_vllm_without_lora_and_with_a_key_answers_as_recorded(shelf: Path) -> None:
    write_e2e_adapters(shelf)
    async with running_double(
        engine="vllm", model=str(shelf / "srv/e2e/model"), enable_lora=False, api_key="sekret"
    ) as double:
        exchanges = [exchange for exchange in more_vllm_exchanges() if exchange.section == "plain"]
        differences = await replay(double, exchanges, shelf, places=("/srv/e2e/",))
    assert not differences, "\n".join(differences)


@dataclass(frozen=True)
class SglangServer:
    """One recorded server: the parts of the recording it answered in, and how it was started."""

    sections: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    lora_modules: tuple[str, ...] = ()
    before: Before = field(default_factory=dict)


async def _files_deleted(_: httpx.AsyncClient, double: Double) -> None:
    shutil.rmtree(double.engine.core.settings.model.partition("/models/")[0] + "/rec/lt")


async def _warm(_: httpx.AsyncClient, double: Double) -> None:
    double.engine.core.started_at -= double.engine.core.settings.warmup_seconds


async def _without_empty_and_p1(client: httpx.AsyncClient, _: Double) -> None:
    for name in ("", "p1"):
        await client.post("/unload_lora_adapter", json={"lora_name": name})


async def _without_a0(client: httpx.AsyncClient, _: Double) -> None:
    await client.post("/unload_lora_adapter", json={"lora_name": "a0"})


async def _others_evict_a0(client: httpx.AsyncClient, double: Double) -> None:
    # That the last load waits for a0's request is played by test_sglang_behaviour.
    shelf = double.engine.core.settings.model.partition("/models/")[0]
    await client.post("/unload_lora_adapter", json={"lora_name": "a1"})
    for name in ("a0", "a1", "a2"):
        path = f"{shelf}/adapters/lora{name[1]}"
        await client.post("/load_lora_adapter", json={"lora_name": name, "lora_path": path})


SGLANG_SERVERS = {
    "A": SglangServer(
        ("A0", "A1", "A2", "A3", "A4", "A6", "A7", "A8"),
        {"health_timeout_seconds": 0.0},
        before={
            # Steps of the recording that it does not show; its later lists do.
            "v1/models after unloads": _without_empty_and_p1,
            "reload a0 from lora0": _without_a0,
            "completion with tiny:t, files gone": _files_deleted,
        },
    ),
    "B": SglangServer(("B",), {"max_loaded_loras": 2}, before={"v1/models #7": _others_evict_a0}),
    "C": SglangServer(("C",), {"enable_lora": False, "enable_metrics": False}),
    "D1": SglangServer(("D1",), {"api_key": "sk", "warmup_seconds": 3600.0}, ("a0",), {"/ready without key": _warm}),
    "D2": SglangServer(("D2",), {"api_key": "sk", "admin_api_key": "adm"}),
    "E": SglangServer(("E",), lora_modules=("a0",)),
    "H": SglangServer(("H",), {"dp_size": 2}),
}


@pytest.fixture
async def start(shelf: Path) -> AsyncIterator[Callable[[SglangServer], Any]]:
    async with AsyncExitStack() as stack:

        async def started(server: SglangServer) -> Double:
            modules = tuple((name, str(shelf / f"adapters/lora{name[1:]}")) for name in server.lora_modules)
            settings = {"model": str(shelf / "models/tiny"), "lora_modules": modules, **server.settings}
            return await stack.enter_async_context(running_double(engine="sglang", **settings))

        yield started


@pytest.mark.parametrize("name", SGLANG_SERVERS)
async def test_sglang_answers_as_recorded(name: str, shelf: Path, start: Callable[[SglangServer], Any]) -> None:
    for index in range(3):
        write_adapter(shelf / f"adapters/lora{index}")
    (shelf / "models/tiny").mkdir(parents=True)
    write_bad(shelf / "rec/ad", "r32", "dora", "noweights", "trunc", "badjson")
    write_adapter(shelf / "rec/ad/kproj", modules=("o_proj",))
    write_adapter(shelf / "rec/lt")
    server = SGLANG_SERVERS[name]
    exchanges = [exchange for exchange in sglang_exchanges() if exchange.section in server.sections]
    double = await start(server)
    differences = await replay(
        double, exchanges, shelf, places=("/adapters/", "/models/", "rec/"), before=server.before
    )
    assert not differences, "\n".join(differences)


def test_no_recorded_exchange_is_skipped_in_silence() -> None:
    sections = {section for server in SGLANG_SERVERS.values() for section in server.sections}
    exchanges = [*vllm_exchanges(), *more_vllm_exchanges(), *sglang_exchanges()]
    names = {exchange.name for exchange in exchanges}
    left_out = {
        exchange.name for exchange in sglang_exchanges() if exchange.section not in sections
    } - NOT_DOUBLED.keys()
    assert not left_out, "recorded, not played and without a reason"
    assert NOT_DOUBLED.keys() <= names, "a reason for what is not recorded"
    assert IN_ANY_ORDER.keys() <= names


def write_bad(folder: Path, rank: str, dora: str, weights: str, truncated: str, config: str) -> None:
    """The bad adapters of a recording, under its names for them."""
    write_adapter(folder / rank, rank=32)
    write_adapter(folder / dora, dora=True)
    write_adapter(folder / weights, weights=False)
    write_adapter(folder / truncated, truncated=True)
    write_adapter(folder / config, config="{not json")


def write_e2e_adapters(shelf: Path) -> None:
    """Those of `e2e_engine.model`, with which `api-0.32.0-more.jsonl` was recorded."""
    write_adapter(shelf / "srv/e2e/adapters/lora-a")
    write_adapter(shelf / "srv/e2e/adapters/lora-b")
    write_bad(shelf / "srv/e2e/adapters/bad", "rank-32", "dora", "no-weights", "truncated", "broken-config")
    (shelf / "srv/e2e/model").mkdir()
