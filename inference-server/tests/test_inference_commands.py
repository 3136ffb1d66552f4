"""The command as a person or a script uses it: what it prints, what it leaves, how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_programs
import pytest
import yaml
from fake_tree import FAKE, TREE_SIZE, alive, eventually, wait_for_tree, wait_until_gone
from test_inference_run_record import RECORD

from inference_server import CustomServer, exit_codes
from inference_server.command_line import CommandLineError
from inference_server.commands import NotRunningError, choose, main, owned_by_the_command
from inference_server.ports import free_port, is_free
from inference_server.processes import Identity
from inference_server.run_file import NAME, RunningServer, read_record
from inference_server.run_record import LIBRARY
from patio_testing.deadline import DEADLINE

Make = Callable[..., CustomServer]
CODE = """
import signal, sys
# A shell's background jobs ignore Ctrl-C, what nohup runs a hang-up, and so do the tests in one, and their children.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from inference_server.commands import main
sys.exit(main())
"""
COMMAND = [sys.executable, "-c", CODE]


class Terminal:
    """A folder in which the command is run, with a configuration of the fake engine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.tree = folder / "tree"

    def configure(self, **content: Any) -> None:
        """Write `server.yaml`."""
        whole = {
            "backend": "mine",
            "model": self.folder.name,
            "port": self.port,
            "launch_command": [sys.executable, str(FAKE), "--port", str(self.port), "--model", self.folder.name],
            **content,
        }
        (self.folder / "server.yaml").write_text(yaml.safe_dump(whole))

    def begin(self, *words: str, ignored: int = 0) -> subprocess.Popen[str]:
        """Run the command and leave it running, with a signal ignored that its parent ignores."""
        ignore = f"signal.signal({ignored}, signal.SIG_IGN)\nfrom inference" if ignored else "from inference"
        return subprocess.Popen(
            [*COMMAND[:2], CODE.replace("from inference", ignore, 1), *words],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the command to its end."""
        return subprocess.run(
            [*COMMAND, *words], cwd=self.folder, capture_output=True, text=True, timeout=DEADLINE, check=False
        )

    def end(self) -> None:
        """Leave nothing."""
        for path in self.folder.rglob(NAME):
            self.run("stop", str(path.parent), "--force")


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    terminal.configure()
    yield terminal
    terminal.end()


@contextlib.contextmanager
def running(terminal: Terminal, *words: str, ignored: int = 0) -> Iterator[subprocess.Popen[str]]:
    """Have the command run in the foreground, from when its servers serve."""
    process = terminal.begin("run", *words, ignored=ignored)
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        while words[-1] == "--json" and json.loads(first)["event"] != "ready":
            first = process.stdout.readline()
        assert first, process.communicate()
        yield process
    finally:
        process.kill()
        process.communicate()


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def record_of(terminal: Terminal, folder: str = "server_logs") -> Any:
    return read_record(terminal.folder / folder / NAME)


# In the foreground


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, exit_codes.OK), (signal.SIGINT, exit_codes.INTERRUPTED), (signal.SIGHUP, exit_codes.OK)],
)
def test_run_stops_in_order_when_it_is_signalled(terminal: Terminal, number: int, code: int) -> None:
    with running(terminal, "server.yaml") as process:
        process.send_signal(number)
        output, errors = process.communicate(timeout=DEADLINE)
        assert process.returncode == code, errors
    assert f"mine on port {terminal.port} stopped in" in output
    assert record_of(terminal).stop["exit_code"] == 0
    assert is_free(terminal.port)


def test_run_tells_scripts_what_happens(terminal: Terminal) -> None:
    with running(terminal, "server.yaml", "--json") as process:
        process.terminate()
        output, _ = process.communicate(timeout=DEADLINE)
    (stopped,) = events(output)
    assert stopped["event"] == "stopped"
    assert stopped["servers"][0]["signals"] == [["leader", 15]]
    assert stopped["servers"][0]["survivors"] == []


def test_second_signal_kills(terminal: Terminal) -> None:
    terminal.configure(env_vars={"FAKE_STUBBORN": "1", "FAKE_TREE": str(terminal.tree)})
    with running(terminal, "server.yaml", "--verbose") as process:
        process.terminate()
        assert process.stderr is not None
        for line in process.stderr:
            if "stop: leader gets signal" in line:
                break
        process.terminate()
        _, errors = process.communicate(timeout=DEADLINE)
        assert process.returncode == exit_codes.OK, errors
    wait_until_gone(terminal.tree)


def test_signal_during_the_start_leaves_nothing(terminal: Terminal) -> None:
    terminal.configure(env_vars={"FAKE_HANG": "1", "FAKE_TREE": str(terminal.tree)})
    process = terminal.begin("run", "server.yaml")
    wait_for_tree(terminal.tree)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == exit_codes.INTERRUPTED, errors
    assert "Traceback" not in errors
    wait_until_gone(terminal.tree)


def test_killed_command_leaves_nothing(terminal: Terminal) -> None:
    terminal.configure(env_vars={"FAKE_TREE": str(terminal.tree)})
    with running(terminal, "server.yaml") as process:
        assert len(alive(terminal.tree)) == TREE_SIZE
        process.kill()
        process.communicate(timeout=DEADLINE)
        wait_until_gone(terminal.tree)


def test_run_ends_with_its_server(terminal: Terminal) -> None:
    with running(terminal, "server.yaml") as process:
        os.kill(record_of(terminal).engine.pid, signal.SIGSEGV)
        _, errors = process.communicate(timeout=DEADLINE)
        assert process.returncode == exit_codes.ENDED
    assert "the server ended with code -11" in errors


def test_failed_start_has_the_code_of_its_cause(terminal: Terminal) -> None:
    log = terminal.folder / "words"
    log.write_text("torch.OutOfMemoryError: CUDA out of memory")
    terminal.configure(env_vars={"FAKE_LOG": str(log), "FAKE_EXIT": "1"})
    done = terminal.run("run", "server.yaml")
    assert done.returncode == exit_codes.MEMORY
    assert done.stdout == ""
    assert "inference-server: error: Failed to start server: it ended with exit code 1 (gpu-memory)" in done.stderr
    assert "Hint: the model does not fit" in done.stderr
    (error,) = [event for event in events(terminal.run("run", "server.yaml", "--json").stdout) if "cause" in event]
    assert (error["cause"], error["code"], error["exit_code"]) == ("gpu-memory", exit_codes.MEMORY, 1)


def test_variables_of_the_command_line_reach_the_engine(terminal: Terminal) -> None:
    arguments = terminal.folder / "arguments"
    words = ["server.yaml", "--env", f"FAKE_ARGUMENTS={arguments}", "--env", "HF_TOKEN=hf_of_a_test"]
    process = terminal.begin("run", *words, "--", "--max-model-len", "8")
    eventually(lambda: getattr(record_of(terminal), "state", "") == "ready", lambda: record_of(terminal))
    assert json.loads(arguments.read_text())[-2:] == ["--max-model-len", "8"]
    assert record_of(terminal).environment["HF_TOKEN"] == "***"
    process.terminate()
    assert "hf_of_a_test" not in "".join(process.communicate(timeout=DEADLINE))


def test_fleet_lives_on_without_a_server_and_says_so(terminal: Terminal) -> None:
    ports = [free_port(), free_port()]
    servers = [
        {
            "port": port,
            "launch_command": [sys.executable, str(FAKE), "--model", "m", "--port", str(port)],
        }
        for port in ports
    ]
    terminal.configure(servers=servers, launch_command=None)
    with running(terminal, "server.yaml", "--json") as process:
        os.kill(record_of(terminal, "server_logs/0").engine.pid, signal.SIGKILL)
        assert process.stdout is not None
        ended = json.loads(process.stdout.readline())
        assert (ended["event"], ended["server"]) == ("ended", f"server 0 (mine on port {ports[0]})")
        assert record_of(terminal, "server_logs/1").state == "ready"
        process.terminate()
        output, errors = process.communicate(timeout=DEADLINE)
        # Another hand's SIGKILL is most often want of memory.
        assert process.returncode == exit_codes.MEMORY
    assert "1 of 2 serve" in errors
    assert [event["event"] for event in events(output)] == ["stopped"]


def test_server_that_is_started_again_keeps_the_command(terminal: Terminal) -> None:
    terminal.configure(restart="on-failure")
    with running(terminal, "server.yaml", "--json") as process:
        os.kill(record_of(terminal).engine.pid, signal.SIGKILL)
        assert process.stdout is not None
        ended = json.loads(process.stdout.readline())
        assert (ended["event"], ended["restarts"]) == ("ended", True)
        following = [json.loads(process.stdout.readline())]
        while following[-1]["event"] == "phase":
            following.append(json.loads(process.stdout.readline()))
        assert following[-1]["event"] == "ready"
        assert record_of(terminal).state == "ready"
        process.terminate()
        output, _ = process.communicate(timeout=DEADLINE)
        assert process.returncode == exit_codes.OK
    assert [event["event"] for event in events(output)] == ["stopped"]


# Check


def test_check_shows_the_command_and_passes(terminal: Terminal) -> None:
    done = terminal.run("check", "server.yaml", "--env", "MY_TOKEN=secret")
    assert done.returncode == exit_codes.OK, done.stderr
    assert f"fake_engine.py --port {terminal.port} --model {terminal.folder.name}" in done.stdout
    assert "variable: MY_TOKEN=***" in done.stdout
    assert f"ok       port: {terminal.port} is free" in done.stdout
    assert record_of(terminal) is None


def test_check_ends_with_the_code_of_the_first_problem(terminal: Terminal) -> None:
    terminal.configure(launch_command=["no-such-program"])
    done = terminal.run("check", "server.yaml", "--json")
    assert done.returncode == exit_codes.WRONG_INPUT
    (report,) = json.loads(done.stdout)
    assert not report["passed"]
    assert [item["cause"] for item in report["checks"] if item["level"] == "problem"] == ["command-not-found"]


# In the background


def test_server_in_the_background_is_listed_and_stopped(terminal: Terminal) -> None:
    terminal.configure(env_vars={"FAKE_TREE": str(terminal.tree)})
    started = terminal.run("start", "server.yaml")
    assert started.returncode == exit_codes.OK, started.stderr
    assert f"serves {terminal.folder.name}: http://localhost:{terminal.port}" in started.stdout
    assert "it runs in the background" in started.stderr
    assert len(alive(terminal.tree)) == TREE_SIZE

    listed = json.loads(terminal.run("ps", "--json").stdout)
    (listing,) = [server for server in listed if server.get("model") == terminal.folder.name]
    assert (listing["port"], listing["state"], listing["owned_by"]) == (terminal.port, "ready", "command")
    row = next(line for line in terminal.run("ps").stdout.splitlines() if terminal.folder.name in line)
    assert row.startswith(f"{terminal.port} ")

    urls = json.loads(terminal.run("endpoints", str(terminal.port), "--json").stdout)
    assert urls["score"] == f"http://localhost:{terminal.port}/v1/score"
    assert "health" in terminal.run("endpoints", terminal.folder.name).stdout

    stopped = terminal.run("stop", str(terminal.port))
    assert stopped.returncode == exit_codes.OK, stopped.stderr
    assert "stopped in" in stopped.stdout
    assert alive(terminal.tree) == []
    assert is_free(terminal.port)
    assert terminal.run("stop", str(terminal.port)).returncode == exit_codes.NOT_FOUND
    assert terminal.run("start", "server.yaml").returncode == exit_codes.OK


def test_owner_in_the_background_that_is_killed_leaves_nothing(terminal: Terminal) -> None:
    terminal.configure(env_vars={"FAKE_TREE": str(terminal.tree)})
    assert terminal.run("start", "server.yaml").returncode == exit_codes.OK
    os.kill(record_of(terminal).owner.pid, signal.SIGKILL)
    wait_until_gone(terminal.tree)
    # What was written last is `ready`; the keeper is gone, so nothing runs.
    assert terminal.run("stop", str(terminal.port)).returncode == exit_codes.NOT_FOUND
    assert terminal.run("logs", "server_logs", "-f").returncode == exit_codes.OK


def test_fleet_in_the_background_stops_as_a_whole(terminal: Terminal) -> None:
    ports = [free_port(), free_port()]
    servers = [
        {"port": port, "launch_command": [sys.executable, str(FAKE), "--model", "m", "--port", str(port)]}
        for port in ports
    ]
    terminal.configure(servers=servers, launch_command=None)
    assert terminal.run("start", "server.yaml").returncode == exit_codes.OK
    done = terminal.run("stop", str(ports[0]), "--json")
    assert done.returncode == exit_codes.OK
    assert f"stops too, with the same owner: port {ports[1]}" in done.stderr
    (stopped,) = events(done.stdout)
    assert {server["name"] for server in stopped["servers"]} == {f"mine on port {port}" for port in ports}
    assert all(is_free(port) for port in ports)


def test_server_of_another_program_is_left_to_it(make_server: Make, terminal: Terminal) -> None:
    server = make_server()
    server.start()
    done = terminal.run("stop", str(server.port))
    assert done.returncode == exit_codes.WRONG_INPUT
    assert re.search(rf"belongs to another program \(.+, pid {os.getpid()}\)", done.stderr)
    assert server.is_running
    done = terminal.run("stop", str(server.port), "--force")
    assert done.returncode == exit_codes.OK, done.stderr
    eventually(lambda: server.state == "dead", lambda: server.state)


def running_server(number: int, **changes: Any) -> RunningServer:
    keeper = Identity(100 + number, 1)
    record = replace(RECORD, port=8000 + number, keeper=keeper, model=f"m{number}", **changes)
    return RunningServer(keeper, record.owner.pid, Path(f"/logs/{number}/run.json"), record)


def test_servers_are_named_by_port_pid_model_or_directory() -> None:
    servers = [running_server(1, engine=Identity(77, 1)), running_server(2, owner=Identity(5, 1))]
    for word in ("8001", "101", "77", "m1", "/logs/1", "/logs/../logs/1/"):
        assert choose(word, servers) is servers[0], word
    assert choose("5", servers) is servers[1]
    assert choose(None, servers[1:]) is servers[1]
    with pytest.raises(NotRunningError, match="'8003'"):
        choose("8003", servers)
    with pytest.raises(CommandLineError, match=r"say which, by its port \(8001, 8002\)"):
        choose(None, servers)
    with pytest.raises(CommandLineError, match="several servers run"):
        choose(RECORD.url, servers)


def test_server_without_a_record_is_named_by_pid_or_directory() -> None:
    server = RunningServer(Identity(9, 1), 8, Path("/logs/x/run.json"), None)
    for word in ("9", "8", "/logs/x"):
        assert choose(word, [server]) is server, word


def test_everything_is_what_the_command_started() -> None:
    servers = [running_server(1), running_server(2, owned_by=LIBRARY), replace(running_server(3), record=None)]
    assert owned_by_the_command(servers) == servers[:1]


def test_logs_show_the_last_lines_and_follow_to_the_end(terminal: Terminal) -> None:
    words = terminal.folder / "words"
    words.write_text("\n".join(f"line {number}" for number in range(100)))
    terminal.configure(env_vars={"FAKE_LOG": str(words)})
    assert terminal.run("start", "server.yaml").returncode == exit_codes.OK
    done = terminal.run("logs", str(terminal.port), "-n", "2")
    assert "line 99\nINFO:     Application startup complete." in done.stdout
    assert "line 98" not in done.stdout
    follower = terminal.begin("logs", "server_logs", "--follow", "--lines", "0")
    assert terminal.run("stop", "server_logs").returncode == exit_codes.OK
    output, errors = follower.communicate(timeout=DEADLINE)
    assert follower.returncode == exit_codes.OK, errors
    assert "line 0" not in output
    after = terminal.run("logs", "server_logs", "-n", "1", "--json")
    assert events(after.stdout)[-1]["lines"] == ["INFO:     Application startup complete."]


def test_failed_start_in_the_background_says_why(terminal: Terminal) -> None:
    terminal.configure(env_vars={"FAKE_EXIT": "3", "FAKE_TREE": str(terminal.tree)})
    done = terminal.run("start", "server.yaml")
    assert done.returncode == exit_codes.FAILED
    assert "it ended with exit code 3" in done.stderr
    assert terminal.run("stop", "server_logs").returncode == exit_codes.NOT_FOUND


def test_interrupted_start_in_the_background_leaves_nothing(terminal: Terminal) -> None:
    terminal.configure(env_vars={"FAKE_HANG": "1", "FAKE_TREE": str(terminal.tree)})
    process = terminal.begin("start", "server.yaml")
    wait_for_tree(terminal.tree)
    owner = record_of(terminal).owner
    process.kill()  # not even Ctrl-C: the command has no chance to tidy up
    process.communicate(timeout=DEADLINE)
    wait_until_gone(terminal.tree)
    eventually(lambda: not os.path.exists(f"/proc/{owner.pid}/exe"), lambda: owner)


def test_start_without_waiting_goes_on_by_itself(terminal: Terminal) -> None:
    done = terminal.run("start", "server.yaml", "--no-wait", "--json")
    assert done.returncode == exit_codes.OK, done.stderr
    assert [event["event"] for event in events(done.stdout)] == ["starting"]
    eventually(lambda: getattr(record_of(terminal), "state", "") == "ready", lambda: record_of(terminal))
    assert terminal.run("stop", "server_logs").returncode == exit_codes.OK


def test_secrets_are_in_no_command_line_and_in_no_file(terminal: Terminal) -> None:
    terminal.configure(env_vars={"HF_TOKEN": "hf_in_the_file"})
    assert terminal.run("start", "server.yaml").returncode == exit_codes.OK
    record = record_of(terminal)
    for pid in (record.owner.pid, record.keeper.pid, record.engine.pid):
        assert b"hf_in_the_file" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    for path in (terminal.folder / "server_logs").iterdir():
        assert "hf_in_the_file" not in path.read_text(), path


# Profiles


@pytest.fixture
def sglang(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A configuration of a fake SGLang, which records without a profiler in its configuration."""
    folder = fake_programs.install(terminal.folder / "bin")
    monkeypatch.setenv("PATH", fake_programs.path_with(folder))
    terminal.configure(backend="sglang", launch_command=None, env_vars={"FAKE_TREE": str(terminal.tree)})
    return terminal


def test_profile_prints_the_files_that_it_left(sglang: Terminal) -> None:
    done = sglang.run("profile", "server.yaml", "--seconds", "0.1", "--name", "short")
    assert done.returncode == exit_codes.OK, done.stderr
    files = done.stdout.split()
    assert files
    assert all(Path(file).stat().st_size > 0 for file in files)
    assert "recording http://localhost" in done.stderr
    wait_until_gone(sglang.tree)


def test_signal_ends_a_recording_and_keeps_its_files(sglang: Terminal) -> None:
    process = sglang.begin("profile", "server.yaml", "--seconds", "3600", "--json")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["event"] == "recording"
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == exit_codes.INTERRUPTED, errors
    (event,) = events(output)
    assert event["event"] == "profile"
    assert event["files"]
    wait_until_gone(sglang.tree)


def test_profile_that_cannot_be_recorded_says_why(terminal: Terminal) -> None:
    done = terminal.run("profile", "server.yaml")
    assert done.returncode == exit_codes.WRONG_INPUT
    assert done.stderr.startswith("inference-server: error: ")
    assert "Traceback" not in done.stderr
    assert record_of(terminal) is None


# Wrong input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run"], "say which model"),
        (["run", "missing.yaml"], "Configuration file not found: missing.yaml"),
        (["start", "broken.yaml"], "broken.yaml is not YAML"),
        (["start", "list.yaml"], "must be a mapping of keys to values"),
        (["check", "server.yaml", "--backend", "tgi", "--set", "launch_command=null"], "Unsupported backend: tgi"),
        (["run", "server.yaml", "--set", "startup_timeout=soon"], "'startup_timeout' must be seconds, not 'soon'"),
        (["start", "server.yaml", "--set", "port=70000"], "'port' must be a whole number, not 70000"),
        (["start", "server.yaml", "--output-dir", "/proc/no"], "/proc/no"),
        (["run", "server.yaml", "--set", "minimum=2"], "'minimum' is 2, of 1 servers"),
        (["stop", "1", "--all"], "give a server or --all, not both"),
    ],
)
def test_wrong_input_is_one_message_and_code_two(
    terminal: Terminal,
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (terminal.folder / "broken.yaml").write_text("a: [")
    (terminal.folder / "list.yaml").write_text("[1]")
    monkeypatch.chdir(terminal.folder)
    assert main(words) == exit_codes.WRONG_INPUT
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("inference-server: error: ")
    assert message in errors
    assert main([*words, "--json"]) == exit_codes.WRONG_INPUT
    (error,) = events(capsys.readouterr().out)
    assert (error["event"], error["code"]) == ("error", exit_codes.WRONG_INPUT)


@pytest.mark.parametrize("command", ["stop", "logs", "endpoints"])
def test_server_that_does_not_run_is_not_found(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "no-such-server"]) == exit_codes.NOT_FOUND
    assert "no server of this user runs that 'no-such-server' means" in capsys.readouterr().err


def test_signal_that_was_ignored_stays_ignored(terminal: Terminal) -> None:
    with running(terminal, "server.yaml", ignored=signal.SIGHUP) as process:
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=DEADLINE)
        assert process.returncode == exit_codes.OK
    # Two signals would have killed the engine.
    assert f"mine on port {terminal.port} stopped in" in output
    assert record_of(terminal).stop["signals"] == [["leader", 15]]


def test_module_is_the_command_too(capfd: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "inference_server", "--help"], timeout=DEADLINE, check=False)
    assert done.returncode == exit_codes.OK
    assert capfd.readouterr().out.startswith("usage: inference-server ")


def test_reader_that_has_enough_is_no_error(terminal: Terminal) -> None:
    done = subprocess.run(
        ["bash", "-c", '"$@" | true; exit ${PIPESTATUS[0]}', "-", *COMMAND, "ps"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == exit_codes.OK
    assert done.stderr == ""
