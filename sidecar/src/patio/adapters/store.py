"""The file that keeps what is wanted over a restart of the sidecar.

Written whole (`patio.atomic_file`), so that it is always one state or the next. A missing
file is a fresh pod; one that is broken or cannot be read is set aside and reported, never overwritten and never a
reason not to start: what admission asks for is in the pod's variables, and the operator repeats the rest. Read by the
reconciler, written by `commits`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from patio.adapters.desired import AdapterSpec, Desired, Key, Slot
from patio.atomic_file import replace_file

log = logging.getLogger(__name__)

VERSION = 1


@dataclass(frozen=True, slots=True)
class _Stored:
    """A `Desired` as the file has it: one mapping for each slot, by name."""

    wanted: Mapping[str, AdapterSpec] = field(default_factory=dict)
    prepared: Mapping[str, AdapterSpec] = field(default_factory=dict)
    leaving: frozenset[str] = frozenset()
    unloaded: Mapping[str, str] = field(default_factory=dict)
    required_seen: Mapping[str, str] = field(default_factory=dict)
    orders: int = 0


@dataclass(frozen=True, slots=True)
class _File:
    version: int
    desired: _Stored


_FILE: TypeAdapter[_File] = TypeAdapter(_File)


class Store:
    """A state file. `path` None keeps nothing: for a place where nothing can be written."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def load(self) -> Desired:
        """Return what was saved last, or nothing wanted."""
        if self._path is None:
            return Desired()
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return Desired()
        except OSError as error:
            return self._without(error)
        try:
            file = _FILE.validate_json(content)
            if file.version != VERSION:
                raise ValueError(f"version {file.version} is not {VERSION}")
        except (ValidationError, ValueError) as error:
            return self._without(error)
        return _read(file.desired)

    def _without(self, error: Exception) -> Desired:
        """Set the file aside and start without it; where even that cannot be, leave it alone and write nothing."""
        assert self._path is not None
        aside = self._path.with_name(self._path.name + ".broken")
        try:
            self._path.replace(aside)
        except OSError as rename_error:
            log.error(
                "state file unreadable and not renamed: a restart of the sidecar loses its orders path=%s error=%s "
                "rename_error=%s",
                *(self._path, error, rename_error),
            )
            self._path = None
        else:
            log.error("state file unreadable, renamed path=%s to=%s error=%s", self._path, aside, error)
        return Desired()

    def save(self, desired: Desired) -> None:
        """Write a state to disk; raise `OSError`."""
        if self._path is None:
            return
        replace_file(self._path, _FILE.dump_json(_File(VERSION, _written(desired))))


def _read(stored: _Stored) -> Desired:
    specs: dict[Key, AdapterSpec] = {(name, Slot.ACTIVE): spec for name, spec in stored.wanted.items()}
    specs |= {(name, Slot.STAGED): spec for name, spec in stored.prepared.items()}
    return Desired(specs, stored.leaving, stored.unloaded, stored.required_seen, stored.orders)


def _written(desired: Desired) -> _Stored:
    return _Stored(
        desired.in_slot(Slot.ACTIVE),
        desired.in_slot(Slot.STAGED),
        desired.leaving,
        desired.unloaded,
        desired.required_seen,
        desired.orders,
    )
