"""Decides how a profiler is put around an engine, and what records a window of its life. Pure.

`server` asks `arrange` before a start: words before the command, variables, further arguments. nsys and rocprof wrap
the engine's command; the PyTorch profiler is inside the engine, which has to be told where to write. `recording` asks
`window_of` what begins and ends one recording.
"""

from __future__ import annotations

import json
import posixpath
from dataclasses import dataclass, field, replace
from typing import Any, Mapping, Sequence

from inference_server.arguments import values_of
from inference_server.errors import ProfileError

TOOLS = ("nsys", "pytorch", "amd")
ROCPROF = ("rocprofv3", "rocprof")
"""AMD's profilers, the best first. The second one has reached its end of support."""

RECORDS = ("run", "windows")
"""`run`: from the start of the engine to its end. `windows`: only within `server.profile()`."""

START_OPTIONS = frozenset(
    (
        *("-s", "--sample", "--cpuctxsw", "-b", "--backtrace", "--samples-per-backtrace", "--sampling-frequency"),
        *("--sampling-period", "--sampling-trigger", "--event-sample", "--cpu-core-events", "--os-events", "--ftrace"),
        *("--gpu-metrics-device", "--gpu-metrics-devices", "--gpu-metrics-frequency", "--gpu-metrics-set"),
        *("--gpuctxsw", "--nic-metrics", "--storage-metrics", "--process-scope", "--stats", "--export", "-f"),
        *("--force-overwrite", "-x", "--stop-on-exit"),
    )
)
"""Options of `nsys profile` that belong to `nsys start` where there is a session; the others are for `nsys launch`."""

RUN_ONLY_OPTIONS = frozenset({"--kill", "-y", "--delay", "-d", "--duration", "-Y", "--start-later"})
"""Options of `nsys profile` that have no meaning for a session."""

NSYS_REPORT = ".nsys-rep"
VLLM_FILE_SECONDS = 30.0
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
    """Seconds that the profiler has to write its files: minutes for several GB."""
    record: str = "run"
    """One of `RECORDS`."""

    def with_folder(self, folder: str) -> ProfileSettings:
        """Return the same with another directory."""
        return replace(self, output_dir=folder)


@dataclass(frozen=True)
class Arrangement:
    """How to launch an engine under a profiler."""

    prefix: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    arguments: tuple[str, ...] = ()
    wraps: bool = False
    """Whether the profiler is the leader and the engine its child."""
    folder: str | None = None
    """Where the tool writes files when the engine ends; None if it writes none then."""
    suffix: str = ""
    """How the names of these files end."""
    session: str = ""
    """nsys: the name of a session that `nsys start` and `nsys stop` record windows of."""
    start_words: tuple[str, ...] = ()
    """nsys: further words for `nsys start`."""
    output: str = ""
    """nsys: the file that the caller asked for, without a suffix."""


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
    record = str(profile.get("record", "windows" if tool == "pytorch" else "run"))
    if record not in RECORDS:
        raise ProfileError("`profile.record` must be one of %s, not %r" % (", ".join(RECORDS), record))
    if tool == "amd" and record == "windows":
        raise ProfileError("AMD's profilers record from the start of the engine to its end: set profile.record to run")
    args = profile.get("args") or ()
    if isinstance(args, str) or not isinstance(args, Sequence):
        raise ProfileError("`profile.args` must be a list of words, not %r" % (args,))
    return ProfileSettings(
        tool=tool,
        output_dir=str(profile.get("output_dir") or posixpath.join(output_dir, "profiles")),
        args=tuple(str(word) for word in args),
        binary_path=profile.get("binary_path"),
        stop_timeout=float(profile.get("stop_timeout", 600.0)),
        record=record,
    )


def programs(settings: ProfileSettings) -> tuple[str, ...]:
    """Return the programs that can do it, the best first; one of them must be on PATH. Empty: none is needed."""
    if settings.tool == "pytorch":
        return ()
    if settings.binary_path:
        return (settings.binary_path,)
    return ROCPROF if settings.tool == "amd" else ("nsys",)


def arrange(
    settings: ProfileSettings,
    engine: str,
    program: str,
    words: Sequence[str],
    version: tuple[int, ...] | None,
    session: str = "server",
) -> Arrangement:
    """Return how to launch an engine under a profiler.

    Args:
        settings: what the caller wants.
        engine: name of the backend.
        program: the one of `programs` that is there.
        words: the engine's arguments, so that nothing is given twice.
        version: the engine's, where it is known.
        session: a name that no other server of this machine has.

    Raises:
        ProfileError: the caller's words contradict each other.
    """
    if settings.tool == "nsys" and settings.record == "windows":
        return _nsys_session(settings, engine, program, session)
    if settings.tool == "nsys":
        return _nsys(settings, engine, program, words)
    if settings.tool == "amd":
        return _amd(settings, program)
    return _pytorch(settings, engine, words, version)


def _nsys(settings: ProfileSettings, engine: str, program: str, words: Sequence[str]) -> Arrangement:
    args = list(settings.args)
    report = _option_value(args, "-o", "--output")
    if report is None:
        report = posixpath.join(settings.output_dir, "profile" + NSYS_REPORT)
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
    folder = posixpath.dirname(report.partition("%")[0]) or "."
    prefix = (program, "profile", *args, "--")
    return Arrangement(prefix, (), tuple(further), wraps=True, folder=folder, suffix=NSYS_REPORT)


def _nsys_session(settings: ProfileSettings, engine: str, program: str, session: str) -> Arrangement:
    """A session that records nothing until `nsys start`; `nsys stop` writes the report while the engine goes on.

    `nsys profile` with a duration or a capture range ends, or writes its reports, with the engine only.
    """
    if _option_value(settings.args, "-c", "--capture-range") is not None:
        raise ProfileError("a capture range is for profile.record: run; leave it out, or leave out profile.record")
    launch: list[str] = []
    start: list[str] = []
    target = launch
    for word in settings.args:
        name = word.partition("=")[0]
        if name.startswith("-"):
            leave_out = name in RUN_ONLY_OPTIONS or name in ("-o", "--output") or name.startswith("-o")
            target = [] if leave_out else start if name in START_OPTIONS else launch
        target.append(word)
    if engine == "vllm" and _option_value(launch, "--trace-fork-before-exec") is None:
        launch.append("--trace-fork-before-exec=true")
    if _option_value(launch, "--wait") is None:
        launch.append("--wait=all")
    output = _option_value(settings.args, "-o", "--output") or ""
    return Arrangement(
        (program, "launch", "--session-new=" + session, *launch, "--"),
        wraps=True,
        session=session,
        start_words=tuple(start),
        output=output[: -len(NSYS_REPORT)] if output.endswith(NSYS_REPORT) else output,
    )


def _amd(settings: ProfileSettings, program: str) -> Arrangement:
    args = list(settings.args)
    if posixpath.basename(program) == "rocprof":
        report = _option_value(args, "-o")
        if report is None:
            report = posixpath.join(settings.output_dir, "profile.csv")
            args += ["-o", report]
        return Arrangement((program, *args), wraps=True, folder=posixpath.dirname(report) or ".")
    if "--stats" in args and not any(trace in args for trace in TRACES):
        args.append("--kernel-trace")  # rocprofv3 makes statistics of a trace only
    folder = _option_value(args, "-d", "--output-directory")
    if folder is None:
        # An engine has several processes, and each writes a file: one directory for each.
        folder = posixpath.join(settings.output_dir, "%pid%")
        args += ["-d", folder]
    if _option_value(args, "-o", "--output-file") is None:
        args += ["-o", "profile"]
    if _option_value(args, "-f", "--output-format") is None:
        args += ["--output-format", "csv"]
    if "%" in folder:
        folder = posixpath.dirname(folder.partition("%")[0]) or "."  # what stands before the first placeholder
    return Arrangement((program, *args, "--"), wraps=True, folder=folder)


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


@dataclass(frozen=True)
class Window:
    """What begins and ends the recording of a part of an engine's life."""

    how: str
    """`routes`: requests to the engine. `session`: commands of nsys. `run`: the whole life of an engine that is started
    for it, and if `path` is set, requests that begin and end a capture range."""
    tool: str
    folder: str
    """Where its files will be."""
    body: Mapping[str, Any] = field(default_factory=dict)
    """Of the request that begins it."""
    path: str = ""
    """Where the requests go: `/start` and `/stop` are put before it."""
    expected: int = 1
    """How many files there will be at least."""
    seconds: float = 600.0
    """How long after the answer to the end a file may come."""


def window_of(
    settings: ProfileSettings | None,
    arrangement: Arrangement,
    engine: str,
    words: Sequence[str],
    default_dir: str,
    name: str,
    *,
    running: bool,
) -> Window:
    """Return how a part of an engine's life is recorded.

    Args:
        settings: what the server was started with; None: without a profiler.
        arrangement: what came of that.
        engine: name of the backend.
        words: the engine's arguments.
        default_dir: absolute, for an engine that needs no setting.
        name: the window's, or an empty text.
        running: whether the server runs already.

    Raises:
        ProfileError: there is no way; the text says why, and what to change.
    """
    if any(not (character.isalnum() or character in "._-") for character in name):
        raise ProfileError("the name of a profile may have letters, digits and `._-`, not %r" % name)
    if settings is not None and settings.tool != "pytorch":
        if arrangement.session:
            return Window("session", "nsys", posixpath.dirname(arrangement.output) or settings.output_dir)
        if running:
            remedy = "" if settings.tool == "amd" else ", or set profile.record to windows"
            raise ProfileError(
                "%s records the whole life of the engine and writes its files at the end: enter server.profile() "
                "before the start%s, or read server.profile_files after stop()" % (_TOOL_NAMES[settings.tool], remedy)
            )
        ranges = _option_value(settings.args, "-c", "--capture-range") is not None
        cuda: dict[str, Any] = {"activities": ["CUDA_PROFILER"]} if ranges and engine == "sglang" else {}
        return Window("run", settings.tool, settings.output_dir, cuda, "_profile" if ranges else "")
    if engine == "sglang":
        # SGLang takes the folder with each request, and needs no option at its start.
        folder = settings.output_dir if settings is not None else default_dir
        body = {"output_dir": folder, **({"profile_prefix": name} if name else {})}
        seconds = settings.stop_timeout if settings is not None else Window.seconds
        return Window("routes", "pytorch", folder, body, "_profile", _tensor_parallel_size(words), seconds)
    if engine == "vllm":
        folder = _torch_folder(words) or (settings.output_dir if settings is not None else "")
        if not folder:
            raise ProfileError(
                "vLLM has no profiler unless it is started with it: "
                "VLLMServer(..., profile={'enabled': True, 'tool': 'pytorch'})"
            )
        body = {"profile_prefix": name} if name else {}
        # vLLM answers the end when everything is written: what is not there then will not come.
        return Window("routes", "pytorch", folder, body, "_profile", seconds=VLLM_FILE_SECONDS)
    raise ProfileError(
        "%s has no known routes of the PyTorch profiler: use nsys with profile.record: windows, or amd" % engine
    )


_TOOL_NAMES = {"nsys": "nsys", "amd": "AMD's profiler", "pytorch": "the PyTorch profiler"}


def _torch_folder(words: Sequence[str]) -> str:
    """Return where vLLM's own arguments let the PyTorch profiler write, or an empty text."""
    dotted = values_of(words, "--profiler-config.torch-profiler-dir")
    if dotted:
        return dotted[0]
    for text in values_of(words, "--profiler-config"):
        try:
            content = json.loads(text)
        except ValueError:
            continue
        if isinstance(content, dict) and isinstance(content.get("torch_profiler_dir"), str):
            return str(content["torch_profiler_dir"])
    return ""


def _tensor_parallel_size(words: Sequence[str]) -> int:
    """Return how many ranks SGLang has, each of which writes a trace."""
    size = (values_of(words, "--tp-size", "--tp", "--tensor-parallel-size") or ["1"])[0]
    return int(size) if size.isdigit() and int(size) > 0 else 1


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
