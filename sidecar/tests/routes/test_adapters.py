"""The sidecar's API through its client, beside a double of each engine."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine_double import Double, running_double
from patio.adapters import progress
from patio.settings import Settings
from patio_protocol.adapters import AdapterState, LoadRequest, UnloadRequest
from patio_protocol.client import SidecarClient
from patio_protocol.engines import TRIAL_PREFIX
from patio_protocol.errors import RejectedError, UnreachableError
from patio_testing.sidecar.builders import StartSidecar, adapter_files, eventually, load_request

OWNER = "LoraAdapter/team-a/sql"
ENGINES = pytest.mark.parametrize("engine", ["vllm", "sglang"])
NOWHERE = "http://127.0.0.1:9"


def path_of(client: SidecarClient) -> httpx.AsyncClient:
    """Return the HTTP client beneath, for what the typed one does not say."""
    return client._http


async def ready(client: SidecarClient) -> Any:
    async def check() -> bool:
        return (await client.ready()).ready

    return await eventually(check, "the sidecar is ready")


async def state(client: SidecarClient, name: str) -> tuple[str, str] | None:
    reports = [report for report in (await client.adapters()).adapters if report.lora_name == name]
    return (reports[0].state, reports[0].reason) if reports else None


async def reaches(client: SidecarClient, name: str, expected: AdapterState) -> None:
    async def check() -> bool:
        current = await state(client, name)
        return current is not None and current[0] == expected

    await eventually(check, f"{name} is {expected}")


def loads(double: Double) -> list[Any]:
    kind = double.engine.core.settings.engine
    return double.calls("/v1/load_lora_adapter" if kind == "vllm" else "/load_lora_adapter")


def is_trial(call: Any) -> bool:
    name: str = call.body["lora_name"]
    return name.startswith(TRIAL_PREFIX)


@ENGINES
async def test_load_is_verified_and_an_unload_too(engine: str, sidecar: StartSidecar, tmp_path: Path) -> None:
    path = adapter_files(tmp_path / "a")
    async with running_double(engine=engine) as double, sidecar(double) as client:
        await ready(client)
        report = await client.load(load_request("a", path, owner=OWNER, revision="1"))
        assert (report.state, report.owner, report.revision, report.attempts) == ("Loaded", OWNER, "1", 1)
        assert report.model == ("a" if engine == "vllm" else "tiny:a")
        assert double.adapters == {"a": path}
        answer = await client.unload(UnloadRequest(lora_name="a", owner=OWNER))
        assert answer.unloaded
        assert double.adapters == {}
        assert (await client.adapters()).adapters == ()


@ENGINES
async def test_repeated_loads_ask_the_engine_once(engine: str, sidecar: StartSidecar, tmp_path: Path) -> None:
    path = adapter_files(tmp_path / "a")
    async with running_double(engine=engine) as double, sidecar(double) as client:
        await ready(client)
        await asyncio.gather(*(client.load(load_request("a", path, revision="1")) for _ in range(5)))
        await client.load(load_request("a", path, revision="1"))
        assert len(loads(double)) == 1


@ENGINES
async def test_new_revision_is_loaded_again_from_the_same_path(
    engine: str, sidecar: StartSidecar, tmp_path: Path
) -> None:
    path = adapter_files(tmp_path / "a")
    async with running_double(engine=engine) as double, sidecar(double) as client:
        await ready(client)
        await client.load(load_request("a", path, revision="1"))
        report = await client.load(load_request("a", path, revision="2"))
        assert (report.state, report.revision, report.attempts) == ("Loaded", "2", 1)
        assert report.held_revision == "2"
        assert {call.status for call in loads(double)} == {200}
        assert [call.body["lora_name"] for call in loads(double) if not is_trial(call)] == ["a", "a"]


@ENGINES
async def test_another_path_replaces_the_weights(engine: str, sidecar: StartSidecar, tmp_path: Path) -> None:
    old, new = adapter_files(tmp_path / "1"), adapter_files(tmp_path / "2")
    async with running_double(engine=engine) as double, sidecar(double) as client:
        await ready(client)
        await client.load(load_request("a", old))
        await client.load(load_request("a", new))
        assert double.adapters == {"a": new}


@ENGINES
async def test_bad_adapters_fail_once_with_the_engine_message(
    engine: str, sidecar: StartSidecar, tmp_path: Path
) -> None:
    path = adapter_files(tmp_path / "bad", rank=64)
    async with running_double(engine=engine) as double, sidecar(double) as client:
        await ready(client)
        with pytest.raises(RejectedError) as raised:
            await client.load(load_request("bad", path))
        assert (raised.value.status, raised.value.code, raised.value.retryable) == (422, "AdapterRejected", False)
        assert "64" in raised.value.message
        await eventually(lambda: _polled(double, 3), "three polls later")
        assert len(loads(double)) == 1
        assert await state(client, "bad") == ("Failed", "AdapterRejected")


async def _polled(double: Double, number: int) -> bool:
    return len(double.calls("/v1/models")) >= number


@ENGINES
async def test_missing_path_recovers_when_its_files_come(engine: str, sidecar: StartSidecar, tmp_path: Path) -> None:
    path = str(tmp_path / "late")
    async with running_double(engine=engine) as double, sidecar(double) as client:
        await ready(client)
        with pytest.raises(RejectedError) as raised:
            await client.load(load_request("late", path))
        assert (raised.value.status, raised.value.code) == (404, "AdapterNotFound")
        adapter_files(tmp_path / "late")
        await reaches(client, "late", AdapterState.LOADED)
        assert double.adapters == {"late": path}


async def test_fault_that_passes_is_tried_again(sidecar: StartSidecar, tmp_path: Path) -> None:
    path = adapter_files(tmp_path / "a")
    async with running_double() as double, sidecar(double) as client:
        await ready(client)
        double.fault("/v1/load_lora_adapter", status=503, body="busy", times=2)
        report = await client.load(load_request("a", path))
        assert (report.state, report.attempts) == ("Loaded", 3)


async def test_answer_that_is_lost_is_no_failure(sidecar: StartSidecar, tmp_path: Path) -> None:
    path = adapter_files(tmp_path / "a")
    async with running_double() as double, sidecar(double) as client:
        await ready(client)
        double.fault("/v1/load_lora_adapter", status=502, after=True, times=1)
        report = await client.load(load_request("a", path))
        assert report.state is AdapterState.LOADED
        assert len(loads(double)) == 1


async def test_load_that_does_not_end_in_time_goes_on(sidecar: StartSidecar, tmp_path: Path) -> None:
    path = adapter_files(tmp_path / "a")
    async with running_double() as double, sidecar(double) as client:
        await ready(client)
        double.fault("/v1/load_lora_adapter", delay=0.6, times=1)
        answer = await path_of(client).post(
            "http://sidecar/v1/load_lora_adapter", json={"lora_name": "a", "lora_path": path, "wait": 0}
        )
        assert (answer.status_code, answer.json()["state"]) == (202, "Loading")
        await reaches(client, "a", AdapterState.LOADED)


async def test_order_that_does_not_wait_is_accepted_in_any_case(sidecar: StartSidecar, tmp_path: Path) -> None:
    bad = adapter_files(tmp_path / "bad", rank=64)
    async with running_double() as double, sidecar(double) as client:
        await ready(client)
        await client.load(load_request("bad", bad, wait=0))
        await reaches(client, "bad", AdapterState.FAILED)
        repeated = await client.load(load_request("bad", bad, wait=0))
        assert repeated.lora_path == bad


async def test_bad_or_slow_adapter_delays_no_other(sidecar: StartSidecar, tmp_path: Path) -> None:
    good, bad = adapter_files(tmp_path / "good"), adapter_files(tmp_path / "bad", rank=64)
    async with running_double() as double, sidecar(double) as client:
        await ready(client)
        double.fault("/v1/load_lora_adapter", delay=5, times=1)
        await client.load(load_request("slow", good, wait=0))
        await eventually(lambda: _fault_used(double), "the slow load has begun")
        with pytest.raises(RejectedError):
            await client.load(load_request("bad", bad))
        assert (await client.load(load_request("good", good))).state is AdapterState.LOADED
        assert await state(client, "slow") == ("Loading", "Loading")


async def _fault_used(double: Double) -> bool:
    return not double.engine.core.faults.ordered


@ENGINES
async def test_adapters_return_after_a_crash_and_gate_the_pod(
    engine: str, sidecar: StartSidecar, tmp_path: Path
) -> None:
    paths = {name: adapter_files(tmp_path / name) for name in ("a", "b")}
    async with running_double(engine=engine) as double, sidecar(double) as client:
        await ready(client)
        for name, path in paths.items():
            await client.load(load_request(name, path))
        await double.crash()

        async def down() -> bool:
            return not (await client.ready()).ready

        async def pending() -> bool:
            # The poll that the crash met in the middle only knows that its answer broke off.
            return await state(client, "a") == ("Pending", "EngineNotReady")

        await eventually(down, "the sidecar notices")
        await eventually(pending, "the adapter waits for the engine")
        await double.start()
        await ready(client)
        assert double.adapters == paths
        assert (await client.ready()).waiting_for == ()


async def test_engine_that_forgot_its_adapters_gets_them_again(sidecar: StartSidecar, tmp_path: Path) -> None:
    path = adapter_files(tmp_path / "a")
    async with running_double() as double, sidecar(double) as client:
        await ready(client)
        await client.load(load_request("a", path))
        double.forget()

        async def is_loaded() -> bool:
            return double.adapters == {"a": path}

        await eventually(is_loaded, "the adapter is back")


async def test_engine_slow_for_a_moment_stays_ready_hung_one_does_not(
    sidecar: StartSidecar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patio.engine.http.POLL_SECONDS", 0.1)
    path = adapter_files(tmp_path / "a")
    async with running_double() as double, sidecar(double) as client:
        await ready(client)
        await client.load(load_request("a", path))
        before = (await client.adapters()).revision
        double.fault("/health", delay=0.5, times=2)
        await eventually(lambda: _fault_used(double), "two polls were slow")
        polls = len(double.calls("/v1/models"))
        await eventually(lambda: _polled(double, polls + 1), "a good poll later")
        assert (await client.adapters()).revision == before
        double.fault("/health", delay=0.5)

        async def down() -> bool:
            return not (await client.ready()).ready

        await eventually(down, "an engine that hangs is not ready")


async def test_required_adapters_are_loaded_first_and_gate_the_pod(sidecar: StartSidecar, tmp_path: Path) -> None:
    path = adapter_files(tmp_path / "a")
    required = (load_request("a", path, owner=OWNER),)
    async with running_double() as double:
        double.fault("/v1/load_lora_adapter", delay=0.5, times=1)
        async with sidecar(double, required_adapters=required) as client:

            async def waits() -> Any:
                return [
                    reason for reason in (await client.ready()).waiting_for if reason.startswith("adapter a is Loading")
                ]

            await eventually(waits, "readiness waits for the adapter")
            await ready(client)
            assert double.adapters == {"a": path}
            (report,) = (await client.adapters()).adapters
            assert report.required


async def test_bad_required_adapter_does_not_hold_base_model_back(sidecar: StartSidecar, tmp_path: Path) -> None:
    required = (load_request("bad", adapter_files(tmp_path / "bad", rank=64)),)
    async with running_double() as double, sidecar(double, required_adapters=required) as client:
        await ready(client)
        assert await state(client, "bad") == ("Failed", "AdapterRejected")


async def test_unloaded_required_adapter_stays_unloaded_over_restart(sidecar: StartSidecar, tmp_path: Path) -> None:
    path = adapter_files(tmp_path / "a")
    required = (load_request("a", path, owner=OWNER),)
    async with running_double() as double:
        async with sidecar(double, required_adapters=required) as client:
            await ready(client)
            await client.unload(UnloadRequest(lora_name="a", owner=OWNER))
        async with sidecar(double, required_adapters=required) as client:
            await ready(client)
            assert (await client.adapters()).adapters == ()
            assert double.adapters == {}


async def test_sidecar_restart_keeps_adapters_and_loads_nothing_twice(sidecar: StartSidecar, tmp_path: Path) -> None:
    path = adapter_files(tmp_path / "a")
    async with running_double() as double:
        async with sidecar(double) as client:
            await ready(client)
            await client.load(load_request("a", path, owner=OWNER, revision="7"))
        async with sidecar(double) as client:
            await reaches(client, "a", AdapterState.LOADED)
            (report,) = (await client.adapters()).adapters
            assert (report.state, report.owner, report.revision) == ("Loaded", OWNER, "7")
            assert len(loads(double)) == 1


@ENGINES
async def test_adapter_of_engines_start_is_reported_and_left_alone(
    engine: str, sidecar: StartSidecar, tmp_path: Path
) -> None:
    path = adapter_files(tmp_path / "own")
    async with running_double(engine=engine, lora_modules=(("own", path),)) as double, sidecar(double) as client:
        await reaches(client, "own", AdapterState.LOADED)
        (report,) = (await client.adapters()).adapters
        assert (report.state, report.reason, report.owner, report.lora_path) == ("Loaded", "Unmanaged", None, path)
        assert (await client.unload(UnloadRequest(lora_name="own", owner=OWNER))).unloaded
        assert double.adapters == {"own": path}
        assert (await client.unload(UnloadRequest(lora_name="own"))).unloaded
        assert double.adapters == {}


async def test_manually_loaded_name_is_rejected_for_an_owner(sidecar: StartSidecar, tmp_path: Path) -> None:
    path = adapter_files(tmp_path / "a")
    async with running_double() as double, sidecar(double) as client:
        await ready(client)
        await client.load(load_request("a", path))
        with pytest.raises(RejectedError) as raised:
            await client.load(load_request("a", path, owner=OWNER))
        assert (raised.value.status, raised.value.code) == (409, "Conflict")
        answer = await client.unload(UnloadRequest(lora_name="a", owner=OWNER))
        assert "other owners" in answer.message
        assert double.adapters == {"a": path}


async def test_unload_of_unknown_name_is_error_without_owner_only(sidecar: StartSidecar) -> None:
    async with running_double() as double, sidecar(double) as client:
        await ready(client)
        with pytest.raises(RejectedError) as raised:
            await client.unload(UnloadRequest(lora_name="a"))
        assert (raised.value.status, raised.value.code) == (404, "NotFound")
        assert (await client.unload(UnloadRequest(lora_name="a", owner=OWNER))).unloaded


async def test_unload_while_the_engine_is_down_is_done_at_once(sidecar: StartSidecar, tmp_path: Path) -> None:
    path = adapter_files(tmp_path / "a")
    async with running_double() as double, sidecar(double) as client:
        await ready(client)
        await client.load(load_request("a", path))
        await double.crash()

        async def down() -> bool:
            return not (await client.ready()).ready

        await eventually(down, "the sidecar notices")
        assert (await client.unload(UnloadRequest(lora_name="a"))).unloaded
        await double.start()
        await ready(client)
        assert double.adapters == {}


async def test_unload_overtakes_a_running_load(sidecar: StartSidecar, tmp_path: Path) -> None:
    path = adapter_files(tmp_path / "a")
    async with running_double() as double, sidecar(double) as client:
        await ready(client)
        double.fault("/v1/load_lora_adapter", delay=0.5, times=1)
        loading = asyncio.create_task(client.load(load_request("a", path)))
        await eventually(lambda: _fault_used(double), "the load has begun")
        assert (await client.unload(UnloadRequest(lora_name="a"))).unloaded
        assert double.adapters == {}
        with pytest.raises(RejectedError) as raised:
            await loading
        assert raised.value.code == "Superseded"


async def test_vllm_without_runtime_updating_says_how_to_mend_it(sidecar: StartSidecar, tmp_path: Path) -> None:
    async with running_double(runtime_lora=False) as double, sidecar(double) as client:
        await ready(client)
        with pytest.raises(RejectedError) as raised:
            await client.load(load_request("a", adapter_files(tmp_path / "a")))
        assert (raised.value.code, raised.value.retryable) == ("LoraUnavailable", False)
        assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" in raised.value.message


@ENGINES
async def test_keys_are_sent_and_a_missing_one_is_named(engine: str, sidecar: StartSidecar, tmp_path: Path) -> None:
    path = adapter_files(tmp_path / "a")
    admin = {"admin_api_key": "adm"} if engine == "sglang" else {}
    async with running_double(engine=engine, api_key="sekret", **admin) as double:
        async with sidecar(double, api_key="sekret", **admin) as client:
            await ready(client)
            assert (await client.load(load_request("a", path))).state is AdapterState.LOADED
        async with sidecar(double) as client:
            await ready(client)
            with pytest.raises(RejectedError) as raised:
                await client.load(load_request("b", path))
            assert (raised.value.status, raised.value.code) == (502, "EngineUnauthorized")
            assert "ENGINE_API_KEY" in raised.value.message
            assert "sekret" not in raised.value.message


async def test_wrong_admin_key_of_sglang_is_named(sidecar: StartSidecar, tmp_path: Path) -> None:
    async with (
        running_double(engine="sglang", api_key="sk", admin_api_key="adm") as double,
        sidecar(double, api_key="sk") as client,
    ):
        await ready(client)
        with pytest.raises(RejectedError) as raised:
            await client.load(load_request("a", adapter_files(tmp_path / "a")))
        assert "ENGINE_ADMIN_API_KEY" in raised.value.message


async def test_sglang_evictions_are_reported_and_not_fought(sidecar: StartSidecar, tmp_path: Path) -> None:
    paths = {name: adapter_files(tmp_path / name) for name in ("a", "b", "c")}
    async with running_double(engine="sglang", max_loaded_loras=2) as double, sidecar(double) as client:
        await ready(client)
        for name, path in paths.items():
            await client.load(load_request(name, path))
        assert await state(client, "a") == ("Failed", "EvictedByEngine")
        polls = len(double.calls("/v1/models"))
        await eventually(lambda: _polled(double, polls + 3), "three polls later")
        assert len(loads(double)) == 3
        assert (await client.ready()).ready


async def test_expensive_health_of_sglang_is_never_requested(sidecar: StartSidecar) -> None:
    async with running_double(engine="sglang", warmup_seconds=0.5) as double, sidecar(double) as client:
        assert not (await client.ready()).ready
        await ready(client)
        assert double.calls("/health") == []
        assert double.calls("/ready")


async def test_long_poll_is_answered_by_change_or_at_its_end(sidecar: StartSidecar, tmp_path: Path) -> None:
    path = adapter_files(tmp_path / "a")
    async with running_double() as double, sidecar(double) as client:
        await ready(client)
        first = await client.adapters()
        assert (await client.adapters(revision=first.revision, wait=0.1)).revision == first.revision
        assert (await client.adapters(revision="another", wait=30)).revision == first.revision
        polling = asyncio.create_task(client.adapters(revision=first.revision, wait=30))
        await client.load(load_request("a", path))
        assert (await polling).revision != first.revision


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/v1/load_lora_adapter", {"lora_name": "a"}, 400, "InvalidRequest"),
        ("POST", "/load_lora_adapter", {"lora_name": "../a", "lora_path": "/a"}, 400, "InvalidRequest"),
        ("POST", "/load_lora_adapter", {"lora_name": "a", "lora_path": "relative"}, 400, "InvalidRequest"),
        ("POST", "/load_lora_adapter", {"lora_name": "a", "source": "s3://b/c"}, 400, "InvalidRequest"),
        ("POST", "/v1/unload_lora_adapter", {}, 400, "InvalidRequest"),
        ("GET", "/v1/lora_adapters?wait=-1", None, 400, "InvalidRequest"),
        ("GET", "/nowhere", None, 404, "NotFound"),
        ("GET", "/v1/load_lora_adapter", None, 405, "MethodNotAllowed"),
        ("PUT", "/v1/topology/leases/a", {}, 404, "NotFound"),
        ("POST", "/v1/drain", {"timeout": -1}, 400, "InvalidRequest"),
    ],
)
async def test_every_error_has_the_one_shape(
    sidecar: StartSidecar, method: str, path: str, body: Any, status: int, code: str
) -> None:
    async with sidecar(NOWHERE) as client:
        answer = await path_of(client).request(method, f"http://sidecar{path}", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert set(answer.json()["error"]) == {"code", "message", "retryable"}


async def test_order_that_can_not_be_stored_changes_nothing(
    sidecar: StartSidecar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_double() as double, sidecar(double) as client:
        await ready(client)
        state = tmp_path / "state.json"

        async def is_stored() -> bool:
            return state.exists()

        await eventually(is_stored, "the state at the start is stored")
        # A folder in the place of the file: the disk says no, whoever asks.
        state.unlink()
        state.mkdir()
        with pytest.raises(RejectedError) as raised:
            await client.load(load_request("a", adapter_files(tmp_path / "a")))
        assert (raised.value.status, raised.value.code, raised.value.retryable) == (507, "NotStored", True)
        assert (await client.adapters()).adapters == ()
        assert loads(double) == []


async def test_address_without_a_server_is_unreachable() -> None:
    async with httpx.AsyncClient() as http:
        with pytest.raises(UnreachableError):
            await SidecarClient(NOWHERE, http).adapters()


async def test_unexpected_server_is_an_unreadable_answer() -> None:
    async with running_double() as double, httpx.AsyncClient() as http:
        client = SidecarClient(double.url, http)
        with pytest.raises(RejectedError) as raised:
            await client.adapters()
        assert raised.value.code == "UnreadableAnswer"


async def test_status_says_what_stands_beside_what(sidecar: StartSidecar) -> None:
    async with sidecar(NOWHERE, pod_name="p", pod_namespace="n") as client:
        status = await client.status()
        assert (status.pod, status.engine_endpoint, status.engine_ready) == ("p.n", NOWHERE, False)


async def scrape(client: SidecarClient, **headers: str) -> dict[str, float]:
    answer = await path_of(client).get("http://sidecar/metrics", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {
        sample.name + "".join(sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


@ENGINES
async def test_scrape_has_engine_standard_and_sidecar_metrics(
    engine: str, sidecar: StartSidecar, tmp_path: Path
) -> None:
    async with running_double(engine=engine) as double, sidecar(double) as client:
        await ready(client)
        await client.load(load_request("a", adapter_files(tmp_path / "a")))
        metrics = await scrape(client)
        assert metrics["patio:engine_up"] == 1
        assert metrics["patio:lora_adapter_stateLoadeda"] == 1
        assert metrics["patio:lora_operations_totalloadok"] == 1
        assert any(name.startswith("patio:num_requests_waiting") for name in metrics)
        assert any(name.startswith(f"{engine}:") for name in metrics)
        assert not any(name.startswith("patio:") and name.endswith("_created") and "lora" in name for name in metrics)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"status": 404, "body": '{"detail":"Not Found"}'}, "status"),
        ({"status": 200, "body": "<html>", "content_type": "text/html"}, "garbage"),
        ({"status": 200, "body": "hello, world\n"}, "garbage"),
        ({"delay": 3.0}, "timeout"),
    ],
)
async def test_engine_without_metrics_costs_a_scrape_nothing(
    sidecar: StartSidecar, monkeypatch: pytest.MonkeyPatch, fault: dict[str, Any], reason: str
) -> None:
    monkeypatch.setattr("patio.metrics.scrape.DEADLINE", 0.3)
    async with running_double() as double, sidecar(double) as client:
        double.fault("/metrics", **fault)
        metrics = await scrape(client)
        assert metrics["patio:engine_up"] == 0
        assert metrics[f"patio:engine_scrape_errors_total{reason}"] == 1
        double.clear_faults()
        assert (await scrape(client))["patio:engine_up"] == 1


async def test_engine_that_is_down_gives_a_zero(sidecar: StartSidecar) -> None:
    async with sidecar(NOWHERE) as client:
        metrics = await scrape(client)
        assert (metrics["patio:engine_up"], metrics["patio:engine_scrape_errors_totalconnection"]) == (0, 1)


async def test_scrapes_at_the_same_time_share_one_fetch(sidecar: StartSidecar) -> None:
    async with running_double() as double, sidecar(double) as client:
        double.fault("/metrics", delay=0.2)
        await asyncio.gather(*(scrape(client) for _ in range(10)))
        assert len(double.calls("/metrics")) == 1


async def test_scraper_that_hangs_up_takes_no_other_along(sidecar: StartSidecar) -> None:
    async with running_double() as double, sidecar(double) as client:
        double.fault("/metrics", delay=0.3)
        cancelled_scrape = asyncio.create_task(scrape(client))
        staying = asyncio.create_task(scrape(client))
        await eventually(lambda: _fetching(double), "the fetch has begun")
        cancelled_scrape.cancel()
        assert (await staying)["patio:engine_up"] == 1


async def _fetching(double: Double) -> bool:
    return bool(double.engine.core.faults.ordered)


async def test_gzip_is_served_when_it_is_accepted(sidecar: StartSidecar) -> None:
    async with running_double() as double, sidecar(double) as client:
        http = path_of(client)
        async with http.stream("GET", "http://sidecar/metrics", headers={"accept-encoding": "gzip"}) as answer:
            assert answer.headers["content-encoding"] == "gzip"
            packed = b"".join([chunk async for chunk in answer.aiter_raw()])
        assert b"patio:engine_up 1" in gzip.decompress(packed)
        plain = await http.get("http://sidecar/metrics", headers={"accept-encoding": "identity"})
        assert "content-encoding" not in plain.headers


async def test_without_scraping_only_sidecar_metrics_are_served(sidecar: StartSidecar) -> None:
    async with running_double() as double, sidecar(double, scrape_engine=False) as client:
        await ready(client)
        metrics = await scrape(client)
        assert metrics["patio:engine_up"] == 1
        assert double.calls("/metrics") == []
        assert not any(name.startswith("vllm:") for name in metrics)


def test_longest_wait_outlives_pauses_of_returning_engine() -> None:
    assert LoadRequest.model_fields["wait"].default > progress.LONGEST_PAUSE * 1.3
    assert Settings().port == 9091
