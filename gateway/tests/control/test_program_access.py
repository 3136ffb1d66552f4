"""The program of requests, in a real Envoy: who may ask for which model, and what nobody may tell it."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from patio_gateway.control.bootstrap import SET_HERE
from patio_gateway.rights import OPEN
from patio_gateway.snapshot import Address, Client, Model, Snapshot, Worker
from patio_testing.model_gateway import Recorder, running_gateway, serving

CHAT = "/v1/chat/completions"
KEY = "sk-of-team-a-0123456789"
OTHER_KEY = "sk-of-team-b-0123456789"


def a_snapshot(address: Address, **settings: object) -> Snapshot:
    worker = (Worker("pod-0", address),)
    return Snapshot(
        models=(Model("team-a/private", ("private",), workers=worker), Model("shop/open", ("open",), public=True)),
        clients=(Client("team-a", KEY, endpoints=("team-*/*",)), Client("team-b", OTHER_KEY, endpoints=("team-b/*",))),
        **settings,  # type: ignore[arg-type]
    )


def basic(user: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:".encode()).decode()


@pytest.mark.parametrize("authorization", [f"Bearer {KEY}", f"bearer  {KEY}", basic(KEY)])
async def test_key_lets_its_client_in_and_stays_in_envoy(authorization: str) -> None:
    engine = Recorder()
    async with serving(engine.app()) as address, running_gateway(a_snapshot(address)) as gateway:
        answer = await gateway.ask(CHAT, {"model": "private", "prompt": "x"}, authorization=authorization)
    assert answer.status_code == 200
    assert engine.received[0].headers["x-patio-client"] == "team-a"
    assert "authorization" not in engine.received[0].headers
    assert KEY not in str(engine.received[0].headers)


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer sk-wrong-0123456789",
        f"Bearer {KEY}x",
        basic("sk-wrong"),
        "Basic !!!",
        KEY,
        "Bearer team-a",
    ],
)
async def test_request_without_a_valid_key_is_401(authorization: str) -> None:
    engine = Recorder()
    async with serving(engine.app()) as address, running_gateway(a_snapshot(address)) as gateway:
        for path, body in (
            (CHAT, {"model": "private"}),
            (CHAT, {"model": "unknown"}),
            ("/v1/files", {}),
            ("/metrics", {}),
        ):
            answer = await gateway.ask(path, body, authorization=authorization)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["error"]["code"] == "invalid_api_key"
        assert gateway.front.received == []
    assert engine.received == []


async def test_key_for_other_endpoints_is_denied_by_the_front() -> None:
    engine = Recorder()
    async with serving(engine.app()) as address, running_gateway(a_snapshot(address)) as gateway:
        answer = await gateway.ask(CHAT, {"model": "private"}, authorization=f"Bearer {OTHER_KEY}")
        assert answer.status_code == 404
        assert gateway.front.received[0].headers["x-patio-denied"] == "1"
        assert gateway.front.received[0].headers["x-patio-client"] == "team-b"
    assert engine.received == []


async def test_public_model_needs_no_key() -> None:
    engine = Recorder()
    async with serving(engine.app()) as address:
        models = (
            Model("a/open", ("open",), workers=(Worker("open-0", address),), public=True),
            Model("a/closed", ("closed",)),
        )
        async with running_gateway(Snapshot(models=models, clients=(Client("b", OTHER_KEY),))) as gateway:
            # Clients of OpenAI's API send something as a key even where none is needed.
            for authorization in ("", "Bearer none", f"Bearer {OTHER_KEY}"):
                answer = await gateway.ask(CHAT, {"model": "open"}, authorization=authorization)
                assert answer.status_code == 200
            assert (await gateway.ask(CHAT, {"model": "closed"})).status_code == 401
            assert (await gateway.client.get("/v1/models")).status_code == 404  # the front's answer
            assert (await gateway.client.get("/v1/files")).status_code == 401
    assert ["authorization" in request.headers for request in engine.received] == [False] * 3
    assert engine.received[2].headers["x-patio-client"] == "b"


async def test_open_gateway_passes_foreign_keys_on() -> None:
    engine = Recorder()
    async with serving(engine.app()) as address, running_gateway(a_snapshot(address, closed=False)) as gateway:
        await gateway.ask(CHAT, {"model": "private"}, authorization="Bearer of-the-engine")
        await gateway.ask(CHAT, {"model": "private"}, authorization=f"Bearer {OTHER_KEY}")
    assert engine.received[0].headers["authorization"] == "Bearer of-the-engine"
    assert "authorization" not in engine.received[1].headers
    assert engine.received[1].headers["x-patio-client"] == "team-b"


async def test_headers_that_the_gateway_sets_are_not_believed() -> None:
    engine = Recorder()
    forged = dict.fromkeys(SET_HERE, "forged") | {"x-patio-cluster": "front", "X-Patio-Admitted": "1"}
    async with serving(engine.app()) as address, running_gateway(a_snapshot(address)) as gateway:
        refused = await gateway.client.post(CHAT, json={"model": "private"}, headers=forged)
        taken = await gateway.client.post(
            CHAT, json={"model": "private"}, headers=forged | {"authorization": f"Bearer {KEY}"}
        )
    assert (refused.status_code, taken.headers["x-patio-pod"]) == (401, "pod-0")
    assert "forged" not in engine.received[0].headers.values()


async def test_key_that_is_deleted_counts_no_longer() -> None:
    engine = Recorder()
    async with serving(engine.app()) as address, running_gateway(a_snapshot(address)) as gateway:
        before = await gateway.ask(CHAT, {"model": "private"}, authorization=f"Bearer {KEY}")
        await gateway.publish(Snapshot(models=a_snapshot(address).models))
        after = await gateway.ask(CHAT, {"model": "private"}, authorization=f"Bearer {KEY}")
    assert (before.status_code, after.status_code) == (200, 401)


def modes_of_files_with(text: str, folder: Path) -> dict[str, int]:
    assert folder.stat().st_mode & 0o077 == 0
    found = [path for path in folder.iterdir() if path.is_file() and text in path.read_text()]
    return {path.suffix: path.stat().st_mode & 0o777 for path in found}


async def test_keys_are_in_no_file_that_others_may_read() -> None:
    async with running_gateway(a_snapshot(("127.0.0.1", 9))) as gateway:
        await gateway.ask(CHAT, {"model": "private"}, authorization=f"Bearer {KEY}")
        await gateway.ask(f"/v1/completions?key={KEY}", {"model": "unknown"}, authorization=f"Bearer {KEY}")
        lines = await gateway.logged(2)
        assert modes_of_files_with(KEY, Path(gateway.listening.folder)) == {".lua": 0o600}
        assert KEY not in await gateway.admin.configuration()
    assert [line["path"] for line in lines] == [CHAT, "/v1/completions"]
    assert [line["client"] for line in lines] == ["team-a", "team-a"]


async def test_probes_and_the_page_need_no_key() -> None:
    async with running_gateway(a_snapshot(("127.0.0.1", 9))) as gateway:
        for path in OPEN:
            await gateway.client.get(path)
        closed = [(await gateway.client.get(path)).status_code for path in ("/overview", "/demand", "/page.css/x")]
        assert [request.path for request in gateway.front.received] == list(OPEN)
    assert closed == [401, 401, 401]
