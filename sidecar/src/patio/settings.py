"""All settings of the sidecar, as one immutable object made once at start.

Flags and variables of upstream Patio and of the MatrixInfer runtime mean the same here; a flag takes precedence
over its variable. What is unset, misspelled or contradictory raises `SettingsError`, which `app` turns into one line
and exit code 2: a sidecar that guesses is worse than one that does not start. `app` is the only reader of the
environment.
"""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from pydantic import TypeAdapter, ValidationError

from patio.access import settings as access
from patio.downloads import settings as downloads
from patio.drain import settings as drain
from patio.engine import settings as engine_settings
from patio.engine.address import EngineAddress
from patio.engine.clients import EngineTls
from patio.metrics.mappings import VOCABULARIES
from patio.topology import settings as topology
from patio.variables import SettingsError, single_value
from patio_protocol.adapters import REQUIRED_ADAPTERS_VARIABLE, SIDECAR_PORT, LoadRequest
from patio_protocol.engines import EngineKind

DEFAULT_STATE_FILE = "/var/lib/patio/state.json"
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

VARIABLES = {
    "INFERENCE_ENGINE": "vllm or sglang; default sglang",
    "INFERENCE_ENGINE_VERSION": "shown in patio:build_info; has no other effect",
    "INFERENCE_ENGINE_ENDPOINT": "base URL of the engine, or unix:///path; default http://localhost:8000",
    "METRIC_SCRAPE_PATH": "the engine's metrics path; default /metrics",
    "RUNTIME_PORT": "port to listen on, as the MatrixInfer and kthena runtimes name it",
    "RUNTIME_URL": "the same as INFERENCE_ENGINE_ENDPOINT, without a metrics path at its end",
    "RUNTIME_METRICS_PATH": "the same as METRIC_SCRAPE_PATH",
    **engine_settings.VARIABLES,
    "ENGINE_API_KEY": "sent to the engine as a bearer token",
    "ENGINE_ADMIN_API_KEY": "SGLang's --admin-api-key, for loads and unloads",
    "POD_NAME": "name of this pod, shown in GET /",
    "POD_NAMESPACE": "namespace of this pod",
    "POD_IP": "address of this pod",
    REQUIRED_ADAPTERS_VARIABLE: "JSON list of adapters that this pod waits for; set at admission",
    "PATIO_STATE_FILE": f"file that keeps orders over restarts; default {DEFAULT_STATE_FILE}",
    **access.VARIABLES,
    **topology.VARIABLES,
    **downloads.VARIABLES,
    **drain.VARIABLES,
}
_PATH = re.compile(r"[\x21\x22\x24-\x7e]+")
_ENDPOINTS = ("INFERENCE_ENGINE_ENDPOINT", "RUNTIME_URL")
_OWN_PREFIXES = (
    *(
        "INFERENCE_E",
        "METRIC_S",
        "ENGINE_A",
        "ENGINE_CA",
        "ENGINE_TLS",
        "PATIO_REQ",
        "PATIO_STATE",
        "RUNTIME_U",
        "RUNTIME_ME",
    ),
    *(
        "TOPO_",
        "SGL_ROUTER_",
        "ROUTER_ROLE_N",
        "HEARTBEAT_I",
        "PATIO_OPERATOR_K",
        "PATIO_ACC",
        "PATIO_DRAIN_",
        "PATIO_DOWN",
    ),
)
"""Prefixes that no other program uses, so that a name close to one of ours is a misspelling. Kubernetes puts variables
like PATIO_WEBHOOK_PORT into pods, hence not all of PATIO_."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The sidecar's settings, checked."""

    host: str = "::"
    """Every address: of both families, or of IPv4 where the host has no IPv6."""
    port: int = SIDECAR_PORT
    log_level: str = "INFO"
    log_json: bool = False
    docs: bool = False
    scrape_engine: bool = True
    engine: EngineKind = EngineKind.SGLANG
    engine_version: str = ""
    engine_endpoint: str = engine_settings.DEFAULT_ENDPOINT
    engine_tls: EngineTls = field(default_factory=EngineTls)
    metrics_path: str = "/metrics"
    metrics_prefixes: tuple[str, ...] = ("patio",)
    api_key: str | None = field(default=None, repr=False)
    admin_api_key: str | None = field(default=None, repr=False)
    pod_name: str = ""
    pod_namespace: str = ""
    pod_ip: str = ""
    model: str | None = None
    required_adapters: tuple[LoadRequest, ...] = ()
    state_file: Path = Path(DEFAULT_STATE_FILE)
    state_file_chosen: bool = False
    """The user named the file, so it is an error if the sidecar cannot write it."""
    access: access.AccessSettings = field(default_factory=access.AccessSettings)
    topology: topology.TopologySettings = field(default_factory=topology.TopologySettings)
    drain: drain.DrainSettings = field(default_factory=drain.DrainSettings)
    downloads: downloads.DownloadSettings = field(default_factory=downloads.DownloadSettings)

    @property
    def pod(self) -> str:
        """The pod as `name.namespace`, as far as it is known."""
        return ".".join(part for part in (self.pod_name, self.pod_namespace) if part)


class _Parser(argparse.ArgumentParser):
    """argparse that raises instead of printing its usage and leaving."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(message)


def _parser() -> _Parser:
    parser = _Parser(
        prog="python -m patio.app",
        description="Patio's sidecar: normalised metrics, LoRA adapters and readiness of one LLM engine.",
        epilog="variables (a flag takes precedence over its variable):\n"
        + "\n".join(f"  {name:27} {meaning}" for name, meaning in VARIABLES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    listen = parser.add_argument_group("serving")
    listen.add_argument("-H", "--host", default="::", help="address to listen on (%(default)s: all, of IPv6 and IPv4)")
    listen.add_argument("-P", "--port", help=f"port to listen on ({SIDECAR_PORT}; RUNTIME_PORT)")
    listen.add_argument(
        "--log-level", default="INFO", type=str.upper, choices=LEVELS, help="lowest level that is logged (%(default)s)"
    )
    listen.add_argument(
        "--log-format", default="text", choices=("text", "json"), help="format of log lines (%(default)s)"
    )
    listen.add_argument(
        "--access-control", metavar="{on,off}", help="off: no caller needs a proof (PATIO_ACCESS_CONTROL; on)"
    )
    listen.add_argument("--enable-fastapi-docs", action="store_true", help="serve /docs and /openapi.json")
    engine = parser.add_argument_group("engine")
    engine.add_argument("-E", "--engine", help="vllm or sglang (INFERENCE_ENGINE)")
    engine.add_argument(
        "-B", "--engine-base-url", help="base URL of the engine (INFERENCE_ENGINE_ENDPOINT, RUNTIME_URL)"
    )
    engine.add_argument(
        "-M", "--engine-metrics-path", help="path of the engine's metrics (METRIC_SCRAPE_PATH, RUNTIME_METRICS_PATH)"
    )
    engine.add_argument("-N", "--model", help="name of the base model in requests; default: the engine's first name")
    engine.add_argument("-I", "--pod", help="this pod, as NAME or NAME.NAMESPACE (POD_NAME, POD_NAMESPACE)")
    engine.add_argument(
        "--instance-info",
        help='the worker to register: {"data": {"port": 8000, "worker_type": "prefill", "bootstrap_port": 34000}}',
    )
    metrics = parser.add_argument_group("metrics")
    metrics.add_argument(
        "--scrape-engine-metrics",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="serve the engine's metrics, normalised, beside the sidecar's own",
    )
    metrics.add_argument(
        "--metrics-prefix", default="patio", help=f"comma-separated list of {', '.join(VOCABULARIES)} (%(default)s)"
    )
    return parser


def read_settings(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Return the settings; raise `SettingsError`. `--help` prints and leaves, as argparse does."""
    flags = _parser().parse_args(argv)
    _reject_misspellings(environ)
    env = {name: value.strip() for name, value in environ.items() if value.strip()}
    engine = _engine(flags.engine, env)
    if engine is EngineKind.VLLM and "ENGINE_ADMIN_API_KEY" in env:
        raise SettingsError(
            "ENGINE_ADMIN_API_KEY is for SGLang, but the engine is vllm: unset it, or correct INFERENCE_ENGINE"
        )
    metrics_path = _metrics_path(flags.engine_metrics_path, env)
    pod_name, dot, pod_namespace = (flags.pod or "").partition(".")
    if flags.pod is not None and (not pod_name or (dot and not pod_namespace)):
        raise SettingsError(f"--pod: {flags.pod!r} is neither NAME nor NAME.NAMESPACE")
    api_key = engine_settings.read_key("ENGINE_API_KEY", env)
    address = _endpoint(flags.engine_base_url, metrics_path, env)
    state_file = Path(env.get("PATIO_STATE_FILE", DEFAULT_STATE_FILE))
    pod_name, pod_namespace = pod_name or env.get("POD_NAME", ""), pod_namespace or env.get("POD_NAMESPACE", "")
    pod_ip = env.get("POD_IP", "")
    pod = topology.Pod(address.shown, pod_name, pod_namespace, pod_ip, state_file.parent, api_key)
    return Settings(
        host=flags.host,
        port=_port(flags.port, env),
        log_level=flags.log_level,
        log_json=flags.log_format == "json",
        docs=flags.enable_fastapi_docs,
        scrape_engine=flags.scrape_engine_metrics,
        engine=engine,
        engine_version=env.get("INFERENCE_ENGINE_VERSION", ""),
        engine_endpoint=address.shown,
        engine_tls=engine_settings.read_tls(env, address, pod_ip),
        metrics_path=metrics_path,
        metrics_prefixes=_prefixes(flags.metrics_prefix),
        api_key=api_key,
        admin_api_key=engine_settings.read_key("ENGINE_ADMIN_API_KEY", env),
        pod_name=pod_name,
        pod_namespace=pod_namespace,
        pod_ip=pod_ip,
        model=flags.model,
        required_adapters=_required(env.get(REQUIRED_ADAPTERS_VARIABLE)),
        state_file=state_file,
        state_file_chosen="PATIO_STATE_FILE" in env,
        access=access.read_access(flags.access_control, env),
        topology=topology.read_topology(flags.instance_info, env, pod),
        drain=drain.read_drain(env),
        downloads=downloads.read_downloads(env),
    )


def _reject_misspellings(environ: Mapping[str, str]) -> None:
    names = list(VARIABLES)
    services = [name.removesuffix("_SERVICE_HOST") for name in environ if name.endswith("_SERVICE_HOST")]
    for name in sorted(environ):
        if name in names or not name.startswith(_OWN_PREFIXES) or _is_services(name, environ[name], services):
            continue
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.85)
        if close:
            raise SettingsError(f"{name}: no such variable; did you mean {close[0]}?")


def _is_services(name: str, value: str, services: Sequence[str]) -> bool:
    """Whether Kubernetes made a variable of a Service of the namespace: then it is not a misspelling."""
    if re.match(r"(?:tcp|udp|sctp)://", value):
        return True
    return any(
        name.startswith(f"{service}_")
        and re.fullmatch(
            r"SERVICE_(?:HOST|PORT(?:_\w+)?)|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_\w+)?)?", name[len(service) + 1 :]
        )
        for service in services
    )


def _engine(flag: str | None, env: Mapping[str, str]) -> EngineKind:
    name, value = _setting("--engine", flag, ("INFERENCE_ENGINE",), env, EngineKind.SGLANG.value)
    try:
        return EngineKind(value.lower())
    except ValueError:
        raise SettingsError(f"{name}: {value!r} is not one of {', '.join(EngineKind)}") from None


def _endpoint(flag: str | None, metrics_path: str, env: Mapping[str, str]) -> EngineAddress:
    if (runtime_url := env.get("RUNTIME_URL")) is not None:
        # MatrixInfer documents http://localhost:8000/metrics as its default, kthena the base URL alone.
        env = {**env, "RUNTIME_URL": runtime_url.rstrip("/").removesuffix(metrics_path)}
    if flag is not None:
        return engine_settings.read_endpoint("--engine-base-url", flag)
    # Each is checked before they are compared: a message about two of them shows both.
    addresses = {name: engine_settings.read_endpoint(name, env[name]) for name in _ENDPOINTS if name in env}
    urls = {name: address.shown for name, address in addresses.items()}
    name, _ = _setting("--engine-base-url", None, _ENDPOINTS, urls, engine_settings.DEFAULT_ENDPOINT)
    return addresses.get(name) or engine_settings.read_endpoint(name, engine_settings.DEFAULT_ENDPOINT)


def _metrics_path(flag: str | None, env: Mapping[str, str]) -> str:
    variables = ("METRIC_SCRAPE_PATH", "RUNTIME_METRICS_PATH")
    name, value = _setting("--engine-metrics-path", flag, variables, env, "/metrics")
    if not value.startswith("/"):
        raise SettingsError(f"{name}: {value!r} does not begin with /")
    if not _PATH.fullmatch(value):
        raise SettingsError(f"{name}: {value!r} has characters that are not allowed in a URL's path")
    return value


def _prefixes(value: str) -> tuple[str, ...]:
    prefixes = tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
    unknown = [prefix for prefix in prefixes if prefix not in VOCABULARIES]
    if unknown or not prefixes:
        raise SettingsError(f"--metrics-prefix: {value!r} is not a comma-separated list of {', '.join(VOCABULARIES)}")
    return prefixes


def _port(flag: str | None, env: Mapping[str, str]) -> int:
    if env.get("RUNTIME_PORT", "").startswith(("tcp://", "udp://", "sctp://")):
        # Kubernetes puts this into every pod of a namespace with a Service named `runtime`: it is not a setting.
        env = {name: value for name, value in env.items() if name != "RUNTIME_PORT"}
    name, value = _setting("--port", flag, ("RUNTIME_PORT",), env, str(SIDECAR_PORT))
    if not value.isascii() or not value.isdecimal() or int(value) > 65535:
        raise SettingsError(f"{name}: {value!r} is not a port")
    return int(value)


_REQUIRED: TypeAdapter[tuple[LoadRequest, ...]] = TypeAdapter(tuple[LoadRequest, ...])


def _required(value: str | None) -> tuple[LoadRequest, ...]:
    if value is None:
        return ()
    try:
        required = _REQUIRED.validate_json(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"{REQUIRED_ADAPTERS_VARIABLE}: {where + ': ' if where else ''}{first['msg']}") from None
    names = [request.lora_name for request in required]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise SettingsError(f"{REQUIRED_ADAPTERS_VARIABLE}: {', '.join(repeated)} named twice")
    staging = sorted(request.lora_name for request in required if request.prepare)
    if staging:
        raise SettingsError(
            f"{REQUIRED_ADAPTERS_VARIABLE}: {', '.join(staging)}: a required adapter cannot have `prepare`"
        )
    return required


def _setting(
    flag_name: str, flag: str | None, variables: Sequence[str], env: Mapping[str, str], default: str
) -> tuple[str, str]:
    """Return a setting and what it was said with, for the message if it is wrong. Two names must not disagree."""
    if flag is not None:
        return flag_name, flag
    return single_value(env, *variables) or (variables[0], default)
