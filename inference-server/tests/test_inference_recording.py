"""Windows of a server's life and whole lives, recorded by fake profilers and a fake engine that write files."""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fake_programs
import pytest

from inference_server import (
    CustomServer,
    InferenceServer,
    ProfileError,
    SGLangServer,
    VLLMServer,
)
from inference_server.recording import changed, files_in, is_complete, open_files

Make = Callable[..., InferenceServer]
PYTORCH = {"enabled": True, "tool": "pytorch"}


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setenv("PATH", fake_programs.path_with(fake_programs.install(tmp_path / "bin")))

    def make(kind: type[InferenceServer], **arguments: Any) -> InferenceServer:
        return kind("tiny", output_dir=tmp_path / "logs", port=0, **arguments)

    return make


def names(files: tuple[Path, ...], folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in files]


# Files


def test_changed_files_are_those_that_are_new_or_were_written(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("x")
    (tmp_path / "grown").write_text("x")
    before = files_in(str(tmp_path))
    (tmp_path / "grown").write_text("xy")
    (tmp_path / "below").mkdir()
    (tmp_path / "below/new.csv").write_text("xyz")
    now = files_in(str(tmp_path))
    assert changed(before, now) == {str(tmp_path / "grown"): 2, str(tmp_path / "below/new.csv"): 3}
    assert changed(before, now, ".csv") == {str(tmp_path / "below/new.csv"): 3}
    assert files_in(str(tmp_path / "none")) == {}


def test_files_are_complete_when_enough_are_written_and_closed() -> None:
    assert is_complete({"a": 1, "empty": 0}, 1, frozenset({"elsewhere"}))
    assert not is_complete({"a": 1, "empty": 0}, 2, frozenset())
    assert not is_complete({"a": 1, "b": 1}, 1, frozenset({"b"}))


def test_open_files_are_seen(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w"):
        assert str(tmp_path / "file") in open_files([os.getpid()])
    assert str(tmp_path / "file") not in open_files([os.getpid(), 2**30])


# The PyTorch profiler


def test_window_of_vllm_leaves_a_trace(make: Make, tmp_path: Path) -> None:
    with make(VLLMServer, profile=PYTORCH) as server:
        for name in ("first", "second"):
            with server.profile(name) as profile:
                assert profile.files == ()
            assert names(profile.files, tmp_path / "logs/profiles") == [f"{name}-rank0.pt.trace.json.gz"]
            assert profile.files[0].read_text() == "half trace"
            assert profile.seconds > 0


def test_window_of_sglang_waits_for_what_is_written_later(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trace is begun after a look that found none, and ended after one that found it half written."""
    gates = tmp_path / "gates"
    gates.mkdir()

    def looked(pids: Sequence[int]) -> frozenset[str]:
        found = open_files(pids)
        (gates / ("end" if any(path.endswith(".trace.json.gz") for path in found) else "begin")).touch()
        return found

    monkeypatch.setattr("inference_server.recording.open_files", looked)
    with make(SGLangServer, env_vars={"FAKE_GATES": str(gates)}) as server, server.profile() as profile:
        pass
    assert {gate.name for gate in gates.iterdir()} == {"begin", "end"}
    assert names(profile.files, tmp_path / "logs/profiles") == ["trace-rank0.pt.trace.json.gz"]
    assert profile.files[0].read_text() == "half trace"


@pytest.mark.parametrize(
    ("kind", "behaviour", "expected"),
    [
        (VLLMServer, "none", "/start_profile: the engine has no profiler"),
        (VLLMServer, "silent", "left no file in"),
        (VLLMServer, "empty", "left only empty files in"),
        (SGLangServer, "silent", "left no file in"),
    ],
)
def test_profile_without_a_file_is_an_error(
    make: Make, monkeypatch: pytest.MonkeyPatch, kind: type[InferenceServer], behaviour: str, expected: str
) -> None:
    monkeypatch.setattr("inference_server.profiling.VLLM_FILE_SECONDS", 0.2)
    server = make(kind, env_vars={"FAKE_PROFILER": behaviour}, profile={**PYTORCH, "stop_timeout": 1})
    with server, pytest.raises(ProfileError, match=expected), server.profile():
        pass


def test_engine_that_was_started_without_a_profiler_is_told(make: Make) -> None:
    server = make(VLLMServer)
    with pytest.raises(ProfileError, match="vLLM has no profiler unless it is started with it"), server.profile():
        pass
    assert server.process is None, "no engine is started in vain"


def test_second_window_within_the_first_is_an_error(make: Make) -> None:
    with make(VLLMServer, profile=PYTORCH) as server, server.profile() as profile:
        second = server.profile()
        with pytest.raises(ProfileError, match="a profile is being recorded already"):
            second.__enter__()
    assert len(profile.files) == 1


def test_error_in_the_block_is_the_one_that_is_raised(make: Make) -> None:
    with make(VLLMServer, profile=PYTORCH, env_vars={"FAKE_PROFILER": ""}) as server:
        with pytest.raises(ZeroDivisionError), server.profile() as profile:
            raise ZeroDivisionError
        assert len(profile.files) == 1, "the engine does not go on recording"
        with server.profile("again") as profile:
            pass
        assert len(profile.files) == 1


def test_stop_within_a_window_ends_it_first(make: Make) -> None:
    server = make(VLLMServer, profile=PYTORCH)
    server.start()
    with server.profile() as profile:
        thread = threading.Thread(target=server.stop)
        thread.start()
        thread.join()
    assert len(profile.files) == 1


def test_engine_that_ends_within_a_window_is_told(make: Make) -> None:
    server = make(SGLangServer)
    server.start()
    with pytest.raises(ProfileError, match="/stop_profile: the engine has ended"), server.profile():
        server.kill()


def test_whole_life_is_traced_if_that_is_wanted(make: Make, tmp_path: Path) -> None:
    server = make(VLLMServer, profile={**PYTORCH, "record": "run"})
    with server:
        with pytest.raises(ProfileError, match="whole life is being recorded"), server.profile():
            pass
        assert server.profile_files == ()
    assert names(server.profile_files, tmp_path / "logs/profiles") == ["trace-rank0.pt.trace.json.gz"]


def test_profiler_that_was_never_used_is_mentioned(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), make(VLLMServer, profile=PYTORCH):
        pass
    assert "no profile was recorded: enter `with server.profile()`" in caplog.text


# nsys and AMD's profiler


@pytest.mark.parametrize("kind", [VLLMServer, SGLangServer])
def test_session_of_nsys_records_windows(make: Make, tmp_path: Path, kind: type[InferenceServer]) -> None:
    profile_settings = {"enabled": True, "tool": "nsys", "record": "windows", "args": ["--trace=cuda", "-s", "none"]}
    with make(kind, profile=profile_settings) as server:
        for expected in ("profile.nsys-rep", "profile-2.nsys-rep"):
            with server.profile() as profile:
                pass
            assert names(profile.files, tmp_path / "logs/profiles") == [expected]
        assert server.probe()
    commands = (tmp_path / "bin/nsys-arguments").read_text().splitlines()
    session = re.findall(r"--session-new=(\S+)", commands[0])[0]
    assert commands[0].startswith(f"launch --session-new={session} --trace=cuda")
    assert re.fullmatch(rf"start --session={session} --output=\S+/profile.nsys-rep -s none", commands[1])
    assert commands[2] == f"stop --session={session}"


def test_session_of_nsys_without_a_report_is_an_error(make: Make, tmp_path: Path) -> None:
    (tmp_path / "bin/nsys-writes-nothing").touch()
    server = make(VLLMServer, profile={"enabled": True, "tool": "nsys", "record": "windows"})
    with server, pytest.raises(ProfileError, match=r"(?s)nsys left no file .*Generating the report"), server.profile():
        pass


@pytest.mark.parametrize("kind", [VLLMServer, SGLangServer])
@pytest.mark.parametrize(
    ("tool", "args", "expected"),
    [
        ("nsys", [], r"profile\.nsys-rep"),
        ("nsys", ["-c", "cudaProfilerApi"], r"profile\.1\.nsys-rep"),
        ("amd", ["--stats"], r"\d+/profile_kernel_stats\.csv"),
    ],
)
def test_server_is_started_for_what_is_written_at_its_end(
    make: Make, tmp_path: Path, kind: type[InferenceServer], tool: str, args: list[str], expected: str
) -> None:
    server = make(kind, profile={"enabled": True, "tool": tool, "args": args})
    with server.profile() as profile:
        assert server.is_running
        with pytest.raises(ProfileError), server.profile():
            pass
    assert not server.is_running
    assert [bool(re.fullmatch(expected, name)) for name in names(profile.files, tmp_path / "logs/profiles")] == [True]
    assert server.profile_files == profile.files


def test_whole_life_without_a_file_is_an_error_after_the_stop(make: Make, tmp_path: Path) -> None:
    (tmp_path / "bin/nsys-writes-nothing").touch()
    server = make(VLLMServer, profile={"enabled": True, "tool": "nsys"})
    server.start()
    with pytest.raises(ProfileError, match=r"(?s)left no file in .*ended with code .*Application startup complete"):
        server.stop()
    assert server.state == "stopped"
    with pytest.raises(ZeroDivisionError), server:
        raise ZeroDivisionError


def test_killed_server_is_not_asked_for_its_profile(make: Make) -> None:
    server = make(VLLMServer, profile={"enabled": True, "tool": "nsys"})
    server.start()
    server.kill()
    assert server.profile_files == ()


def test_profiler_that_writes_too_long_is_told(make: Make, tmp_path: Path) -> None:
    script = (tmp_path / "bin/nsys").read_text().replace('write "$report"', "trap '' TERM; sleep 600")
    (tmp_path / "bin/nsys").write_text(script)
    server = make(VLLMServer, stop_timeout=0.5, profile={"enabled": True, "tool": "nsys", "stop_timeout": 1})
    server.start()
    with pytest.raises(ProfileError, match=r"killed after \d+ s: raise profile\.stop_timeout"):
        server.stop()
    report = server.stop_report
    assert report is not None
    assert ("kill", signal.SIGKILL) in report.signals


def test_custom_server_has_nsys_only(make: Make, tmp_path: Path) -> None:
    fake = str(tmp_path / "bin/my-backend-binary")
    server = CustomServer("m", [fake, "--port", "0"], output_dir=tmp_path / "logs")
    with pytest.raises(ProfileError, match="custom has no known routes"), server.profile():
        pass
