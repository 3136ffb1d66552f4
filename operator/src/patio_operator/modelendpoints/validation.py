"""What the schema cannot say of a ModelEndpoint: `problems`. Pure.

Asked by the webhook, so that `kubectl apply` says it, and by the planner, since an object may have been stored while no
webhook answered. Each problem names the field, what is wrong, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from patio_api.endpoint_labels import ENDPOINT, ENDPOINT_REVISION, TAKES_REQUESTS
from patio_api.invalid_field import InvalidField
from patio_api.model_endpoint import EndpointRole, ModelEndpoint
from patio_api.object_names import is_object_name
from patio_protocol.engines import EngineKind
from patio_protocol.sources import SourceKind, parse_source

_PATIOS_FLAGS = {
    EngineKind.VLLM: {
        "--model": "set model.uri",
        "--served-model-name": "set model.name and model.aliases",
        "--port": "remove it",
        "--uds": "remove it",
        "--nnodes": "set nodesPerWorker",
        "--node-rank": "remove it",
        "--headless": "remove it",
    },
    EngineKind.SGLANG: {
        "--model-path": "set model.uri",
        "--model": "set model.uri",
        "--served-model-name": "set model.name and model.aliases",
        "--port": "remove it",
        "--nnodes": "set nodesPerWorker",
        "--node-rank": "remove it",
        "--disaggregation-mode": "use roles of type prefill and decode",
    },
}
"""Flags by which a worker would serve something else, or elsewhere, than the endpoint says; each with what to do."""
_ENGINE = "engine"
_ROUTER_PORT_FLAGS = ("--port", "--host")


def problems(endpoint: ModelEndpoint) -> tuple[InvalidField, ...]:
    """Return what is wrong with a ModelEndpoint, in the order of its fields."""
    return tuple(_problems(endpoint))


def _problems(endpoint: ModelEndpoint) -> Iterator[InvalidField]:
    spec = endpoint.spec
    try:
        source = parse_source(spec.model.uri)
    except ValueError as error:
        yield InvalidField("spec.model.uri", str(error))
        return
    if source.kind is SourceKind.HF and source.path:
        yield InvalidField("spec.model.uri", "an engine takes a whole repository: write hf://org/repo[@revision]")
    if source.kind is SourceKind.PVC and (spec.cache is None or spec.cache.persistent_volume_claim is None):
        yield InvalidField(
            "spec.cache", "a pvc:// model is a folder of a volume: name its claim in cache.persistentVolumeClaim"
        )
    if source.kind in (SourceKind.S3, SourceKind.OBS) and not endpoint.runtimes:
        yield InvalidField("spec.engineRuntimes", "the sidecar downloads s3:// and obs:// models: name its profile")
    if len(endpoint.names) != 1 + len(spec.model.aliases):
        yield InvalidField("spec.model.aliases", "a name is given twice: remove one of them")
    if spec.workers.min > spec.workers.max:
        yield InvalidField("spec.workers.min", "min must not be greater than max")
    if endpoint.metadata.name in spec.routing.fallbacks:
        yield InvalidField("spec.routing.fallbacks", "an endpoint cannot be its own fallback: remove it")
    for index, runtime in enumerate(endpoint.runtimes):
        if not is_object_name(runtime.profile_name):
            path = f"spec.engineRuntimes[{index}].profileName"
            yield InvalidField(path, f"{runtime.profile_name[:64]!r} cannot be the name of a profile: correct it")
    yield from _roles(endpoint)


def _roles(endpoint: ModelEndpoint) -> Iterator[InvalidField]:
    types = [role.type for role in endpoint.roles]
    if sorted(types) not in (["server"], ["decode", "prefill"]):
        yield InvalidField("spec.roles", "give one role of type server, or one of type prefill and one of type decode")
        return
    if endpoint.is_split and EngineKind(endpoint.spec.engine) is not EngineKind.SGLANG:
        yield InvalidField("spec.engine", "prefill and decode roles are made for engine: sglang only")
    if endpoint.is_split and endpoint.spec.router is None:
        yield InvalidField("spec.router", "prefill and decode roles need a router: give router.image")
    if endpoint.is_split and not endpoint.runtimes:
        message = "prefill and decode workers are registered with their router by the sidecar: name its profile"
        yield InvalidField("spec.engineRuntimes", message)
    if endpoint.spec.adapters is not None and not endpoint.runtimes:
        yield InvalidField("spec.engineRuntimes", "the sidecar loads adapters: name its profile")
    for index, role in enumerate(endpoint.roles):
        yield from _role(endpoint, role, f"spec.roles[{index}]")
    if endpoint.spec.router is not None:
        for flag in _flags(endpoint.spec.router.args):
            if flag in _ROUTER_PORT_FLAGS:
                yield InvalidField("spec.router.args", f"{flag} is Patio's: remove it")


def _role(endpoint: ModelEndpoint, role: EndpointRole, path: str) -> Iterator[InvalidField]:
    owned = _PATIOS_FLAGS[EngineKind(endpoint.spec.engine)]
    for flag in _flags(role.args):
        if flag in owned:
            yield InvalidField(f"{path}.args", f"{flag} is Patio's: {owned[flag]}")
    for index, variable in enumerate(role.env):
        name = variable.get("name")
        if not isinstance(name, str) or not name:
            yield InvalidField(f"{path}.env[{index}]", "a variable needs a name")
    template: Any = role.template
    metadata, spec = template.get("metadata") or {}, template.get("spec") or {}
    if not isinstance(metadata, dict) or not isinstance(spec, dict):
        yield InvalidField(f"{path}.template", "it is a patch on a pod template: give metadata and spec as objects")
        return
    labels = metadata.get("labels") or {}
    taken = sorted(
        {ENDPOINT, ENDPOINT_REVISION, TAKES_REQUESTS}.intersection(labels if isinstance(labels, dict) else ())
    )
    if taken:
        yield InvalidField(f"{path}.template.metadata.labels", f"{taken[0]} is Patio's: remove it")
    if "restartPolicy" in spec and spec["restartPolicy"] != "Always":
        yield InvalidField(f"{path}.template.spec.restartPolicy", "an engine is always restarted: remove it")
    for container in spec.get("containers") or []:
        if not isinstance(container, dict) or container.get("name") != _ENGINE:
            continue
        for field, instead in (("args", "args"), ("command", "args"), ("image", "image"), ("resources", "resources")):
            if field in container:
                message = f"{field} of the engine's container is set here: set roles[].{instead} instead"
                yield InvalidField(f"{path}.template.spec.containers", message)


def _flags(args: Iterable[str]) -> list[str]:
    """Return the names of the flags in an argument list, as both engines read them."""
    return [name.replace("_", "-") for name in (arg.partition("=")[0] for arg in args) if name.startswith("--")]


def sentence(found: Sequence[InvalidField]) -> str:
    """Return the first problem, and how many more there are."""
    more = f" ({len(found) - 1} more)" if len(found) > 1 else ""
    return f"{found[0]}{more}"
