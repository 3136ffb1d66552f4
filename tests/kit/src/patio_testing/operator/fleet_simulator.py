"""A fleet in miniature for tests of the planner: sidecars that obey, fail, fall silent and come back, and a clock.

`FleetSimulator.step` is one pass of the operator and one second of the fleet: the plan is carried out as `reconcile`
would, then every sidecar gets on with what it was told. What must hold at every moment is checked on the way, so that a
test that lets a fleet run to its end has checked all of it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from patio_api.loraadapter import LoraAdapter
from patio_operator.loraadapters.planner.credentials import Credentials
from patio_operator.loraadapters.planner.observation import Observation
from patio_operator.loraadapters.planner.plan import (
    AddFinalizer,
    Condition,
    Load,
    Order,
    Plan,
    Rejection,
    RemoveFinalizer,
    SetServingLabels,
    Unload,
)
from patio_operator.loraadapters.planner.planner import plan
from patio_operator.loraadapters.planner.snapshot import Snapshot
from patio_operator.pods.engine_pod import EnginePod
from patio_protocol.adapters import (
    AdapterCapacity,
    AdapterList,
    AdapterReport,
    AdapterState,
    LoadRequest,
    PreparedReport,
    PreparedState,
    UnloadRequest,
)
from patio_testing.operator.builders import NOW

SECOND = timedelta(seconds=1)


@dataclass
class Entry:
    """An adapter that a sidecar was told to have."""

    request: LoadRequest
    state: AdapterState = AdapterState.PENDING
    held: str | None = None
    prepared: PreparedReport | None = None
    since: float = 0.0


@dataclass
class Sidecar:
    """A sidecar and its engine."""

    room: int | None = None
    engine_ready: bool = True
    alive: bool = True
    bad: set[str] = field(default_factory=set)
    """Revisions that its engine refuses."""
    unfetchable: set[str] = field(default_factory=set)
    """Revisions whose files it cannot get."""
    entries: dict[str, Entry] = field(default_factory=dict)
    silent_since: datetime | None = None
    last: AdapterList | None = None
    ever: bool = False

    def take(self, order: Order, now: datetime) -> Rejection | None:
        """Do as told, or refuse."""
        before = self.entries.get(order.lora_name)
        if isinstance(order, UnloadRequest):
            if before is not None and before.request.owner == order.owner:
                before.state = AdapterState.UNLOADING
            return None
        if before is not None and before.request.owner != order.owner:
            return Rejection("somebody else has it", retryable=False, until=now + timedelta(seconds=60))
        if order.prepare:
            if before is None:
                return None
            before.prepared = PreparedReport(
                revision=order.revision,
                state=PreparedState.DOWNLOADING,
                reason="Downloading",
                credentials_revision=order.credentials_revision,
            )
            return None
        if before is not None and before.prepared is not None and before.prepared.revision == order.revision:
            before.prepared = None
        settled = (AdapterState.FAILED, AdapterState.UNLOADING)
        if before is not None and before.request == order and before.state not in settled:
            return None
        fresh = Entry(order, since=now.timestamp())
        if before is not None:
            fresh.held = before.held
            fresh.prepared = before.prepared
        self.entries[order.lora_name] = fresh
        return None

    def work(self, now: datetime) -> None:
        """Get on with everything by one step."""
        for name, entry in list(self.entries.items()):
            entry.since = now.timestamp()
            if entry.prepared is not None and entry.prepared.state is PreparedState.DOWNLOADING:
                bad = entry.prepared.revision in self.unfetchable
                state = PreparedState.FAILED if bad else PreparedState.PREPARED
                entry.prepared = entry.prepared.model_copy(
                    update={
                        "state": state,
                        "reason": state.value,
                        "message": "not there" if bad else "",
                        "retryable": not bad,
                    }
                )
            if entry.state is AdapterState.UNLOADING:
                del self.entries[name]
            elif entry.state is AdapterState.PENDING:
                if entry.request.expects_credentials or not self.engine_ready:
                    continue
                entry.state = AdapterState.LOADING
            elif entry.state is AdapterState.LOADING:
                others = sum(other.held is not None for other in self.entries.values() if other is not entry)
                if self.room is not None and others >= self.room:
                    entry.state = AdapterState.PENDING  # no room after all
                elif entry.request.revision in self.bad:
                    entry.state = AdapterState.FAILED
                else:
                    entry.state, entry.held, entry.prepared = AdapterState.LOADED, entry.request.revision, None

    def crash(self) -> None:
        """Lose the engine: what is wanted is loaded again once there is another."""
        self.engine_ready = False
        for name, entry in list(self.entries.items()):
            entry.held = None
            if entry.state is AdapterState.UNLOADING:
                del self.entries[name]
            elif entry.state is not AdapterState.FAILED:
                entry.state = AdapterState.PENDING

    def answer(self) -> AdapterList:
        """Say what there is."""
        return AdapterList(
            revision="r",
            engine="vllm",
            engine_ready=self.engine_ready,
            base_models=("tiny",),
            adapters=tuple(self._report(name) for name in sorted(self.entries)),
            capacity=AdapterCapacity(loaded=self.room),
        )

    def _report(self, name: str) -> AdapterReport:
        entry = self.entries[name]
        missing = entry.state is AdapterState.PENDING and entry.request.expects_credentials
        return AdapterReport(
            lora_name=name,
            lora_path=entry.request.lora_path,
            source=entry.request.source,
            owner=entry.request.owner,
            revision=entry.request.revision,
            state=entry.state,
            reason="CredentialsMissing" if missing else entry.state.value,
            message="rank 64 is too high" if entry.state is AdapterState.FAILED else "",
            retryable=entry.state is not AdapterState.FAILED,
            since=entry.since,
            held_revision=entry.held,
            prepared=entry.prepared,
            credentials_revision=entry.request.credentials_revision,
        )


class FleetSimulator:
    """Pods, their sidecars, LoraAdapters, and the operator's passes over them."""

    def __init__(self, seed: int = 0, pace: float = 1.0) -> None:
        """Take how likely it is that in one second a sidecar gets on, that it is heard, and that a label arrives."""
        self.pace = pace
        self._labels: dict[str, SetServingLabels] = {}
        self._ordered: dict[tuple[str, str], Load | Unload] = {}
        """Orders in progress, by pod UID and name."""
        self._wanted: tuple[set[tuple[Any, ...]], set[tuple[Any, ...]]] = set(), set()
        self._heard: dict[str, Observation] = {}
        self.now = NOW
        self.pods: dict[str, EnginePod] = {}
        self.sidecars: dict[str, Sidecar] = {}
        self.adapters: dict[str, LoraAdapter] = {}
        self.credentials: dict[str, Credentials | Condition] = {}
        self.rejections: dict[tuple[str, Order], Rejection] = {}
        self.unlabelled: dict[tuple[str, str], datetime] = {}
        self.orders: list[tuple[datetime, str, Load | Unload]] = []
        self.rng = random.Random(seed)

    def add(self, pod: EnginePod, sidecar: Sidecar | None = None) -> None:
        """Start a pod."""
        self.pods[pod.name] = pod
        self.sidecars[pod.uid] = sidecar or Sidecar()

    def lose(self, name: str) -> None:
        """Remove a pod."""
        pod = self.pods.pop(name)
        del self.sidecars[pod.uid]

    def declare(self, *adapters: LoraAdapter) -> None:
        """Apply LoraAdapters."""
        self.adapters |= {adapter.metadata.name: adapter for adapter in adapters}

    def delete(self, name: str) -> None:
        """Delete a LoraAdapter: it stays until its finalizer is taken off."""
        adapter = self.adapters[name]
        metadata = adapter.metadata.model_copy(update={"deletion_timestamp": self.now})
        if metadata.finalizers:
            self.adapters[name] = adapter.model_copy(update={"metadata": metadata})
        else:
            del self.adapters[name]

    def sidecar(self, name: str) -> Sidecar:
        """Return a pod's sidecar, by the pod's name."""
        return self.sidecars[self.pods[name].uid]

    def holding(self, adapter: str) -> set[str]:
        """Return the pods whose engines answer by an adapter's name."""
        return {
            name
            for name, pod in self.pods.items()
            if (entry := self.sidecars[pod.uid].entries.get(adapter)) is not None and entry.held is not None
        }

    def seen(self) -> dict[str, Observation]:
        """Ask all sidecars; some answers are those of a while ago."""
        views: dict[str, Observation] = {}
        for uid, sidecar in self.sidecars.items():
            if sidecar.last is not None and self.rng.random() >= self.pace:
                views[uid] = self._heard[uid]
                continue
            if sidecar.alive:
                sidecar.last, sidecar.ever, sidecar.silent_since = sidecar.answer(), True, None
                views[uid] = Observation(sidecar.last, ever_answered=True)  # type: ignore[arg-type]  # as an `Answer`
            else:
                sidecar.silent_since = sidecar.silent_since or self.now
                views[uid] = Observation(None, "gone", sidecar.ever, sidecar.silent_since, sidecar.last)  # type: ignore[arg-type]
            self._heard[uid] = views[uid]
        return views

    def plan(self) -> Plan:
        """Plan what is there, told in any order."""
        pods, adapters = list(self.pods.values()), list(self.adapters.values())
        self.rng.shuffle(pods)
        self.rng.shuffle(adapters)
        coming = {
            (mark.pod.uid, name): self.now for mark in self._labels.values() for name in mark.names - mark.pod.serving
        }
        unlabelled = self.unlabelled | coming
        return plan(
            Snapshot(
                pods,
                self.seen(),
                adapters,
                self.now,
                credentials=self.credentials,
                rejections=self.rejections,
                unlabelled_at=unlabelled,
            )
        )

    def step(self) -> Plan:
        """Make one pass, and let a second go by."""
        decided = self.plan()
        orders = [action for action in decided.actions if isinstance(action, Load | Unload)]
        self._wanted = {_order_key(order) for order in orders}, self._wanted[0]
        for action in decided.actions:
            assert isinstance(action, AddFinalizer | RemoveFinalizer) or action.reason
            self._carry_out(action)
        self._arrive()
        self._label()
        self.check()
        for sidecar in self.sidecars.values():
            if sidecar.alive and self.rng.random() < self.pace:
                sidecar.work(self.now)
        self.check()
        self.now += SECOND
        self.rejections = {key: rejection for key, rejection in self.rejections.items() if rejection.until > self.now}
        return decided

    def settle(self, passes: int = 300) -> int:
        """Step until nothing is left to do and nothing moves; return how many steps it took."""
        for steps in range(passes):
            if not self._moving() and self._settled():
                return steps
            self.step()
        raise AssertionError(f"still at it after {passes} steps: {self.plan()}")

    def _settled(self) -> bool:
        pace, self.pace = self.pace, 1.0
        decided = self.plan()
        if not decided.actions:
            self.check()
        self.pace = pace
        return not decided.actions and decided.requeue_at is None

    def check(self) -> None:
        """Check what must hold at every moment."""
        for pod in self.pods.values():
            sidecar = self.sidecars[pod.uid]
            assert {name for _, name in pod.owners} == pod.serving, f"{pod.name} does not say whose adapters it shows"
            # An order that crosses a late report may be one too many, for a moment.
            assert sidecar.room is None or len(sidecar.entries) <= sidecar.room or self.pace < 1, (
                f"{pod.name} is overfull"
            )

    def answering(self, name: str) -> set[str]:
        """The pods that requests for an adapter reach, and that are known to answer them."""
        return {uid for uid in self.holding(name) if name in self.pods[uid].serving and self.sidecar(uid).alive}

    def _moving(self) -> bool:
        if self._labels or self._ordered:
            return True
        resting = (AdapterState.LOADED, AdapterState.FAILED)
        return any(
            (entry.state not in resting and sidecar.engine_ready and not entry.request.expects_credentials)
            or (entry.prepared is not None and entry.prepared.state is PreparedState.DOWNLOADING)
            for sidecar in self.sidecars.values()
            if sidecar.alive
            for entry in sidecar.entries.values()
        )

    def _carry_out(self, action: AddFinalizer | RemoveFinalizer | Load | Unload | SetServingLabels) -> None:
        if isinstance(action, AddFinalizer):
            held = action.adapter.metadata.model_copy(update={"finalizers": ("patio.dev/unload",)})
            self.adapters[held.name] = action.adapter.model_copy(update={"metadata": held})
        elif isinstance(action, RemoveFinalizer):
            del self.adapters[action.adapter.metadata.name]
        elif isinstance(action, SetServingLabels):
            self._labels.setdefault(action.pod.name, action)  # one patch a pod at a time
        else:
            self._ordered.setdefault((action.pod.uid, action.request.lora_name), action)

    def _arrive(self) -> None:
        """Have orders arrive: some at once, some later, and some not, as no plan wants them any more."""
        for key, order in list(self._ordered.items()):
            if self.rng.random() >= self.pace:
                continue
            del self._ordered[key]
            if order.pod.uid in self.sidecars and any(_order_key(order) in orders for orders in self._wanted):
                self._order(order)

    def _label(self) -> None:
        """Have labels arrive: some at once, some later. None comes while an order about its adapter is in progress."""
        for name, mark in list(self._labels.items()):
            if self.rng.random() >= self.pace:
                continue
            del self._labels[name]
            if name in self.pods:
                before = self.pods[name]
                busy = {name for name in mark.names - before.serving if (before.uid, name) in self._ordered}
                mark = replace(
                    mark,
                    names=mark.names - busy,
                    owners=frozenset((uid, of) for uid, of in mark.owners if of not in busy),
                )
                self.unlabelled |= {(before.uid, removed): self.now for removed in before.serving - mark.names}
                self.pods[name] = replace(before, serving=mark.names, owners=mark.owners)

    def _order(self, order: Load | Unload) -> None:
        name = order.request.lora_name
        sidecar = self.sidecars[order.pod.uid]
        entry = sidecar.entries.get(name)
        self.orders.append((self.now, order.pod.name, order))
        if isinstance(order, Unload):
            assert name != "mine", "what was loaded by hand is not ours to unload"
            if entry is not None:
                self._quiet(order.pod.name, name)
        else:
            held = None if entry is None or order.request.prepare else entry.held
            if held not in (None, order.request.revision):
                # The only pod that has it keeps its label through the switch.
                assert "no other pod" in order.reason or self._quiet(order.pod.name, name)
        rejection = sidecar.take(order.request, self.now)
        if rejection is not None:
            self.rejections[(order.pod.uid, order.request)] = rejection

    def _quiet(self, pod: str, name: str) -> bool:
        """Check that no request is on its way to weights that are taken away."""
        assert name not in self.pods[pod].serving, f"{pod} is still marked for {name}"
        taken = self.unlabelled.get((self.pods[pod].uid, name))
        assert taken is None or self.now - taken >= SECOND, f"{pod} was marked for {name} a moment ago"
        return True


def _order_key(order: Load | Unload) -> tuple[Any, ...]:
    request = order.request
    of_load = (request.revision, request.credentials_revision, request.prepare) if isinstance(order, Load) else ()  # type: ignore[union-attr]
    return type(order), order.pod.uid, request.lora_name, of_load


def loads(orders: Iterable[tuple[datetime, str, Load | Unload]]) -> list[tuple[str, str]]:
    """Return pod and reason of each load among orders."""
    return [(pod, order.reason) for _, pod, order in orders if isinstance(order, Load)]
