"""What injection makes of pods: each behaviour that docs/concepts/profile.md promises."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from patio_operator.injection import Injection, PodRejection, Runtime, RuntimeRef, inject, revision, runtimes_of
from patio_protocol.adapters import LoadRequest
from patio_testing.operator.pod_builders import (
    SIDECAR,
    VLLM,
    container,
    engine_annotation,
    env,
    injected,
    mounts,
    pod,
    profile,
    refusal,
)

PLAIN = profile(containers=[{"name": "monitor", "image": "monitor:1", "ports": [{"containerPort": 9400}]}])
SECRET = {"valueFrom": {"secretKeyRef": {"name": "keys", "key": "engine"}}}
STATEFUL_SET_POD = {
    "labels": {
        "rbg.workloads.x-k8s.io/group-name": "g",
        "rbg.workloads.x-k8s.io/role-name": "r",
        "apps.kubernetes.io/pod-index": "0",
    },
    "ownerReferences": [{"kind": "StatefulSet", "name": "g-r", "controller": True}],
}


# --- what a pod asks for


def test_pod_asks_by_its_label() -> None:
    assert runtimes_of({"metadata": {"labels": {"patio.dev/profile": "patio"}}}) == (RuntimeRef("patio"),)


def test_pod_that_asks_for_nothing_gets_nothing() -> None:
    assert runtimes_of({"metadata": {"name": "x"}}) == ()


def test_pod_of_a_role_asks_by_annotation_and_its_label_adds() -> None:
    entries = [{"profileName": "patio", "injectContainers": ["a"], "containers": [{"name": "patio", "args": ["-x"]}]}]
    asking = {
        "metadata": {
            "labels": {"patio.dev/profile": "gpu"},
            "annotations": {"patio.dev/engine-runtimes": json.dumps(entries)},
        }
    }
    assert runtimes_of(asking) == (
        RuntimeRef("patio", ({"name": "patio", "args": ["-x"]},), ("a",)),
        RuntimeRef("gpu"),
    )


@pytest.mark.parametrize("text", ["", "{}", "[{}]", "nonsense"])
def test_annotation_that_cannot_be_read_is_rejected(text: str) -> None:
    refused = runtimes_of({"metadata": {"annotations": {"patio.dev/engine-runtimes": text}}})
    assert isinstance(refused, PodRejection)
    assert "patio.dev/engine-runtimes" in refused.message


def test_one_profile_named_twice_differently_is_rejected() -> None:
    text = json.dumps([{"profileName": "p"}, {"profileName": "p", "injectContainers": ["a"]}])
    refused = runtimes_of({"metadata": {"annotations": {"patio.dev/engine-runtimes": text}}})
    assert isinstance(refused, PodRejection)
    assert "'p' twice" in refused.message


# --- containers and volumes


def test_profiles_parts_come_after_the_pods() -> None:
    before = pod(VLLM, initContainers=[{"name": "download", "image": "d"}], volumes=[{"name": "shm", "emptyDir": {}}])
    after = injected(before).pod
    assert [container["name"] for container in after["spec"]["initContainers"]] == ["download", "patio"]
    assert [container["name"] for container in after["spec"]["containers"]] == ["vllm"]
    assert [volume["name"] for volume in after["spec"]["volumes"]] == ["shm", "patio"]


def test_injected_pod_says_so_and_from_which_revision() -> None:
    after = injected(pod()).pod
    assert after["metadata"]["labels"] == {"app": "x", "patio.dev/injected": "true"}
    assert json.loads(after["metadata"]["annotations"]["patio.dev/injected"]) == {"patio": revision(profile())}


def test_revision_is_that_of_what_is_injected() -> None:
    assert revision(profile(containers=[{"name": "a"}])) != revision(profile(containers=[{"name": "b"}]))
    assert revision(profile(containers=[])) == revision(profile(containers=[], updateStrategy="RollingUpdate"))


def test_overrides_merge_env_append_args_replace_image_resources() -> None:
    base = {
        "name": "m",
        "image": "m:1",
        "args": ["-a"],
        "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
    }
    override = {
        "name": "m",
        "image": "m:2",
        "args": ["-b"],
        "env": [{"name": "A", "value": "9"}, {"name": "C", "value": "3"}],
        "resources": {"limits": {"cpu": "1"}},
        "command": ["sh"],
    }
    result = injected(pod(), Runtime(profile(containers=[base]), (override,)))
    monitor = container(result.pod, "m")
    assert [variable for variable in monitor["env"] if not variable["name"].startswith("POD_")] == [
        {"name": "A", "value": "9"},
        {"name": "B", "value": "2"},
        {"name": "C", "value": "3"},
    ]
    assert (monitor["image"], monitor["args"], monitor["resources"]) == ("m:2", ["-a", "-b"], {"limits": {"cpu": "1"}})
    assert "command" not in monitor
    assert any("command ignored" in warning for warning in result.warnings)


def test_native_sidecar_can_be_overridden() -> None:
    override = {"name": "patio", "env": [{"name": "TOPO_TYPE", "value": "SGLang"}]}
    after = injected(pod(), Runtime(profile(), (override,))).pod
    assert env(after, "patio")["TOPO_TYPE"] == "SGLang"


# --- clashes


@pytest.mark.parametrize(
    ("before", "runtimes", "both_sides"),
    [
        (pod(VLLM, {"name": "patio", "image": "other"}), (), ["profile 'patio'", "container of that name"]),
        (
            pod(VLLM, {"name": "monitor", "image": "other:1"}),
            (Runtime(PLAIN),),
            ["profile 'patio'", "'monitor:1'", "'other:1'"],
        ),
        (
            pod(VLLM, {"name": "monitor", "image": "monitor:1", "args": ["-x"]}),
            (Runtime(PLAIN),),
            ["profile 'patio'", "args", "['-x']"],
        ),
        (
            pod(VLLM | {"ports": [{"containerPort": 9091}]}),
            (),
            ["container 'patio' of profile 'patio'", "container 'vllm' of the pod", "9091/TCP"],
        ),
        (pod(VLLM | {"command": ["vllm", "serve", "m", "--port", "9091"]}), (), ["'vllm' of the pod", "9091/TCP"]),
        (
            pod(volumes=[{"name": "patio", "configMap": {"name": "x"}}]),
            (),
            ["profile 'patio'", "volume 'patio'", "emptyDir", "configMap"],
        ),
        (
            pod(
                VLLM | {"volumeMounts": [{"name": "mine", "mountPath": "/var/lib/patio/"}]},
                volumes=[{"name": "mine", "emptyDir": {}}],
            ),
            (),
            ["profile 'patio'", "volume 'patio' at /var/lib/patio", "container 'vllm'", "volume 'mine'"],
        ),
        (
            pod(),
            (Runtime(profile(), ({"name": "other", "args": ["x"]},)),),
            ["'other'", "profile 'patio' has only 'patio'"],
        ),
        (pod(), (Runtime(profile(), (), ("engine",)),), ["'engine'", "injectContainers of profile 'patio'", "'vllm'"]),
        (
            pod(),
            (Runtime(profile("a", containers=[{"name": "m"}])), Runtime(profile("b", containers=[{"name": "m"}]))),
            ["profile 'a'", "profile 'b'", "'m'"],
        ),
    ],
)
def test_conflict_is_rejected_and_both_sides_are_named(
    before: dict[str, Any], runtimes: tuple[Runtime, ...], both_sides: list[str]
) -> None:
    message = refusal(before, *runtimes)
    for part in both_sides:
        assert part in message


def test_profiles_with_unequal_volumes_of_one_name_are_named() -> None:
    first_profile = profile("one", volumes=[{"name": "cache", "emptyDir": {}}])
    two = profile("two", volumes=[{"name": "cache", "hostPath": {"path": "/srv"}}])
    message = refusal(pod(), Runtime(first_profile), Runtime(two))
    assert "profile 'two' has a volume 'cache' (hostPath), but profile 'one' has another" in message
    injected(pod(), Runtime(first_profile), Runtime(profile("same", volumes=[{"name": "cache", "emptyDir": {}}])))


def test_one_port_of_the_node_is_not_given_twice() -> None:
    own_profile = profile(containers=[{"name": "m", "image": "m", "ports": [{"containerPort": 1, "hostPort": 80}]}])
    engine = VLLM | {"ports": [{"containerPort": 8000, "hostPort": 80}]}
    message = refusal(pod(engine), Runtime(own_profile))
    assert "'vllm' of the pod" in message
    assert "'m' of profile 'patio' both use host port 80/TCP" in message
    message = refusal(pod(hostNetwork=True), Runtime(own_profile))
    assert "'m' of profile 'patio' has port 1 and host port 80, but with hostNetwork both must be equal" in message


def test_existing_container_with_other_port_or_files_is_rejected() -> None:
    monitor = {"name": "monitor", "image": "monitor:1"}
    files = [{"name": "v", "emptyDir": {}}, {"name": "w", "emptyDir": {}}]
    base = monitor | {"ports": [{"name": "m", "containerPort": 1}], "volumeMounts": [{"name": "v", "mountPath": "/x"}]}
    own_runtime = Runtime(profile(containers=[base], volumes=files))
    message = refusal(pod(VLLM, monitor | {"ports": [{"name": "m", "containerPort": 2}]}), own_runtime)
    assert "1 as 'm' of its ports" in message
    assert "2 there" in message
    message = refusal(
        pod(VLLM, monitor | {"volumeMounts": [{"name": "w", "mountPath": "/x/"}]}, volumes=files), own_runtime
    )
    assert "'v' as '/x' of its volumeMounts" in message
    assert "'w' there" in message


def test_files_are_not_mounted_over_a_block_device() -> None:
    engine = VLLM | {"volumeDevices": [{"name": "disk", "devicePath": "/var/lib/patio"}]}
    disk = {"name": "disk", "persistentVolumeClaim": {"claimName": "disk"}}
    assert "block device" in refusal(pod(engine, volumes=[disk]))


def test_same_port_in_an_init_container_that_ends_is_no_conflict() -> None:
    injected(pod(initContainers=[{"name": "wait", "image": "w", "ports": [{"containerPort": 9091}]}]))


def test_same_port_by_another_protocol_is_no_conflict() -> None:
    injected(pod(VLLM | {"ports": [{"containerPort": 9091, "protocol": "UDP"}]}))


def test_two_containers_of_the_user_may_conflict() -> None:
    injected(
        pod(VLLM | {"ports": [{"containerPort": 1}]}, {"name": "b", "image": "b", "ports": [{"containerPort": 1}]})
    )


def test_equal_volume_is_shared_also_with_api_server_defaults() -> None:
    other_volume = {"name": "v", "hostPath": {"path": "/x"}}
    shared_volume = {"name": "v", "hostPath": {"path": "/x", "type": ""}}
    after = injected(pod(volumes=[shared_volume]), Runtime(profile(volumes=[other_volume]))).pod
    assert after["spec"]["volumes"] == [shared_volume]


# --- variables


def test_sidecar_gets_variables_of_its_pod_and_its_engine() -> None:
    variables = env(injected(pod()).pod, "patio")
    assert variables == {
        "POD_NAME": "metadata.name",
        "POD_NAMESPACE": "metadata.namespace",
        "POD_IP": "status.podIP",
        "INFERENCE_ENGINE": "vllm",
        "INFERENCE_ENGINE_ENDPOINT": "http://localhost:8000",
    }


def test_what_the_profile_says_wins_over_the_guess() -> None:
    set_by_profile = [
        {"name": "INFERENCE_ENGINE", "value": "sglang"},
        {"name": "INFERENCE_ENGINE_ENDPOINT", "value": "http://localhost:7000"},
    ]
    result = injected(pod(), Runtime(profile(), ({"name": "patio", "env": set_by_profile},)))
    assert env(result.pod, "patio")["INFERENCE_ENGINE"] == "sglang"
    assert any("INFERENCE_ENGINE=sglang" in warning for warning in result.warnings)
    assert engine_annotation(result.pod) == {
        "container": "vllm",
        "kind": "sglang",
        "port": 7000,
        "model": "/models/base",
        "guessed": ["model"],
    }


def test_guess_is_shown() -> None:
    assert engine_annotation(injected(pod()).pod) == {
        "container": "vllm",
        "kind": "vllm",
        "port": 8000,
        "model": "/models/base",
        "guessed": ["kind", "port", "model"],
    }


def test_unrecognised_engine_gets_a_warning_and_nothing_guessed() -> None:
    result = injected(pod({"name": "web", "image": "nginx"}))
    assert "INFERENCE_ENGINE" not in env(result.pod, "patio")
    assert any("not" in warning or "no container" in warning for warning in result.warnings)
    assert engine_annotation(result.pod)["guessed"] == []


def test_pods_of_a_stateful_set_role_know_both_families_of_names() -> None:
    variables = env(injected(pod(metadata=STATEFUL_SET_POD)).pod, "patio")
    index = "metadata.labels['apps.kubernetes.io/pod-index']"
    assert {key: value for key, value in variables.items() if not key.startswith(("POD_", "INFERENCE"))} == {
        "RBG_GROUP_NAME": "g",
        "RBG_ROLE_NAME": "r",
        "RBG_ROLE_INDEX": index,
        "RBG_ROLE_INSTANCE_NAME": "metadata.name",
        "RBG_COMPONENT_NAME": "r",
        "RBG_COMPONENT_INDEX": "0",
        "GROUP_NAME": "g",
        "ROLE_NAME": "r",
        "ROLE_INDEX": index,
        "INSTANCE_NAME": "metadata.name",
        "COMPONENT_NAME": "r",
        "COMPONENT_INDEX": "0",
    }


def test_labels_of_the_old_generation_name_group_and_role_too() -> None:
    labels = {"rolebasedgroup.workloads.x-k8s.io/name": "g", "rolebasedgroup.workloads.x-k8s.io/role": "r"}
    variables = env(injected(pod(metadata={"labels": labels})).pod, "patio")
    assert (variables["GROUP_NAME"], variables["RBG_ROLE_NAME"]) == ("g", "r")
    assert "ROLE_INDEX" not in variables


def test_sidecar_gets_leader_worker_set_variables_of_the_engine() -> None:
    engine = VLLM | {"env": [{"name": "LWS_LEADER_ADDRESS", "value": "s-0.s.team"}]}
    variables = env(injected(pod(engine)).pod, "patio")
    assert (variables["LWS_LEADER_ADDRESS"], variables["RBG_LWP_LEADER_ADDRESS"]) == ("s-0.s.team", "s-0.s.team")
    assert "LWS_WORKER_INDEX" not in variables


def test_role_of_a_leader_worker_set_has_the_index_of_its_group() -> None:
    labels = STATEFUL_SET_POD["labels"] | {"leaderworkerset.sigs.k8s.io/name": "g-r"}  # type: ignore[operator]
    variables = env(injected(pod(metadata=STATEFUL_SET_POD | {"labels": labels})).pod, "patio")
    assert variables["ROLE_INDEX"] == "metadata.labels['leaderworkerset.sigs.k8s.io/group-index']"


@pytest.mark.parametrize("metadata", [{"generateName": "web-6f7-"}, {"name": "bare"}, {"name": "x", "labels": None}])
def test_pod_of_any_kind_is_injected(metadata: dict[str, Any]) -> None:
    bare = {"metadata": metadata, "spec": {"containers": [VLLM], "initContainers": None, "volumes": None}}
    after = injected(bare).pod
    assert env(after, "patio")["POD_NAME"] == "metadata.name"


def test_container_that_keeps_a_job_from_ending_gets_a_warning() -> None:
    warnings = injected(pod(restartPolicy="Never"), Runtime(PLAIN)).warnings
    assert any("profile 'patio' adds 'monitor'" in warning for warning in warnings)
    assert injected(pod(restartPolicy="Never")).warnings == ()


def test_pod_variables_come_first_so_that_profiles_may_use_them() -> None:
    own_profile = profile(containers=[{"name": "m", "env": [{"name": "ME", "value": "$(POD_NAME)"}]}])
    names = list(env(injected(pod(), Runtime(own_profile)).pod, "m"))
    assert names.index("POD_NAME") < names.index("ME")


def test_engines_key_is_copied_as_a_reference() -> None:
    engine = VLLM | {"env": [{"name": "VLLM_API_KEY", **SECRET}]}
    sidecar = container(injected(pod(engine)).pod, "patio")
    assert {"name": "ENGINE_API_KEY", **SECRET} in sidecar["env"]


def test_key_in_clear_text_is_not_copied_and_not_repeated() -> None:
    engine = VLLM | {"command": ["vllm", "serve", "m", "--api-key", "hunter2"]}
    result = injected(pod(engine))
    assert "ENGINE_API_KEY" not in env(result.pod, "patio")
    assert any("--api-key" in warning and "hunter2" not in warning for warning in result.warnings)


def test_endpoint_may_refer_to_a_pod_ip_that_the_profile_sets() -> None:
    engine = VLLM | {
        "command": ["vllm", "serve", "m", "--host", "$(IP)"],
        "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
    }
    own = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    variables = env(injected(pod(engine), Runtime(profile(), ({"name": "patio", "env": [own]},))).pod, "patio")
    assert variables["INFERENCE_ENGINE_ENDPOINT"] == "http://$(POD_IP):8000"
    assert list(variables).index("POD_IP") < list(variables).index("INFERENCE_ENGINE_ENDPOINT")


def test_vllm_with_lora_may_load_adapters_at_run_time() -> None:
    assert env(injected(pod()).pod, "vllm") == {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
    assert env(injected(pod(VLLM | {"command": ["vllm", "serve", "m"]})).pod, "vllm") == {}


def test_vllm_that_forbids_it_keeps_its_setting_with_a_warning() -> None:
    setting = {"name": "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "value": "0"}
    result = injected(pod(VLLM | {"env": [setting]}))
    assert container(result.pod, "vllm")["env"] == [setting]
    assert any("cannot load adapters" in warning for warning in result.warnings)


def test_profile_without_patio_sidecar_leaves_engine_unchanged() -> None:
    after = injected(pod(), Runtime(PLAIN)).pod
    assert container(after, "vllm") == VLLM


def test_sidecar_is_given_the_adapters_of_the_pod() -> None:
    request = LoadRequest(lora_name="sql", lora_path="/a/$(x)", owner="LoraAdapter/team/sql", revision="1", wait=0)
    variables = env(injected(pod(), adapters=(request,)).pod, "patio")
    as_the_kubelet_expands_it = variables["PATIO_REQUIRED_ADAPTERS"].replace("$$(", "$(")
    assert json.loads(as_the_kubelet_expands_it) == [
        {"lora_name": "sql", "lora_path": "/a/$(x)", "owner": "LoraAdapter/team/sql", "revision": "1"}
    ]
    assert "PATIO_REQUIRED_ADAPTERS" not in env(injected(pod()).pod, "patio")


# --- volumes


def test_engine_sees_the_sidecars_files_read_only() -> None:
    assert mounts(injected(pod()).pod, "vllm") == {"/var/lib/patio": ("patio", True)}


def test_named_containers_get_volumes_and_missing_variables() -> None:
    """The volumes come as the profile has them; variables that a container has already stay."""
    base = profile(
        initContainers=[
            {
                "name": "driver",
                "image": "d",
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "volumeMounts": [{"name": "lib", "mountPath": "/usr/local/lib/gpu"}],
            }
        ],
        volumes=[{"name": "lib", "emptyDir": {}}],
    )
    main = {"name": "main", "image": "m", "env": [{"name": "A", "value": "mine"}]}
    after = injected(pod(main, {"name": "other", "image": "o"}), Runtime(base, (), ("main",))).pod
    assert mounts(after, "main") == {"/usr/local/lib/gpu": ("lib", False)}
    assert env(after, "main") == {"A": "mine", "B": "2"}
    assert container(after, "other") == {"name": "other", "image": "o"}


def test_named_containers_get_what_profile_variables_refer_to() -> None:
    side = {"name": "side", "image": "s", "env": [{"name": "ME", "value": "$(POD_NAME)"}]}
    after = injected(pod(VLLM), Runtime(profile(containers=[side]), (), ("vllm",))).pod
    variables = env(after, "vllm")
    assert variables["POD_NAME"] == "metadata.name"
    assert list(variables).index("POD_NAME") < list(variables).index("ME")
    assert "POD_IP" not in variables


def test_files_at_a_path_made_of_sidecar_variables_stay_its_own() -> None:
    side = SIDECAR | {"volumeMounts": [{"name": "patio", "mountPath": "/x", "subPathExpr": "$(POD_NAME)"}]}
    own_profile = profile(initContainers=[side], volumes=[{"name": "patio", "emptyDir": {}}])
    assert mounts(injected(pod(), Runtime(own_profile)).pod, "vllm") == {}


def test_engine_not_named_shares_files_only_and_keeps_its_paths() -> None:
    """Without names of containers the engine gets volumes of files only, and none over a path of its own."""
    sidecar = SIDECAR | {
        "volumeMounts": [
            {"name": "cache", "mountPath": "/cache"},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "keys", "mountPath": "/keys"},
        ]
    }
    volumes = [
        {"name": "cache", "hostPath": {"path": "/var/cache/patio", "type": "DirectoryOrCreate"}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "keys", "secret": {"secretName": "keys"}},
    ]
    after = injected(pod(), Runtime(profile(initContainers=[sidecar], volumes=volumes))).pod
    assert mounts(after, "vllm") == {"/cache": ("cache", True)}


def test_sidecar_sees_only_the_engine_data_and_read_only() -> None:
    volumes = [
        {"name": "models", "persistentVolumeClaim": {"claimName": "models"}},
        {"name": "adapters", "hostPath": {"path": "/srv/adapters", "type": "Directory"}},
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
        {"name": "rdma", "hostPath": {"path": "/dev/infiniband"}},
        {"name": "socket", "hostPath": {"path": "/srv/x.sock", "type": "Socket"}},
        {"name": "driver", "hostPath": {"path": "/opt/driver"}},
        {"name": "token", "projected": {"sources": []}},
    ]
    engine = VLLM | {
        "volumeMounts": [
            {"name": "models", "mountPath": "/models", "subPath": "qwen"},
            {"name": "adapters", "mountPath": "/adapters", "mountPropagation": "Bidirectional"},
            {"name": "shm", "mountPath": "/dev/shm"},
            {"name": "rdma", "mountPath": "/infiniband"},
            {"name": "socket", "mountPath": "/x.sock"},
            {"name": "driver", "mountPath": "/usr/local/driver"},
            {"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"},
        ]
    }
    after = injected(pod(engine, volumes=volumes)).pod
    assert mounts(after, "patio") == {
        "/var/lib/patio": ("patio", False),
        "/models": ("models", True),
        "/adapters": ("adapters", True),
    }
    assert container(after, "patio")["volumeMounts"][1] == {
        "name": "models",
        "mountPath": "/models",
        "subPath": "qwen",
        "readOnly": True,
    }


def test_different_files_under_one_path_are_rejected() -> None:
    sidecar = SIDECAR | {"volumeMounts": [{"name": "cache", "mountPath": "/models"}]}
    own_profile = profile(initContainers=[sidecar], volumes=[{"name": "cache", "emptyDir": {}}])
    engine = VLLM | {"volumeMounts": [{"name": "models", "mountPath": "/models"}]}
    volumes = [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}]
    message = refusal(pod(engine, volumes=volumes), Runtime(own_profile))
    assert "'cache' at /models" in message
    assert "'models' there" in message


# --- again


def test_second_admission_changes_nothing_after_a_profile_edit() -> None:
    once = injected(pod()).pod
    newer = profile(
        initContainers=[SIDECAR | {"image": "patio/sidecar:2"}], volumes=[{"name": "patio", "emptyDir": {}}]
    )
    assert injected(once).pod == once
    assert injected(once, Runtime(newer)).pod == once
    other_port = SIDECAR | {"ports": [{"name": "patio", "containerPort": 9099}]}
    other_volumes = [{"name": "patio", "hostPath": {"path": "/srv"}}, {"name": "more", "emptyDir": {}}]
    assert injected(once, Runtime(profile(initContainers=[other_port], volumes=other_volumes))).pod == once


def test_pod_that_only_claims_to_be_injected_is_injected() -> None:
    claiming = pod(metadata={"annotations": {"patio.dev/injected": '{"patio": "old"}'}})
    after = injected(claiming).pod
    assert container(after, "patio")["image"] == "patio/sidecar:1"
    assert json.loads(after["metadata"]["annotations"]["patio.dev/injected"]) == {"patio": revision(profile())}


RECORDINGS = Path(__file__).parents[1] / "recorded"


def test_pod_with_profile_by_upstream_is_completed_not_doubled() -> None:
    recorded = yaml.safe_load((RECORDINGS / "rbg_rendered_pod.yaml").read_text())
    rendered, base, runtime = recorded["pod"], recorded["profile"], recorded["engineRuntime"]
    own_profile = profile("patio-runtime", **base)
    result = injected(rendered, Runtime(own_profile, tuple(runtime["containers"]), tuple(runtime["injectContainers"])))
    for key in ("initContainers", "containers", "volumes"):
        assert [entry["name"] for entry in result.pod["spec"][key]] == [
            entry["name"] for entry in rendered["spec"][key]
        ]
    sidecar = container(result.pod, "patio")
    variables = env(result.pod, "patio")
    assert sidecar["args"] == ["--bind", "0.0.0.0"]
    assert (variables["TOPO_TYPE"], variables["GROUP_NAME"], variables["ROLE_NAME"]) == (
        "overridden",
        "my-inference",
        "inference",
    )
    assert rendered["metadata"]["name"].endswith(variables["ROLE_INDEX"])
    assert env(result.pod, "native")["GROUP_NAME"] == "my-inference"
    again = inject(
        copy.deepcopy(result.pod),
        (Runtime(own_profile, tuple(runtime["containers"]), tuple(runtime["injectContainers"])),),
        (),
    )
    assert isinstance(again, Injection)
    assert again.pod == result.pod
