"""The demo: from a bare machine to a LoRA adapter answering on a real cluster. `make demo` runs it.

Shows each step with its time and leaves everything running. Repeating it reuses what is there.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import e2e_cluster
from e2e_cluster.errors import ClusterError
from patio_testing.environment import (
    ADAPTERS,
    BASE_MODEL,
    PROMPT,
    SYSTEM_NAMESPACE,
    Engine,
    Environment,
    group,
    image_names,
    install_patio,
    lora_adapter,
    prepare_cluster,
    prepare_engine,
    wait_for_adapter,
    wait_for_pods,
)
from patio_testing.kube import Kube, connected, until

NAMESPACE = "demo"
POD = "demo-worker-0"
ADAPTER = "sql-expert"
METRICS_SHOWN = 10


def main() -> int:
    """Run the demo; what a user can mend ends it with one message and status 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=("vllm", "double"), default="vllm", help="a real vLLM, or its double")
    kind = parser.parse_args().engine
    try:
        run(kind)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run(kind: str) -> None:
    """Run the demo with the engine of this kind."""
    started = time.monotonic()
    with step("a Kubernetes node"):
        e2e_cluster.connect(report=report).up()
    with step("the engine and its model"):
        engine = prepare_engine(kind, report)
    with step("images, put on the node"):
        environment = prepare_cluster(image_names(engine), report)
    with connected(environment.kubectl, environment.kubeconfig) as kube:
        with step("Patio, installed by Helm"):
            install_patio(kube, environment, report)
        with step(f"a RoleBasedGroup with one {engine.name} (starting takes about {engine.seconds_to_ready:.0f} s)"):
            start_engine(kube, engine)
        show_pods(kube)
        with step(f"a LoraAdapter, applied with kubectl: {ADAPTER}"):
            kube.apply(lora_adapter(NAMESPACE, ADAPTER, ADAPTERS["lora-a"]))
            wait_for_adapter(kube, NAMESPACE, ADAPTER)
        print(kube.kubectl("-n", NAMESPACE, "get", "loraadapters"))
        ask(kube)
        show_metrics(kube)
        farewell(environment, time.monotonic() - started)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Print what begins, and how long it took."""
    print(f"==> {title}", flush=True)
    started = time.monotonic()
    yield
    print(f"    done in {time.monotonic() - started:.1f} s", flush=True)


def report(line: str) -> None:
    """Print a detail of a step."""
    print(f"    {line}", flush=True)


def start_engine(kube: Kube, engine: Engine) -> None:
    """Apply the RoleBasedGroup and wait for its pod."""
    if kube.get(f"/api/v1/namespaces/{NAMESPACE}") is None:
        kube.kubectl("create", "namespace", NAMESPACE)
    kube.apply(group(engine, NAMESPACE))
    until("the pod", lambda: kube.get(f"/api/v1/namespaces/{NAMESPACE}/pods/{POD}"), within=30)
    wait_for_pods(kube, NAMESPACE, 1, within=engine.seconds_to_ready * 5)


def show_pods(kube: Kube) -> None:
    """Show that the sidecar is in the pod, and not in what made the pod."""
    containers = "{range .spec.initContainers[*]}{.name} {end}{range .spec.containers[*]}{.name} {end}"
    template = "{.spec.template.spec.initContainers[*].name} {.spec.template.spec.containers[*].name}"
    print(kube.kubectl("-n", NAMESPACE, "get", "pods"))
    print(
        "    containers of the pod:                ",
        kube.kubectl("-n", NAMESPACE, "get", "pod", POD, "-o", f"jsonpath={containers}"),
    )
    print(
        "    containers in the StatefulSet's pods: ",
        kube.kubectl("-n", NAMESPACE, "get", "sts", "demo-worker", "-o", f"jsonpath={template}").strip(),
    )
    print()


def ask(kube: Kube) -> None:
    """Ask the base model and the adapter the same."""
    base = kube.complete(NAMESPACE, POD, BASE_MODEL, PROMPT)
    adapted = kube.complete(NAMESPACE, POD, ADAPTER, PROMPT)
    print(f"    prompt:     {PROMPT!r}")
    print(f"    {BASE_MODEL + ':':11} {base!r}")
    print(f"    {ADAPTER + ':':11} {adapted!r}")
    print()
    if base == adapted:
        sys.exit("The adapter answered as the base model does: it is not in effect.")


def show_metrics(kube: Kube) -> None:
    """Print some of the normalised metrics."""
    text = kube.to_pod("GET", NAMESPACE, POD, 9091, "/metrics").text
    details = ("_bucket{", "_created{", "_sum{")
    lines = [
        line for line in text.splitlines() if line.startswith("patio:") and not any(part in line for part in details)
    ]
    for line in lines[:METRICS_SHOWN]:
        print(f"    {line}")
    print()


def farewell(environment: Environment, seconds: float) -> None:
    """Say what runs, how to look at it and how to take it down."""
    print(f"Running after {seconds:.0f} s: Patio (namespace {SYSTEM_NAMESPACE}), an engine (namespace {NAMESPACE}).")
    print(f"""
Look around:
    export KUBECONFIG={environment.kubeconfig} PATH={environment.kubectl.parent}:$PATH
    kubectl -n {NAMESPACE} get pods,rolebasedgroups,loraadapters
    kubectl -n {NAMESPACE} describe loraadapter {ADAPTER}
    kubectl -n {NAMESPACE} get --raw /api/v1/namespaces/{NAMESPACE}/pods/{POD}:9091/proxy/v1/lora_adapters
    kubectl -n {SYSTEM_NAMESPACE} logs deploy/patio-operator
Try:
    kubectl -n {NAMESPACE} delete loraadapter {ADAPTER}      # the engine forgets it
    kubectl -n {NAMESPACE} delete pod {POD}             # a new one, not Ready before it has its adapters
Take it down:
    make down""")


if __name__ == "__main__":
    sys.exit(main())
