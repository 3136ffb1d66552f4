"""What a ModelEndpoint is made of: a RoleBasedGroup for each revision, and one Service before all of them.

A group's roles are written once, when it is created; after that only its numbers change (`resized`). So neither another
version of Patio nor a profile replaces workers behind the back of a roll (decision 0044). The Service selects the pods
that take requests, of every revision; readiness decides which of them get any.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from patio_api import endpoint_labels
from patio_api.model_endpoint import EndpointRole, ModelEndpoint
from patio_operator.modelendpoints.planner import naming
from patio_operator.modelendpoints.planner.engine_commands import (
    BOOTSTRAP_PORT,
    MODELS,
    ROUTER_PORT,
    engine_command,
    engine_port,
    request_port,
    router_command,
)
from patio_operator.modelendpoints.planner.snapshot import ObservedGroup

Object = dict[str, Any]

ENGINE = "engine"
"""Name of the engine's container."""
SERVICE_PORT = 80
"""Of the Service, whatever the engine's port is."""
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - by which the processes of one engine talk
GRACE_SECONDS = 600
"""That a pod may take to end: its sidecar drains it, and a long answer takes minutes."""
_START_SECONDS = 10
_STARTS = 24 * 3600 // _START_SECONDS
"""An engine that loads is not killed for a day: whether it takes too long is judged by workers.loadingGrace, which
kills nothing."""


def role_based_group(
    endpoint: ModelEndpoint, workers: int, sidecars: Mapping[str, str], images: Mapping[str, str]
) -> Object:
    """Return the group of the revision that the spec asks for.

    Args:
        endpoint: the ModelEndpoint.
        workers: that it has at first.
        sidecars: name of the sidecar's container in each profile.
        images: of the engines, for roles that name none.

    """
    revision = naming.revision(endpoint)
    shape = shape_of(endpoint)
    shared = [
        {"name": role.type, "template": _template(endpoint, role, revision, images)}
        for role in endpoint.roles
        if role.template
    ]
    roles = [_role(endpoint, role, revision, sidecars, images) for role in endpoint.roles]
    if endpoint.is_split:
        roles.append(_router(endpoint, revision))
    return {
        "apiVersion": "workloads.x-k8s.io/v1alpha2",
        "kind": "RoleBasedGroup",
        "metadata": {
            "name": naming.group(endpoint, revision),
            "namespace": endpoint.metadata.namespace,
            "labels": naming.labels_of_revision(endpoint, revision),
            "annotations": {endpoint_labels.SHAPE: json.dumps(shape, sort_keys=True)},
            "ownerReferences": [naming.owner(endpoint)],
        },
        "spec": {
            **({"roleTemplates": shared} if shared else {}),
            "roles": [{**role, "replicas": instances(shape, role["name"], workers)} for role in roles],
        },
    }


def resized(group: ObservedGroup, workers: int) -> Object:
    """Return the merge patch after which a group has another number of workers.

    It holds for the very object that was observed: a list can be replaced only whole, and what others wrote meanwhile
    must not be lost.
    """
    roles = [{**role, "replicas": instances(group.shape, role["name"], workers)} for role in group.roles]
    return {
        "metadata": {"uid": group.uid, "resourceVersion": group.resource_version},
        "spec": {"roles": roles},
    }


def shape_of(endpoint: ModelEndpoint) -> dict[str, int]:
    """Return how many instances of each role are one worker."""
    return {role.type: role.per_worker for role in endpoint.roles}


def instances(shape: Mapping[str, int], role: str, workers: int) -> int:
    """Return how many instances a role has; one router serves any number of workers."""
    each = shape.get(role, 0)
    return each * workers if each else min(workers, 1)


def service(endpoint: ModelEndpoint) -> Object:
    """Return the Service before the workers."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": naming.service(endpoint),
            "namespace": endpoint.metadata.namespace,
            "labels": naming.labels(endpoint),
            "ownerReferences": [naming.owner(endpoint)],
        },
        "spec": {
            "selector": naming.selector(endpoint),
            "ports": [{"name": "http", "port": SERVICE_PORT, "targetPort": request_port(endpoint)}],
        },
    }


def _role(
    endpoint: ModelEndpoint,
    role: EndpointRole,
    revision: str,
    sidecars: Mapping[str, str],
    images: Mapping[str, str],
) -> Object:
    written: Object = {"name": role.type, "engineRuntimes": _runtimes(endpoint, role, sidecars)}
    # The user's patch is merged by who realises the group, as patches of groups are.
    pattern: Object = (
        {"templateRef": {"name": role.type, "patch": role.template}}
        if role.template
        else {"template": _template(endpoint, role, revision, images)}
    )
    if role.nodes_per_worker == 1:
        return {**written, "standalonePattern": pattern}
    worker_args = engine_command(endpoint, role).worker_args
    return {
        **written,
        "leaderWorkerPattern": {
            **pattern,
            "size": role.nodes_per_worker,
            **({"leaderTemplatePatch": _takes_requests()} if role.type == "server" else {}),
            **({} if worker_args is None else {"workerTemplatePatch": _args_patch(worker_args)}),
        },
    }


def _template(
    endpoint: ModelEndpoint,
    role: EndpointRole,
    revision: str,
    images: Mapping[str, str],
) -> Object:
    command = engine_command(endpoint, role)
    labels = naming.labels_of_revision(endpoint, revision)
    if role.type == "server" and role.nodes_per_worker == 1:
        labels |= {endpoint_labels.TAKES_REQUESTS: "true"}
    ports = [{"name": endpoint_labels.REQUEST_PORT, "containerPort": engine_port(endpoint)}]
    if role.type == "prefill":
        ports.append({"name": "bootstrap", "containerPort": BOOTSTRAP_PORT})
    container: Object = {
        "name": ENGINE,
        "image": role.image or images[endpoint.spec.engine],
        "command": list(command.command),
        "args": list(command.args),
        "ports": ports,
        "env": [*command.env, *role.env],
        "volumeMounts": [{"name": "models", "mountPath": MODELS}, {"name": "shm", "mountPath": _SHARED_MEMORY}],
    }
    # Engines open their port when the model is loaded: vLLM 0.11, SGLang 0.5. A node that does not lead opens none.
    if role.nodes_per_worker == 1:
        probe = {"tcpSocket": {"port": "http"}, "periodSeconds": _START_SECONDS}
        container["startupProbe"] = {**probe, "failureThreshold": _STARTS}
        container["livenessProbe"] = {**probe, "timeoutSeconds": 5, "failureThreshold": 6}
    if not endpoint.runtimes:
        # Where the sidecar is, its readiness decides: it asks for the list of models as well.
        container["readinessProbe"] = {"httpGet": {"path": "/health", "port": "http"}, "timeoutSeconds": 5}
    if role.env_from:
        container["envFrom"] = list(role.env_from)
    if role.resources:
        container["resources"] = role.resources
    volumes = [{"name": "models", **_cache(endpoint)}, {"name": "shm", "emptyDir": {"medium": "Memory"}}]
    return {
        "metadata": {"labels": labels},
        "spec": {"terminationGracePeriodSeconds": GRACE_SECONDS, "containers": [container], "volumes": volumes},
    }


def _cache(endpoint: ModelEndpoint) -> Object:
    cache = endpoint.spec.cache
    if cache is None:
        return {"emptyDir": {}}
    if cache.host_path is not None:
        return {"hostPath": {"path": cache.host_path, "type": "DirectoryOrCreate"}}
    claim: Object = {"claimName": cache.persistent_volume_claim}
    # What a user put there is only read. The same claim may be mounted on many nodes by its access mode alone.
    read_only = endpoint.spec.model.uri.startswith("pvc://")
    return {"persistentVolumeClaim": {**claim, "readOnly": True} if read_only else claim}


def _takes_requests() -> Object:
    return {"metadata": {"labels": {endpoint_labels.TAKES_REQUESTS: "true"}}}


def _args_patch(args: tuple[str, ...]) -> Object:
    return {"spec": {"containers": [{"name": ENGINE, "args": list(args)}]}}


def _runtimes(endpoint: ModelEndpoint, role: EndpointRole, sidecars: Mapping[str, str]) -> list[Object]:
    """Return the profiles of a role; prefill and decode workers are told which router they are of."""
    runtimes = [runtime.to_api() for runtime in endpoint.runtimes]
    if role.type == "server":
        return runtimes
    worker: Object = {"port": engine_port(endpoint), "worker_type": role.type}
    if role.type == "prefill":
        worker["bootstrap_port"] = BOOTSTRAP_PORT
    topology = {
        "name": sidecars[endpoint.runtimes[0].profile_name],
        "args": [f"--instance-info={json.dumps({'data': worker})}"],
        "env": [
            {"name": "TOPO_TYPE", "value": "sglang"},
            {"name": "ROUTER_ROLE_NAME", "value": naming.ROUTER},
            {"name": "ROUTER_PORT", "value": str(ROUTER_PORT)},
        ],
    }
    first = runtimes[0]
    overrides = {override["name"]: override for override in first.get("containers") or []}
    users = overrides.pop(topology["name"], {})
    merged = {
        **users,
        **topology,
        "args": [*topology["args"], *(users.get("args") or [])],
        "env": [*topology["env"], *(users.get("env") or [])],
    }
    return [{**first, "containers": [merged, *overrides.values()]}, *runtimes[1:]]


def _router(endpoint: ModelEndpoint, revision: str) -> Object:
    router = endpoint.spec.router
    assert router is not None
    command = router_command(endpoint)
    labels = {**naming.labels_of_revision(endpoint, revision), endpoint_labels.TAKES_REQUESTS: "true"}
    container: Object = {
        "name": naming.ROUTER,
        "image": router.image,
        "command": list(command.command),
        "args": list(command.args),
        "ports": [{"name": endpoint_labels.REQUEST_PORT, "containerPort": ROUTER_PORT}],
        "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 5, "timeoutSeconds": 5},
    }
    if router.resources:
        container["resources"] = router.resources
    spec = {"terminationGracePeriodSeconds": GRACE_SECONDS, "containers": [container]}
    pattern = {"template": {"metadata": {"labels": labels}, "spec": spec}}
    return {"name": naming.ROUTER, "standalonePattern": pattern}
