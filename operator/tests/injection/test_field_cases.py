"""Engines as people run them: what the sidecar is told, what is added, what is warned about and what is refused."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from patio_operator.injection import (
    CallerKeys,
    Injection,
    PodRejection,
    Runtime,
    RuntimeRef,
    inject,
    limits,
    member_of,
    runtimes_of,
    sources,
    variables,
)
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

Object = dict[str, Any]
ENDPOINT = "INFERENCE_ENGINE_ENDPOINT"


def serving(*flags: str, **fields: Any) -> Object:
    """The engine's container with these flags."""
    return {**VLLM, "command": ["vllm", "serve", "m", "--enable-lora", *flags], **fields}


def warns(result: Injection, *parts: str) -> bool:
    """Whether one warning has all of these, in what the API server passes on of it."""
    return any(all(part in warning[:256] for part in parts) for warning in result.warnings)


def overridden(**fields: Any) -> Runtime:
    return Runtime(profile(), ({"name": "patio", **fields},))


# --- adapters that do not fit into a variable


def orders(number: int, source: str = "hf://team/adapter-of-an-ordinary-length") -> tuple[LoadRequest, ...]:
    return tuple(
        LoadRequest(lora_name=f"adapter-{n}", source=source, owner=f"LoraAdapter/team/adapter-{n}", revision="1")
        for n in range(number)
    )


def test_more_adapters_than_fit_are_required_in_part() -> None:
    result = injected(pod(), adapters=orders(1000))
    value = env(result.pod, "patio")["PATIO_REQUIRED_ADAPTERS"]
    assert len(value) <= variables.MOST_REQUIRED_BYTES
    names = [load["lora_name"] for load in json.loads(value)]
    assert names == [f"adapter-{n}" for n in range(len(names))], "the first ones: those that come first in the order"
    assert len(names) > 300
    assert warns(result, "1000 adapters", f"{len(names)} of them fit", "the operator loads them")
    subprocess.run(["/bin/true"], check=True, env={"PATIO_REQUIRED_ADAPTERS": value})


def test_adapters_that_fit_are_required_without_a_warning() -> None:
    result = injected(pod(), adapters=orders(300))
    assert len(json.loads(env(result.pod, "patio")["PATIO_REQUIRED_ADAPTERS"])) == 300
    assert not warns(result, "fit")


def test_bytes_are_counted_not_characters() -> None:
    value = env(injected(pod(), adapters=orders(300, "s3://bucket/" + "é" * 100)).pod, "patio")[
        "PATIO_REQUIRED_ADAPTERS"
    ]
    assert len(value.encode()) <= variables.MOST_REQUIRED_BYTES


# --- several API servers


def test_several_api_servers_get_no_variable_that_ends_them() -> None:
    result = injected(pod(serving("--data-parallel-size", "4")))
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in env(result.pod, "vllm")
    assert warns(result, "'vllm'", "several API servers", "--api-server-count 1")
    single = injected(pod(serving("--data-parallel-size", "4", "--api-server-count=1")))
    assert env(single.pod, "vllm")["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert single.warnings == ()


def test_unknown_number_of_api_servers_is_not_one() -> None:
    result = injected(pod(serving("-dp", "$(DP)")))
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in env(result.pod, "vllm")
    assert warns(result, "an unknown number of API servers")


def test_vllm_that_would_end_at_its_start_is_warned_about() -> None:
    setting = {"name": "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "value": "1"}
    assert warns(injected(pod(serving("-asc", "2", env=[setting]))), "does not start", "--api-server-count 1")


def test_several_tokenizers_of_sglang_are_warned_about() -> None:
    command = ["python3", "-m", "sglang.launch_server", "--model-path", "m", "--enable-lora"]
    assert injected(pod({**VLLM, "command": command})).warnings == ()
    several = {**VLLM, "command": [*command, "--tokenizer-worker-num", "4"]}
    assert warns(injected(pod(several)), "--tokenizer-worker-num")


# --- where the engine listens


def test_engine_with_a_certificate_is_reached_by_https() -> None:
    before = pod(serving("--ssl-certfile", "/c/tls.crt", "--ssl-keyfile", "/c/tls.key"))
    after = injected(before).pod
    variables = env(after, "patio")
    assert (variables[ENDPOINT], variables["ENGINE_TLS_VERIFY"]) == ("https://localhost:8000", "false")
    assert injected(after).pod == after
    ca = overridden(env=[{"name": "ENGINE_CA_FILE", "value": "/ca.pem"}])
    assert "ENGINE_TLS_VERIFY" not in env(injected(before, ca).pod, "patio")
    http = overridden(env=[{"name": ENDPOINT, "value": "http://localhost:1"}])
    assert "ENGINE_TLS_VERIFY" not in env(injected(before, http).pod, "patio")


def test_certificate_on_the_nodes_network_is_checked() -> None:
    result = injected(pod(serving("--ssl-certfile", "/c/tls.crt"), hostNetwork=True))
    assert "ENGINE_TLS_VERIFY" not in env(result.pod, "patio")
    assert warns(result, "serves TLS", "ENGINE_CA_FILE", "ENGINE_TLS_SERVER_NAME")


RUN = {"name": "run", "mountPath": "/run/engine"}


def test_socket_in_a_volume_is_shared_with_the_sidecar() -> None:
    engine = serving("--uds", "/run/engine/vllm.sock", volumeMounts=[RUN])
    result = injected(pod(engine, volumes=[{"name": "run", "emptyDir": {}}]))
    assert env(result.pod, "patio")[ENDPOINT] == "unix:///run/engine/vllm.sock"
    assert mounts(result.pod, "patio")["/run/engine"] == ("run", True)
    assert engine_annotation(result.pod)["port"] is None
    assert injected(result.pod).pod == result.pod


@pytest.mark.parametrize(
    ("path", "mount"),
    [
        ("/run/engine/s", None),
        ("/tmp/s", {"name": "run", "mountPath": "/tmp"}),
        ("/run/engine/s", {**RUN, "subPathExpr": "$(POD_NAME)"}),
        ("/s", {"name": "run", "mountPath": "/"}),
    ],
)
def test_socket_that_the_sidecar_cannot_see_is_rejected(path: str, mount: Object | None) -> None:
    engine = serving("--uds", path, volumeMounts=[mount] if mount else [])
    before = pod(engine, volumes=[{"name": "run", "emptyDir": {}}])
    message = refusal(before)
    for part in ("'vllm'", path, "'patio' cannot see", "emptyDir", "/run/engine"):
        assert part in message
    elsewhere = overridden(env=[{"name": ENDPOINT, "value": "http://localhost:1"}])
    assert env(injected(before, elsewhere).pod, "patio")[ENDPOINT] == "http://localhost:1"


def test_flags_from_elsewhere_are_warned_about() -> None:
    result = injected(pod({**VLLM, "command": ["vllm", "serve", "--config", "/etc/vllm/config.yaml"]}))
    assert warns(result, "--config /etc/vllm/config.yaml", "http://localhost:8000", "no LoRA", ENDPOINT)
    known = overridden(env=[{"name": ENDPOINT, "value": "http://localhost:9000"}])
    assert injected(pod({**VLLM, "command": ["vllm", "serve", "--config", "/c"]}), known).warnings == ()


def test_key_from_a_whole_secret_is_warned_about() -> None:
    engine = serving(envFrom=[{"secretRef": {"name": "keys"}}])
    assert warns(injected(pod(engine)), "envFrom", "VLLM_API_KEY", "ENGINE_API_KEY")
    own = overridden(env=[{"name": "ENGINE_API_KEY", "value": "x"}])
    assert injected(pod(engine), own).warnings == ()
    assert injected(pod(serving(envFrom=[{"configMapRef": {"name": "c"}}]))).warnings == ()


# --- pods with more or less than one engine


def test_second_engine_in_a_pod_is_named() -> None:
    result = injected(pod({**VLLM, "name": "e0"}, {**serving("--port", "8001"), "name": "e1"}))
    assert engine_annotation(result.pod)["container"] == "e0"
    assert warns(result, "'e1' is a second engine", "only 'e0'")


def test_engine_that_is_a_native_sidecar_is_found() -> None:
    before = pod({"name": "app", "image": "app"}, initContainers=[{**VLLM, "restartPolicy": "Always"}])
    result = inject(before, [Runtime(profile())], (), CallerKeys(("key",), "word"))
    assert isinstance(result, Injection)
    assert engine_annotation(result.pod)["container"] == "vllm"
    assert env(result.pod, "vllm")["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert "lifecycle" not in container(result.pod, "vllm")
    assert warns(result, "'vllm' is an init container", "cannot drain it")


def test_engine_that_serves_nothing_gets_no_profile() -> None:
    before = pod({**VLLM, "command": ["vllm", "serve", "m", "--headless", "-dp", "4"]})
    result = injected(before)
    assert result.pod == before
    assert warns(result, "'vllm' serves no requests", "no profile")


@pytest.mark.parametrize(
    "metadata",
    [
        {"labels": {"leaderworkerset.sigs.k8s.io/worker-index": "1"}},
        {"annotations": {"leaderworkerset.sigs.k8s.io/leader-name": "set-0"}},
    ],
)
def test_workers_of_a_leader_worker_set_get_no_profile(metadata: Object) -> None:
    asking = {**metadata, "labels": {"patio.dev/profile": "patio", **metadata.get("labels", {})}}
    assert runtimes_of({"metadata": asking}) == ()


def test_leader_of_a_leader_worker_set_gets_its_profile() -> None:
    labels = {"patio.dev/profile": "patio", "leaderworkerset.sigs.k8s.io/worker-index": "0"}
    assert runtimes_of({"metadata": {"labels": labels}}) == (RuntimeRef("patio"),)


# --- the node's network


def test_port_of_the_node_is_warned_about_and_can_be_moved() -> None:
    before = pod(hostNetwork=True)
    assert warns(injected(before), "hostNetwork", "'patio' uses port 9091", "override them")
    probed = SIDECAR | {
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 9091}},
        "livenessProbe": {"httpGet": {"path": "/health", "port": "patio"}},
    }
    moved = Runtime(
        profile(initContainers=[probed], volumes=[{"name": "patio", "emptyDir": {}}]),
        ({"name": "patio", "ports": [{"name": "patio", "containerPort": 9191}]},),
    )
    result = inject(before, [moved], (), CallerKeys(("key",), "word"))
    assert isinstance(result, Injection)
    sidecar = container(result.pod, "patio")
    assert sidecar["ports"] == [{"name": "patio", "containerPort": 9191}]
    assert sidecar["args"] == ["--port=9191"]
    assert sidecar["readinessProbe"]["httpGet"]["port"] == 9191
    assert sidecar["livenessProbe"]["httpGet"]["port"] == "patio"
    assert container(result.pod, "vllm")["lifecycle"]["preStop"]["httpGet"]["port"] == 9191
    assert injected(result.pod, moved).pod == result.pod


def test_moved_port_that_conflicts_or_is_missing_is_rejected() -> None:
    assert "8000/TCP" in refusal(pod(), overridden(ports=[{"name": "patio", "containerPort": 8000}]))
    assert "port 'patoi'" in refusal(pod(), overridden(ports=[{"name": "patoi", "containerPort": 9191}]))


def test_port_that_the_role_sets_itself_is_not_set_twice() -> None:
    moved = overridden(ports=[{"name": "patio", "containerPort": 9191}], args=["--port", "9191"])
    assert container(injected(pod(), moved).pod, "patio")["args"] == ["--port", "9191"]


# --- files


def test_volumes_that_are_filled_before_the_engine_are_lent() -> None:
    volumes = [
        {"name": "filled", "emptyDir": {}},
        {"name": "scratch", "emptyDir": {}},
        {"name": "image", "image": {"reference": "models:1"}},
        {"name": "csi", "csi": {"driver": "juicefs.com"}},
        {"name": "keys", "csi": {"driver": "secrets-store.csi.k8s.io"}},
    ]
    names = [volume["name"] for volume in volumes]
    engine = serving(volumeMounts=[{"name": name, "mountPath": f"/{name}"} for name in names])
    download = {"name": "get", "image": "get", "volumeMounts": [{"name": "filled", "mountPath": "/out"}]}
    result = injected(pod(engine, volumes=volumes, initContainers=[download]))
    lent = mounts(result.pod, "patio")
    assert {path for path in lent if path != "/var/lib/patio"} == {"/filled", "/image", "/csi"}
    assert all(read_only for path, (_, read_only) in lent.items() if path != "/var/lib/patio")


@pytest.mark.parametrize("path", ["/opt", "/opt/app", "/opt/patio/lib", "/var/lib"])
def test_volume_over_the_sidecars_own_is_not_lent(path: str) -> None:
    claim = {"name": "claim", "persistentVolumeClaim": {"claimName": "c"}}
    engine = serving(volumeMounts=[{"name": "claim", "mountPath": path}])
    result = injected(pod(engine, volumes=[claim]))
    assert mounts(result.pod, "patio") == {"/var/lib/patio": ("patio", False)}
    assert warns(result, f"mounts {path}", "'patio'", "another path")
    assert injected(result.pod).pod == result.pod


def test_volumes_beside_the_sidecars_own_are_lent() -> None:
    claim = {"name": "claim", "persistentVolumeClaim": {"claimName": "c"}}
    paths = ("/opt/models", "/data/below", "/data")
    engine = serving(volumeMounts=[{"name": "claim", "mountPath": path} for path in paths])
    once = injected(pod(engine, volumes=[claim]))
    assert {path: mounts(once.pod, "patio")[path] for path in paths} == dict.fromkeys(paths, ("claim", True))
    assert injected(once.pod) == once


@pytest.mark.parametrize(
    ("mount_options", "read_only"), [({}, True), ({"readOnly": True}, True), ({"readOnly": False}, False)]
)
def test_folder_of_the_node_is_written_to_if_the_profile_says(mount_options: Object, read_only: bool) -> None:
    side = SIDECAR | {"volumeMounts": [{"name": "node", "mountPath": "/node", **mount_options}]}
    own_profile = profile(initContainers=[side], volumes=[{"name": "node", "hostPath": {"path": "/srv"}}])
    after = injected(pod(VLLM, {"name": "x", "image": "x"}), Runtime(own_profile, (), ("x",))).pod
    assert mounts(after, "x") == {"/node": ("node", read_only)}
    assert mounts(after, "patio") == {"/node": ("node", mount_options.get("readOnly", False))}


# --- what strangers write


@pytest.mark.parametrize(
    "entry",
    [
        {"profileName": "p", "containers": [{"name": "patio", "env": [{}]}]},
        {"profileName": "p", "containers": [{"name": ["patio"]}]},
        {"profileName": "p", "containers": [{"env": []}]},
        {"profileName": "p", "containers": [{"name": "patio", "args": [1]}]},
        {"profileName": "p", "containers": [{"name": "patio", "args": "x"}]},
        {"profileName": "p", "containers": [{"name": "patio", "image": {}}]},
        {"profileName": "p", "containers": [{"name": "patio", "resources": []}]},
        {"profileName": "p", "containers": [{"name": "patio", "ports": [{"name": "patio", "containerPort": True}]}]},
        {"profileName": "p", "containers": [{"name": "patio"}] * 100},
        {"profileName": "../nodes"},
        {"profileName": "p" * 300},
    ],
)
def test_invalid_override_is_rejected_with_a_message(entry: Object) -> None:
    refused = runtimes_of({"metadata": {"annotations": {"patio.dev/engine-runtimes": json.dumps([entry])}}})
    assert isinstance(refused, PodRejection)
    assert len(refused.message) < limits.MESSAGE


@pytest.mark.parametrize(
    "text", ["[" * 2000, "[" * 100_000, '[{"a":' * 500, "[" + '{"profileName": "p"},' * 20_000, "9" * 5000]
)
def test_annotation_without_an_end_is_rejected(text: str) -> None:
    refused = runtimes_of({"metadata": {"annotations": {"patio.dev/engine-runtimes": text}}})
    assert isinstance(refused, PodRejection)
    assert len(refused.message) < limits.MESSAGE


@pytest.mark.parametrize("text", ["[" * 2000, '{"patio": {}}', json.dumps({f"p{n}": "r" for n in range(1000)}), "[]"])
def test_annotation_of_an_injected_pod_is_read_within_bounds(text: str) -> None:
    result = injected(pod(metadata={"annotations": {"patio.dev/injected": text}}))
    assert json.loads(result.pod["metadata"]["annotations"]["patio.dev/injected"]).keys() == {"patio"}


@pytest.mark.parametrize(
    "spec",
    [
        {"containers": [{"name": f"c{n}"} for n in range(1000)]},
        {"containers": [VLLM], "volumes": [{"name": f"v{n}", "emptyDir": {}} for n in range(1000)]},
        {"containers": [{**VLLM, "env": [{"name": f"e{n}", "value": ""} for n in range(5000)]}]},
        {"containers": [{**VLLM, "volumeMounts": [{"name": "v", "mountPath": f"/{n}"} for n in range(1000)]}]},
        {"containers": [{**VLLM, "volumeMounts": [{"name": "v", "mountPath": "/x" * 5000}]}]},
        {"containers": [{**VLLM, "command": ["x"] * 100_000}]},
        {"containers": [{**VLLM, "args": ["x" * 3_000_000]}]},
    ],
)
def test_pod_with_more_than_is_read_is_rejected(spec: Object) -> None:
    result = inject({"metadata": {"name": "p"}, "spec": spec}, [Runtime(profile())], ())
    assert isinstance(result, PodRejection)
    assert "Patio reads at most" in result.message or "more than" in result.message


def test_annotations_stay_small_whatever_the_pod_says() -> None:
    loud = overridden(env=[{"name": "INFERENCE_ENGINE", "value": "x" * 1_000_000}])
    result = injected(pod({**VLLM, "command": ["vllm", "serve", "m" * 500_000]}), loud)
    assert sum(map(len, result.pod["metadata"]["annotations"].values())) < 4096
    assert all(len(warning) <= limits.MESSAGE for warning in result.warnings)


def test_many_warnings_are_counted() -> None:
    engines = [{**VLLM, "name": f"e{n}"} for n in range(100)]
    result = injected(pod(*engines))
    assert len(result.warnings) == limits.WARNINGS
    assert result.warnings[-1].endswith("more warnings")


@pytest.mark.parametrize("name", ["..", "a/../../nodes", "A", "", "g" * 300])
def test_group_that_has_no_name_is_looked_up_nowhere(name: str) -> None:
    labels = {"rbg.workloads.x-k8s.io/group-name": name, "rbg.workloads.x-k8s.io/role-name": "r"}
    controlled = {"labels": labels, "ownerReferences": [{"controller": True}]}
    assert member_of({"metadata": controlled}) is None
    labels["rbg.workloads.x-k8s.io/group-name"] = "g"
    assert member_of({"metadata": controlled}) == ("g", "r")


def test_folders_for_sources_fit_into_a_variable() -> None:
    claims = [{"name": f"c{n}", "persistentVolumeClaim": {"claimName": f"c{n}"}} for n in range(200)]
    folders = [{"name": f"c{n}", "mountPath": f"/{n}" + "/x" * 400} for n in range(200)]
    after = injected(pod(serving(volumeMounts=folders), volumes=claims)).pod
    assert 4000 < len(env(after, "patio")["PATIO_DOWNLOAD_ROOTS"]) <= sources.MOST_ROOTS
    assert injected(after).pod == after
