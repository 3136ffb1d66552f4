"""Laws of the planner, held in fleets that change while it works: it comes to rest, and the rest is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patio_operator.loraadapters.planner.plan import Load
from patio_operator.loraadapters.planner.selection import is_deleting, load_request, source_revision
from patio_protocol.adapters import AdapterState, LoadRequest
from patio_testing.operator.builders import lora_adapter, pod
from patio_testing.operator.fleet_simulator import Entry, FleetSimulator, Sidecar

NAMES = ("sql", "chat", "code")
PODS = tuple("abcdef")
SOURCES = ("file:///adapters/v1", "file:///adapters/v2", "s3://bucket/v3", "s3://bucket/v4", "s3://bucket/bad")
BAD = source_revision(lora_adapter(uri="s3://bucket/bad"))
"""A source that every engine refuses."""


@dataclass(frozen=True)
class Event:
    """Something that happens to a world."""

    what: Callable[..., None]
    args: tuple[Any, ...] = ()

    def __call__(self, world: FleetSimulator) -> None:
        self.what(world, *self.args)

    def __repr__(self) -> str:
        return f"{self.what.__name__}{self.args}"


def happening(change: Callable[..., None], *args: st.SearchStrategy[Any]) -> st.SearchStrategy[Event]:
    return st.builds(Event, st.just(change), st.tuples(*args))


def sidecar(room: int | None) -> Sidecar:
    """A sidecar on which somebody loaded an adapter by hand."""
    by_hand = Entry(LoadRequest(lora_name="mine", lora_path="/mine"), AdapterState.LOADED, held="")
    return Sidecar(room=room, bad={BAD}, entries={"mine": by_hand})


def add(world: FleetSimulator, name: str, node: str, room: int | None) -> None:
    if name not in world.pods:
        world.add(pod(name, node=node), sidecar(room))


def lose(world: FleetSimulator, name: str) -> None:
    if name in world.pods:
        world.lose(name)


def silence(world: FleetSimulator, name: str) -> None:
    if name in world.pods:
        world.sidecar(name).alive = not world.sidecar(name).alive


def crash(world: FleetSimulator, name: str) -> None:
    if name in world.pods:
        world.sidecar(name).crash()


def revive(world: FleetSimulator) -> None:
    for sidecar in world.sidecars.values():
        sidecar.alive = sidecar.engine_ready = True


def declare(world: FleetSimulator, name: str, uri: str, replicas: int | None, pinned: bool, most: int) -> None:
    if name not in world.adapters or not is_deleting(world.adapters[name]):
        created = f"2026-11-21T1{NAMES.index(name)}:00:00Z"
        metadata = {"creationTimestamp": created}
        world.declare(
            lora_adapter(name, uri=uri, replicas=replicas, pinned=pinned, maxUnavailable=most, metadata=metadata)
        )


def delete(world: FleetSimulator, name: str) -> None:
    if name in world.adapters and not is_deleting(world.adapters[name]):
        world.delete(name)


def wait(world: FleetSimulator, steps: int) -> None:
    for _ in range(steps):
        world.step()


def events(
    sources: tuple[str, ...] = SOURCES, capacity: tuple[int | None, ...] = (None,)
) -> st.SearchStrategy[list[Event]]:
    names, pods = st.sampled_from(NAMES), st.sampled_from(PODS)
    return st.lists(
        st.one_of(
            happening(add, pods, st.sampled_from(("n1", "n2", "n3")), st.sampled_from(capacity)),
            happening(lose, pods),
            happening(silence, pods),
            happening(crash, pods),
            happening(revive),
            happening(
                declare,
                names,
                st.sampled_from(sources),
                st.one_of(st.none(), st.integers(0, 4)),
                st.booleans(),
                st.integers(1, 3),
            ),
            happening(delete, names),
            happening(wait, st.integers(1, 4)),
        ),
        min_size=5,
        max_size=40,
    )


def lived(happened: list[Event], seed: int) -> FleetSimulator:
    """A world in which all of this happened, and that then came to rest. Odd seeds: at its own pace."""
    world = FleetSimulator(seed, pace=0.5 if seed % 2 else 1.0)
    for name in PODS[:3]:
        add(world, name, "n1", None)
    for step in happened:
        step(world)
    revive(world)
    world.settle()
    return world


def have(world: FleetSimulator, name: str, state: AdapterState) -> set[str]:
    """The pods that have an adapter, as it is declared now, in a state."""
    request = load_request(world.adapters[name])
    return {
        pod_name
        for pod_name in world.pods
        if (entry := world.sidecar(pod_name).entries.get(name)) is not None
        and (entry.request.owner, entry.request.revision, entry.state) == (request.owner, request.revision, state)
    }


@settings(max_examples=300, deadline=None)
@given(events(), st.integers(0, 3))
def test_whatever_happened_it_ends_as_declared(happened: list[Event], seed: int) -> None:
    world = lived(happened, seed)
    for name, adapter in world.adapters.items():
        expected = len(world.pods) if adapter.spec.replicas is None else adapter.spec.replicas
        if source_revision(adapter) == BAD:
            assert have(world, name, AdapterState.LOADED) == set()
        else:
            assert len(have(world, name, AdapterState.LOADED)) == min(expected, len(world.pods))
    for name in world.pods:
        entries = world.sidecar(name).entries
        assert entries.keys() <= world.adapters.keys() | {"mine"}, "what was deleted is unloaded"
        assert entries["mine"].state is AdapterState.LOADED
        assert not any(
            entry.prepared and entry.state is AdapterState.LOADED and entry.request.source
            for key, entry in entries.items()
            if source_revision(world.adapters.get(key, lora_adapter())) == entry.request.revision
        ), "nothing is kept ahead for nothing"
        assert world.pods[name].serving == {
            adapter_name
            for adapter_name in entries
            if adapter_name != "mine" and entries[adapter_name].held is not None
        }


@pytest.mark.parametrize("seed", [3, 45, 69, 83, 107])
def test_change_taken_back_late_keeps_requests_off_weights(seed: int) -> None:
    # The report that says which weights are there is older than the switch that took them away.
    happened = [
        Event(lose, ("a",)),
        Event(crash, ("b",)),
        Event(declare, ("code", "s3://bucket/v4", None, False, 1)),
        Event(wait, (6,)),
        Event(declare, ("code", "file:///adapters/v1", 1, False, 1)),
        Event(wait, (2,)),
        Event(declare, ("code", "s3://bucket/v4", None, False, 1)),
    ]
    world = lived(happened, seed)  # which checks it at every step
    assert have(world, "code", AdapterState.LOADED) == {"b", "c"}


@settings(max_examples=150, deadline=None)
@given(events(capacity=(None, 1, 2, 3)), st.integers(0, 3))
def test_no_engine_ever_gets_more_than_its_capacity(happened: list[Event], seed: int) -> None:
    lived(happened, seed)  # which checks it: at every step, or where reports are late, at the end


@settings(max_examples=150, deadline=None)
@given(events(), st.integers(0, 3))
def test_settled_fleet_gets_no_orders_after_any_order_of_events(happened: list[Event], seed: int) -> None:
    world = lived(happened, seed)
    orders = len(world.orders)
    for _ in range(3):
        assert world.step().actions == ()
    assert len(world.orders) == orders


@settings(max_examples=150, deadline=None)
@given(events(), st.integers(0, 3))
def test_order_of_telling_does_not_change_the_plan(happened: list[Event], seed: int) -> None:
    world = FleetSimulator(seed)
    for step in happened:
        step(world)
        first, second = world.plan(), world.plan()
        assert sorted(map(repr, first.actions)) == sorted(map(repr, second.actions))
        assert first.placements == second.placements


@settings(max_examples=100, deadline=None)
@given(events(sources=SOURCES[:1]), st.sampled_from(PODS))
def test_pod_that_is_lost_moves_only_what_it_had(happened: list[Event], lost: str) -> None:
    world = lived(happened, 0)
    if lost not in world.pods:
        return
    before = {name: world.holding(name) for name in world.adapters}
    names_on_lost = {name for name in before if lost in before[name]}
    world.orders.clear()
    world.lose(lost)
    world.settle()
    for name, pods in before.items():
        assert world.holding(name) >= pods - {lost}
    assert {order.request.lora_name for _, _, order in world.orders} <= names_on_lost
    assert all(isinstance(order, Load) for _, _, order in world.orders)


@settings(max_examples=100, deadline=None)
@given(
    st.permutations(PODS[:4]),
    st.permutations(NAMES),
    st.lists(st.integers(0, 2), min_size=7, max_size=7),
    st.lists(st.sampled_from(SOURCES), min_size=3, max_size=3),
)
def test_order_of_events_does_not_change_the_end(
    pods: list[str], names: list[str], pauses: list[int], sources: list[str]
) -> None:
    def ended(of_pods: list[str], of_names: list[str], between: list[int]) -> dict[str, dict[str, tuple[str, str]]]:
        world, waits = FleetSimulator(), iter(between)
        for name in of_pods:
            add(world, name, "n1", None)
            wait(world, next(waits))
        for name in of_names:
            declare(world, name, sources[NAMES.index(name)], None, False, 1)
            wait(world, next(waits))
        world.settle()
        return {
            pod: {
                name: (entry.state, entry.request.revision or "") for name, entry in world.sidecar(pod).entries.items()
            }
            for pod in sorted(world.pods)
        }

    assert ended(pods, names, pauses) == ended(sorted(pods), sorted(names), [0] * 7)
