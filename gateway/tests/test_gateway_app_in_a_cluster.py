"""`python -m patio_gateway --kubernetes`: an API server in memory, engine doubles as pods, and a real Envoy."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from engine_double.samples import write_adapter
from inference_server.ports import free_port
from patio_testing.gateway_command import completion, gateway_command, line_with
from patio_testing.local_servers import engine_double
from patio_testing.model_gateway import until
from patio_testing.model_objects import (
    PATIO,
    Object,
    adapters_path,
    endpoints_path,
    key_secret,
    lora_adapter,
    model_endpoint,
    pods_path,
    secrets_path,
    serving_adapters,
    worker_pod,
)
from patio_testing.operator.memory_api import MemoryApi, serving

OWN = {"POD_NAME": "gateway-0", "POD_NAMESPACE": "patio-system"}
REPORT = f"{PATIO}/namespaces/patio-system/demandreports/gateway-0"
SQL = lora_adapter("sql")
KEY = "sk-team-a-0123456789"
OPEN = "--open"


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder with a short path: the gateway's sockets are in it."""
    made = Path(tempfile.mkdtemp(prefix="gateway-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def engine_ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """Return the ports of two engines with the model `m`, of which the first can have adapters."""
    path = tmp_path_factory.mktemp("engines")
    adapter = write_adapter(path / "adapter")
    flags = (("--enable-lora", "--lora-modules", f"sql={adapter}"), ())
    ports = free_port(), free_port()
    with ExitStack() as stack:
        for number, (port, more) in enumerate(zip(ports, flags, strict=True)):
            engine = stack.enter_context(engine_double(f"engine-{number}", path, port, "--model", "m", *more))
            assert engine.wait_until_ready()
        yield ports


@dataclass
class Running:
    """A gateway that runs, and the API server that it watches."""

    api: MemoryApi
    port: int
    process: asyncio.subprocess.Process
    end_api: Callable[[], Awaitable[None]]
    """Ends the API server."""

    async def status(self, path: str) -> int:
        async with httpx.AsyncClient(trust_env=False) as client:
            try:
                return (await client.get(f"http://127.0.0.1:{self.port}{path}")).status_code
            except httpx.TransportError:
                return 0

    async def ready(self) -> None:
        async def is_ready() -> bool:
            assert self.process.returncode is None, await self.process.communicate()
            return await self.status("/readyz") == 200

        await until(is_ready, "the gateway is ready")

    async def answers(self, model: str, status: int, key: str | None = None) -> httpx.Response:
        """Wait until requests for a model are answered so."""

        async def answered() -> httpx.Response | None:
            answer = await completion(self.port, model, key)
            return answer if answer.status_code == status else None

        answer = await until(answered, f"requests for {model} are answered {status}")
        assert isinstance(answer, httpx.Response)
        return answer

    @property
    def demand(self) -> dict[str, tuple[int, int]]:
        """What the gateway has reported, in flight and held."""
        report = self.api.objects.get(REPORT, {"spec": {"endpoints": []}})
        return {each["endpoint"]: (each["inFlight"], each["held"]) for each in report["spec"]["endpoints"]}


@asynccontextmanager
async def running(api: MemoryApi, folder: Path, *words: str, port: int | None = None) -> AsyncIterator[Running]:
    """Run the gateway at an API server."""
    port = port or free_port()
    async with AsyncExitStack() as stack:
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(json.dumps(kubeconfig_for(await stack.enter_async_context(serving(api)))))
        variables = OWN | {"KUBECONFIG": str(kubeconfig)}
        async with gateway_command(folder, port, "--kubernetes", *words, variables=variables) as process:
            yield Running(api, port, process, stack.aclose)


def kubeconfig_for(address: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": address}}],
        "users": [{"name": "u", "user": {}}],
    }


def api_with(*endpoints: Object) -> MemoryApi:
    api = MemoryApi()
    api.put(pods_path("patio-system"), worker_pod("gateway-0", namespace="patio-system", endpoint="", ip=None))
    for endpoint in endpoints:
        api.put(endpoints_path(), endpoint)
    return api


def pod(number: int, ports: tuple[int, int], **fields: object) -> Object:
    return worker_pod(f"m-{number}", ip="127.0.0.1", port=ports[number], **fields)  # type: ignore[arg-type]


async def test_pods_and_adapters_are_served_as_they_come(folder: Path, engine_ports: tuple[int, int]) -> None:
    api = api_with(model_endpoint(adapters=serving_adapters()))
    for number in (0, 1):
        api.put(pods_path(), pod(number, engine_ports))
    async with running(api, folder, OPEN) as gateway:
        await gateway.ready()
        seen: set[str] = set()
        while seen != {"m-0", "m-1"}:
            answer = await completion(gateway.port, "m", prompt=f"Prompt {len(seen)} {time.monotonic()}")
            assert answer.status_code == 200
            seen.add(answer.headers["x-patio-pod"])
        assert (await completion(gateway.port, "sql")).status_code == 404
        # The pod has the adapter first, and the LoraAdapter makes it a model.
        api.put(pods_path(), pod(0, engine_ports, loaded=[SQL]))
        api.put(adapters_path(), SQL)
        await gateway.answers("sql", 200)
        for number in range(20):
            answer = await completion(gateway.port, "sql", prompt=f"Prompt {number}")
            assert (answer.status_code, answer.headers["x-patio-pod"]) == (200, "m-0")
        api.remove(f"{adapters_path()}/sql")
        await gateway.answers("sql", 404)
        api.put(pods_path(), pod(0, engine_ports, ready=False))

        async def is_gone() -> bool:
            return {
                (await completion(gateway.port, "m", prompt=f"{number}")).headers["x-patio-pod"] for number in range(8)
            } == {"m-1"}

        await until(is_gone, "the pod that is not ready gets nothing")


async def test_held_request_is_reported_and_answered_by_a_new_pod(folder: Path, engine_ports: tuple[int, int]) -> None:
    api = api_with(model_endpoint(status={"progress": {"phase": "Downloading", "percent": 34}}))
    async with running(api, folder, OPEN) as gateway:
        await gateway.ready()
        await until(lambda: REPORT in api.objects, "a report")
        began = time.monotonic()
        asking = asyncio.create_task(completion(gateway.port, "m"))
        await until(lambda: gateway.demand == {"team/m": (0, 1)}, "the demand is reported")
        print(f"request -> reported: {time.monotonic() - began:.3f} s")
        assert not asking.done()
        api.put(pods_path(), pod(1, engine_ports))
        began = time.monotonic()
        answer = await asking
        print(f"pod ready -> answered: {time.monotonic() - began:.3f} s")
        assert (answer.status_code, answer.headers["x-patio-pod"]) == (200, "m-1")
        await until(lambda: gateway.demand == {"team/m": (0, 0)}, "nothing is held any more")
        assert "lastActivity" in api.objects[REPORT]["spec"]["endpoints"][0]


async def test_requests_in_flight_are_reported(folder: Path, tmp_path: Path) -> None:
    port = free_port()
    with engine_double("slow", tmp_path, port, "--model", "m", "--tokens-per-second", "1") as engine:
        assert engine.wait_until_ready()
        api = api_with(model_endpoint())
        api.put(pods_path(), worker_pod("m-0", ip="127.0.0.1", port=port))
        async with running(api, folder, OPEN) as gateway:
            await gateway.ready()
            asking = [asyncio.create_task(completion(gateway.port, "m", max_tokens=5)) for _ in range(3)]
            await until(lambda: gateway.demand == {"team/m": (3, 0)}, "they are reported")
            assert [answer.status_code for answer in await asyncio.gather(*asking)] == [200] * 3
            await until(lambda: gateway.demand == {"team/m": (0, 0)}, "they have ended")


async def test_request_that_waits_too_long_is_told_the_phase(folder: Path) -> None:
    progress = {"phase": "Downloading", "percent": 34, "message": "34 % of the model are here"}
    async with running(
        api_with(model_endpoint(queue={"timeout": "1s"}, status={"progress": progress})), folder, OPEN
    ) as gateway:
        await gateway.ready()
        error = (await gateway.answers("m", 503)).json()["error"]
    assert error["code"] == "model_start_timeout"
    assert "Downloading 34 %. 34 % of the model are here." in error["message"]


async def test_keys_of_secrets_count_within_two_seconds(folder: Path, engine_ports: tuple[int, int]) -> None:
    api = api_with(model_endpoint())
    api.put(pods_path(), pod(0, engine_ports))
    async with running(api, folder, "--keys-from-secrets") as gateway:
        await gateway.ready()
        assert [(await completion(gateway.port, "m", key)).status_code for key in (None, KEY)] == [401, 401]
        api.put(secrets_path(), key_secret("keys", f"- {{name: team-a, key: {KEY}, endpoints: [team/*]}}\n"))
        began = time.monotonic()
        await gateway.answers("m", 200, KEY)
        added = time.monotonic() - began
        assert (await completion(gateway.port, "m")).status_code == 401
        api.remove(f"{secrets_path()}/keys")
        began = time.monotonic()
        await gateway.answers("m", 401, KEY)
        print(f"key added after {added:.3f} s, removed after {time.monotonic() - began:.3f} s")
        gateway.process.send_signal(signal.SIGTERM)
        _, log = await gateway.process.communicate()
    assert KEY not in log.decode()


async def test_gateway_is_ready_once_everything_was_listed(folder: Path, engine_ports: tuple[int, int]) -> None:
    api = api_with(model_endpoint())
    api.put(pods_path(), pod(0, engine_ports))
    api.refused = {f"{PATIO}/loraadapters": 503}
    async with running(api, folder, OPEN) as gateway:
        await line_with(gateway.process, "gateway_started")

        async def answers() -> bool:
            return await gateway.status("/readyz") == 503 and await gateway.status("/healthz") == 200

        await until(answers, "it is healthy and not ready")
        api.refused = {}
        await gateway.ready()
        assert (await completion(gateway.port, "m")).status_code == 200


async def test_gateway_goes_on_without_api_server_and_control(folder: Path, engine_ports: tuple[int, int]) -> None:
    api, port = api_with(model_endpoint()), free_port()
    api.put(pods_path(), pod(0, engine_ports))
    async with running(api, folder, OPEN, port=port) as gateway:
        await gateway.ready()
        await gateway.end_api()
        await line_with(gateway.process, "demand_report_not_written")
        assert (await completion(port, "m")).status_code == 200
        gateway.process.kill()
        await gateway.process.wait()
        assert (await completion(port, "m")).status_code == 200
        async with running(api, folder, OPEN, port=port) as second:
            await line_with(second.process, "envoy_adopted")
            assert (await completion(port, "m")).status_code == 200
            await second.ready()
            api.put(endpoints_path(), model_endpoint("other"))
            api.put(pods_path(), worker_pod("other-0", endpoint="other", ip="127.0.0.1", port=engine_ports[1]))
            await second.answers("other", 404)  # the engine does not know it


async def test_gateway_that_ends_reports_no_demand(folder: Path) -> None:
    api = api_with(model_endpoint())
    async with running(api, folder, OPEN, "--drain", "5") as gateway:
        await gateway.ready()
        asking = asyncio.create_task(completion(gateway.port, "m"))
        await until(lambda: gateway.demand == {"team/m": (0, 1)}, "the demand is reported")
        gateway.process.send_signal(signal.SIGTERM)
        answer = await asking
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "gateway_stopping")
        async with asyncio.timeout(120):
            assert await gateway.process.wait() == 0
        assert gateway.demand == {"team/m": (0, 0)}
