"""From a snapshot to Envoy's files: each worker is where its model and its adapters are, and nowhere else."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from patio_gateway.control.bootstrap import Listening
from patio_gateway.control.groups import groups_of
from patio_gateway.control.resources import BASE, clusters_in, keeping, resources, serves_adapter
from patio_gateway.snapshot import Model, Snapshot, Worker
from patio_testing.model_gateway import Recorder, running_gateway, serving

LISTENING = Listening(folder="/run/gateway", most_own_groups=2)
ADAPTERS = [f"lora-{number}" for number in range(4)]


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    models = []
    for number in range(draw(st.integers(0, 4))):
        workers = tuple(
            Worker(
                f"pod-{number}-{index}",
                (f"10.0.{number}.{index}", 8000),
                frozenset(draw(st.sets(st.sampled_from(ADAPTERS)))),
            )
            for index in range(draw(st.integers(0, 4)))
        )
        models.append(
            Model(
                f"team/model-{number}",
                (f"model-{number}", f"alias-{number}"),
                adapters=tuple(ADAPTERS),
                workers=workers,
            )
        )
    return Snapshot(models=tuple(models))


def endpoints_of(snapshot: Snapshot, listening: Listening = LISTENING) -> dict[str, list[dict[str, Any]]]:
    """Return Envoy's endpoints by the name of their group."""
    found = {}
    for file in resources(snapshot, listening):
        if file.name.startswith("endpoints-"):
            (assignment,) = json.loads(file.text)["resources"]
            found[assignment["cluster_name"]] = assignment["endpoints"][0]["lb_endpoints"]
    return found


def selected(endpoints: list[dict[str, Any]], endpoint: str, serves: str) -> set[str]:
    """Return the pods of a subset, as Envoy forms it: `serves` matches any of a list."""
    pods = set()
    for entry in endpoints:
        metadata = entry["metadata"]["filter_metadata"]
        if metadata["envoy.lb"].get("endpoint") == endpoint and serves in metadata["envoy.lb"]["serves"]:
            pods.add(metadata["patio"]["pod"])
    return pods


@given(snapshots())
def test_subset_has_the_workers_with_the_adapter_alone(snapshot: Snapshot) -> None:
    endpoints = endpoints_of(snapshot)
    groups = groups_of(snapshot.models, LISTENING.most_own_groups)
    for model in snapshot.models:
        its = endpoints[groups[model.endpoint].name]
        assert selected(its, model.endpoint, BASE) == {worker.name for worker in model.workers}
        for adapter in ADAPTERS:
            wanted = {worker.name for worker in model.workers if adapter in worker.adapters}
            assert selected(its, model.endpoint, serves_adapter(adapter)) == wanted


@given(snapshots())
def test_front_is_the_default_of_every_group(snapshot: Snapshot) -> None:
    for entries in endpoints_of(snapshot).values():
        fronts = [entry for entry in entries if entry["metadata"]["filter_metadata"]["envoy.lb"] == {"role": "front"}]
        assert [front["endpoint"]["address"]["pipe"]["path"] for front in fronts] == ["/run/gateway/front.sock"]


@given(snapshots())
def test_same_snapshot_gives_the_same_bytes(snapshot: Snapshot) -> None:
    assert resources(snapshot, LISTENING) == resources(snapshot, LISTENING)


@given(snapshots())
@settings(max_examples=25)
def test_clusters_of_before_stay_until_they_are_not_named(snapshot: Snapshot) -> None:
    old = {file.name: file for file in resources(Snapshot(models=(Model("old/m", ("m",)),)), LISTENING)}
    before = clusters_in(old["clusters.json"].text)
    (during,) = (file for file in keeping(resources(snapshot, LISTENING), before) if file.name == "clusters.json")
    (after,) = (file for file in resources(snapshot, LISTENING) if file.name == "clusters.json")
    names = {cluster["name"] for cluster in clusters_in(during.text)}
    assert {cluster["name"] for cluster in before} <= names
    assert names - {cluster["name"] for cluster in before} <= {cluster["name"] for cluster in clusters_in(after.text)}


def test_pod_that_comes_changes_one_file() -> None:
    def at(pods: int) -> dict[str, str]:
        workers = tuple(Worker(f"pod-{index}", ("10.0.0.1", 8000 + index)) for index in range(pods))
        models = (Model("a/m", ("m",), workers=workers), Model("b/other", ("other",)))
        return {file.name: file.text for file in resources(Snapshot(models=models), LISTENING)}

    before, after = at(1), at(2)
    changed = [name for name in after if before.get(name) != after[name]]
    assert len(changed) == 1
    assert changed[0].startswith("endpoints-a_m-")


def test_text_that_is_no_list_of_clusters_has_none() -> None:
    for text in ("", "{", "[]", '{"resources": 1}', "null"):
        assert clusters_in(text) == []


async def test_models_that_share_clusters_keep_their_pods_apart() -> None:
    engine = Recorder()
    async with serving(engine.app()) as address, serving(engine.app()) as other:
        models = tuple(
            Model(
                f"a/m-{number}", (f"m-{number}",), workers=(Worker(f"pod-{number}", address if number == 1 else other),)
            )
            for number in (1, 2)
        )
        async with running_gateway(Snapshot(closed=False, models=models[:1]), most_own_groups=1) as gateway:
            alone = await gateway.ask("/v1/completions", {"model": "m-1"})
            # A second one: both move to clusters that they share.
            await gateway.publish(Snapshot(closed=False, models=models))
            shared = [await gateway.ask("/v1/completions", {"model": f"m-{number}"}) for number in (1, 2)]
            await gateway.publish(Snapshot(closed=False, models=models[1:]))
            again = await gateway.ask("/v1/completions", {"model": "m-2"})
            removed = await gateway.ask("/v1/completions", {"model": "m-1"})
    assert alone.headers["x-patio-pod"] == "pod-1"
    assert [answer.headers["x-patio-pod"] for answer in shared] == ["pod-1", "pod-2"]
    assert (again.headers["x-patio-pod"], removed.status_code) == ("pod-2", 404)
