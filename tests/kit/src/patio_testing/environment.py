"""The environment of the end-to-end tests and the demo: tools, engine, images, cluster, Patio, a group of engines.

Each step is a function that can be repeated: what is there already is left alone. `Engine` says how a pod of the real
vLLM, or of the double, is written; everything else is the same for both.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import yaml

import e2e_cluster
from e2e_cluster import images
from e2e_engine import environment as engine_environment
from e2e_engine import launch, model
from e2e_engine.__main__ import model_directory
from patio_testing.kube import Kube, is_ready, until

ROOT = Path(__file__).resolve().parents[4]
CHART = ROOT / "charts" / "patio"
SYSTEM_NAMESPACE = "patio-system"
TAG = "dev"
BASE_MODEL = model.NAME
PROMPT = model.PROMPT
ADAPTERS = {name: str(launch.ADAPTERS / name) for name in model.ADAPTERS}
"""Where the adapters are in every engine pod, by name."""
GROUP_API = "workloads.x-k8s.io/v1alpha2"
ROUTER = "smg::router"
"""What smg calls its process."""


@dataclass(frozen=True)
class Engine:
    """How to write a pod that serves a model."""

    name: str
    container: Mapping[str, Any]
    volumes: Sequence[Mapping[str, Any]] = ()
    seconds_to_ready: float = 60.0

    def pod_spec(self) -> dict[str, Any]:
        """Return the spec of a pod with this engine, without any trace of Patio."""
        return {
            "terminationGracePeriodSeconds": 5,
            # So that a test can kill the engine as the kernel would: nobody can kill process 1 from inside.
            "shareProcessNamespace": True,
            "enableServiceLinks": False,
            "containers": [dict(self.container)],
            "volumes": [dict(volume) for volume in self.volumes],
        }


@dataclass(frozen=True)
class Environment:
    """A cluster that is up, and how to reach it."""

    kubectl: Path
    helm: Path
    kubeconfig: Path
    operator_archive: Path


def double(**flags: str) -> Engine:
    """Return the engine double in vLLM's form; `flags` are further flags of its command line."""
    return Engine(
        name="engine double",
        container={
            "name": "engine",
            "image": f"ghcr.io/patio/engine-double:{TAG}",
            "imagePullPolicy": "IfNotPresent",
            "args": [
                *("vllm", "serve", str(launch.MODEL), "--served-model-name", BASE_MODEL, "--enable-lora"),
                *("--host", "0.0.0.0", "--port", str(launch.PORT), "--max-lora-rank", "16"),
                *(argument for name, value in flags.items() for argument in (f"--{name.replace('_', '-')}", value)),
            ],
            "ports": [{"containerPort": launch.PORT}],
            "readinessProbe": {"httpGet": {"path": "/health", "port": launch.PORT}, "periodSeconds": 1},
            "volumeMounts": [{"name": "models", "mountPath": str(launch.MODEL_MOUNT), "readOnly": True}],
        },
        volumes=[{"name": "models", "hostPath": {"path": str(model.write(model_directory())), "type": "Directory"}}],
        seconds_to_ready=3,
    )


def double_sglang(**flags: str) -> Engine:
    """Return the engine double in SGLang's form; `flags` are further flags of its command line."""
    as_vllm = double()
    command = [
        *("-m", "sglang.launch_server", "--model-path", str(launch.MODEL), "--served-model-name", BASE_MODEL),
        *("--enable-lora", "--enable-metrics", "--host", "0.0.0.0", "--port", str(launch.PORT)),
        *("--max-lora-rank", "16"),
        *(argument for name, value in flags.items() for argument in (f"--{name.replace('_', '-')}", value)),
    ]
    probe = {"httpGet": {"path": "/ready", "port": launch.PORT}, "periodSeconds": 1}
    return replace(as_vllm, container={**as_vllm.container, "args": command, "readinessProbe": probe})


def vllm(report: Callable[[str], None]) -> Engine:
    """Return the real vLLM on the CPU; install it and make its model, if they are not there."""
    installed, models = engine_environment.install(report), model.write(model_directory())
    return Engine(
        name="vLLM",
        container=launch.container(f"ghcr.io/patio/engine-base:{TAG}", name="engine"),
        volumes=launch.volumes(installed, models),
        seconds_to_ready=60,
    )


def prepare_engine(kind: str, report: Callable[[str], None]) -> Engine:
    """Return the engine of this kind: `vllm` or `double`."""
    return vllm(report) if kind == "vllm" else double()


def image_names(engine: Engine) -> tuple[str, ...]:
    """Return the images that a cluster with this engine needs, by their names in this tree."""
    return ("sidecar", "operator", "engine-double" if "double" in engine.container["image"] else "engine-base")


def prepare_cluster(names: Sequence[str], report: Callable[[str], None]) -> Environment:
    """Bring a cluster up, build the images and put them on it. The cluster is first: what it lacks is known at once."""
    provider = e2e_cluster.connect(report=report)
    provider.up()
    built = images.build(names, TAG, report=report)
    provider.load_images([str(image.archive) for image in built])
    clients = e2e_cluster.clients(report)
    archives = {image.name: image.archive for image in built}
    return Environment(clients.kubectl, clients.helm, provider.kubeconfig, archives["operator"])


def log_progress(line: str) -> None:
    """Print the progress of long steps, and what was measured, past pytest's capture."""
    print(line, file=progress_stream or sys.stderr, flush=True)


progress_stream: TextIO | None = None
"""Where pytest's own output goes, if this is pytest's process."""


def group(engine: Engine, namespace: str, name: str = "demo", replicas: int = 1) -> dict[str, Any]:
    """Return a RoleBasedGroup with one role `worker` of engines that asks for the default profile."""
    return {
        "apiVersion": GROUP_API,
        "kind": "RoleBasedGroup",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "roles": [
                {
                    "name": "worker",
                    "replicas": replicas,
                    "engineRuntimes": [{"profileName": "patio"}],
                    "standalonePattern": {"template": {"spec": engine.pod_spec()}},
                }
            ]
        },
    }


def routed_group(engine: Engine, namespace: str, name: str) -> dict[str, Any]:
    """Return a RoleBasedGroup of one engine, and a real router with which its sidecar registers it."""
    made = group(engine, namespace, name)
    topology = {"TOPO_TYPE": "sglang", "SGL_ROUTER_ROLE_NAME": "router", "SGL_ROUTER_PORT": "8000"}
    variables = [{"name": key, "value": value} for key, value in {**topology, "HEARTBEAT_INTERVAL": "3"}.items()]
    (worker,) = made["spec"]["roles"]
    worker["engineRuntimes"] = [{"profileName": "patio", "containers": [{"name": "patio", "env": variables}]}]
    router = {
        "name": "router",
        "image": f"ghcr.io/patio/sample-parts:{TAG}",
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-m", "smg.launch_router", "--host", "0.0.0.0", "--port", "8000"],
        "readinessProbe": {"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 1},
    }
    template = {"spec": {"containers": [router]}}
    made["spec"]["roles"].append({"name": "router", "replicas": 1, "standalonePattern": {"template": template}})
    return made


def deployment(engine: Engine, namespace: str, name: str, replicas: int) -> dict[str, Any]:
    """Return a Deployment of engines whose pods ask for the default profile and have the label `app: NAME`."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name, "patio.dev/profile": "patio"}},
                "spec": engine.pod_spec(),
            },
        },
    }


def lora_adapter(namespace: str, name: str, path: str, **spec: Any) -> dict[str, Any]:
    """Return a LoraAdapter from a path, or a URI, for the role `worker` of the group `demo` if `spec` names no pods."""
    default_target = {} if {"roleRef", "selector"} & spec.keys() else {"roleRef": {"group": "demo", "role": "worker"}}
    source = {"source": {"uri": path if "://" in path else f"file://{path}"}}
    return {
        "apiVersion": "patio.dev/v1alpha1",
        "kind": "LoraAdapter",
        "metadata": {"name": name, "namespace": namespace},
        "spec": source | default_target | spec,
    }


LOAD = """
import sys, urllib.request
headers = {"content-type": "application/json"}
url = "http://127.0.0.1:9091/v1/load_lora_adapter"
urllib.request.urlopen(urllib.request.Request(url, sys.argv[1].encode(), headers))
"""


def load_manually(kube: Kube, namespace: str, pod: str, name: str, path: str) -> None:
    """Load an adapter through a pod's sidecar from inside the pod, and leave it to nobody."""
    body = json.dumps({"lora_name": name, "lora_path": path})
    kube.kubectl("-n", namespace, "exec", pod, "-c", "engine", "--", "python", "-c", LOAD, body)


def install_patio(kube: Kube, environment: Environment, report: Callable[[str], None], *values: str) -> None:
    """Install or upgrade Patio from the chart of this tree, with the images of this tree and these `name=value`."""
    renew_crds(kube, report)
    completed = subprocess.run(
        [
            environment.helm,
            "--kubeconfig",
            kube.kubeconfig,
            "upgrade",
            "--install",
            "patio",
            CHART,
            "--namespace",
            SYSTEM_NAMESPACE,
            "--create-namespace",
            "--set",
            f"operator.image.tag={TAG},sidecar.image.tag={TAG}",
            # The tag stays the same when the image changes: this is what replaces the operator's pod then.
            "--set-string",
            f"operator.podAnnotations.built={environment.operator_archive.stem}",
            *(argument for value in values for argument in ("--set", value)),
            "--wait",
            "--timeout",
            "2m",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if completed.returncode:
        operator = kube.kubectl("-n", SYSTEM_NAMESPACE, "get", "pods,events")
        raise RuntimeError(f"helm could not install Patio: {completed.stderr}\n{operator}")
    until("the webhook's CA bundle", lambda: _ca_bundles(kube), all, within=30)
    report(completed.stdout.splitlines()[0] if completed.stdout else "installed")


def renew_crds(kube: Kube, report: Callable[[str], None]) -> None:
    """Apply the CRDs of this tree where a kept cluster has others: Helm leaves those alone."""
    for path in sorted((CHART / "crds").glob("*.yaml")):
        packaged = yaml.safe_load(path.read_text())
        installed = kube.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{packaged['metadata']['name']}")
        if installed is not None and _schemas(installed) != _schemas(packaged):
            report(kube.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(path)).strip())


def _schemas(crd: Mapping[str, Any]) -> list[Any]:
    return [(version["name"], version["schema"]) for version in crd["spec"]["versions"]]


def fresh_namespace(kube: Kube, name: str) -> None:
    """Make a namespace, and first remove one of that name with all that is in it."""
    kube.kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=true", "--timeout=120s")
    kube.kubectl("create", "namespace", name)


def wait_for_pods(kube: Kube, namespace: str, count: int, within: float) -> list[dict[str, Any]]:
    """Wait until a namespace has this many pods, all Ready."""
    return until(
        f"{count} ready pods in {namespace}",
        lambda: kube.pods(namespace),
        lambda pods: len(pods) == count and all(is_ready(pod) for pod in pods),
        within=within,
    )


def wait_for_adapter(kube: Kube, namespace: str, name: str, within: float = 30.0) -> dict[str, Any]:
    """Wait until a LoraAdapter is Ready."""
    found = until(
        f"LoraAdapter {name} Ready",
        lambda: kube.lora_adapter(namespace, name),
        lambda adapter: adapter is not None and is_ready(adapter),
        within=within,
    )
    assert found is not None
    return found


def _ca_bundles(kube: Kube) -> list[str]:
    found = kube.get("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/patio")
    return [webhook["clientConfig"].get("caBundle", "") for webhook in found["webhooks"]] if found else [""]
