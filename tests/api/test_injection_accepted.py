"""The law of injection that only an API server can judge: of a good pod and a good profile it makes a good pod."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from patio_api.profile import ClusterEngineRuntimeProfile
from patio_operator.injection import CallerKeys, Injection, Runtime, inject, json_patch
from patio_operator.profiles import validation
from patio_testing.kube import Kube

pytestmark = pytest.mark.api

Object = dict[str, Any]

PODS = "/api/v1/namespaces/kube-system/pods"
"""Of a namespace whose pods never reach the webhook."""

PATHS = ["/models", "/models/", "/var/lib/patio", "/cache", "/dev/shm", "/dev/sda", "/data"]
VOLUMES: list[Object] = [
    {"name": "models", "persistentVolumeClaim": {"claimName": "m"}},
    {"name": "patio", "emptyDir": {}},
    {"name": "cache", "hostPath": {"path": "/srv", "type": "DirectoryOrCreate"}},
    {"name": "keys", "secret": {"secretName": "s"}},
]
env = st.lists(
    st.sampled_from(
        [
            {"name": "A", "value": "1"},
            {"name": "POD_NAME", "value": "mine"},
            {"name": "VLLM_API_KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            {"name": "LWS_LEADER_ADDRESS", "value": "$(POD_NAME).s"},
        ]
    ),
    max_size=3,
)
mounts = st.lists(
    st.builds(
        lambda volume, path, more: {"name": volume, "mountPath": path} | more,
        st.sampled_from([volume["name"] for volume in VOLUMES]),
        st.sampled_from(PATHS),
        st.sampled_from([{}, {"subPath": "x"}, {"subPathExpr": "$(POD_NAME)"}, {"readOnly": True}]),
    ),
    max_size=2,
    unique_by=lambda item: str(item["mountPath"]),
)
ports = st.lists(
    st.fixed_dictionaries(
        {"containerPort": st.sampled_from([8000, 9091, 9400])},
        optional={"name": st.sampled_from(["patio", "http"]), "hostPort": st.just(80), "protocol": st.just("UDP")},
    ),
    max_size=2,
    unique_by=lambda item: str(item.get("name")),
)
commands = st.sampled_from([["vllm", "serve", "m", "--enable-lora"], ["sh", "-c", "sglang serve --port 9400"], ["x"]])


def container(name: str, *, native: bool = False) -> st.SearchStrategy[Object]:
    return st.fixed_dictionaries(
        {"name": st.just(name), "image": st.sampled_from(["a:1", "b:1"])},
        optional={
            "command": commands,
            "args": st.just(["-v"]),
            "env": env,
            "volumeMounts": mounts,
            "ports": ports,
            "resources": st.just({"requests": {"cpu": "10m"}}),
            "volumeDevices": st.just([{"name": "models", "devicePath": "/dev/sda"}]),
        }
        | ({"restartPolicy": st.just("Always")} if native else {}),
    )


def lists_of(*choices: st.SearchStrategy[Object], least: int = 0) -> st.SearchStrategy[list[Object]]:
    return st.lists(st.one_of(choices), min_size=least, max_size=2, unique_by=lambda item: str(item["name"]))


metadata = st.sampled_from(
    [
        {"name": "bare"},
        {"generateName": "web-6f7-", "labels": {"pod-template-hash": "6f7"}},
        {
            "name": "g-r-0",
            "labels": {
                "rbg.workloads.x-k8s.io/group-name": "g",
                "rbg.workloads.x-k8s.io/role-name": "r",
                "rbg.workloads.x-k8s.io/role-instance-name": "g-r-0",
            },
        },
        {
            "name": "g-0-1",
            "labels": {
                "leaderworkerset.sigs.k8s.io/name": "g",
                "rolebasedgroup.workloads.x-k8s.io/name": "g",
                "rolebasedgroup.workloads.x-k8s.io/role": "r",
            },
        },
    ]
)
pods = st.builds(
    lambda meta, main, init, volumes, more: {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": copy.deepcopy(meta),
        "spec": {"containers": main, "initContainers": init, "volumes": copy.deepcopy(volumes)} | more,
    },
    metadata,
    lists_of(container("engine"), container("monitor"), container("patio"), least=1),
    lists_of(container("download"), container("other", native=True)),
    st.sampled_from([VOLUMES, [VOLUMES[0], VOLUMES[3]]]),
    st.builds(
        lambda more, account: more | account,
        st.sampled_from([{}, {"restartPolicy": "Never"}, {"hostNetwork": True}]),
        # As the API server's own admission leaves it, and as it is where that is off.
        st.sampled_from([{"serviceAccountName": "default"}, {}]),
    ),
)
profiles = st.builds(
    lambda main, init, volumes: ClusterEngineRuntimeProfile.model_validate(
        {
            "metadata": {"name": "tried"},
            "spec": {"containers": main, "initContainers": init, "volumes": copy.deepcopy(volumes)},
        }
    ),
    lists_of(container("monitor"), container("side")),
    lists_of(container("patio", native=True), container("first")),
    st.just(VOLUMES[:3]),
)
overrides = st.sampled_from(
    [(), ({"name": "patio", "env": [{"name": "A", "value": "2"}], "args": ["-x"], "image": "b:1"},), ({"name": "x"},)]
)
targets = st.sampled_from([(), ("engine",), ("monitor", "engine")])


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
@given(pods, profiles, overrides, targets)
def test_injection_of_a_valid_pod_is_valid_for_the_api_server(
    kube: Kube, pod: Object, profile: ClusterEngineRuntimeProfile, override: Any, named: tuple[str, ...]
) -> None:
    result = inject(pod, [Runtime(profile, override, named)], [], CallerKeys(("key",), "a word"))
    assume(isinstance(result, Injection))
    assert isinstance(result, Injection)
    assume(refusal(kube, pod) is None)
    assume(not validation.own_checks(profile))
    assume(refusal(kube, validation.trial_pod(profile)) is None)
    assert refusal(kube, result.pod) is None
    admitted = stored(kube, result.pod)
    again = inject(admitted, [Runtime(profile, override, named)], [], CallerKeys(("newer",), "another word"))
    assert isinstance(again, Injection), again
    assert json_patch(admitted, again.pod) == [], "injecting what was stored changes nothing"


def refusal(kube: Kube, pod: Object) -> str | None:
    """Why the API server does not take a pod; None when it does."""
    answer = kube.http.post(f"{PODS}?dryRun=All&fieldValidation=Strict", json=pod)
    return None if answer.status_code == 201 else str(answer.json()["message"])


def stored(kube: Kube, pod: Object) -> Object:
    """The pod as it would be stored, with the API server's defaults; its name is that of the request."""
    answer = kube.http.post(f"{PODS}?dryRun=All", json=pod)
    body: Object = answer.json()
    for key in ("uid", "creationTimestamp", "managedFields"):
        body["metadata"].pop(key, None)
    return body
