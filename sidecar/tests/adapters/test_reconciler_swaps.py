"""Weights that replace others: no answer is made by both, a refusal leaves the old ones, nothing of a trial stays."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine_double import Double, running_double
from engine_double.adapters import inspect
from engine_double.samples import write_adapter
from engine_double.text import answer_text
from patio.engine.base import trial_name
from patio_protocol.adapters import AdapterReport, AdapterState
from patio_protocol.client import SidecarClient
from patio_protocol.engines import TRIAL_PREFIX
from patio_protocol.errors import RejectedError
from patio_testing.sidecar.builders import StartSidecar, eventually, load_request

ENGINES = pytest.mark.parametrize("engine", ["vllm", "sglang"])
LOAD = {"vllm": "/v1/load_lora_adapter", "sglang": "/load_lora_adapter"}
UNLOAD = {"vllm": "/v1/unload_lora_adapter", "sglang": "/unload_lora_adapter"}
PROMPT = "hello world"
TOKENS = 12


def answer_of(path: Path, tokens: int = TOKENS) -> str:
    return answer_text(inspect(str(path)).digest, PROMPT, tokens)


async def ask(double: Double, engine: str, tokens: int = TOKENS) -> str:
    """Ask the adapter; return its answer, or the status of a request that was not answered."""
    body = {"model": "a" if engine == "vllm" else "tiny:a", "prompt": PROMPT, "max_tokens": tokens}
    async with httpx.AsyncClient(timeout=120) as http:
        answer = await http.post(f"{double}/v1/completions", json=body)
    return str(answer.json()["choices"][0]["text"]) if answer.is_success else str(answer.status_code)


@contextlib.asynccontextmanager
async def under_load(double: Double, engine: str, clients: int = 3) -> AsyncIterator[Counter[str]]:
    """Ask all the time, one request after another for each client; count the answers."""
    answers: Counter[str] = Counter()

    async def ask_repeatedly() -> None:
        while True:
            answers[await ask(double, engine)] += 1

    running = [asyncio.create_task(ask_repeatedly()) for _ in range(clients)]
    try:
        yield answers
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def wait_for_more(answers: Counter[str], text: str, number: int = 3) -> None:
    """Wait until an answer was given some more times."""
    before = answers[text]

    async def check() -> bool:
        return answers[text] >= before + number

    await eventually(check, f"{text!r} is answered; so far {answers}")


async def ready(client: SidecarClient) -> None:
    async def check() -> bool:
        return (await client.ready()).ready

    await eventually(check, "the sidecar is ready")


async def report_of(client: SidecarClient, name: str) -> AdapterReport | None:
    return next((report for report in (await client.adapters()).adapters if report.lora_name == name), None)


async def reaches(client: SidecarClient, name: str, state: AdapterState) -> AdapterReport:
    async def check() -> AdapterReport | None:
        report = await report_of(client, name)
        return report if report is not None and report.state is state else None

    reached: AdapterReport = await eventually(check, f"{name} is {state}")
    return reached


def named(double: Double, path: str) -> list[str]:
    return [call.body["lora_name"] for call in double.calls(path)]


@ENGINES
async def test_no_answer_under_load_is_made_by_both_weights(engine: str, sidecar: StartSidecar, tmp_path: Path) -> None:
    old, new = write_adapter(tmp_path / "one"), write_adapter(tmp_path / "two")
    async with running_double(engine=engine, tokens_per_second=60) as double, sidecar(double) as client:
        await ready(client)
        await client.load(load_request("a", str(old), revision="1"))
        async with under_load(double, engine) as answers:
            await wait_for_more(answers, answer_of(old))
            report = await client.load(load_request("a", str(new), revision="2"))
            assert (report.state, report.held_revision) == ("Loaded", "2")
            assert (await client.ready()).ready
            await wait_for_more(answers, answer_of(new))
        # The moment without the name is vLLM's 404; the operator takes the pod's label away before.
        assert set(answers) <= {answer_of(old), answer_of(new), *(["404"] if engine == "vllm" else [])}, answers
        assert double.adapters == {"a": str(new)}


@ENGINES
async def test_pod_stays_ready_while_weights_are_replaced(engine: str, sidecar: StartSidecar, tmp_path: Path) -> None:
    old, new = write_adapter(tmp_path / "one"), write_adapter(tmp_path / "two")
    async with running_double(engine=engine) as double, sidecar(double) as client:
        await ready(client)
        await client.load(load_request("a", str(old)))
        double.fault(LOAD[engine], delay=0.7)
        swap = asyncio.create_task(client.load(load_request("a", str(new))))
        while not swap.done():
            assert (await client.ready()).ready
            await client.adapters((await client.adapters()).revision, wait=0.05)
        assert (await swap).state is AdapterState.LOADED


@ENGINES
async def test_rejected_weights_leave_old_ones_answering(engine: str, sidecar: StartSidecar, tmp_path: Path) -> None:
    old, bad = write_adapter(tmp_path / "one"), write_adapter(tmp_path / "bad", rank=64)
    async with running_double(engine=engine, tokens_per_second=60) as double, sidecar(double) as client:
        await ready(client)
        await client.load(load_request("a", str(old), revision="1"))
        async with under_load(double, engine) as answers:
            await wait_for_more(answers, answer_of(old))
            with pytest.raises(RejectedError) as raised:
                await client.load(load_request("a", str(bad), revision="2"))
            assert (raised.value.code, raised.value.retryable) == ("AdapterRejected", False)
            assert "64" in raised.value.message
            await wait_for_more(answers, answer_of(old))
        assert set(answers) == {answer_of(old)}
        report = await reaches(client, "a", AdapterState.FAILED)
        assert (report.revision, report.held_revision) == ("2", "1")
        assert "a" not in named(double, UNLOAD[engine]), "the old weights were never away"
        assert (await client.ready()).ready


async def test_sglang_that_would_evict_has_no_trial_restores_weights(sidecar: StartSidecar, tmp_path: Path) -> None:
    old, bad = write_adapter(tmp_path / "one"), write_adapter(tmp_path / "bad", rank=64)
    async with running_double(engine="sglang", max_loaded_loras=2) as double, sidecar(double) as client:
        await ready(client)
        await client.load(load_request("b", str(old)))
        await client.load(load_request("a", str(old), revision="1"))
        with pytest.raises(RejectedError):
            await client.load(load_request("a", str(bad), revision="2"))

        async def restored() -> bool:
            report = await report_of(client, "a")
            return report is not None and (report.state, report.held_revision) == ("Failed", "1")

        await eventually(restored, "the old weights answer again")
        assert double.adapters == {"a": str(old), "b": str(old)}
        assert not [name for name in named(double, LOAD["sglang"]) if name.startswith(TRIAL_PREFIX)]
        assert (await reaches(client, "b", AdapterState.LOADED)).attempts == 1, "nobody was evicted"
        assert await ask(double, "sglang") == answer_of(old)


async def test_load_failing_after_unload_restores_old_weights(sidecar: StartSidecar, tmp_path: Path) -> None:
    old, new = write_adapter(tmp_path / "one"), write_adapter(tmp_path / "two")
    async with running_double() as double, sidecar(double) as client:
        await ready(client)
        await client.load(load_request("a", str(old), revision="1"))
        double.fault(LOAD["vllm"], delay=0.01, times=1)  # the trial passes
        double.fault(LOAD["vllm"], status=503, body="busy", times=1)
        report = await client.load(load_request("a", str(new), revision="2"))
        assert (report.state, report.held_revision) == ("Loaded", "2")
        paths = [Path(call.body["lora_path"]).name for call in double.calls(LOAD["vllm"])]
        assert paths == ["one", "two", "two", "one", "two", "two"], "trial, refused, restored, trial, loaded"


async def test_missing_old_weights_are_not_requested_forever(sidecar: StartSidecar, tmp_path: Path) -> None:
    old, bad = write_adapter(tmp_path / "one"), write_adapter(tmp_path / "bad", rank=64)
    async with running_double(engine="sglang", max_loaded_loras=2) as double, sidecar(double) as client:
        await ready(client)
        await client.load(load_request("a", str(old), revision="1"))
        for file in tmp_path.joinpath("one").iterdir():
            file.unlink()
        with pytest.raises(RejectedError):
            await client.load(load_request("a", str(bad), revision="2"))
        polls = len(double.calls("/v1/models"))

        async def is_polled_again() -> bool:
            return len(double.calls("/v1/models")) >= polls + 4

        await eventually(is_polled_again, "four polls later")
        assert len(double.calls(LOAD["sglang"])) == 3, "the first, the refused, and one try to go back"
        report = await reaches(client, "a", AdapterState.FAILED)
        assert (report.reason, report.held_revision) == ("AdapterRejected", None)


@pytest.mark.parametrize(("rank", "state", "answers"), [(8, "Loaded", "two"), (64, "Failed", "one")])
async def test_sidecar_dying_in_a_swap_has_it_ended_by_the_next(
    sidecar: StartSidecar, tmp_path: Path, rank: int, state: str, answers: str
) -> None:
    old, new = write_adapter(tmp_path / "one"), write_adapter(tmp_path / "two", rank=rank)
    async with running_double(engine="sglang", max_loaded_loras=2) as double:
        async with sidecar(double) as client:
            await ready(client)
            await client.load(load_request("a", str(old), revision="1"))
            double.fault(LOAD["sglang"], delay=60, times=1)
            await client.load(load_request("a", str(new), revision="2", wait=0))

            async def is_unloaded() -> bool:
                return not double.adapters and not double.engine.core.faults.ordered

            await eventually(is_unloaded, "the old weights are gone and the new ones are not there")
        async with sidecar(double) as client:

            async def is_settled() -> bool:
                report = await report_of(client, "a")
                shown = None if report is None else (report.state, report.held_revision)
                return shown == (state, "2" if answers == "two" else "1")

            await eventually(is_settled, f"{answers} answers")
            assert double.adapters == {"a": str(tmp_path / answers)}


@ENGINES
async def test_left_over_trial_is_unloaded_and_never_shown(engine: str, sidecar: StartSidecar, tmp_path: Path) -> None:
    old, new = write_adapter(tmp_path / "one"), write_adapter(tmp_path / "two")
    trial = trial_name("a", str(new))
    async with running_double(engine=engine) as double:
        async with httpx.AsyncClient() as http:
            body = {"lora_name": trial, "lora_path": str(new)}
            (await http.post(f"{double}{LOAD[engine]}", json=body)).raise_for_status()
        async with sidecar(double) as client:
            assert not (await client.adapters()).adapters

            async def is_unloaded() -> bool:
                assert not [report for report in (await client.adapters()).adapters if report.lora_name == trial]
                return not double.adapters

            await eventually(is_unloaded, "the trial is taken away")
            await client.load(load_request("a", str(old)))
            assert double.adapters == {"a": str(old)}


@ENGINES
async def test_existing_trial_is_recreated(engine: str, sidecar: StartSidecar, tmp_path: Path) -> None:
    old, new = write_adapter(tmp_path / "one"), write_adapter(tmp_path / "two")
    async with running_double(engine=engine) as double, sidecar(double) as client:
        await ready(client)
        await client.load(load_request("a", str(old)))
        # Unloads that fail leave the trial of the first swap where it is; the second finds it there.
        double.fault(UNLOAD[engine], status=503, body="busy", times=1)
        await client.load(load_request("a", str(new)))
        await client.load(load_request("a", str(old)))
        assert (await client.load(load_request("a", str(new)))).state is AdapterState.LOADED

        async def is_clean() -> bool:
            return double.adapters == {"a": str(new)}

        await eventually(is_clean, "only the adapter is left")


@pytest.mark.parametrize("action", ["load", "unload"])
async def test_name_of_a_trial_cannot_be_ordered(sidecar: StartSidecar, tmp_path: Path, action: str) -> None:
    async with running_double() as double, sidecar(double) as client:
        await ready(client)
        answer = await client._http.post(
            f"http://sidecar/v1/{action}_lora_adapter",
            json={"lora_name": f"{TRIAL_PREFIX}x", **({"lora_path": "/a"} if action == "load" else {})},
        )
        error: Any = answer.json()["error"]
        assert (answer.status_code, error["code"]) in ((400, "InvalidRequest"), (404, "NotFound"))
        assert not double.calls(LOAD["vllm"])
        assert not double.calls(UNLOAD["vllm"])


async def test_serving_weights_are_reported_while_others_are_desired(sidecar: StartSidecar, tmp_path: Path) -> None:
    old, new = write_adapter(tmp_path / "one"), write_adapter(tmp_path / "two")
    async with running_double() as double, sidecar(double) as client:
        await ready(client)
        await client.load(load_request("a", str(old), revision="1"))
        double.fault(LOAD["vllm"], delay=0.5, times=1)
        await client.load(load_request("a", str(new), revision="2", wait=0))
        report = await reaches(client, "a", AdapterState.LOADING)
        assert (report.revision, report.held_revision) == ("2", "1")
        await double.crash()

        async def is_unknown() -> bool:
            latest = await report_of(client, "a")
            return latest is not None and latest.reason == "EngineNotReady" and latest.held_revision is None

        await eventually(is_unknown, "an engine that is down answers from nothing")
        await double.start()
        assert (await reaches(client, "a", AdapterState.LOADED)).held_revision == "2"


@ENGINES
async def test_rejected_revision_is_reported_by_the_adapters_name(
    engine: str, sidecar: StartSidecar, tmp_path: Path
) -> None:
    old, bad = write_adapter(tmp_path / "one"), write_adapter(tmp_path / "bad", config="{")
    async with running_double(engine=engine) as double, sidecar(double) as client:
        await ready(client)
        await client.load(load_request("a", str(old), revision="1"))
        with pytest.raises(RejectedError) as raised:
            await client.load(load_request("a", str(bad), revision="2"))
        assert TRIAL_PREFIX not in raised.value.message
        missing = str(tmp_path / "missing")
        with pytest.raises(RejectedError) as raised:
            await client.load(load_request("a", missing, revision="3"))
        assert TRIAL_PREFIX not in raised.value.message


async def test_swap_waiting_long_for_requests_leaves_pod_ready(
    sidecar: StartSidecar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patio.engine.http.CHANGE_SECONDS", 1.5)
    monkeypatch.setattr("patio.engine.sglang.QUICK", 0.5)
    monkeypatch.setattr("patio.adapters.explanations.SLOW", 0.1)
    old, new, other = (write_adapter(tmp_path / name) for name in ("one", "two", "other"))
    async with running_double(engine="sglang", tokens_per_second=1) as double, sidecar(double) as client:
        await ready(client)
        await client.load(load_request("a", str(old), revision="1"))
        completion = asyncio.create_task(ask(double, "sglang", tokens=100))
        await double.engine.core.batch.until_running(1)
        swap = asyncio.create_task(client.load(load_request("a", str(new), revision="2")))
        messages: set[str] = set()

        async def waits() -> bool:
            assert (await client.ready()).ready
            report = await report_of(client, "a")
            assert report is not None
            messages.add(report.message)
            return "requests to a have ended" in report.message

        await eventually(waits, f"the report says what the swap waits for; {messages}")
        load = asyncio.create_task(client.load(load_request("b", str(other))))

        async def waits_behind() -> bool:
            report = await report_of(client, "b")
            return report is not None and "requests to a have ended" in report.message

        await eventually(waits_behind, "and what a load waits for behind it")

        async def is_given_up() -> bool:
            report = await report_of(client, "b")
            return report is not None and report.attempts >= 2

        await eventually(is_given_up, "a call that came later was given up, and so were those of the swap")
        double.engine.core.batch.tokens_per_second = 0
        while not swap.done():
            readiness = await client.ready()
            assert readiness.ready, readiness.waiting_for
            await client.adapters((await client.adapters()).revision, wait=0.05)
        report = await swap
        assert (report.state, report.held_revision) == ("Loaded", "2")
        assert (await load).state is AdapterState.LOADED
        assert await completion == answer_of(old, tokens=100), (
            "running requests were answered by the weights they began with"
        )
        assert double.adapters == {"a": str(new), "b": str(other)}
        assert not [call for call in double.calls(LOAD["sglang"]) if call.body["lora_path"] == str(old)][1:]


@ENGINES
async def test_file_in_the_place_of_a_folder_is_reported(engine: str, sidecar: StartSidecar, tmp_path: Path) -> None:
    file = tmp_path / "adapter.safetensors"
    file.write_bytes(b"x")
    async with running_double(engine=engine) as double, sidecar(double) as client:
        await ready(client)
        with pytest.raises(RejectedError) as raised:
            await client.load(load_request("a", str(file)))
        assert raised.value.message.startswith(f"{file} is a file. lora_path must be the folder")


async def test_relative_path_is_rejected_in_a_sentence(sidecar: StartSidecar) -> None:
    async with running_double() as double, sidecar(double) as client:
        body = {"lora_name": "a", "lora_path": "adapters/sql"}
        answer = await client._http.post("http://sidecar/v1/load_lora_adapter", json=body)
        assert answer.status_code == 400
        assert "the path must be absolute" in answer.json()["error"]["message"]


async def test_adapter_of_another_base_model_is_loaded_with_a_doubt(sidecar: StartSidecar, tmp_path: Path) -> None:
    paths = {}
    for name, model in (("right", "org/Tiny"), ("other", "meta-llama/Llama-3.1-70B")):
        facts = f'{{"r": 8, "target_modules": ["q_proj"], "base_model_name_or_path": "{model}"}}'
        paths[name] = str(write_adapter(tmp_path / name, config=facts))
    async with running_double(model="/models/base", served_model_names=("tiny",)) as double:
        async with sidecar(double) as client:
            await ready(client)
            right, other = [await client.load(load_request(name, paths[name])) for name in paths]
            assert (right.state, right.message) == ("Loaded", "")
            assert other.state is AdapterState.LOADED
            assert "meta-llama/Llama-3.1-70B" in other.message
            assert "tiny" in other.message
        async with sidecar(double) as client:  # which was not there when it was loaded

            async def is_reported() -> bool:
                report = await report_of(client, "other")
                return report is not None and report.state is AdapterState.LOADED and "Llama" in report.message

            await eventually(is_reported, "a restarted sidecar has the doubt too")
