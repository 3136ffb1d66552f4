"""Nothing of an engine outlives its owner, its keeper or its first process."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import fake_programs
import pytest
from fake_tree import FAKE, TREE_SIZE, alive, eventually, wait_for_tree, wait_until_gone

from inference_server import CustomServer, ServerStartupError, processes
from inference_server.ports import free_port, is_free
from inference_server.supervision import EngineProcess
from patio_testing.deadline import DEADLINE

Make = Callable[..., CustomServer]
LONG = bool(os.environ.get("PATIO_TEST_LONG"))
ROUNDS = int(os.environ.get("PATIO_TEST_ROUNDS", "1000"))
"""Of each of the long tests."""
KILLS = ROUNDS if LONG else 6
INTERRUPTS = max(ROUNDS // 5, 1) if LONG else 6
STARTS = ROUNDS if LONG else 4
LIMIT = pytest.mark.timeout(900 + 20 * ROUNDS if LONG else 900)
"""A busy machine needs seconds for a round."""

OWNER = textwrap.dedent(
    """
    import os, signal, sys, threading
    from inference_server import CustomServer
    # A shell's background jobs ignore Ctrl-C, and so do their children; it is this process's matter here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    fake, tree, port, output, how = sys.argv[1:]
    variables = {"FAKE_TREE": tree}
    if how == "hang":
        variables["FAKE_HANG"] = "1"
    server = CustomServer("m", [sys.executable, fake, "--port", port], port=int(port), output_dir=output,
                          env_vars=variables)
    print("starting", flush=True)
    if how == "interrupt":
        try:
            server.start()
            threading.Event().wait()
        except KeyboardInterrupt:
            if server.is_running:
                server.kill()
            print("interrupted", flush=True)
    else:
        server.start()
        print("ready", flush=True)
    if how == "exit":
        os._exit(3)
    if how == "raise":
        raise RuntimeError("the owner's own error")
    if how == "fork" and os.fork() == 0:
        print("forked", flush=True)
    threading.Event().wait()
    """
)


def start_owner(tmp_path: Path, how: str) -> tuple[subprocess.Popen[str], Path, int]:
    """Start a process that owns a server with the tree of six."""
    tree, port = tmp_path / "tree", free_port()
    tree.unlink(missing_ok=True)
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(FAKE), str(tree), str(port), str(tmp_path / "logs"), how],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return owner, tree, port


def wait_for_word(owner: subprocess.Popen[str], word: str) -> None:
    """Wait until the owner says a word."""
    assert owner.stdout is not None
    for line in owner.stdout:
        if line.strip() == word:
            return
    raise AssertionError(f"the owner ended without {word!r}")


def leave(owner: subprocess.Popen[str]) -> None:
    """Close what the test has of the owner."""
    owner.kill()
    owner.wait(timeout=DEADLINE)
    assert owner.stdout is not None
    owner.stdout.close()


def process_of(server: CustomServer) -> EngineProcess:
    assert server.process is not None
    return server.process


@LIMIT
def test_owner_killed_at_any_moment_leaves_nothing(tmp_path: Path) -> None:
    """SIGKILL of the owner at random moments of the start and after it; the next start on the same folder works."""
    rng = random.Random(None if LONG else 14)
    for _ in range(KILLS):
        owner, tree, port = start_owner(tmp_path, "serve")
        try:
            wait_for_word(owner, "starting")
            with contextlib.suppress(subprocess.TimeoutExpired):
                owner.wait(timeout=rng.uniform(0, 0.8))
        finally:
            leave(owner)
        wait_until_gone(tree)
        eventually(lambda port=port: is_free(port), lambda port=port: f"port {port} is held")  # type: ignore[misc]


@LIMIT
def test_owner_killed_while_serving_leaves_nothing(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """How long the tree of six lives on is printed (`-rP`): a figure of this machine, which no test judges."""
    seconds = []
    for _ in range(KILLS):
        owner, tree, port = start_owner(tmp_path, "serve")
        wait_for_word(owner, "ready")
        wait_for_tree(tree)
        members = [stat.identity for stat in alive(tree)]
        assert len(members) == TREE_SIZE
        began = time.monotonic()
        owner.kill()
        eventually(lambda members=members: not any(map(processes.is_alive, members)), lambda: members)  # type: ignore[misc]  # noqa: B023
        seconds.append(time.monotonic() - began)
        leave(owner)
        assert alive(tree) == []
        assert is_free(port)
    seconds.sort()
    for name, share in (("median", 0.5), ("p99", 0.99), ("longest", 1.0)):
        text = f"{seconds[min(int(share * len(seconds)), len(seconds) - 1)]:.3f} s"
        record_property(name, text)
        print(f"a tree of six after SIGKILL of its owner, {len(seconds)} rounds: {name} {text}")


@pytest.mark.parametrize("how", ["exit", "raise"])
def test_owner_that_ends_by_itself_leaves_nothing(tmp_path: Path, how: str) -> None:
    owner, tree, _ = start_owner(tmp_path, how)
    wait_for_word(owner, "ready")
    owner.wait(timeout=DEADLINE)
    wait_until_gone(tree)
    leave(owner)


def test_fork_of_the_owner_does_not_keep_the_engine(tmp_path: Path) -> None:
    """A fork has a copy of everything, the lifeline too."""
    owner, tree, _ = start_owner(tmp_path, "fork")
    wait_for_word(owner, "forked")
    (child,) = [
        stat
        for stat in processes.descendants(processes.all_processes(), [owner.pid])
        if stat.session == os.getsid(owner.pid) and stat.parent == owner.pid
    ]
    try:
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait(timeout=DEADLINE)
        wait_until_gone(tree)
        assert processes.is_alive(child.identity)
    finally:
        processes.send_signal(child.identity, signal.SIGKILL)
        leave(owner)


def test_interrupt_during_a_start_leaves_nothing(tmp_path: Path) -> None:
    owner, tree, _ = start_owner(tmp_path, "hang")
    wait_for_tree(tree)
    owner.send_signal(signal.SIGINT)
    assert owner.wait(timeout=DEADLINE) != 0
    wait_until_gone(tree)
    leave(owner)


@LIMIT
def test_interrupt_at_any_moment_of_a_start_is_enough(tmp_path: Path) -> None:
    """The owner lives on after Ctrl-C, and has no engine any more."""
    rng = random.Random(None if LONG else 15)
    for _ in range(INTERRUPTS):
        owner, tree, port = start_owner(tmp_path, "interrupt")
        try:
            wait_for_word(owner, "starting")
            with contextlib.suppress(subprocess.TimeoutExpired):
                owner.wait(timeout=rng.uniform(0, 0.6))
            owner.send_signal(signal.SIGINT)
            wait_for_word(owner, "interrupted")
            wait_until_gone(tree)
            assert owner.poll() is None
            assert is_free(port)
        finally:
            leave(owner)


@pytest.mark.parametrize("backend", ["custom", "vllm", "sglang"])
def test_start_and_stop_import_nothing(tmp_path: Path, backend: str) -> None:
    """Python may lose a Ctrl-C that comes during an import."""
    python = str(fake_programs.install(tmp_path / "bin") / "python")
    code = """
        import sys
        from inference_server import CustomServer, create_server
        fake, backend, python, port, output = sys.argv[1:]
        arguments = {"port": int(port), "output_dir": output}
        if backend == "custom":
            server = CustomServer("m", [sys.executable, fake, "--port", port, "--model", "m"], **arguments)
        else:
            server = create_server(backend, "m", config={"binary_path": python}, **arguments)
        before = set(sys.modules)
        server.start()
        server.stop()
        print(sorted(set(sys.modules) - before))
    """
    words = [sys.executable, "-c", textwrap.dedent(code), str(FAKE), backend, python, str(free_port()), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.stdout == "[]\n", done.stdout + done.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_keeper_that_dies_first_leaves_nothing(make_server: Make, tmp_path: Path, number: int) -> None:
    tree = tmp_path / "tree"
    server = make_server(FAKE_TREE=str(tree))
    server.start()
    process = process_of(server)
    wait_for_tree(tree)
    assert len(process.members()) == TREE_SIZE
    os.kill(process.keeper_pid, number)
    wait_until_gone(tree)
    eventually(lambda: server.state == "dead", lambda: server.state)
    assert not server.is_running
    assert process.poll() == -signal.SIGKILL
    assert process.keeper_lost is (number == signal.SIGKILL)


def test_first_process_killed_takes_its_workers_along(make_server: Make, tmp_path: Path) -> None:
    """vLLM's EngineCore lives on without its API server (0.32.0); under a keeper it does not."""
    tree = tmp_path / "tree"
    server = make_server(FAKE_TREE=str(tree))
    server.start()
    os.kill(process_of(server).pid, signal.SIGKILL)
    wait_until_gone(tree)
    eventually(lambda: server.state == "dead", lambda: server.state)
    assert not server.is_running
    assert not server.check_health()
    server.start()
    assert server.is_running


@LIMIT
def test_starts_and_stops_leave_no_zombie(make_server: Make) -> None:
    server = make_server()
    before = {stat.identity for stat in processes.all_processes() if stat.parent == os.getpid()}
    for _ in range(STARTS):
        server.start()
        server.stop()
    children = [stat for stat in processes.all_processes() if stat.parent == os.getpid()]
    assert [stat for stat in children if stat.identity not in before and stat.name.startswith("python")] == []


def test_keeper_needs_little_memory_and_sleeps(make_server: Make) -> None:
    server = make_server()
    server.start()
    pid = process_of(server).keeper_pid
    status = Path(f"/proc/{pid}/status").read_text()
    assert int(status.split("VmRSS:")[1].split()[0]) < 12 * 1024
    # It waits without a limit: poll with a time-out would show one here.
    assert Path(f"/proc/{pid}/syscall").read_text().split()[3] in ("0xffffffff", "0xffffffffffffffff")


def test_command_that_cannot_be_run_says_why(make_server: Make, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/nonexistent/interpreter\n")
    broken.chmod(0o755)
    with pytest.raises(ServerStartupError, match=r"cannot run .*broken: .*No such file"):
        make_server(command=[str(broken)]).start()


def test_engine_sees_its_own_environment_and_directory(make_server: Make, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = (
        "import os,sys; open(sys.argv[1],'w').write(os.getcwd()+'|'+os.environ['A']+'|'+str(os.getsid(0)==os.getpid()))"
    )
    with pytest.raises(ServerStartupError, match="exit code 0"):
        make_server(command=[sys.executable, "-c", code, str(out)], A="é = 1").start()
    assert out.read_text() == f"{os.getcwd()}|é = 1|True"


def test_stop_in_the_middle_of_a_start_ends_it(make_server: Make, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    # An engine that needed SIGKILL would take as long as the test may at most.
    server = make_server(FAKE_TREE=str(tree), FAKE_HANG="1", stop_timeout=10 * DEADLINE)
    errors: list[BaseException] = []

    def start() -> None:
        try:
            server.start()
        except ServerStartupError as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    wait_for_tree(tree)
    server.stop()
    thread.join(DEADLINE)
    assert len(errors) == 1
    wait_until_gone(tree)
