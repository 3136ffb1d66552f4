"""Gauges that follow the statuses of objects: a snapshot, kept one change at a time, and its text.

`put` notes what the status of one object says now, and nothing else, since an informer that lists tells of all objects
at once. What changed is read, counted and written at the next scrape, each object once, and a scrape puts the lines
together: a computation in slices (`runtime.time_slices`), which holds up nobody. Each object has one series of each
family. `MOST_OBJECTS` of a kind have them, those that came first; `patio_operator_objects_without_series` says how many
more there are, and the families that count by reason have all. Reasons come from statuses, which sidecars have a part
in: their number is bounded as well.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from patio_kube.runtime.incremental import Incremental, in_chunks

MOST_OBJECTS = 5_000
"""Objects of a kind that have series of their own."""
MOST_REASONS = 100
"""Different reasons of a kind that are told apart while the process runs. There are about sixty. One that a sidecar has
made up is not forgotten when it goes: with a new one at each scrape, Prometheus would have a new series each time."""
OTHER = "Other"
"""Stands for a reason that is none, or one too many."""
NONE_YET = "Unknown", "NoStatus"
"""Status and reason of an object without the condition."""
_REASON = re.compile(r"[A-Z][A-Za-z]{0,63}")

_Key = tuple[str, str]
"""Namespace and name; the namespace of a cluster-wide object is empty."""


@dataclass(frozen=True)
class Family:
    """One family of gauges."""

    name: str
    help: str
    labels: tuple[str, ...]

    @property
    def head(self) -> str:
        """The lines before its samples."""
        return f"# HELP {self.name} {self.help}\n# TYPE {self.name} gauge\n"


@dataclass(frozen=True, slots=True)
class ObjectState:
    """What the status of an object says."""

    status: str
    """Of its condition: True, False or Unknown."""
    reason: str
    """Of its condition."""
    numbers: tuple[int, ...] = ()
    """As many as the kind has."""


State = ObjectState | Callable[[], ObjectState] | None
"""What an object's status says, or what reads it; None: there is no such object any more."""


@dataclass(frozen=True)
class Kind:
    """A kind of objects: how its condition and its numbers are called."""

    title: str
    """All of them, for people."""
    plural: str
    """What the count by reason is called by."""
    singular: str
    type: str
    """Of the condition."""
    condition: str
    """The condition in the names of families and labels: ready, rolled_out."""
    meaning: str
    """Of the condition's True, as the end of a sentence."""
    good: str
    """The usual reason of True: it is counted from the start."""
    numbers: Mapping[str, str]
    """Names and meanings."""
    namespaced: bool = True


LORA_ADAPTER = Kind(
    "LoraAdapters",
    "loraadapters",
    "loraadapter",
    "Ready",
    "ready",
    "the LoraAdapter is Ready",
    "Loaded",
    {
        "desired_pods": "Pods that should have the adapter.",
        "ready_pods": "Pods whose engine lists the adapter, of the current or the previous source.",
        "updated_pods": "Pods whose engine has the current source.",
        "failed_pods": "Pods on which the adapter failed.",
    },
)
ROLE_BASED_GROUP = Kind(
    "RoleBasedGroups",
    "rolebasedgroups",
    "rolebasedgroup",
    "Ready",
    "ready",
    "the RoleBasedGroup is Ready",
    "AllRolesReady",
    {"roles": "Roles of the group.", "ready_roles": "Roles of which all replicas are ready."},
)
PROFILE = Kind(
    "ClusterEngineRuntimeProfiles",
    "profiles",
    "profile",
    "RolledOut",
    "rolled_out",
    "all pods with the profile run its current revision",
    "UpToDate",
    {
        "current_pods": "Pods with the profile that run its current revision.",
        "behind_pods": "Pods with the profile that run an older revision.",
    },
    namespaced=False,
)


class ObjectGauges:
    """The objects of one kind."""

    def __init__(self, kind: Kind, most: int = MOST_OBJECTS) -> None:
        """`most`: how many objects have series of their own."""
        self._most = most
        self._changed: dict[_Key, State] = {}
        """What was noted since the last scrape."""
        self._states: dict[_Key, ObjectState] = {}
        self._lines: dict[_Key, tuple[str, ...]] = {}
        """What was written of an object since it changed: a line for each family of its own."""
        self._counts: Counter[tuple[str, str]] = Counter({("True", kind.good): 0})
        self._good = "True", kind.good
        self._reasons = {kind.good, NONE_YET[1]}
        """All that were shown."""
        own = ("object_namespace", "object_name") if kind.namespaced else ("object_name",)
        prefix = "patio_operator_"
        self._count = Family(
            f"{prefix}{kind.plural}",
            f"{kind.title}, by status and reason of their condition {kind.type}.",
            (kind.condition, "reason"),
        )
        self._own = (
            Family(f"{prefix}{kind.singular}_{kind.condition}", f"1 if {kind.meaning}.", (*own, "reason")),
            *(Family(f"{prefix}{kind.singular}_{name}", text, own) for name, text in kind.numbers.items()),
        )
        self.plural = kind.plural
        """Which objects they are."""

    @property
    def families(self) -> tuple[Family, ...]:
        """All families, in the order of their text."""
        return (self._count, *self._own)

    @property
    def without_series(self) -> int:
        """How many objects are counted and have no series of their own."""
        return max(0, len(self._states) - self._most)

    def put(self, namespace: str, name: str, state: State) -> None:
        """Note what an object's status says now; what reads it is called at the next scrape."""
        key = namespace, name
        if state is None and key not in self._states:
            self._changed.pop(key, None)  # or the names of what was deleted would pile up where nothing scrapes
        else:
            self._changed[key] = state

    def settle(self) -> Incremental[None]:
        """Take in what was noted."""
        for chunk in in_chunks(list(self._changed)):
            for key in chunk:
                if key in self._changed:
                    state = self._changed.pop(key)
                    self._take(key, state() if callable(state) else state)
            yield

    def _take(self, key: _Key, state: ObjectState | None) -> None:
        before = self._states.get(key)
        if state is not None:
            state = self._bounded(state)
        if state == before:
            return
        self._lines.pop(key, None)
        if before is not None:
            self._add(before, -1)
        if state is None:
            del self._states[key]
        else:
            self._states[key] = state
            self._add(state, 1)

    def clear(self) -> None:
        """Forget all objects."""
        self._changed.clear()
        self._states.clear()
        self._lines.clear()
        self._counts = Counter({self._good: 0})

    def text(self, *, shown: bool) -> Incremental[str]:
        """Write all families; without samples unless `shown`: of the replicas, one shows the objects."""
        if not shown:
            return "".join(family.head for family in self.families)
        yield from self.settle()
        keys = list(islice(self._states, self._most))
        written: list[tuple[str, ...]] = []
        for chunk in in_chunks(keys):
            written += self._written(chunk)
            yield
        counted = "".join(
            _line(self._count, (status, reason), count) for (status, reason), count in self._counts.items()
        )
        parts = [self._count.head, counted]
        for index, family in enumerate(self._own):
            parts.append(family.head)
            parts += [lines[index] for lines in written]
            yield
        return "".join(parts)

    def _written(self, keys: Sequence[_Key]) -> Iterator[tuple[str, ...]]:
        for key in keys:
            state = self._states.get(key)
            if state is not None:
                if key not in self._lines:
                    self._lines[key] = self._line_of_each(key, state)
                yield self._lines[key]

    def _line_of_each(self, key: _Key, state: ObjectState) -> tuple[str, ...]:
        condition, *others = self._own
        place = key if len(condition.labels) == 3 else key[1:]
        return (
            _line(condition, (*place, state.reason), int(state.status == "True")),
            *(_line(family, place, number) for family, number in zip(others, state.numbers, strict=True)),
        )

    def _bounded(self, state: ObjectState) -> ObjectState:
        """Return a state whose condition has a bounded number of texts."""
        status = state.status if state.status in ("True", "False") else "Unknown"
        reason = state.reason
        if reason not in self._reasons:
            if _REASON.fullmatch(reason) and len(self._reasons) < MOST_REASONS:
                self._reasons.add(reason)
            else:
                reason = OTHER
        return ObjectState(status, reason, state.numbers)

    def _add(self, state: ObjectState, count: int) -> None:
        place = state.status, state.reason
        self._counts[place] += count
        if not self._counts[place] and place != self._good:
            del self._counts[place]


def _line(family: Family, values: Sequence[str], number: int) -> str:
    labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(family.labels, values, strict=True))
    return f"{family.name}{{{labels}}} {number}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
