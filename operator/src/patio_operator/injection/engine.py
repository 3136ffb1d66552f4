"""Which container of a pod is the engine, and what it serves, read from its command line.

Comes first in an admission: `volumes` needs the container, `variables` the kind, port and key. Understands
`vllm serve`, `python -m vllm.entrypoints...`, `python -m sglang.launch_server`, `sglang serve`, all of them
also inside the script of a `sh -c`, and images that start an engine by themselves. Never runs or resolves
anything: a value that hangs on what a shell would compute stays unknown.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from typing import Any

from patio_operator.api.identity import EnvSource

VLLM = "vllm"
SGLANG = "sglang"
DEFAULT_PORTS: Mapping[str, int] = {VLLM: 8000, SGLANG: 30000}

_SEPARATORS = ";&|()<>\n"
_SHELLS = ("sh", "bash", "dash", "ash", "zsh")
API_KEY = "--api-key"
ADMIN_API_KEY = "--admin-api-key"
_PYTHON_MODULES = ((re.compile(r"vllm\.entrypoints\."), VLLM), (re.compile(r"sglang\.launch_server$"), SGLANG))
_REFERENCE = re.compile(r"\$(?:\((\w+)\)|\{(\w+)\}|\{(\w+):-([^}]*)\}|(\w+))")
_IMAGE = re.compile(r"(?:^|/)(vllm|sglang)(?!.*router)[^/]*$")


@dataclass(frozen=True)
class Engine:
    """The engine container as its command line describes it. None: not known."""

    container: str
    """Name of the container; the first one of the pod when none is recognised."""
    kind: str | None = None
    port: int | None = None
    model: str | None = None
    """Name under which the base model is served."""
    served: tuple[str, ...] = ()
    """All such names; vLLM may have several. Empty: not known."""
    host: str = "localhost"
    """Where the sidecar reaches it: `$(POD_IP)` when it listens on the pod's address only."""
    lora: bool = False
    """Whether it takes adapters (`--enable-lora`)."""
    room: int | None = None
    """How many adapters it holds beside those that it starts with, before it drops one for another (SGLang's
    `--max-loaded-loras`). None: no such limit, or not known."""
    keys: Mapping[str, EnvSource] = field(default_factory=dict, repr=False)
    """Where the values of its key flags come from."""
    unknown_keys: tuple[str, ...] = ()
    """Flags that give it a key other than by a variable of its own: in clear text, or computed by its
    shell."""


def find_engine(containers: Sequence[Mapping[str, Any]]) -> Engine:
    """Return the first container that is recognised as an engine; else the first container, with nothing
    known."""
    for container in containers:
        engine = _recognise(container)
        if engine is not None:
            return engine
    return Engine(container=containers[0]["name"] if containers else "")


def _recognise(container: Mapping[str, Any]) -> Engine | None:
    words = [*(container.get("command") or []), *(container.get("args") or [])]
    for command in _commands(words):
        started = _started(command)
        if started is not None:
            kind, rest = started
            return _described(container, kind, rest, DEFAULT_PORTS[kind])
    if container.get("command"):
        return None
    image = _IMAGE.search(re.sub(r"[@:][^/]*$", "", container.get("image") or ""))
    if image is None:
        return None
    kind = image.group(1)
    ports = [port["containerPort"] for port in container.get("ports") or []]
    return _described(
        container, kind, container.get("args") or [], ports[0] if len(ports) == 1 else DEFAULT_PORTS[kind]
    )


def _commands(words: Sequence[str]) -> Iterator[list[str]]:
    """Yield the simple commands of a container: its words, or those of the script that its shell is given."""
    if not words or words[0].rsplit("/", 1)[-1] not in _SHELLS:
        yield list(words)
        return
    script = next((word for flag, word in pairwise(words) if re.match(r"-\w*c$", flag)), None)
    if script is None:
        return
    lexer = shlex.shlex(script.replace("\\\n", " "), posix=True, punctuation_chars=_SEPARATORS)
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\r", True, ""
    command: list[str] = []
    try:
        for token in lexer:
            if token and set(token) <= set(_SEPARATORS):
                yield command
                command = []
            else:
                command.append(token)
    except ValueError:  # a quote without its end: what was read so far still counts
        pass
    yield command


def _started(command: Sequence[str]) -> tuple[str, list[str]] | None:
    """Say which engine a command starts, and with which words after it."""
    if command and command[0].startswith("#"):
        return None
    for index, (word, following) in enumerate(pairwise(command)):
        rest = list(command[index + 2 :])
        program = word.rsplit("/", 1)[-1]
        if following == "serve" and program in (VLLM, SGLANG):
            return program, rest
        if word == "-m":
            kind = next((kind for module, kind in _PYTHON_MODULES if module.match(following)), None)
            if kind is not None:
                return kind, rest[1:] if rest[:1] == ["serve"] else rest
    return None


def _described(container: Mapping[str, Any], kind: str, words: Sequence[str], default_port: int) -> Engine:
    flags = _flags(words)
    env = {variable["name"]: variable for variable in container.get("env") or []}
    keys = {flag: _source(_referred(flags[flag], env)) for flag in (API_KEY, ADMIN_API_KEY) if flags.get(flag)}
    if kind == VLLM and "VLLM_API_KEY" in env:
        keys.setdefault(API_KEY, _source(env["VLLM_API_KEY"]))
    positional = words[0] if kind == VLLM and words and not words[0].startswith("-") else None
    model = flags.get("--served-model-name") or positional or flags.get("--model") or flags.get("--model-path")
    model = _resolved(model, env)
    port = _resolved(flags.get("--port"), env)
    return Engine(
        container=container["name"],
        kind=kind,
        port=(int(port) if port and port.isdecimal() else None) if "--port" in flags else default_port,
        model=model,
        served=_served(model, words, env),
        host=_host(flags.get("--host"), env),
        room=_room(words, env),
        lora="--enable-lora" in flags or "--lora-modules" in flags or "--lora-paths" in flags,
        keys={flag: source for flag, source in keys.items() if source is not None},
        unknown_keys=tuple(flag for flag, source in keys.items() if source is None),
    )


def _served(model: str | None, words: Sequence[str], env: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Return every name of the base model: `--served-model-name a b` gives it two."""
    if model is None:
        return ()
    names = [_resolved(word, env) for word in _values(words, "--served-model-name")]
    return () if None in names else tuple(dict.fromkeys((model, *(name for name in names if name))))


def _room(words: Sequence[str], env: Mapping[str, Mapping[str, Any]]) -> int | None:
    limit = _resolved(next(iter(_values(words, "--max-loaded-loras")), None), env)
    if limit is None or not limit.isdecimal():
        return None
    return max(0, int(limit) - len(_values(words, "--lora-paths")))


def _values(words: Sequence[str], flag: str) -> list[str]:
    """Return all values of a flag that may have several, the last time that it is given."""
    for index in range(len(words) - 1, -1, -1):
        name, equals, value = words[index].partition("=")
        if name.replace("_", "-") == flag:
            following = takewhile(lambda one: not one.startswith("--"), words[index + 1 :])
            return [*([value] if equals else []), *following]
    return []


def _flags(words: Sequence[str]) -> dict[str, str]:
    """Read `--flag value`, `--flag=value` and `--flag`; of several values the first, of several times the
    last."""
    flags: dict[str, str] = {}
    for index, word in enumerate(words):
        if not word.startswith("--"):
            continue
        name, equals, value = word.partition("=")
        if not equals and index + 1 < len(words) and not words[index + 1].startswith("--"):
            value = words[index + 1]
        flags[name.replace("_", "-")] = value
    return flags


def _resolved(text: str | None, env: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Put the container's own literal variables in; None when something else is referred to."""
    if text is None:
        return None
    unknown = False

    def value(match: re.Match[str]) -> str:
        nonlocal unknown
        name = next(group for group in (match[1], match[2], match[3], match[5]) if group)
        known = (env.get(name) or {}).get("value")
        if known is None and match[3] and name not in env:
            known = match[4]
        unknown = unknown or known is None
        return known or ""

    resolved = _REFERENCE.sub(value, text)
    return None if unknown or "$" in resolved or "`" in resolved else resolved or None


def _host(text: str | None, env: Mapping[str, Mapping[str, Any]]) -> str:
    variable = _referred(text, env)
    path = (((variable or {}).get("valueFrom") or {}).get("fieldRef") or {}).get("fieldPath")
    return "$(POD_IP)" if path == "status.podIP" else "localhost"


def _referred(text: str | None, env: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the container's variable that a text is nothing but a reference to."""
    match = _REFERENCE.fullmatch(text or "")
    if match is None:
        return None
    return env.get(next(group for group in (match[1], match[2], match[3], match[5]) if group))


def _source(variable: Mapping[str, Any] | None) -> EnvSource | None:
    """Return a variable without its name; None when its value refers to other variables of its container."""
    if variable is None or "$(" in (variable.get("value") or ""):
        return None
    return {key: value for key, value in variable.items() if key in ("value", "valueFrom")}
