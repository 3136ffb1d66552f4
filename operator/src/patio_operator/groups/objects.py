"""The objects of a group, as they are applied: StatefulSets, headless Services, the topology ConfigMap.

Used by `planner`. Only fields that Patio wants are in them: they are applied server-side, and what others
set (the API server's defaults, an annotation by a user) stays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import yaml

from patio_operator.api import labels
from patio_operator.api.rolebasedgroup import Role, RoleBasedGroup
from patio_operator.groups import naming, templates

Object = dict[str, Any]


def service(group: RoleBasedGroup, role: Role) -> Object:
    """Return the Service that gives a role's pods their host names, before they are ready too."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(group, role, naming.service(group, role)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": naming.selector(group, role),
        },
    }


def stateful_set(group: RoleBasedGroup, role: Role) -> Object:
    """Return the StatefulSet that makes a role's pods."""
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


def config_map(group: RoleBasedGroup) -> Object:
    """Return the ConfigMap with the group's topology: every address that its pods have or will have."""
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
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": naming.config_map(group),
            "namespace": group.metadata.namespace,
            "labels": {labels.GROUP_NAME: group.metadata.name},
            "ownerReferences": [naming.owner(group)],
        },
        "data": {templates.CONFIG_FILE: yaml.safe_dump(topology, sort_keys=False, width=1000)},
    }


def _instance(group: RoleBasedGroup, role: Role, index: int) -> Object:
    workload, service_name = naming.workload(group, role), naming.service(group, role)
    instance: Object = {"address": f"{workload}-{index}.{service_name}"}
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
    strategy = role.rollout_strategy.rolling_update if role.rollout_strategy else None
    if strategy is None:
        return {"partition": 0}
    partition = role.replicas if strategy.paused else _scaled(strategy.partition, role.replicas)
    if strategy.max_unavailable in (0, 1, "0%", "100%"):  # 0 comes with maxSurge, which there is not
        return {"partition": partition}
    # without the feature gate MaxUnavailableStatefulSet the API server drops it: one pod at a time then
    return {"partition": partition, "maxUnavailable": strategy.max_unavailable}


def _scaled(value: int | str, replicas: int) -> int:
    """Return a number of pods; of a percentage, rounded up: one pod more keeps its revision."""
    if isinstance(value, int):
        return value
    return math.ceil(int(value.rstrip("%")) * replicas / 100)
