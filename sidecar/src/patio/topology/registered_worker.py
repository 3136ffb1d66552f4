"""The worker that a pod registers: its model, and what `--instance-info` says of it. Pure.

`--instance-info` is upstream's: `{"data": {"port": 8000, "worker_type": "prefill", "bootstrap_port": 34000}}`, and
further fields of `data` go to the router as they are.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """What a worker does, in the routers' words (`worker_type`)."""

    REGULAR = "regular"
    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True, slots=True)
class Worker:
    """An engine, as it is registered with a router."""

    url: str
    """Where the router reaches it, without a slash at the end: sglang-router and smg take `.../` for another worker."""
    kind: Kind = Kind.REGULAR
    bootstrap_port: int | None = None
    """Of a prefill worker: where decode workers fetch the KV cache."""
    extra: Mapping[str, object] = field(default_factory=dict)
    """Other fields of the router's `POST /workers`, as given in `--instance-info`."""
    api_key: str | None = field(default=None, repr=False)
    """What the engine wants to see from the router."""

    def order(self) -> dict[str, object]:
        """Return the body of `POST /workers`."""
        body: dict[str, object] = {**self.extra, "url": self.url, "worker_type": self.kind.value}
        if self.bootstrap_port is not None:
            body["bootstrap_port"] = self.bootstrap_port
        if self.api_key is not None:
            body["api_key"] = self.api_key
        return body


_FIELDS = ("port", "worker_type", "bootstrap_port")
_NOT_ALLOWED = {"url": "the sidecar makes it from POD_IP and the port", "api_key": "the sidecar takes ENGINE_API_KEY"}


@dataclass(frozen=True, slots=True)
class InstanceInfo:
    """What `--instance-info` says."""

    port: int | None = None
    kind: Kind = Kind.REGULAR
    bootstrap_port: int | None = None
    extra: Mapping[str, object] = field(default_factory=dict)


def read_instance_info(text: str) -> InstanceInfo:
    """Read the flag's value; raise `ValueError` with what is wrong."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, dict) or len(content) != 1:
        raise ValueError('not of the form {"data": {"port": ..., "worker_type": ..., "bootstrap_port": ...}}')
    for name in data:
        if name in _NOT_ALLOWED:
            raise ValueError(f"{name}: not allowed here, {_NOT_ALLOWED[name]}")
        if name not in _FIELDS and (close := difflib.get_close_matches(name, _FIELDS, n=1, cutoff=0.75)):
            raise ValueError(f"{name}: no such field; did you mean {close[0]}?")
    try:
        kind = Kind(str(data.get("worker_type") or Kind.REGULAR).lower())
    except ValueError:
        raise ValueError(f"worker_type: {data['worker_type']!r} is not one of {', '.join(Kind)}") from None
    bootstrap = _port(data, "bootstrap_port")
    if bootstrap is not None and kind is not Kind.PREFILL:
        raise ValueError(f"bootstrap_port: only a prefill worker has one, and this is {kind}")
    return InstanceInfo(
        port=_port(data, "port"),
        kind=kind,
        bootstrap_port=bootstrap,
        extra={name: value for name, value in data.items() if name not in _FIELDS},
    )


def _port(data: Mapping[str, object], name: str) -> int | None:
    """Return a port; upstream wrote some of them as text."""
    value = data.get(name)
    if value is None:
        return None
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 65536:
        raise ValueError(f"{name}: {data[name]!r} is not a port")
    return value
