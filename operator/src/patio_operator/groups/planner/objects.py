"""The objects of a group, as they are applied: StatefulSets, headless Services, the topology ConfigMap.

Used by `planner`. Only fields that Patio wants are in them: they are applied server-side, and what others
set (the API server's defaults, an annotation by a user) stays. Pods of leader-worker roles are `instances`' own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from patio_api import labels
from patio_api.labels import FIELD_MANAGER
from patio_api.rolebasedgroup import Role, RoleBasedGroup
from patio_api.rolling_update import limits_of
from patio_operator.groups.planner import naming, restart_state, templates

Object = dict[str, Any]

_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""The one in C where there is one: a group may have thousands of instances."""


def service(group: RoleBasedGroup, role: Role) -> Object:
    """Return the Service that gives a role's pods their host names, before they are ready too."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(group, role, naming.service(group, role)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": naming.service_selector(group, role),
        },
    }


def leaders_slice(group: RoleBasedGroup, role: Role, pods: Iterable[Mapping[str, Any]]) -> Object:
    """Return the EndpointSlice by which `GROUP-ROLE-INDEX.SERVICE` is the leader of that instance.

    Upstream's own example calls leaders so (inference/pd-disagg-leader-worker), and fails. Kubernetes itself gives a
    pod only the name that is its own.

    Args:
        group: the group.
        role: one of its leader-worker roles.
        pods: those of the role.

    """
    leaders = {
        pod["metadata"]["labels"][labels.ROLE_INSTANCE_NAME]: pod
        for pod in pods
        if pod["metadata"]["labels"].get(labels.COMPONENT_INDEX) == "0" and (pod.get("status") or {}).get("podIP")
    }
    addresses = {name: pod["status"]["podIP"] for name, pod in leaders.items()}
    family = "IPv6" if any(":" in address for address in addresses.values()) else "IPv4"
    name = naming.leaders_slice(group, role)
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name if family == "IPv4" else f"{name}-ipv6",  # the type of an address can never be changed
            "namespace": group.metadata.namespace,
            "labels": {
                **naming.selector(group, role),
                labels.SERVICE_OF_SLICE: naming.service(group, role),
                labels.MANAGER_OF_SLICE: FIELD_MANAGER,
            },
            "ownerReferences": [naming.owner(group)],
        },
        "addressType": family,
        "endpoints": [
            {"addresses": [addresses[name]], "hostname": name, "conditions": {"ready": True}}
            for name in sorted(addresses)
        ],
    }


def stateful_set(group: RoleBasedGroup, role: Role) -> Object:
    """Return the StatefulSet that makes a standalone role's pods."""
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": _metadata(group, role, naming.workload(group, role)),
        "spec": {
            "replicas": role.replicas,
            "serviceName": naming.service(group, role),
            "podManagementPolicy": "Parallel",
            "minReadySeconds": role.min_ready_seconds,
            "selector": {"matchLabels": naming.selector(group, role)},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": _rolling_update(role)},
            "template": templates.pod_template(group, role),
        },
    }


def config_map(group: RoleBasedGroup, restart_states: restart_state.RestartStates) -> Object:
    """Return the ConfigMap with the group's topology: every address that its pods have or will have.

    What is remembered of leader-worker instances is in an annotation of it.
    """
    roles = group.spec.roles
    topology = {
        "group": {"name": group.metadata.name, "roles": [role.name for role in roles], "size": len(roles)},
        "roles": {
            role.name: {
                "instances": [_instance(group, role, index) for index in range(role.replicas)],
                "size": role.replicas,
            }
            for role in roles
        },
    }
    remembered = restart_state.write(restart_states)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": naming.config_map(group),
            "namespace": group.metadata.namespace,
            "labels": naming.whole_group(group),
            **({"annotations": {labels.INSTANCES: remembered}} if remembered != "{}" else {}),
            "ownerReferences": [naming.owner(group)],
        },
        "data": {templates.CONFIG_FILE: yaml.dump(topology, Dumper=_DUMPER, sort_keys=False, width=1000)},
    }


def _instance(group: RoleBasedGroup, role: Role, index: int) -> Object:
    instance: Object = {"address": f"{naming.leader(group, role, index)}.{naming.service(group, role)}"}
    ports = {
        (port.name.lower().replace("-", "_") if port.name else f"port{port.port}"): port.port
        for port in role.service_ports
    }
    return {**instance, "ports": ports} if ports else instance


def _metadata(group: RoleBasedGroup, role: Role, name: str) -> Object:
    return {
        "name": name,
        "namespace": group.metadata.namespace,
        "labels": {**role.labels, **naming.selector(group, role)},
        "annotations": {**role.annotations, labels.ROLE_SIZE: str(role.replicas)},
        "ownerReferences": [naming.owner(group)],
    }


def _rolling_update(role: Role) -> Mapping[str, Any]:
    rollout = limits_of(role)
    if rollout.max_unavailable == 1:
        return {"partition": rollout.partition}
    # without the feature gate MaxUnavailableStatefulSet the API server drops it: then `rolling_updates.faster` helps
    return {"partition": rollout.partition, "maxUnavailable": rollout.max_unavailable}
