"""What a real Envoy counts of requests."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from inference_server.ports import free_port
from patio_gateway.control.metrics import DEMAND, traffic_in
from patio_gateway.snapshot import Client, Model, Snapshot, Worker
from patio_testing.model_gateway import Gateway, Recorder, running_gateway, serving, until

CLIENT = Client("team-a", "sk-team-a-0123456789")


async def series(gateway: Gateway) -> dict[str, float]:
    """Return the gateway's own series, but for buckets."""
    assert gateway.listening.metrics is not None
    host, port = gateway.listening.metrics
    async with httpx.AsyncClient(trust_env=False) as client:
        text = (await client.get(f"http://{host}:{port}/metrics")).text
    found = re.findall(r"^envoy_patio_gateway_(\w+\{.*\}) (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in found if "_bucket" not in name}


async def demand(gateway: Gateway) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """Return what control reads of the demand."""
    return traffic_in(await gateway.admin.prometheus(DEMAND))


def test_demand_is_read_of_endpoints_alone() -> None:
    text = """
envoy_patio_gateway_requests_in_flight{endpoint="",at="front"} 7
envoy_patio_gateway_requests_in_flight{endpoint="a/m",at=""} 2
envoy_patio_gateway_endpoint_requests_total{endpoint=""} 9
envoy_patio_gateway_endpoint_requests_total{endpoint="a/n"} 4
envoy_patio_gateway_requests_total{endpoint="a/n",code="200"} 4
"""
    assert traffic_in(text) == ({"a/m": 2}, {"a/n": 4})
    assert traffic_in("") == ({}, {})


async def test_requests_tokens_and_load_are_counted() -> None:
    release = asyncio.Event()

    async def answer(_: Request) -> Response:
        await release.wait()
        return JSONResponse({"usage": {"prompt_tokens": 3, "completion_tokens": 4}})

    engine = Recorder(answer)
    async with serving(engine.app()) as address:
        snapshot = Snapshot(
            models=(Model("a/m", ("m",), adapters=("sql",), workers=(Worker("m-0", address, frozenset({"sql"})),)),),
            clients=(CLIENT,),
        )
        async with running_gateway(snapshot, metrics=("127.0.0.1", free_port())) as gateway:
            asking = [
                asyncio.create_task(
                    gateway.ask("/v1/completions", {"model": model}, authorization=f"Bearer {CLIENT.key}")
                )
                for model in ("m", "m", "sql", "unknown-and-chosen-by-a-client")
            ]
            await until(lambda: len(engine.received) == 3, "the engine has the requests")
            at_work = await series(gateway)
            demand_at_work = await demand(gateway)
            release.set()
            await asyncio.gather(*asking)
            counted = await series(gateway)

            async def is_measured() -> bool:
                # Envoy merges what its threads measured every five seconds.
                found = await series(gateway)
                return found['request_milliseconds_count{endpoint="a/m",model="sql"}'] == 1

            await until(is_measured, "the duration is in the histogram")
            demand_after = await demand(gateway)
    assert at_work['requests_in_flight{endpoint="a/m",at=""}'] == 3
    assert counted['requests_in_flight{endpoint="a/m",at=""}'] == 0
    labels = 'endpoint="a/m",model="m",client="team-a"'
    assert counted[f"input_tokens_total{{{labels}}}"] == 6
    assert counted[f"output_tokens_total{{{labels}}}"] == 8
    assert counted[f'requests_total{{{labels},pod="m-0",code="200",reason="least-request"}}'] == 2
    assert not any("unknown" in name for name in counted)
    assert demand_at_work == ({"a/m": 3}, {})
    assert demand_after == ({"a/m": 0}, {"a/m": 3})


async def test_listener_of_metrics_answers_nothing_else() -> None:
    async with running_gateway(metrics=("127.0.0.1", free_port())) as gateway:
        assert gateway.listening.metrics is not None
        host, port = gateway.listening.metrics
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}", trust_env=False) as client:
            for path in ("/", "/config_dump", "/metrics/../config_dump", "/metrics/", "/stats"):
                assert (await client.get(path)).status_code == 404
            assert (await client.post("/quitquitquit")).status_code == 404
            assert (await client.get("/metrics")).status_code == 200
