"""From objects of Kubernetes to a snapshot: who serves what, and who has which name."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from patio_api.labels import ADAPTER_LOADED, adapter_label, adapter_labels
from patio_gateway.snapshot import Client, Model, Snapshot, Worker
from patio_gateway.sources.kubernetes.assembly import Assembled, assemble
from patio_gateway.sources.kubernetes.cached_objects import decode_adapter, decode_endpoint, decode_pod
from patio_testing.model_objects import (
    CREATED,
    LATER,
    Object,
    lora_adapter,
    model_endpoint,
    serving_adapters,
    worker_pod,
)

SERVING = serving_adapters()
SQL = lora_adapter("sql")


def assembled(
    endpoints: Iterable[Object], adapters: Iterable[Object] = (), pods: Iterable[Object] = (), **fields: Any
) -> Assembled:
    return assemble(
        [each for body in endpoints if (each := decode_endpoint(body))],
        [each for body in adapters if (each := decode_adapter(body))],
        [each for body in pods if (each := decode_pod(body))],
        fields.get("clients"),
    )


def models(*args: Any, **fields: Any) -> dict[str, Model]:
    return {model.endpoint: model for model in assembled(*args, **fields).snapshot.models}


def named(endpoint: str, name: str, **fields: Any) -> Object:
    """A ModelEndpoint `namespace/name` with the name of its model."""
    namespace, _, own = endpoint.partition("/")
    return model_endpoint(own, namespace=namespace, model={"uri": "a/b", "name": name}, **fields)


def test_empty_snapshot_says_whether_keys_are_needed() -> None:
    assert assembled([]).snapshot == Snapshot(closed=False)
    client = Client("x", "sk-0123456789")
    assert assembled([], clients=(client,)).snapshot == Snapshot(clients=(client,))
    assert assembled([], clients=()).snapshot == Snapshot(closed=True)


def test_pods_of_an_endpoint_are_its_workers() -> None:
    pods = [worker_pod("m-1", ip="10.0.0.2"), worker_pod("m-0", loaded=[SQL]), worker_pod("m-2", ready=False)]
    pods += [worker_pod("n-0", endpoint="n"), worker_pod("m-0", namespace="other", ip="10.0.0.9")]
    (model,) = models([model_endpoint(adapters=SERVING)], [SQL], pods).values()
    assert model.adapters == ("sql",)
    assert model.workers == (
        Worker("m-0", ("10.0.0.1", 8000), frozenset({"sql"})),
        Worker("m-1", ("10.0.0.2", 8000)),
    )


def test_adapters_are_those_that_the_endpoint_selects() -> None:
    adapters = [SQL, lora_adapter("chat", labels={"for": "other"}), lora_adapter("sql", namespace="other")]
    pods = [worker_pod(loaded=adapters)]
    with_them, without = model_endpoint(adapters=SERVING), model_endpoint()
    assert models([with_them], adapters, pods)["team/m"].adapters == ("sql",)
    assert models([with_them], adapters, pods)["team/m"].workers[0].adapters == {"sql"}
    assert models([without], adapters, pods)["team/m"].adapters == ()
    assert models([without], adapters, pods)["team/m"].workers[0].adapters == frozenset()


def test_adapter_needs_all_labels_of_the_selector() -> None:
    of_both = lora_adapter("both", labels={"a": "1", "b": "2"})
    adapters = [of_both, lora_adapter("first", labels={"a": "1"}), lora_adapter("none", labels={})]
    assert models([model_endpoint(adapters=serving_adapters(a="1", b="2"))], adapters)["team/m"].adapters == ("both",)


def test_adapter_that_no_pod_has_loaded_is_known_all_the_same() -> None:
    model = models([model_endpoint(adapters=SERVING)], [SQL], [worker_pod()])["team/m"]
    assert (model.adapters, model.workers[0].adapters) == (("sql",), frozenset())


def test_adapter_of_another_owner_of_that_name_does_not_count() -> None:
    pod = worker_pod(labels=adapter_labels("sql", "uid-of-another"))
    assert models([model_endpoint(adapters=SERVING)], [SQL], [pod])["team/m"].workers[0].adapters == frozenset()


def test_older_endpoint_has_the_name_that_two_claim() -> None:
    found = assembled([named("a/young", "chat", created=LATER), named("z/old", "chat", created=CREATED)])
    assert [(model.endpoint, model.names) for model in found.snapshot.models] == [("z/old", ("chat",))]
    (taken,) = found.taken
    assert (taken.kind, taken.namespace, taken.object_name, taken.holder) == (
        *("ModelEndpoint", "a", "young"),
        "ModelEndpoint z/old",
    )
    assert str(taken).startswith("Requests for 'chat' go to ModelEndpoint z/old")


def test_endpoints_of_one_second_go_by_namespace_and_name() -> None:
    assert list(models([named("b/a", "chat"), named("a/b", "chat")])) == ["a/b"]


def test_endpoint_without_a_time_of_creation_comes_last() -> None:
    assert list(models([named("a/a", "chat", created=None), named("b/b", "chat")])) == ["b/b"]


def test_endpoint_that_lost_an_alias_serves_its_other_names() -> None:
    both = model_endpoint("young", created=LATER, model={"uri": "a/b", "aliases": ["chat", "small"]})
    found = models([named("team/old", "chat"), both])
    assert found["team/young"].names == ("young", "small")


def test_model_does_not_take_the_name_of_an_older_adapter() -> None:
    serving = model_endpoint(adapters=SERVING)
    found = assembled([serving, named("evil/e", "sql", created=LATER)], [SQL], [worker_pod(loaded=[SQL])])
    assert {model.endpoint: model.adapters for model in found.snapshot.models} == {"team/m": ("sql",)}
    assert found.taken[0].holder == "LoraAdapter team/sql of ModelEndpoint team/m"


def test_adapter_does_not_take_the_name_of_an_older_model() -> None:
    victim = named("victim/v", "sql")
    for endpoint, adapter in (
        (model_endpoint(adapters=SERVING), lora_adapter("sql", created=LATER)),
        # An old LoraAdapter at a new ModelEndpoint claims its name only since both are there.
        (model_endpoint(adapters=SERVING, created=LATER), lora_adapter("sql", created="2020-01-01T00:00:00Z")),
    ):
        found = assembled([victim, endpoint], [adapter])
        assert {model.endpoint: (model.names, model.adapters) for model in found.snapshot.models} == {
            "team/m": (("m",), ()),
            "victim/v": (("sql",), ()),
        }
        assert [(taken.kind, taken.holder) for taken in found.taken] == [("LoraAdapter", "ModelEndpoint victim/v")]


def test_model_goes_before_an_adapter_of_the_same_second() -> None:
    found = models([model_endpoint(adapters=SERVING), named("z/z", "sql")], [SQL])
    assert (found["z/z"].names, found["team/m"].adapters) == (("sql",), ())


def test_adapter_that_two_endpoints_select_is_the_older_ones() -> None:
    younger = model_endpoint("n", adapters=SERVING, created=LATER)
    found = models([younger, model_endpoint(adapters=SERVING)], [SQL], [worker_pod("n-0", endpoint="n", loaded=[SQL])])
    assert (found["team/m"].adapters, found["team/n"].adapters) == (("sql",), ())
    assert found["team/n"].workers[0].adapters == frozenset()


def test_younger_adapter_of_one_name_is_not_served() -> None:
    other = lora_adapter("other", adapterName="sql", created=LATER)
    pods = [worker_pod("m-0", loaded=[SQL]), worker_pod("m-1", ip="10.0.0.2", loaded=[other])]
    found = assembled([model_endpoint(adapters=SERVING)], [other, SQL], pods)
    assert [worker.adapters for worker in found.snapshot.models[0].workers] == [{"sql"}, frozenset()]
    assert [taken.object_name for taken in found.taken] == ["other"]


def test_endpoint_without_any_name_claims_none_for_its_adapters() -> None:
    nameless = named("team/m", "chat", created=LATER, adapters=SERVING)
    younger = named("z/z", "sql", created="2026-11-27T12:00:00Z")
    found = models([nameless, named("a/a", "chat"), younger], [lora_adapter("sql", created=LATER)])
    assert {endpoint: model.names for endpoint, model in found.items()} == {"a/a": ("chat",), "z/z": ("sql",)}


def test_fallbacks_are_names_of_models_of_the_same_namespace() -> None:
    falling = model_endpoint(routing={"fallbacks": ["absent", "big", "elsewhere"]})
    big, elsewhere = named("team/big", "qwen3-70b"), named("other/elsewhere", "x")
    assert models([falling, big, elsewhere])["team/m"].routing.fallbacks == ("qwen3-70b",)


NAMES = st.sampled_from(["a", "b", "c", "d"])
TIMES = st.sampled_from([CREATED, CREATED, LATER, LATER, "2026-11-27T12:00:00Z", None])


@st.composite
def clusters(draw: st.DrawFn) -> tuple[list[Object], list[Object], list[Object]]:
    """Objects of two namespaces that claim few names, in any order; pods in all states, with labels of anything."""
    places = [(namespace, name) for namespace in ("n1", "n2") for name in ("e1", "e2", "e3")]
    endpoints = []
    for namespace, name in draw(st.lists(st.sampled_from(places), unique=True)):
        aliases = draw(st.lists(NAMES, max_size=2, unique=True))
        spec: Object = {"model": {"uri": "x/y", "name": draw(NAMES), "aliases": aliases}}
        if draw(st.booleans()):
            spec["adapters"] = serving_adapters(group=draw(st.sampled_from("xy")))
        endpoints.append(model_endpoint(name, namespace=namespace, created=draw(TIMES), **spec))
    adapters = [
        lora_adapter(
            name,
            namespace=namespace,
            created=draw(TIMES),
            labels={"group": draw(st.sampled_from("xyz"))},
            adapterName=draw(NAMES),
        )
        for namespace, name in draw(st.lists(st.sampled_from(places), unique=True))
    ]
    pods = []
    for number in range(draw(st.integers(0, 6))):
        labels: dict[str, str] = {}
        for adapter in draw(st.lists(st.sampled_from(adapters), max_size=3)) if adapters else []:
            both = adapter_labels(adapter["spec"]["adapterName"], adapter["metadata"]["uid"])
            labels |= {key: value for key, value in both.items() if draw(st.integers(0, 4))}
        deleted = {"deletionTimestamp": CREATED} if not draw(st.integers(0, 3)) else {}
        pods.append(
            worker_pod(
                f"p{number}",
                namespace=draw(st.sampled_from(["n1", "n2"])),
                endpoint=draw(st.sampled_from(["e1", "e2", "e3", "none"])),
                ip=f"10.0.0.{number + 1}",
                ready=bool(draw(st.integers(0, 3))),
                labels=labels,
                **deleted,
            )
        )
    return endpoints, adapters, pods


def shows(pod: Object, adapter: Object) -> bool:
    """Whether a pod's labels show an adapter, by the text of the labels alone."""
    labels, name = pod["metadata"]["labels"], adapter["spec"]["adapterName"]
    owner = labels.get(f"owner.lora.patio.dev/{adapter['metadata']['uid']}")
    return labels.get(adapter_label(name)) == ADAPTER_LOADED and owner == name


@settings(max_examples=300, deadline=None)
@given(clusters())
def test_no_pod_is_named_for_an_adapter_that_it_does_not_have(
    cluster: tuple[list[Object], list[Object], list[Object]],
) -> None:
    endpoints, adapters, pods = cluster
    by_name = {pod["metadata"]["name"]: pod for pod in pods}
    for model in assembled(endpoints, adapters, pods).snapshot.models:
        namespace = model.endpoint.split("/")[0]
        for worker in model.workers:
            pod = by_name[worker.name]
            for name in worker.adapters:
                assert name in model.adapters
                assert any(
                    shows(pod, adapter)
                    for adapter in adapters
                    if adapter["spec"]["adapterName"] == name and adapter["metadata"]["namespace"] == namespace
                )


@settings(max_examples=300, deadline=None)
@given(clusters())
def test_no_worker_drains_or_is_of_another_endpoint(cluster: tuple[list[Object], list[Object], list[Object]]) -> None:
    endpoints, adapters, pods = cluster
    by_name = {pod["metadata"]["name"]: pod for pod in pods}
    for model in assembled(endpoints, adapters, pods).snapshot.models:
        for worker in model.workers:
            metadata, status = by_name[worker.name]["metadata"], by_name[worker.name]["status"]
            assert "deletionTimestamp" not in metadata
            assert status["conditions"][0]["status"] == "True"
            assert f"{metadata['namespace']}/{metadata['labels']['patio.dev/endpoint']}" == model.endpoint


@settings(max_examples=300, deadline=None)
@given(clusters())
def test_no_name_is_anything_twice(cluster: tuple[list[Object], list[Object], list[Object]]) -> None:
    found = assembled(*cluster).snapshot.models
    names = [name for model in found for name in (*model.names, *model.adapters)]
    assert len(names) == len(set(names))
    assert all(model.names for model in found)


@settings(max_examples=200, deadline=None)
@given(clusters(), st.randoms(use_true_random=False))
def test_order_of_objects_does_not_matter(cluster: tuple[list[Object], list[Object], list[Object]], rng: Any) -> None:
    def shuffled(bodies: Sequence[Object]) -> list[Object]:
        return rng.sample(bodies, len(bodies))  # type: ignore[no-any-return]

    expected = assembled(*cluster)
    assert assembled(*map(shuffled, cluster)) == expected


@settings(max_examples=200, deadline=None)
@given(clusters(), NAMES)
def test_object_that_comes_later_takes_no_name_away(
    cluster: tuple[list[Object], list[Object], list[Object]], name: str
) -> None:
    endpoints, adapters, pods = cluster
    assume(all("creationTimestamp" in each["metadata"] for each in (*endpoints, *adapters)))
    latest = "2027-01-01T00:00:00Z"
    tenant = named("tenant/new", name, created=latest, adapters=serving_adapters(own="yes"))
    own = [
        lora_adapter(f"own-{each}", namespace="tenant", created=latest, labels={"own": "yes"}, adapterName=each)
        for each in "abcd"
    ]
    after = models([*endpoints, tenant], [*adapters, *own], pods)
    after.pop("tenant/new", None)
    assert after == models(endpoints, adapters, pods)


def test_thousand_pods_and_two_thousand_adapters_are_assembled() -> None:
    adapters = [lora_adapter(f"a{number}") for number in range(2000)]
    pods = [
        worker_pod(f"m-{number}", ip=f"10.1.{number // 250}.{number % 250 + 1}", loaded=adapters[number : number + 50])
        for number in range(1000)
    ]
    decoded = (
        [each for body in [model_endpoint(adapters=SERVING)] if (each := decode_endpoint(body))],
        [each for body in adapters if (each := decode_adapter(body))],
        [each for body in pods if (each := decode_pod(body))],
    )
    began = time.perf_counter()
    found = assemble(*decoded, None).snapshot
    print(f"assembled in {time.perf_counter() - began:.3f} s")
    assert (len(found.models[0].workers), len(found.models[0].adapters)) == (1000, 2000)
    assert all(len(worker.adapters) == 50 for worker in found.models[0].workers)
