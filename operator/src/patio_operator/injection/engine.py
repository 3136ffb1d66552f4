"""Which container of a pod is the engine, and what it serves, read from its command line.

Comes first in an admission: `volumes` needs the container, `variables` the kind, port and key. Understands
`vllm serve`, `python -m vllm.entrypoints...`, `python -m sglang.launch_server`, `sglang serve` among the commands
that `command_line` finds, and images that start an engine by themselves. Never runs or resolves anything: a value that
hangs on what a shell would compute stays unknown, and where flags come from elsewhere `unread` says so.
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from typing import Any

from patio_api.pod_identity_env import EnvSource
from patio_operator.injection.command_line import (
    ASSIGNMENT,
    REFERENCE,
    Budget,
    CommandLine,
    Variables,
    name_in,
    resolved,
)
from patio_protocol.engines import DEFAULT_PORTS, EngineKind

LONGEST_NAME = 512
"""Characters of a model's name; it gets into an annotation. A longer one is not known."""
MOST_NAMES = 64
"""Under which a base model is served."""

API_KEY = "--api-key"
ADMIN_API_KEY = "--admin-api-key"
_PYTHON_MODULES = (
    (re.compile(r"vllm\.entrypoints\."), EngineKind.VLLM.value),
    (re.compile(r"sglang\.launch_server$"), EngineKind.SGLANG.value),
)
_IMAGE = re.compile(r"(?:^|/)(vllm|sglang)(?!.*router)[^/]*$")
_LONGEST_IMAGE = 1024
_OFF = ("false", "0", "no", "off")
_SHORT: Mapping[str, str] = {
    "-asc": "--api-server-count",
    "-dp": "--data-parallel-size",
    "-dpl": "--data-parallel-size-local",
    "-dpr": "--data-parallel-start-rank",
    "-dpn": "--data-parallel-rank",
    "-dpe": "--data-parallel-external-lb",
    "-dph": "--data-parallel-hybrid-lb",
    "--dp-size": "--data-parallel-size",
}
_SEVERAL = re.compile(r"\$\{?[@*]|args|opts|options|flags|params|extra", re.IGNORECASE)
"""In a reference: that it stands for several words."""
_ALL_ADDRESSES = ("", "0.0.0.0", "::", "*", "localhost", "127.0.0.1")  # noqa: S104 - flags of an engine
_IPV6 = re.compile(r"[0-9a-fA-F:.]{2,45}")
_HOST_NAME = re.compile(r"[0-9A-Za-z]([0-9A-Za-z.-]{0,251}[0-9A-Za-z])?")
_SOCKET = re.compile(r"/[\x21-\x7e]{0,105}[\x21-\x2e\x30-\x7e]")
"""A path that Linux takes for a socket, and a URL for a path."""
_NUMBER = re.compile(r"[0-9]{1,9}")


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
    free_slots: int | None = None
    """How many adapters it holds beside those that it starts with, before it drops one for another (SGLang's
    `--max-loaded-loras`). None: no such limit, or not known."""
    keys: Mapping[str, EnvSource] = field(default_factory=dict, repr=False)
    """Where the values of its key flags come from."""
    unknown_keys: tuple[str, ...] = ()
    """Flags that give it a key other than by a variable of its own: in clear text, or computed by its
    shell."""
    tls: bool = False
    """Whether it serves TLS (`--ssl-certfile`)."""
    socket: str | None = None
    """The Unix socket on which it listens instead of a port (`--uds`); empty: it does, and the path is not known."""
    headless: bool = False
    """Whether it serves nothing: a vLLM with `--headless`, or another node than the first of an engine of several."""
    api_servers: int | None = 1
    """Processes that answer requests, each with a list of adapters of its own. None: not known."""
    unread: str | None = None
    """Where flags come from that are not on the command line: a file, or a variable that is not known."""

    @property
    def endpoint(self) -> str | None:
        """The base URL at which the sidecar reaches it; None when that is not known."""
        if self.socket is not None:
            return f"unix://{self.socket}" if self.socket and not self.tls else None
        if self.port is None:
            return None
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"


def find_engine(containers: Sequence[Mapping[str, Any]]) -> Engine:
    """Return the first container that is recognised as an engine; else the first container, with nothing
    known."""
    return next(iter(engines_in(containers)), None) or unknown(containers)


def unknown(containers: Sequence[Mapping[str, Any]]) -> Engine:
    """Return what is known where none is recognised: it is the first container, perhaps."""
    return Engine(container=containers[0]["name"] if containers else "")


def engines_in(containers: Iterable[Mapping[str, Any]]) -> list[Engine]:
    """Return the containers that are recognised as engines, in their order; those that serve nothing come last."""
    budget = Budget()
    found = (_recognise(container, budget) for container in containers)
    return sorted((engine for engine in found if engine is not None), key=lambda engine: engine.headless)


def _recognise(container: Mapping[str, Any], budget: Budget) -> Engine | None:
    line = CommandLine(container, budget=budget)
    headless: Engine | None = None
    for command in line.commands():
        started = _started(command)
        if started is None:
            continue
        kind, at = started
        variables = ChainMap(_set_for(command[:at]), line.variables)
        engine = _described(container, kind, command[at:], DEFAULT_PORTS[kind], variables)
        if not engine.headless:
            return engine
        headless = headless or engine  # one template for leader and workers has both commands
    if headless is not None or container.get("command"):
        return headless
    image = container.get("image") or ""
    match = (
        _IMAGE.search(re.sub(r"[@:][^/@:]*$", "", image.partition("@")[0])) if len(image) <= _LONGEST_IMAGE else None
    )
    if match is None:
        return None
    kind = match.group(1)
    ports = [port["containerPort"] for port in container.get("ports") or []]
    port = ports[0] if len(ports) == 1 else DEFAULT_PORTS[kind]
    words = container.get("args") or []
    return _described(container, kind, words[1:] if words[:1] == ["serve"] else words, port, line.variables)


def _started(command: Sequence[str]) -> tuple[str, int] | None:
    """Say which engine a command starts, and where the words after it begin."""
    for index, (word, following) in enumerate(pairwise(command)):
        program = word.rsplit("/", 1)[-1]
        if following == "serve" and program in DEFAULT_PORTS:
            return program, index + 2
        if word == "-m":
            kind = next((kind for module, kind in _PYTHON_MODULES if module.match(following)), None)
            if kind is not None:
                return kind, index + (3 if command[index + 2 : index + 3] == ["serve"] else 2)
    return None


def _set_for(words: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    """Return the variables that are set for one command: `A=b vllm serve`, `env A=b vllm serve`."""
    matches = (ASSIGNMENT.fullmatch(word) for word in words)
    return {match[1]: {"name": match[1], "value": match[2], "script": True} for match in matches if match is not None}


def _described(
    container: Mapping[str, Any], kind: str, words: Sequence[str], default_port: int, variables: Variables
) -> Engine:
    flags = _flags(words)
    keys = {flag: _source(_referred(flags[flag], variables)) for flag in (API_KEY, ADMIN_API_KEY) if flags.get(flag)}
    if kind == EngineKind.VLLM and "VLLM_API_KEY" in variables:
        keys.setdefault(API_KEY, _source(variables["VLLM_API_KEY"]))
    positional = words[0] if kind == EngineKind.VLLM and words and not words[0].startswith("-") else None
    model = _name(
        flags.get("--served-model-name") or positional or flags.get("--model") or flags.get("--model-path"), variables
    )
    port = _number(flags.get("--port"), variables) if "--port" in flags else default_port
    if "--uds" in flags:
        port = None
    return Engine(
        container=container["name"],
        kind=kind,
        port=port if port is not None and 0 < port < 65536 else None,
        model=model,
        served=_served(model, words, variables),
        host=_host(flags.get("--host"), variables),
        free_slots=_free_slots(words, variables),
        lora=_takes_adapters(words, flags),
        keys={flag: source for flag, source in keys.items() if source is not None},
        unknown_keys=tuple(flag for flag, source in keys.items() if source is None),
        tls="--ssl-certfile" in flags,
        socket=_socket(flags, variables),
        headless=_headless(kind, flags, variables),
        api_servers=_api_servers(kind, flags, variables),
        unread=_unread(words, flags, variables),
    )


def _name(text: str | None, variables: Variables) -> str | None:
    name = resolved(text, variables)
    return name if name is None or len(name) <= LONGEST_NAME else None


def _number(text: str | None, variables: Variables) -> int | None:
    number = resolved(text, variables)
    return int(number) if number is not None and _NUMBER.fullmatch(number) else None


def _served(model: str | None, words: Sequence[str], variables: Variables) -> tuple[str, ...]:
    """Return every name of the base model: `--served-model-name a b` gives it two."""
    served_names = _values(words, "--served-model-name")
    if model is None or len(served_names) > MOST_NAMES:
        return ()
    names = [_name(word, variables) for word in served_names]
    return () if None in names else tuple(dict.fromkeys((model, *(name for name in names if name))))


def _free_slots(words: Sequence[str], variables: Variables) -> int | None:
    limit = _number(next(iter(_values(words, "--max-loaded-loras")), None), variables)
    return None if limit is None else max(0, limit - len(_values(words, "--lora-paths")))


def _takes_adapters(words: Sequence[str], flags: Mapping[str, str]) -> bool:
    """Say whether adapters are enabled; of `--enable-lora`, `--enable-lora=False` and `--no-enable-lora` the last."""
    enabled: bool | None = None
    for word in words:
        name, _, value = word.partition("=")
        name = name.replace("_", "-")
        if name == "--enable-lora":
            enabled = (value or flags[name]).lower() not in _OFF
        elif name == "--no-enable-lora":
            enabled = False
    return enabled if enabled is not None else "--lora-modules" in flags or "--lora-paths" in flags


def _socket(flags: Mapping[str, str], variables: Variables) -> str | None:
    if "--uds" not in flags:
        return None
    path = resolved(flags["--uds"], variables) or ""
    return path if _SOCKET.fullmatch(path) else ""


def _headless(kind: str, flags: Mapping[str, str], variables: Variables) -> bool:
    if kind == EngineKind.VLLM and (flags.get("--headless", "off") or "on").lower() not in _OFF:
        return True
    if kind == EngineKind.VLLM and _number(flags.get("--api-server-count"), variables) == 0:
        return True
    return kind == EngineKind.SGLANG and (_number(flags.get("--node-rank"), variables) or 0) > 0


def _api_servers(kind: str, flags: Mapping[str, str], variables: Variables) -> int | None:
    """Count the processes that answer requests, as vLLM (0.32, entrypoints/cli/serve.py) and SGLang (0.5) make them."""
    if kind == EngineKind.SGLANG:
        return _count("--tokenizer-worker-num", flags, variables)
    if "--api-server-count" in flags:
        return _count("--api-server-count", flags, variables)
    local = _count("--data-parallel-size-local", flags, variables)
    if "--data-parallel-multi-port-external-lb" in flags:
        return local  # a server for each, and a port
    if "--data-parallel-external-lb" in flags or "--data-parallel-rank" in flags:
        return 1
    if "--data-parallel-hybrid-lb" in flags or "--data-parallel-start-rank" in flags:
        return local
    return _count("--data-parallel-size", flags, variables)


def _count(flag: str, flags: Mapping[str, str], variables: Variables) -> int | None:
    return _number(flags[flag], variables) if flag in flags else 1


def _unread(words: Sequence[str], flags: Mapping[str, str], variables: Variables) -> str | None:
    if "--config" in flags:
        return f"--config {flags['--config'][:64]}"
    host = flags.get("--host")
    if host and resolved(host, variables) is None and _host(host, variables) == "localhost":
        return f"--host {host[:64]}"
    for index, word in enumerate(words):
        # A reference where a flag may stand. After a flag it is that flag's value unless its name says otherwise, and
        # the first word is the model.
        if not word.startswith("$") or not (_SEVERAL.search(word) or (index > 0 and words[index - 1][:1] != "-")):
            continue
        if resolved(word, variables) is None:
            return word[:64]
    return None


def _values(words: Sequence[str], flag: str) -> list[str]:
    """Return all values of a flag that may have several, the last time that it is given."""
    for index in range(len(words) - 1, -1, -1):
        name, equals, value = words[index].partition("=")
        if name.replace("_", "-") == flag:
            following = takewhile(lambda word: not word.startswith("--"), words[index + 1 :])
            return [*([value] if equals else []), *following]
    return []


def _flags(words: Sequence[str]) -> dict[str, str]:
    """Read `--flag value`, `--flag=value` and `--flag`; of several values the first, of several times the
    last."""
    flags: dict[str, str] = {}
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if not name.startswith("--") and name not in _SHORT:
            continue
        if not equals and index + 1 < len(words) and not words[index + 1].startswith("--"):
            value = words[index + 1]
        name = name.replace("_", "-")
        flags[_SHORT.get(name, name)] = value
    return flags


def _host(text: str | None, variables: Variables) -> str:
    variable = _referred(text, variables)
    path = (((variable or {}).get("valueFrom") or {}).get("fieldRef") or {}).get("fieldPath")
    if path in ("status.podIP", "status.hostIP"):  # of a pod that listens there, both are the node's
        return "$(POD_IP)"
    host = (resolved(text, variables) or "").strip("[]")
    if host in _ALL_ADDRESSES:
        return "localhost"
    if host.count(":") > 1 and _IPV6.fullmatch(host):
        return f"[{host}]"
    return host if _HOST_NAME.fullmatch(host) else "localhost"


def _referred(text: str | None, variables: Variables) -> Mapping[str, Any] | None:
    """Return the container's variable that a text is nothing but a reference to."""
    match = REFERENCE.fullmatch(text or "")
    return None if match is None else variables.get(name_in(match))


def _source(variable: Mapping[str, Any] | None) -> EnvSource | None:
    """Return a variable without its name; None when its value refers to others of its container, or is in a script."""
    if variable is None or "script" in variable or "$(" in (variable.get("value") or ""):
        return None
    return {key: value for key, value in variable.items() if key in ("value", "valueFrom")}
