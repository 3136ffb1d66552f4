"""The command lines of engines and routers, and the variables that go with them.

What Patio gives comes first and what the user gives comes last, so that a flag which the user repeats wins by the rule
of both engines: the last one counts. Flags that would take a worker out of Patio's sight (`validation`) are refused
before. Facts of flags: vLLM 0.11 and newer, SGLang 0.5.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from patio_api.model_endpoint import EndpointRole, ModelEndpoint
from patio_operator.modelendpoints.model_fetch import PREFIX, PROGRAM
from patio_protocol.downloads import DEFAULT_DOWNLOAD_ROOT
from patio_protocol.engines import DEFAULT_PORTS, EngineKind
from patio_protocol.sources import SourceKind, parse_source

MODELS = "/models"
"""Where the cache is in the engine's container."""
ROUTER_PORT = 8000
BOOTSTRAP_PORT = 8998
"""At which prefill workers of SGLang hand their state over."""
_NODES_PORT = 20000
"""At which the nodes of one engine find each other."""
_LEADER = "$(RBG_LWP_LEADER_ADDRESS)"
_RANK = "$(RBG_LWP_WORKER_INDEX)"

Variable = dict[str, Any]


@dataclass(frozen=True)
class Command:
    """How a container starts its engine."""

    command: tuple[str, ...]
    args: tuple[str, ...]
    worker_args: tuple[str, ...] | None = None
    """Of the nodes of an engine that are not its leader; None: the same."""
    env: tuple[Variable, ...] = ()


def engine_port(endpoint: ModelEndpoint) -> int:
    """Return the port that the engine listens on."""
    return DEFAULT_PORTS[endpoint.spec.engine]


def request_port(endpoint: ModelEndpoint) -> int:
    """Return the port of the pods that take requests."""
    return ROUTER_PORT if endpoint.is_split else engine_port(endpoint)


def engine_command(endpoint: ModelEndpoint, role: EndpointRole) -> Command:
    """Return how the engine of a role starts."""
    if EngineKind(endpoint.spec.engine) is EngineKind.VLLM:
        command, args, worker_args = _vllm(endpoint, role)
    else:
        command, args, worker_args = _sglang(endpoint, role)
    if _is_fetched(endpoint):
        fetch = ("python3", "-c", PROGRAM, endpoint.spec.model.uri, _fetched_folder(endpoint))
        return Command(fetch, (*command, *args), worker_args and (*command, *worker_args), _fetch_env(endpoint))
    return Command(command, args, worker_args, _hub_env(endpoint))


def router_command(endpoint: ModelEndpoint) -> Command:
    """Return how the router before prefill and decode starts; the sidecars register the workers with it."""
    assert endpoint.spec.router is not None
    flags = ("--pd-disaggregation", "--host", "0.0.0.0", "--port", str(ROUTER_PORT))  # noqa: S104 - a pod's own address
    return Command(("python3", "-m", "sglang_router.launch_router"), (*flags, *endpoint.spec.router.args))


def _vllm(
    endpoint: ModelEndpoint, role: EndpointRole
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...] | None]:
    model, revision = _location(endpoint)
    flags = [model, "--served-model-name", *endpoint.names, "--port", str(engine_port(endpoint))]
    flags += ["--revision", revision] if revision else []
    if (adapters := endpoint.spec.adapters) is not None:
        flags += ["--enable-lora", "--max-loras", str(adapters.max_loaded), "--max-lora-rank", str(adapters.max_rank)]
    if role.nodes_per_worker == 1:
        return ("vllm", "serve"), (*flags, *role.args), None
    nodes = ["--nnodes", str(role.nodes_per_worker), "--master-addr", _LEADER]
    leader = (*flags, *nodes, "--node-rank", "0", *role.args)
    return ("vllm", "serve"), leader, (*flags, *nodes, "--node-rank", _RANK, "--headless", *role.args)


def _sglang(
    endpoint: ModelEndpoint, role: EndpointRole
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...] | None]:
    model, revision = _location(endpoint)
    # SGLang takes one name, and answers requests by any other name as well.
    flags = ["--model-path", model, "--served-model-name", endpoint.model_name]
    flags += ["--host", "0.0.0.0", "--port", str(engine_port(endpoint)), "--enable-metrics"]  # noqa: S104 - as above
    flags += ["--revision", revision] if revision else []
    if (adapters := endpoint.spec.adapters) is not None:
        # Without adapters at its start it needs to know which layers they may change, and of which rank they are.
        flags += ["--enable-lora", "--max-loras-per-batch", str(adapters.max_loaded)]
        flags += ["--max-lora-rank", str(adapters.max_rank), "--lora-target-modules", "all"]
    if role.type != "server":
        flags += ["--disaggregation-mode", role.type]
    if role.type == "prefill":
        flags += ["--disaggregation-bootstrap-port", str(BOOTSTRAP_PORT)]
    if role.nodes_per_worker > 1:
        flags += ["--nnodes", str(role.nodes_per_worker), "--node-rank", _RANK]
        flags += ["--dist-init-addr", f"{_LEADER}:{_NODES_PORT}"]
    return ("python3", "-m", "sglang.launch_server"), (*flags, *role.args), None


def _location(endpoint: ModelEndpoint) -> tuple[str, str | None]:
    """Return what the engine is told to load, and which revision of it."""
    source = parse_source(endpoint.spec.model.uri)
    if source.kind is SourceKind.HF:
        return source.name, source.revision
    if source.kind is SourceKind.PVC:
        return f"{MODELS}/{source.path.lstrip('/')}", None
    return (_fetched_folder(endpoint) if _is_fetched(endpoint) else source.path), None


def _is_fetched(endpoint: ModelEndpoint) -> bool:
    return parse_source(endpoint.spec.model.uri).kind in (SourceKind.S3, SourceKind.OBS)


def _fetched_folder(endpoint: ModelEndpoint) -> str:
    digest = hashlib.sha256(endpoint.spec.model.uri.encode()).hexdigest()[:12]
    return f"{DEFAULT_DOWNLOAD_ROOT}/model-{digest}"


def _hub_env(endpoint: ModelEndpoint) -> tuple[Variable, ...]:
    """Return the variables of Hugging Face's library: where it keeps files, whom it asks, and who asks."""
    if parse_source(endpoint.spec.model.uri).kind is not SourceKind.HF:
        return ()
    variables: list[Variable] = [{"name": "HF_HOME", "value": f"{MODELS}/huggingface"}]
    source = endpoint.spec.source
    if source is not None and source.endpoint is not None:
        address = source.endpoint if "://" in source.endpoint else f"https://{source.endpoint}"
        variables.append({"name": "HF_ENDPOINT", "value": address})
    if source is not None and source.secret_ref is not None:
        variables.append(_secret("HF_TOKEN", source.secret_ref.name, "HF_AUTH_TOKEN", optional=False))
    return tuple(variables)


def _fetch_env(endpoint: ModelEndpoint) -> tuple[Variable, ...]:
    source = endpoint.spec.source
    if source is None:
        return ()
    options = {
        "ENDPOINT": source.endpoint,
        "REGION": source.region,
        "ADDRESSING_STYLE": source.addressing_style,
        "ALLOW_PLAIN_HTTP": "true" if source.allow_plain_http else None,
    }
    variables: list[Variable] = [
        {"name": PREFIX + name, "value": value} for name, value in options.items() if value is not None
    ]
    if source.secret_ref is not None:
        name = source.secret_ref.name
        needed = ("ACCESS_KEY", "SECRET_KEY")
        variables += [_secret(PREFIX + key, name, key, optional=False) for key in needed]
        further = ("SESSION_TOKEN", *(key for key in ("ENDPOINT", "REGION") if options[key] is None))
        variables += [_secret(PREFIX + key, name, key, optional=True) for key in further]
    return tuple(variables)


def _secret(variable: str, secret: str, key: str, *, optional: bool) -> Variable:
    reference: dict[str, Any] = {"name": secret, "key": key} | ({"optional": True} if optional else {})
    return {"name": variable, "valueFrom": {"secretKeyRef": reference}}
