"""The way of a pod through its injection: `inject`.

Comes after `requested_profiles` (the shell has fetched the profiles in between) and before `patch`. Only the order is
decided here: find the engine, add what the profiles have, then make engine and sidecars know of each other.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

from patio_api import labels
from patio_api.bounded_json import read_object
from patio_api.pod_identity_env import put_before
from patio_operator.injection import authentication as access_control
from patio_operator.injection import limits, profiles, sources, variables, volumes
from patio_operator.injection.authentication import CallerKeys
from patio_operator.injection.engine import Engine, engines_in, find_engine, unknown
from patio_operator.injection.profiles import SIDECAR_PORT_NAME
from patio_operator.injection.types import (
    Container,
    Injection,
    InjectionError,
    Pod,
    PodRejection,
    Runtime,
    containers_of,
    runs_beside,
)
from patio_protocol.adapters import LoadRequest

SIDECAR_NAMES = ("patio", "patio-runtime")
UNKNOWN_REVISION = "unknown"
"""Of a profile that upstream rendered into a pod's template before it was changed."""


def inject(
    pod: Mapping[str, Any], wanted: Sequence[Runtime], adapters: Sequence[LoadRequest], access: CallerKeys | None = None
) -> Injection | PodRejection:
    """Return the pod with the profiles in it, or why that cannot be.

    Args:
        pod: the pod as admission sees it; not changed.
        wanted: the profiles it asks for, in order.
        adapters: what its engine must have before the pod is ready.
        access: who may call its sidecar from outside; None: no caller is named.

    """
    if not wanted:
        return Injection(copy.deepcopy(dict(pod)))
    too_much = limits.excess(pod)
    if too_much is not None:
        return PodRejection(limits.shortened(too_much, limits.MESSAGE), "too_large")
    injected: Pod = copy.deepcopy(dict(pod))
    try:
        own = _own(injected, _names(wanted))
        engines = engines_in(own)
        if engines and engines[0].headless:
            return Injection(injected, (_left_alone(engines[0]),))
        warnings = _inject(injected, own, engines, wanted, adapters, access)
    except InjectionError as clash:
        return PodRejection(limits.shortened(str(clash), limits.MESSAGE), "not_injectable")
    return Injection(injected, limits.few(warnings))


def engine_of(pod: Mapping[str, Any], wanted: Sequence[Runtime]) -> Engine:
    """Return what is known of a pod's engine before the profiles are in it, whose containers are none."""
    if limits.excess(pod) is not None:
        return Engine(container="")
    try:
        injected_names = _names(wanted)
    except InjectionError:  # `inject` says so
        injected_names = set()
    return find_engine(_own(pod, injected_names))


def _own(pod: Mapping[str, Any], injected_names: set[str]) -> list[Container]:
    """Return the containers that may be the engine: the pod's own that run as long as it does, main ones first."""
    spec = pod["spec"]
    native = [container for container in spec.get("initContainers") or [] if container.get("restartPolicy") == "Always"]
    return [
        container for container in [*(spec.get("containers") or []), *native] if container["name"] not in injected_names
    ]


def _left_alone(engine: Engine) -> str:
    return (
        f"{engine.container!r} serves no requests (--headless, or not the first node of several), so the pod gets no "
        "profile: adapters are loaded through the pod that serves"
    )


def _names(wanted: Sequence[Runtime]) -> set[str]:
    """Return the names of the profiles' containers."""
    return {container["name"] for runtime in wanted for container in profiles.effective(runtime).all}


def _inject(
    pod: Pod,
    own: Sequence[Container],
    engines: Sequence[Engine],
    wanted: Sequence[Runtime],
    adapters: Sequence[LoadRequest],
    access: CallerKeys | None,
) -> list[str]:
    engine = engines[0] if engines else unknown(own)
    before = _revisions(pod)
    revisions = dict(before)
    origins: dict[str, str] = {}
    volume_origins: dict[str, str] = {}
    warnings = _other_engines(engines)
    referring: list[tuple[Container, set[str]]] = []
    for runtime in wanted:
        effective = profiles.effective(runtime)
        warnings += effective.warnings
        present = {container["name"] for container in containers_of(pod)}
        injected_before = runtime.name in before and all(container["name"] in present for container in effective.all)
        differs = profiles.add(pod, runtime, effective, origins, volume_origins, injected_before=injected_before)
        warnings += differs
        if not injected_before:
            revisions[runtime.name] = UNKNOWN_REVISION if differs else profiles.revision(runtime.profile)
        warnings += _never_ending(pod, effective.containers, f"profile {runtime.name!r}")
        targets = _targets(pod, runtime, engine)
        volumes.share(pod, runtime, effective.all, targets)
        if runtime.inject_containers:
            for target in targets:
                _add_variables(target, effective.all)
                referring.append((target, variables.referred(effective.all)))
    profiles.check_ports(pod, origins, engine.container, engine.port)
    sidecars = _sidecars(pod, origins)
    engine_container = next((container for container in own if container["name"] == engine.container), None)
    if engine_container is not None and sidecars:
        warnings += variables.allow_updates(engine_container, engine)
    for sidecar in sidecars:
        warnings += _ports_of_the_node(pod, sidecar)
        if engine_container is not None and not variables.has_endpoint(sidecar):
            if engine.socket:
                volumes.lend_socket(pod, engine_container, sidecar, engine.socket)
            warnings += variables.trust(sidecar, engine, pod)
        warnings += variables.tell_sidecar(sidecar, engine, engine_container or {}, adapters)
        if engine_container is not None:
            warnings += volumes.lend(pod, engine_container, sidecar)
            warnings += sources.tell_roots(pod, engine_container, sidecar, adapters)
        if access is not None:
            access_control.give_keys(sidecar, access)
            access_control.give_token(pod, sidecar)
    first = min(
        sidecars, key=lambda sidecar: str(sidecar["name"]), default=None
    )  # the same whichever profile came first
    if access is not None and engine_container is not None and first is not None:
        warnings += access_control.add_hook(pod, engine_container, first, access)
    pod_variables = variables.of_the_pod(pod)
    for target, names in referring:
        put_before(target, [variable for variable in pod_variables if variable["name"] in names])
    for container in containers_of(pod):
        if container["name"] in origins and runs_beside(container, pod):
            variables.correct_index(container, pod_variables)
            put_before(container, pod_variables)
    _mark(pod, revisions, variables.summary(engine, first))
    return warnings


def _revisions(pod: Mapping[str, Any]) -> dict[str, str]:
    """Return the profiles that were injected before, with their revisions, by the annotation, which is anybody's."""
    revisions = read_object((pod["metadata"].get("annotations") or {}).get(labels.INJECTED))
    if len(revisions) > limits.PROFILES:
        return {}
    return {
        name: revision
        for name, revision in revisions.items()
        if isinstance(revision, str) and len(name) <= limits.NAME and len(revision) <= limits.REVISION
    }


def _other_engines(engines: Sequence[Engine]) -> list[str]:
    return [
        f"container {other.container!r} is a second engine, and Patio serves only {engines[0].container!r}: "
        f"{other.container!r} gets no adapters, and the pod may be ready without it. Run it in its own pod"
        for other in engines[1:]
    ]


def _ports_of_the_node(pod: Pod, sidecar: Container) -> list[str]:
    if not pod["spec"].get("hostNetwork"):
        return []
    numbers = ", ".join(str(port["containerPort"]) for port in sidecar.get("ports") or [])
    return [
        f"the pod has hostNetwork: {sidecar['name']!r} uses port {numbers} of the node. A second such pod needs other "
        "ports: override them in its engineRuntimes"
    ]


def _never_ending(pod: Pod, containers: Sequence[Container], source: str) -> list[str]:
    """Say which containers keep a pod alive that is meant to end, such as a Job's."""
    if not containers or (pod["spec"].get("restartPolicy") or "Always") == "Always":
        return []
    names = ", ".join(repr(container["name"]) for container in containers)
    return [
        f"{source} adds {names}, which keeps the pod running: make it an init container with restartPolicy: Always, "
        "which ends with the pod"
    ]


def _targets(pod: Pod, runtime: Runtime, engine: Engine) -> list[Container]:
    """Return the containers that get a profile's volumes: those named, or the engine."""
    by_name = {container["name"]: container for container in containers_of(pod)}
    for name in runtime.inject_containers:
        if name not in by_name:
            raise InjectionError(
                f"engineRuntimes names container {name!r} in injectContainers of profile {runtime.name!r}, but the pod "
                f"has {', '.join(map(repr, by_name))}: correct the name"
            )
    return [by_name[name] for name in runtime.inject_containers or (engine.container,) if name in by_name]


def _add_variables(target: Container, containers: Sequence[Container]) -> None:
    for container in containers:
        present = {variable["name"] for variable in target.get("env") or []}
        missing = [
            copy.deepcopy(variable) for variable in container.get("env") or [] if variable["name"] not in present
        ]
        if missing and target["name"] != container["name"]:
            target["env"] = [*(target.get("env") or []), *missing]


def _sidecars(pod: Pod, origins: Mapping[str, str]) -> list[Container]:
    """Return Patio's sidecars among what the profiles added: by port name, or by their own."""
    return [
        container
        for container in containers_of(pod)
        if container["name"] in origins
        and runs_beside(container, pod)
        and (
            container["name"] in SIDECAR_NAMES
            or any(port.get("name") == SIDECAR_PORT_NAME for port in container.get("ports") or [])
        )
    ]


def _mark(pod: Pod, revisions: Mapping[str, str], engine: Mapping[str, Any]) -> None:
    metadata = pod["metadata"]
    metadata["labels"] = {**(metadata.get("labels") or {}), labels.INJECTED: "true"}
    metadata["annotations"] = {
        **(metadata.get("annotations") or {}),
        labels.INJECTED: json.dumps(revisions, sort_keys=True),
        labels.ENGINE: json.dumps(engine),
    }
