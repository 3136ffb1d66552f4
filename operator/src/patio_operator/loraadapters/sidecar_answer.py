"""Decodes what a sidecar answers: the one place where that text becomes values. Pure.

Users who may create pods may run another program than Patio's sidecar in one, so nothing is believed of size, depth or
shape: the caller limits the bytes, here texts are cut, numbers are kept in range, and an adapter that cannot be read is
left out. `sidecar_watch` calls it, the planner gets its `Answer`. Texts that many pods send alike are kept once.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from patio_operator.loraadapters.planner.observation import Answer, Capacity, Prepared, Report
from patio_protocol.adapters import ADAPTER_NAME, LONGEST_ADAPTER_NAME, MOST_ON_DISK, AdapterState, PreparedState

MOST_ADAPTERS = 4096
"""Of one pod; what is beyond is left out."""
MOST_PARTS = 150_000
"""Commas and opening brackets of an answer. Thousands of adapters have fewer; millions take half a second to decode."""
MOST_BASE_MODELS = 64
MOST_ATTEMPTS = 2**31 - 1
"""What a status can hold."""
MOST_CAPACITY = 10**6
LONGEST_NAME = 512
LONGEST_REVISION = 256
LONGEST_MESSAGE = 1024
LONGEST_SOURCE = 4096
LATEST = 4e9
"""Unix seconds."""

_STATES = {state.value: state for state in AdapterState}
_PREPARED_STATES = {state.value: state for state in PreparedState}
_ADAPTER_NAME = re.compile(ADAPTER_NAME)
_REASON = re.compile(r"[A-Z][A-Za-z0-9]{0,63}")


def read_answer(body: bytes) -> Answer:
    """Read a sidecar's answer to `GET /v1/lora_adapters`.

    Raises:
        ValueError: it is none.

    """
    if sum(map(body.count, (b",", b"[", b"{"))) > MOST_PARTS:
        raise ValueError("not an answer of the sidecar's API")
    found = from_json(body, allow_inf_nan=False)
    if not isinstance(found, dict) or not isinstance(found.get("adapters", []), list):
        raise ValueError("not an answer of the sidecar's API")
    revision = _text(found.get("revision"), LONGEST_REVISION)
    if not revision or not isinstance(found.get("engine_ready"), bool):
        raise ValueError("not an answer of the sidecar's API")
    reports: dict[str, Report] = {}
    for item in found.get("adapters", [])[:MOST_ADAPTERS]:
        report = _report(item) if isinstance(item, dict) else None
        if report is not None:
            reports.setdefault(report.lora_name, report)
    return Answer(
        revision,
        found["engine_ready"],
        _texts(found.get("base_models"), MOST_BASE_MODELS, LONGEST_NAME),
        tuple(reports.values()),
        _capacity(found.get("capacity")),
        _texts(found.get("on_disk"), MOST_ON_DISK, LONGEST_SOURCE),
    )


def _report(item: Mapping[str, Any]) -> Report | None:
    name, owner = _text(item.get("lora_name"), LONGEST_NAME), item.get("owner")
    state = _STATES.get(str(item.get("state")))
    if state is None or not name or (owner is not None and not _text(owner, LONGEST_NAME)):
        return None
    return Report(
        name,
        state,
        _text(owner, LONGEST_NAME) if _is_adapter_name(name) else None,
        _text(item.get("revision"), LONGEST_REVISION),
        _reason(item.get("reason"), state),
        _message(item.get("message")),
        int(_number(item.get("attempts"), MOST_ATTEMPTS)),
        _number(item.get("since"), LATEST),
        _text(item.get("held_revision"), LONGEST_REVISION),
        _text(item.get("credentials_revision"), LONGEST_REVISION),
        _prepared(item.get("prepared")),
    )


def _is_adapter_name(name: str) -> bool:
    """Whether an order can have this name. Engines have others too; a sidecar that says who owns one is not ours."""
    return len(name) <= LONGEST_ADAPTER_NAME and _ADAPTER_NAME.fullmatch(name) is not None


def _prepared(value: Any) -> Prepared | None:
    if not isinstance(value, dict):
        return None
    state = _PREPARED_STATES.get(str(value.get("state")))
    if state is None:
        return None
    return Prepared(
        _text(value.get("revision"), LONGEST_REVISION),
        state,
        _reason(value.get("reason"), state),
        _message(value.get("message")),
        value.get("retryable") is not False,
        _text(value.get("credentials_revision"), LONGEST_REVISION),
    )


def _capacity(value: Any) -> Capacity:
    if not isinstance(value, dict):
        return Capacity()
    return Capacity(*(_count(value.get(name)) for name in ("batch", "loaded")))


def _count(value: Any) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_CAPACITY
    return value if is_count else None


def _number(value: Any, most: float) -> float:
    """Return a number kept between 0 and `most`; 0 for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    return float(min(max(value, 0), most))


def _text(value: Any, most: int) -> str | None:
    """Return a text that is not too long; None for everything else."""
    return sys.intern(value) if isinstance(value, str) and len(value) <= most else None


def _texts(value: Any, most: int, longest: int) -> tuple[str, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(text for item in value[:most] if (text := _text(item, longest)))


def _reason(value: Any, state: AdapterState | PreparedState) -> str:
    return sys.intern(value) if isinstance(value, str) and _REASON.fullmatch(value) else state.value


def _message(value: Any) -> str:
    if not isinstance(value, str):
        return ""
    return sys.intern(value if len(value) <= LONGEST_MESSAGE else f"{value[: LONGEST_MESSAGE - 3]}...")
