"""Commands of the three profilers, on both engines."""

from __future__ import annotations

import pytest

from inference_server.errors import ProfileError
from inference_server.profiling import Arrangement, ProfileSettings, Window, arrange, programs, settings_of, window_of


def settings(tool: str, *args: str, **more: object) -> ProfileSettings:
    found = settings_of({"enabled": True, "tool": tool, "args": list(args), **more}, "/logs")
    assert found is not None
    return found


@pytest.mark.parametrize("profile", [None, {}, {"tool": "nsys"}, {"enabled": False, "tool": "unheard-of"}])
def test_profile_that_is_not_enabled_is_none(profile: object) -> None:
    assert settings_of(profile, "/logs") is None


@pytest.mark.parametrize(
    "profile",
    [
        *(
            "nsys",
            {"enabled": True, "tool": "perf"},
            {"enabled": True, "args": "--stats"},
            {"enabled": True, "args": 3},
        ),
        {"enabled": True, "record": "now"},
        {"enabled": True, "tool": "amd", "record": "windows"},
    ],
)
def test_wrong_profile_is_an_error(profile: object) -> None:
    with pytest.raises(ProfileError):
        settings_of(profile, "/logs")


def test_nsys_writes_to_the_default_folder() -> None:
    found = arrange(settings("nsys", "--trace=cuda,nvtx"), "vllm", "nsys", [], None)
    assert found.prefix == (
        *("nsys", "profile", "--trace=cuda,nvtx", "--output", "/logs/profiles/profile.nsys-rep"),
        *("--trace-fork-before-exec=true", "--kill=none", "--"),
    )
    assert (found.folder, found.suffix) == ("/logs/profiles", ".nsys-rep")
    assert found.wraps


@pytest.mark.parametrize(
    ("args", "folder"),
    [
        (("--output=mine",), "."),
        (("-o", "a/mine%n"), "a"),
        (("-omine",), "."),
        (("--output", "/a/%h/mine"), "/a"),
    ],
)
def test_output_of_the_caller_is_not_doubled(args: tuple[str, ...], folder: str) -> None:
    found = arrange(settings("nsys", *args), "sglang", "nsys", [], None)
    assert found.folder == folder
    assert found.prefix == ("nsys", "profile", *args, "--kill=none", "--")


def test_nsys_range_needs_a_profiler_in_vllm_only() -> None:
    args = ("-c", "cudaProfilerApi")
    assert arrange(settings("nsys", *args), "vllm", "nsys", [], None).arguments == (
        "--profiler-config.profiler",
        "cuda",
    )
    assert arrange(settings("nsys", *args), "vllm", "nsys", ["--profiler_config", "{}"], None).arguments == ()
    sglang = arrange(settings("nsys", *args), "sglang", "nsys", [], None)
    assert sglang.arguments == ()
    assert "--capture-range-end=repeat" in sglang.prefix


def test_nsys_session_divides_the_options_of_its_caller() -> None:
    args = ("--trace=cuda,nvtx", "-s", "none", "--gpu-metrics-devices=all", "-o", "a/mine.nsys-rep", "--kill", "none")
    found = arrange(settings("nsys", *args, record="windows"), "vllm", "nsys", [], None, "server-1")
    assert found == Arrangement(
        (
            *("nsys", "launch", "--session-new=server-1", "--trace=cuda,nvtx", "--trace-fork-before-exec=true"),
            *("--wait=all", "--"),
        ),
        wraps=True,
        session="server-1",
        start_words=("-s", "none", "--gpu-metrics-devices=all"),
        output="a/mine",
    )


def test_nsys_session_takes_no_capture_range() -> None:
    with pytest.raises(ProfileError, match="leave it out"):
        arrange(settings("nsys", "-c", "cudaProfilerApi", record="windows"), "vllm", "nsys", [], None)


def test_rocprofv3_has_a_trace_beside_its_statistics() -> None:
    found = arrange(settings("amd", "--stats"), "vllm", "rocprofv3", [], None)
    assert found.prefix == (
        *("rocprofv3", "--stats", "--kernel-trace", "-d", "/logs/profiles/%pid%", "-o", "profile"),
        *("--output-format", "csv", "--"),
    )
    assert found.folder == "/logs/profiles"


@pytest.mark.parametrize(
    ("option", "folder"), [("mine", "mine"), ("a/%pid%/b", "a"), ("%pid%", "."), ("/a%rank%", "/")]
)
def test_folder_of_rocprofv3_is_before_its_placeholders(option: str, folder: str) -> None:
    assert arrange(settings("amd", "-d", option), "vllm", "rocprofv3", [], None).folder == folder


def test_rocprof_has_its_own_option_and_no_dashes() -> None:
    found = arrange(settings("amd", "--stats"), "vllm", "/opt/rocm/bin/rocprof", [], None)
    assert found.prefix == ("/opt/rocm/bin/rocprof", "--stats", "-o", "/logs/profiles/profile.csv")


@pytest.mark.parametrize(
    ("engine", "version", "words", "expected"),
    [
        ("vllm", (0, 12), [], Arrangement((), (("VLLM_TORCH_PROFILER_DIR", "/logs/profiles"),))),
        ("vllm", None, [], Arrangement((), (("VLLM_TORCH_PROFILER_DIR", "/logs/profiles"),))),
        (
            "vllm",
            (0, 32, 0),
            [],
            Arrangement(
                arguments=(
                    *("--profiler-config.profiler", "torch"),
                    *("--profiler-config.torch_profiler_dir", "/logs/profiles"),
                )
            ),
        ),
        ("vllm", (0, 32, 0), ["--profiler-config", "{}"], Arrangement()),
        ("sglang", None, [], Arrangement((), (("SGLANG_TORCH_PROFILER_DIR", "/logs/profiles"),))),
        ("custom", None, [], Arrangement()),
    ],
)
def test_pytorch_profiler_by_engine_and_version(
    engine: str, version: tuple[int, ...] | None, words: list[str], expected: Arrangement
) -> None:
    assert arrange(settings("pytorch"), engine, "", words, version) == expected


def test_programs_are_those_of_the_tool() -> None:
    assert programs(settings("pytorch")) == ()
    assert programs(settings("nsys")) == ("nsys",)
    assert programs(settings("amd")) == ("rocprofv3", "rocprof")


TORCH = ["--profiler-config.torch_profiler_dir", "/mine"]


@pytest.mark.parametrize(
    ("tool", "engine", "words", "running", "expected"),
    [
        ("pytorch", "vllm", [], True, Window("routes", "pytorch", "/logs/profiles", {}, "_profile", 1, 30.0)),
        ("", "vllm", TORCH, True, Window("routes", "pytorch", "/mine", {}, "_profile", 1, 30.0)),
        (
            *("", "vllm", ["--profiler-config", '{"torch_profiler_dir": "/mine"}'], True),
            Window("routes", "pytorch", "/mine", {}, "_profile", 1, 30.0),
        ),
        (
            *("", "sglang", ["--tp", "4"], True),
            Window("routes", "pytorch", "/default", {"output_dir": "/default"}, "_profile", 4, 600.0),
        ),
        (
            *("pytorch", "sglang", [], True),
            Window("routes", "pytorch", "/logs/profiles", {"output_dir": "/logs/profiles"}, "_profile", 1, 600.0),
        ),
        ("nsys windows", "custom", [], True, Window("session", "nsys", "/logs/profiles")),
        ("nsys", "vllm", [], False, Window("run", "nsys", "/logs/profiles")),
        ("amd", "sglang", [], False, Window("run", "amd", "/logs/profiles")),
        ("nsys range", "vllm", [], False, Window("run", "nsys", "/logs/profiles", {}, "_profile")),
        (
            *("nsys range", "sglang", [], False),
            Window("run", "nsys", "/logs/profiles", {"activities": ["CUDA_PROFILER"]}, "_profile"),
        ),
        ("nsys", "vllm", [], True, "set profile.record to windows"),
        ("amd", "vllm", [], True, "enter server.profile\\(\\) before the start, or read"),
        ("", "vllm", [], True, "profile={'enabled': True, 'tool': 'pytorch'}"),
        ("", "vllm", ["--profiler-config", "{"], True, "vLLM has no profiler unless"),
        ("", "custom", [], True, "custom has no known routes"),
        ("pytorch", "custom", [], True, "use nsys with profile.record: windows, or amd"),
    ],
)
def test_window_by_tool_engine_and_state(
    tool: str, engine: str, words: list[str], running: bool, expected: Window | str
) -> None:
    name, _, how = tool.partition(" ")
    args = ("-c", "cudaProfilerApi") if how == "range" else ()
    wanted = settings(name, *args, **({"record": "windows"} if how == "windows" else {})) if name else None
    arrangement = arrange(wanted, engine, "nsys", words, None) if wanted is not None else Arrangement()
    if isinstance(expected, str):
        with pytest.raises(ProfileError, match=expected):
            window_of(wanted, arrangement, engine, words, "/default", "", running=running)
    else:
        assert window_of(wanted, arrangement, engine, words, "/default", "", running=running) == expected


def test_name_of_a_window_is_passed_to_the_engine() -> None:
    for engine in ("vllm", "sglang"):
        found = window_of(settings("pytorch"), Arrangement(), engine, [], "/default", "warm", running=True)
        assert found.body["profile_prefix"] == "warm"
    with pytest.raises(ProfileError, match="letters, digits"):
        window_of(settings("pytorch"), Arrangement(), "vllm", [], "/default", "../warm", running=True)
