"""A changed source of a LoraAdapter, on a real API server: pod by pod, without its label, and stopped by a fault."""

from __future__ import annotations

import json
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from engine_double.samples import write_adapter
from patio_testing.engine_pods import EnginePod, MakePod, lora_adapter, marks, until_ready
from patio_testing.kube import BUSY, Kube, condition, until
from patio_testing.sidecar.download_sources import running_hub

pytestmark = [pytest.mark.api, pytest.mark.usefixtures("operator")]


def test_new_weights_come_pod_by_pod_without_label_in_between(
    kube: Kube, namespace: str, engine_pod: MakePod, tmp_path: Path
) -> None:
    old, new = write_adapter(tmp_path / "old"), write_adapter(tmp_path / "new")
    pods = [engine_pod(name) for name in "abc"]
    kube.apply(lora_adapter(namespace, "sql", str(old)))
    until_ready(kube, namespace, "sql", 3)
    until("all are labelled", lambda: [pod.marks() for pod in pods], lambda found: found == [{"sql"}] * 3)
    version = kube.get(f"/api/v1/namespaces/{namespace}/pods")["metadata"]["resourceVersion"]
    _set_source(kube, namespace, "sql", {"uri": f"file://{new}"})
    wrong: list[str] = []
    deadline = time.monotonic() + 60 * BUSY
    pause = threading.Event()
    while (roots := [pod.root("sql") for pod in pods]) != [str(new)] * 3:
        wrong += [pod.name for pod in pods if _is_labelled_without(pod, "sql")]
        assert time.monotonic() < deadline, roots
        pause.wait(0.02)
    assert not wrong, "labelled, and without the adapter"
    ready = until_ready(kube, namespace, "sql", 3)
    assert ready["status"]["updatedReplicas"] == 3
    until("all are labelled again", lambda: [pod.marks() for pod in pods], lambda found: found == [{"sql"}] * 3)
    labelled = {pod.name: True for pod in pods}
    at_once: list[int] = []
    for state in kube.pods_since(namespace, version):
        labelled[state["metadata"]["name"]] = bool(marks(state))
        at_once.append(sum(labelled.values()))
    assert min(at_once) == 2, "one pod at a time"


def test_bad_source_stops_at_first_pod_and_others_keep_the_old(
    kube: Kube, namespace: str, engine_pod: MakePod, tmp_path: Path
) -> None:
    old, bad = write_adapter(tmp_path / "old"), write_adapter(tmp_path / "bad", rank=4096)
    pods = [engine_pod(name) for name in "ab"]
    kube.apply(lora_adapter(namespace, "sql", str(old)))
    until_ready(kube, namespace, "sql", 2)
    _set_source(kube, namespace, "sql", {"uri": f"file://{bad}"})
    adapter = until(
        "stopped, and said so",
        lambda: kube.lora_adapter(namespace, "sql") or {},
        lambda adapter: condition(adapter, "Degraded").get("reason") == "RolloutStopped",
        within=30,
    )
    assert condition(adapter, "Ready")["status"] == "False"
    assert [pod.root("sql") for pod in pods] == [str(old)] * 2
    tried = [pod for pod in pods if _loads(pod, str(bad))]
    assert len(tried) == 1
    _set_source(kube, namespace, "sql", {"uri": f"file://{old}"})
    until_ready(kube, namespace, "sql", 2)


def test_what_cannot_be_fetched_everywhere_is_loaded_nowhere(
    kube: Kube, namespace: str, engine_pod: MakePod, tmp_path: Path
) -> None:
    folders = [write_adapter(tmp_path / name) for name in ("first", "second")]
    pods = [engine_pod(name) for name in "ab"]
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(running_hub({path.name: path.read_bytes() for path in folder.iterdir()}))
            for folder in folders
        )
        kube.apply(lora_adapter(namespace, "sql", "", source={"uri": "hf://team/adapter", "endpoint": first.url}))
        until_ready(kube, namespace, "sql", 2, within=60)
        before = [pod.root("sql") for pod in pods]
        loads = [len(pod.requests("/v1/load_lora_adapter")) for pod in pods]
        _set_source(kube, namespace, "sql", {"uri": "hf://team/missing", "endpoint": second.url})
        adapter = until(
            "stopped, and said so",
            lambda: kube.lora_adapter(namespace, "sql") or {},
            lambda adapter: condition(adapter, "Degraded").get("reason") == "RolloutStopped",
            within=60,
        )
        assert adapter["status"]["readyReplicas"] == 2, "the old weights answer"
        assert [len(pod.requests("/v1/load_lora_adapter")) for pod in pods] == loads
        _set_source(kube, namespace, "sql", {"uri": "hf://team/adapter", "endpoint": second.url})
        until_ready(kube, namespace, "sql", 2, within=60)
        assert all(pod.root("sql") not in (None, root) for pod, root in zip(pods, before, strict=True))


def _is_labelled_without(pod: EnginePod, name: str) -> bool:
    """Whether a pod had the label all the while its engine said that it does not have the adapter."""
    before = pod.object()
    root = pod.root(name)
    after = pod.object()
    same = before["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"]
    return same and name in marks(before) and root is None


def _set_source(kube: Kube, namespace: str, name: str, source: dict[str, str]) -> None:
    patch = json.dumps({"spec": {"source": source}})
    kube.kubectl("-n", namespace, "patch", "loraadapter", name, "--type=merge", "-p", patch)


def _loads(pod: EnginePod, path: str) -> int:
    """Return how often the engine was asked to load from a folder."""
    return sum(path in json.dumps(request) for request in pod.requests("/v1/load_lora_adapter"))
