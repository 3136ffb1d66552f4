"""The program of requests, in a real Envoy: which pod a request goes to, by the model or adapter that it names."""

from __future__ import annotations

import hashlib
import json

import pytest

from patio_gateway.snapshot import Model, Snapshot, Worker
from patio_testing.model_gateway import Recorder, running_gateway, serving

CHAT = "/v1/chat/completions"


def a_body(model: str, **more: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": "Who are you?"}], "model": model, **more}


async def test_request_goes_to_the_model_alias_or_adapter() -> None:
    first, second = Recorder(), Recorder()
    async with serving(first.app()) as one_address, serving(second.app()) as other_address:
        snapshot = Snapshot(
            closed=False,
            models=(
                Model("team-a/small", ("small", "chat"), workers=(Worker("small-0", one_address),)),
                Model(
                    "team-b/large",
                    ("large",),
                    adapters=("sql",),
                    workers=(Worker("large-0", other_address, frozenset({"sql"})),),
                ),
            ),
        )
        async with running_gateway(snapshot) as gateway:
            pods = {}
            for name in ("small", "chat", "large", "sql"):
                answer = await gateway.ask(CHAT, a_body(name))
                assert answer.status_code == 200
                pods[name] = answer.headers["x-patio-pod"], answer.headers["x-patio-reason"]
    assert pods == {
        "small": ("small-0", "prefix"),
        "chat": ("small-0", "prefix"),
        "large": ("large-0", "prefix"),
        "sql": ("large-0", "adapter, prefix"),
    }
    assert [request.path for request in first.received + second.received] == [CHAT] * 4


async def test_unknown_or_unloaded_name_goes_to_the_front() -> None:
    engine = Recorder()
    async with serving(engine.app()) as address:
        models = (
            Model("a/awake", ("awake",), adapters=("nowhere",), workers=(Worker("awake-0", address),)),
            Model("a/asleep", ("asleep",)),
        )
        async with running_gateway(Snapshot(closed=False, models=models)) as gateway:
            for name in ("unknown", "nowhere", "asleep"):
                answer = await gateway.ask(CHAT, a_body(name))
                assert (answer.status_code, answer.headers["x-patio-reason"]) == (404, "front")
                assert "x-patio-pod" not in answer.headers
            assert [request.headers["x-patio-model"] for request in gateway.front.received] == [
                "unknown",
                "nowhere",
                "asleep",
            ]
            assert (await gateway.client.get("/v1/models")).headers["x-patio-reason"] == "front"
    assert engine.received == []


async def test_adapter_that_moved_is_asked_only_where_it_is() -> None:
    here, elsewhere = Recorder(), Recorder()
    async with serving(here.app()) as address, serving(elsewhere.app()) as other, running_gateway() as gateway:
        for turn in range(20):
            has = [frozenset({"sql"}), frozenset[str]()]
            loaded, empty = (has[turn % 2], has[1 - turn % 2])
            workers = (Worker("pod-0", address, loaded), Worker("pod-1", other, empty))
            await gateway.publish(
                Snapshot(closed=False, models=(Model("a/m", ("m",), adapters=("sql",), workers=workers),))
            )
            pods = {(await gateway.ask(CHAT, a_body("sql"))).headers["x-patio-pod"] for _ in range(5)}
            assert pods == {f"pod-{turn % 2}"}
    assert len(here.received) == len(elsewhere.received) == 50


@pytest.fixture
def text_of_a_form() -> bytes:
    return (
        b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        + bytes(range(256)) * 512
        + b'\r\n--xyz\r\nContent-Disposition: form-data; name="model"\r\n\r\nspeech\r\n--xyz--\r\n'
    )


async def test_form_goes_to_the_model_of_its_field(text_of_a_form: bytes) -> None:
    engine = Recorder()
    async with serving(engine.app()) as address:
        model = Model("a/speech", ("speech",), workers=(Worker("speech-0", address),))
        async with running_gateway(Snapshot(closed=False, models=(model,))) as gateway:
            answer = await gateway.client.post(
                "/v1/audio/transcriptions",
                content=text_of_a_form,
                headers={"content-type": "multipart/form-data; boundary=xyz"},
            )
    assert (answer.status_code, answer.headers["x-patio-reason"]) == (200, "least-request")
    assert engine.received[0].body == text_of_a_form


@pytest.mark.parametrize(
    "text",
    [
        '{"model":"m"}',
        ' \n{ "stream" : true , "model" : "m" }',
        '{"messages":[{"role":"user","content":"\\"model\\":\\"x\\""}],"model":"m"}',
        '{"tools":[{"model":"x"}],"model":"m"}',
        '{"a":"\\\\","model":"m"}',
        '{"mod\\u0065l":"\\u006d"}',
        '{"prompt":[[1,2],[3]],"model":"m","model":"other"}',
    ],
)
async def test_model_is_read_from_any_form_of_json(text: str) -> None:
    engine = Recorder()
    async with serving(engine.app()) as address:
        model = Model("a/m", ("m",), workers=(Worker("m-0", address),))
        async with running_gateway(Snapshot(closed=False, models=(model,))) as gateway:
            answer = await gateway.client.post(
                "/v1/completions", content=text, headers={"content-type": "application/json"}
            )
    assert answer.headers.get("x-patio-pod") == "m-0"
    assert engine.received[0].body == text.encode()


@pytest.mark.parametrize(
    "text",
    ["", "{", '"model"', '{"model":', '{"model":1}', '{"model":{"model":"m"}}', '["model","m"]', "{" * 3000, "\0\1"],
)
async def test_body_without_a_readable_model_goes_to_the_front(text: str) -> None:
    model = Model("a/m", ("m",), workers=(Worker("m-0", ("127.0.0.1", 9)),))
    async with running_gateway(Snapshot(closed=False, models=(model,))) as gateway:
        answer = await gateway.client.post(
            "/v1/completions", content=text, headers={"content-type": "application/json"}
        )
        assert answer.headers["x-patio-reason"] == "front"
        assert gateway.front.received[0].body == text.encode()
        # What is in the body comes first; the header is for bodies without a model.
        assert "x-patio-model" not in gateway.front.received[0].headers


async def test_header_names_the_model_of_a_body_without_one() -> None:
    engine = Recorder()
    async with serving(engine.app()) as address:
        model = Model("a/m", ("m",), workers=(Worker("m-0", address),))
        async with running_gateway(Snapshot(closed=False, models=(model,))) as gateway:
            with_header = await gateway.ask("/tokenize", {"prompt": "x"}, x_patio_model="m")
            both = await gateway.ask("/tokenize", {"prompt": "x", "model": "other"}, x_patio_model="m")
    assert with_header.headers["x-patio-pod"] == "m-0"
    assert both.headers["x-patio-reason"] == "front"


async def test_path_below_v2_is_the_engines_below_v1() -> None:
    engine = Recorder()
    async with serving(engine.app()) as address:
        model = Model("a/m", ("m",), workers=(Worker("m-0", address),))
        async with running_gateway(Snapshot(closed=False, models=(model,))) as gateway:
            await gateway.ask("/v2/chat/completions?x=1", a_body("m"))
            await gateway.ask("/v2/rerank", {"model": "m"})
    assert [request.path for request in engine.received] == ["/v1/chat/completions", "/v2/rerank"]


@pytest.mark.parametrize(
    "path", ["/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/metrics", "/sleep", "/v1//load_lora_adapter"]
)
async def test_path_that_changes_an_engine_goes_to_the_front(path: str) -> None:
    engine = Recorder()
    async with serving(engine.app()) as address:
        model = Model("a/m", ("m",), workers=(Worker("m-0", address),))
        async with running_gateway(Snapshot(closed=False, models=(model,))) as gateway:
            answer = await gateway.ask(path, {"model": "m"}, x_patio_model="m")
    assert answer.headers["x-patio-reason"] == "front"
    assert engine.received == []


async def test_large_body_arrives_unchanged_and_a_larger_is_413() -> None:
    engine = Recorder()
    async with serving(engine.app()) as address:
        model = Model("a/m", ("m",), workers=(Worker("m-0", address),))
        async with running_gateway(Snapshot(closed=False, models=(model,)), most_body=4_000_000) as gateway:
            text = json.dumps(a_body("m", text="x" * 3_900_000)).encode()
            fits = await gateway.client.post(CHAT, content=text, headers={"content-type": "application/json"})
            too_large = await gateway.client.post(
                CHAT, content=text + b" " * 200_000, headers={"content-type": "application/json"}
            )
    assert fits.headers["x-patio-pod"] == "m-0"
    assert hashlib.sha256(engine.received[0].body).digest() == hashlib.sha256(text).digest()
    assert too_large.status_code == 413
    assert too_large.json()["error"]["code"] == "request_too_large"
    assert len(engine.received) == 1
