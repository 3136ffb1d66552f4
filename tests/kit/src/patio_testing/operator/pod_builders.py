"""Builders of pods and profiles for the tests of injection."""

from __future__ import annotations

import json
from typing import Any

from patio_api.profile import ClusterEngineRuntimeProfile
from patio_operator.injection import Injection, Runtime, inject
from patio_protocol.adapters import LoadRequest

Object = dict[str, Any]

VLLM = {
    "name": "vllm",
    "image": "vllm/vllm-openai:v0.32.0",
    "command": ["vllm", "serve", "/models/base", "--enable-lora"],
}
SIDECAR = {
    "name": "patio",
    "image": "patio/sidecar:1",
    "restartPolicy": "Always",
    "ports": [{"name": "patio", "containerPort": 9091}],
    "volumeMounts": [{"name": "patio", "mountPath": "/var/lib/patio"}],
}


def pod(*containers: Object, **spec: Any) -> Object:
    """A pod with these containers, the vLLM above by default; `spec` are further fields of its spec."""
    metadata = {"name": "pod-0", "namespace": "team", "labels": {"app": "x"}} | spec.pop("metadata", {})
    return {"metadata": metadata, "spec": {"containers": list(containers or (VLLM,)), **spec}}


def profile(name: str = "patio", **spec: Any) -> ClusterEngineRuntimeProfile:
    """A profile, by default with the native sidecar above and its volume."""
    content = spec or {"initContainers": [SIDECAR], "volumes": [{"name": "patio", "emptyDir": {}}]}
    return ClusterEngineRuntimeProfile.model_validate({"metadata": {"name": name}, "spec": content})


def injected(before: Object, *runtimes: Runtime, adapters: tuple[LoadRequest, ...] = ()) -> Injection:
    """What injection makes of a pod; it must not refuse."""
    result = inject(before, runtimes or (Runtime(profile()),), adapters)
    assert isinstance(result, Injection), result
    return result


def refusal(before: Object, *runtimes: Runtime) -> str:
    """Why injection refuses a pod; it must."""
    result = inject(before, runtimes or (Runtime(profile()),), ())
    assert not isinstance(result, Injection), "the pod was injected"
    return result.message


def container(of: Object, name: str) -> Object:
    """The container of that name, of either list."""
    spec = of["spec"]
    found: list[Object] = [
        entry for entry in [*(spec.get("initContainers") or []), *spec["containers"]] if entry["name"] == name
    ]
    assert len(found) == 1, f"{name}: {found}"
    return found[0]


def env(of: Object, name: str) -> dict[str, Any]:
    """A container's variables: literal values, and the paths of fields."""
    return {
        variable["name"]: variable["value"]
        if "value" in variable
        else variable["valueFrom"].get("fieldRef", {}).get("fieldPath", variable)
        for variable in container(of, name).get("env") or []
    }


def mounts(of: Object, name: str) -> dict[str, tuple[str, bool]]:
    """A container's mounts by path: the volume, and whether read-only."""
    return {
        mount["mountPath"]: (mount["name"], mount.get("readOnly", False))
        for mount in container(of, name).get("volumeMounts") or []
    }


def engine_annotation(of: Object) -> Object:
    """What the pod says about its engine."""
    annotation: Object = json.loads(of["metadata"]["annotations"]["patio.dev/engine"])
    return annotation
