"""Commands of the three profilers, on both engines."""

from __future__ import annotations

import pytest

from inference_server.errors import ProfileError
from inference_server.profiling import Arrangement, ProfileSettings, arrange, programs, settings_of


def settings(tool: str, *args: str) -> ProfileSettings:
    found = settings_of({"enabled": True, "tool": tool, "args": list(args)}, "/logs")
    assert found is not None
    return found


@pytest.mark.parametrize("profile", [None, {}, {"tool": "nsys"}, {"enabled": False, "tool": "unheard-of"}])
def test_profile_that_is_not_enabled_is_none(profile: object) -> None:
    assert settings_of(profile, "/logs") is None


@pytest.mark.parametrize(
    "profile",
    ["nsys", {"enabled": True, "tool": "perf"}, {"enabled": True, "args": "--stats"}, {"enabled": True, "args": 3}],
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
    assert found.report == "/logs/profiles/profile.nsys-rep"
    assert found.wraps


@pytest.mark.parametrize("args", [("--output=mine",), ("-o", "mine"), ("-omine",), ("--output", "mine")])
def test_output_of_the_caller_is_not_doubled(args: tuple[str, ...]) -> None:
    found = arrange(settings("nsys", *args), "sglang", "nsys", [], None)
    assert found.report == "mine"
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


def test_rocprofv3_has_a_trace_beside_its_statistics() -> None:
    found = arrange(settings("amd", "--stats"), "vllm", "rocprofv3", [], None)
    assert found.prefix == (
        *("rocprofv3", "--stats", "--kernel-trace", "-d", "/logs/profiles/%pid%", "-o", "profile"),
        *("--output-format", "csv", "--"),
    )


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
