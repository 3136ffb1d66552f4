"""Decides how a profiler is put around an engine: words before the command, variables, further arguments. Pure.

`server` asks `arrange` before a start and creates the directory. nsys and rocprof wrap the engine's command; the
PyTorch profiler is inside the engine, which has to be told where to write.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import Any, Mapping, Sequence

from inference_server.arguments import values_of
from inference_server.errors import ProfileError

TOOLS = ("nsys", "pytorch", "amd")
ROCPROF = ("rocprofv3", "rocprof")
"""AMD's profilers, the best first. The second one has reached its end of support."""

TRACES = ("--kernel-trace", "--hip-trace", "--runtime-trace", "--sys-trace", "--hsa-trace", "--memory-copy-trace")


@dataclass(frozen=True)
class ProfileSettings:
    """What a caller wants to be profiled with."""

    tool: str
    output_dir: str
    """Absolute: the engine may have another working directory than the caller."""
    args: tuple[str, ...] = ()
    binary_path: str | None = None
    stop_timeout: float = 600.0
    """Seconds that the profiler has to write its file after the engine ended: minutes for several GB."""


@dataclass(frozen=True)
class Arrangement:
    """How to launch an engine under a profiler."""

    prefix: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    arguments: tuple[str, ...] = ()
    wraps: bool = False
    """Whether the profiler is the leader and the engine its child."""
    report: str | None = None
    """The file that is to be there in the end, or None where the tool makes names of its own."""


def settings_of(profile: Any, output_dir: str) -> ProfileSettings | None:
    """Read the `profile` part of a configuration; None if there is none or it is not enabled.

    Raises:
        ProfileError: it is not a mapping, or names a tool that is not known.
    """
    if not profile:
        return None
    if not isinstance(profile, Mapping):
        raise ProfileError("`profile` must be a mapping, not %r" % (profile,))
    if not profile.get("enabled", False):
        return None
    tool = str(profile.get("tool", "nsys")).lower()
    tool = {"torch": "pytorch", "rocprof": "amd", "rocprofv3": "amd", "nsight": "nsys"}.get(tool, tool)
    if tool not in TOOLS:
        raise ProfileError("unknown profiler %r: use %s" % (profile.get("tool"), ", ".join(TOOLS)))
    args = profile.get("args") or ()
    if isinstance(args, str) or not isinstance(args, Sequence):
        raise ProfileError("`profile.args` must be a list of words, not %r" % (args,))
    return ProfileSettings(
        tool=tool,
        output_dir=str(profile.get("output_dir") or posixpath.join(output_dir, "profiles")),
        args=tuple(str(word) for word in args),
        binary_path=profile.get("binary_path"),
        stop_timeout=float(profile.get("stop_timeout", 600.0)),
    )


def programs(settings: ProfileSettings) -> tuple[str, ...]:
    """Return the programs that can do it, the best first; one of them must be on PATH. Empty: none is needed."""
    if settings.tool == "pytorch":
        return ()
    if settings.binary_path:
        return (settings.binary_path,)
    return ROCPROF if settings.tool == "amd" else ("nsys",)


def arrange(
    settings: ProfileSettings, engine: str, program: str, words: Sequence[str], version: tuple[int, ...] | None
) -> Arrangement:
    """Return how to launch an engine under a profiler.

    Args:
        engine: name of the backend.
        program: the one of `programs` that is there.
        words: the engine's arguments, so that nothing is given twice.
        version: the engine's, where it is known.
    """
    if settings.tool == "nsys":
        return _nsys(settings, engine, program, words)
    if settings.tool == "amd":
        return _amd(settings, program)
    return _pytorch(settings, engine, words, version)


def _nsys(settings: ProfileSettings, engine: str, program: str, words: Sequence[str]) -> Arrangement:
    args = list(settings.args)
    report = _option_value(args, "-o", "--output")
    if report is None:
        report = posixpath.join(settings.output_dir, "profile.nsys-rep")
        args += ["--output", report]
    # vLLM forks its EngineCore and workers: without this option nsys does not see them.
    if engine == "vllm" and _option_value(args, "--trace-fork-before-exec") is None:
        args.append("--trace-fork-before-exec=true")
    # nsys must not kill the engine when a collection ends, and must wait for it to leave.
    if _option_value(args, "--kill") is None:
        args.append("--kill=none")
    further: list[str] = []
    if _option_value(args, "-c", "--capture-range") is not None:
        if _option_value(args, "--capture-range-end") is None:
            args.append("--capture-range-end=repeat")
        if engine == "vllm" and not _has_profiler(words):
            further = ["--profiler-config.profiler", "cuda"]
    return Arrangement((program, "profile", *args, "--"), (), tuple(further), wraps=True, report=report)


def _amd(settings: ProfileSettings, program: str) -> Arrangement:
    args = list(settings.args)
    if posixpath.basename(program) == "rocprof":
        report = _option_value(args, "-o")
        if report is None:
            report = posixpath.join(settings.output_dir, "profile.csv")
            args += ["-o", report]
        return Arrangement((program, *args), wraps=True, report=report)
    if "--stats" in args and not any(trace in args for trace in TRACES):
        args.append("--kernel-trace")  # rocprofv3 makes statistics of a trace only
    if _option_value(args, "-d", "--output-directory") is None:
        # An engine has several processes, and each writes a file: one directory for each.
        args += ["-d", posixpath.join(settings.output_dir, "%pid%")]
    if _option_value(args, "-o", "--output-file") is None:
        args += ["-o", "profile"]
    if _option_value(args, "-f", "--output-format") is None:
        args += ["--output-format", "csv"]
    return Arrangement((program, *args, "--"), wraps=True)


def _pytorch(
    settings: ProfileSettings, engine: str, words: Sequence[str], version: tuple[int, ...] | None
) -> Arrangement:
    variables: dict[str, str] = {}
    further: list[str] = []
    if engine == "vllm":
        # The variable was the only way up to 0.12; the option replaced it in 0.13, and later versions warn about the
        # variable.
        if version is None or version < (0, 13):
            variables["VLLM_TORCH_PROFILER_DIR"] = settings.output_dir
        if version is not None and version >= (0, 13) and not _has_profiler(words):
            further = [
                *("--profiler-config.profiler", "torch"),
                *("--profiler-config.torch_profiler_dir", settings.output_dir),
            ]
    elif engine == "sglang":
        variables["SGLANG_TORCH_PROFILER_DIR"] = settings.output_dir
    return Arrangement((), tuple(variables.items()), tuple(further))


def _has_profiler(words: Sequence[str]) -> bool:
    return any(word.replace("_", "-").startswith("--profiler-config") for word in words)


def _option_value(args: Sequence[str], *names: str) -> str | None:
    """Return the value of an option of a profiler, or None if it is not given."""
    for name in names:
        values = values_of(args, name)
        if values:
            return values[0]
        if name in args:
            return ""
        if len(name) == 2:
            joined = [word for word in args if word.startswith(name) and len(word) > 2 and word[1] != "-"]
            if joined:
                return joined[-1][2:].lstrip("=")
    return None
