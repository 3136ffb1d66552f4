"""The servers for asyncio: nothing waits on the event loop, and a cancellation leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_programs
import pytest
from fake_tree import alive, wait_for_tree, wait_until_gone

from inference_server import (
    AsyncInferenceServer,
    AsyncSGLangServer,
    AsyncVLLMServer,
    CustomServer,
    InferenceServer,
    ProfileError,
    ServerStartupError,
    create_async_server,
)
from patio_testing.deadline import DEADLINE

Make = Callable[..., CustomServer]


@pytest.fixture
def engine(tmp_path: Path) -> str:
    return str(fake_programs.install(tmp_path / "bin") / "python")


async def until(condition: Callable[[], bool]) -> None:
    async def poll() -> None:
        while not condition():  # noqa: ASYNC110 - of another thread
            await asyncio.sleep(0.005)

    await asyncio.wait_for(poll(), DEADLINE)


async def test_server_lives_within_its_block(engine: str, tmp_path: Path) -> None:
    config = {"binary_path": engine}
    async with AsyncVLLMServer("tiny", output_dir=tmp_path / "logs", port=0, config=config) as server:
        assert (server.is_running, server.state) == (True, "ready")
        assert server.server_url == f"http://localhost:{server.port}"
        assert await server.probe()
        assert server.check_health()
        assert (await server.discover_endpoints())["score"] == f"{server.server_url}/v1/score"
        assert await server.restart()
    assert server.state == "stopped"
    assert server.server.stop_report is not None
    assert server.server.stop_report.exit_code == 0


async def test_event_loop_goes_on_during_a_start(make_server: Make) -> None:
    server = AsyncInferenceServer(make_server())
    starting = asyncio.ensure_future(server.start())
    turns = 0
    while not starting.done():
        turns += 1
        await asyncio.sleep(0)
    assert await starting
    assert turns > 10
    await server.stop()


async def test_servers_start_at_the_same_time(make_server: Make, tmp_path: Path) -> None:
    servers = [AsyncInferenceServer(make_server(output_dir=tmp_path / str(number))) for number in range(3)]
    assert await asyncio.gather(*(server.start() for server in servers)) == [True] * 3
    reports = await asyncio.gather(*(server.stop() for server in servers))
    assert all(report is not None for report in reports)


async def test_error_of_a_start_is_raised(make_server: Make) -> None:
    with pytest.raises(ServerStartupError, match="exit code 3"):
        await AsyncInferenceServer(make_server(FAKE_EXIT="3")).start()


async def test_cancelled_start_leaves_nothing(make_server: Make, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    server = AsyncInferenceServer(make_server(FAKE_TREE=str(tree), FAKE_HANG="1"))
    starting = asyncio.ensure_future(server.start())
    await asyncio.get_running_loop().run_in_executor(None, wait_for_tree, tree)
    starting.cancel()
    await asyncio.sleep(0)
    starting.cancel()  # a second one does not end the stop
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert alive(tree) == []


async def test_cancelled_stop_is_carried_out(make_server: Make, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    server = AsyncInferenceServer(make_server(FAKE_TREE=str(tree), FAKE_STUBBORN="1", stop_timeout=0.3))
    await server.start()
    stopping = asyncio.ensure_future(server.stop())
    await until(lambda: server.state == "stopping")
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert alive(tree) == []
    assert server.state == "stopped"


async def test_block_that_is_cancelled_stops_the_server(make_server: Make, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    entered = asyncio.Event()

    async def use() -> None:
        async with AsyncInferenceServer(make_server(FAKE_TREE=str(tree), stop_timeout=0)):
            entered.set()
            await asyncio.Event().wait()

    using = asyncio.ensure_future(use())
    await entered.wait()
    using.cancel()
    with pytest.raises(asyncio.CancelledError):
        await using
    wait_until_gone(tree)


async def test_wait_ends_with_the_engine_and_if_cancelled_ends_nothing(make_server: Make) -> None:
    server = AsyncInferenceServer(make_server())
    with pytest.raises(ValueError, match="was not started"):
        await server.wait()
    await server.start()
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(server.wait(), 0.05)
    assert server.is_running
    waiting = asyncio.ensure_future(server.wait())
    assert server.server.process is not None
    server.server.process.terminate()
    assert await waiting == 0


async def test_calls_of_a_running_server(engine: str, tmp_path: Path) -> None:
    config = {"binary_path": engine}
    profile = {"enabled": True, "tool": "pytorch"}
    async with AsyncVLLMServer("tiny", output_dir=tmp_path / "logs", port=0, config=config, profile=profile) as server:
        async with server.profile("warm") as recorded:
            assert recorded.files == ()
        assert [path.name for path in recorded.files] == ["warm-rank0.pt.trace.json.gz"]
        with pytest.raises(ZeroDivisionError):
            async with server.profile("second"):
                raise ZeroDivisionError
        assert await server.metrics()
        await server.kill()
    assert server.state == "stopped"


async def test_cancelled_profile_does_not_go_on(engine: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config: dict[str, Any] = {"binary_path": engine}
    async with AsyncSGLangServer("tiny", output_dir=tmp_path / "logs", port=0, config=config) as server:
        entered = asyncio.Event()

        async def record() -> None:
            async with server.profile():
                entered.set()
                await asyncio.Event().wait()

        recording = asyncio.ensure_future(record())
        await entered.wait()
        recording.cancel()
        with pytest.raises(asyncio.CancelledError):
            await recording
        async with server.profile() as recorded:
            pass
        assert len(recorded.files) == 1


async def test_profile_of_a_server_that_does_not_run_starts_it(engine: str, tmp_path: Path) -> None:
    server = AsyncSGLangServer("tiny", output_dir=tmp_path / "logs", port=0, config={"binary_path": engine})
    async with server.profile() as recorded:
        assert server.is_running
    assert server.state == "stopped"
    assert len(recorded.files) == 1


async def test_start_for_a_profile_that_is_cancelled_leaves_nothing(engine: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    server = AsyncSGLangServer(
        "tiny",
        output_dir=tmp_path / "logs",
        port=0,
        config={"binary_path": engine},
        env_vars={"FAKE_TREE": str(tree), "FAKE_HANG": "1"},
    )
    entering = asyncio.ensure_future(server.profile().__aenter__())
    await asyncio.get_running_loop().run_in_executor(None, wait_for_tree, tree)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert alive(tree) == []


async def test_missing_profile_is_an_error(engine: str, tmp_path: Path) -> None:
    server = AsyncVLLMServer("tiny", output_dir=tmp_path / "logs", port=0, config={"binary_path": engine})
    with pytest.raises(ProfileError, match="vLLM has no profiler"):
        async with server.profile():
            pass
    assert server.state == "new"


def test_backends_are_those_of_the_servers_beneath(tmp_path: Path) -> None:
    server = create_async_server("sglang", "m", output_dir=tmp_path)
    assert isinstance(server.server, InferenceServer)
    assert server.list_endpoints() == server.server.list_endpoints()
    with pytest.raises(ValueError, match="Unsupported backend"):
        create_async_server("tgi", "m")
