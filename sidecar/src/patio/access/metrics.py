"""Metrics of access control, and a warning that repeats while it is off."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import Metric

from patio.written_metrics import Read, Tally, gauges
from patio_protocol.authentication import PROOF_MISSING, UNKNOWN_KEY

log = logging.getLogger(__name__)

REMIND_SECONDS = 3600.0
OFF = (
    "access control is off: everyone who reaches this port can load, unload, download and drain. "
    "Remove --access-control and PATIO_ACCESS_CONTROL to turn it on"
)

CODES = (
    PROOF_MISSING,
    UNKNOWN_KEY,
    "ProofInvalid",
    "ProofExpired",
    "ProofForAnotherPod",
    "ProofForAnotherRequest",
    "ProofReplayed",
    "TooManyProofs",
    "BodyTooLarge",
    "BodyTooSlow",
    "InvalidRequest",
    "RouterKeyWrong",
)
"""Every code of a rejected call."""


@dataclass(frozen=True, slots=True)
class Contact:
    """When the operator last called, in Unix seconds; 0: not since the start."""

    signed_call: float = 0.0
    """A call whose proof was accepted."""
    long_poll: float = 0.0
    """A long-poll from outside the pod: the operator keeps one open. Others may make some too, without a signature."""


class AccessMetrics:
    """The families of access control."""

    def __init__(self, registry: CollectorRegistry, enforced: bool, contact: Callable[[], Contact]) -> None:
        Gauge(
            "patio:access_control_enforced",
            "1 if calls from outside the pod that change something need the operator's signature.",
            registry=registry,
        ).set(float(enforced))
        self._rejections = Tally(
            "patio:access_denials_total",
            "Rejected calls from outside the pod.",
            ("code",),
            registry,
            initial=((code,) for code in CODES),
        )
        registry.register(Read(contact, _contact))

    def count_rejection(self, code: str) -> None:
        """Count one rejected call."""
        self._rejections.count(code)


def _contact(contact: Contact) -> Iterator[Metric]:
    yield gauges(
        "patio:operator_contact_timestamp_seconds",
        "Unix time of the operator's last call of each kind; 0: none since the sidecar's start.",
        ("kind",),
        {("signed_call",): contact.signed_call, ("long_poll",): contact.long_poll},
    )


async def warn_while_off(sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
    """Warn now and every hour, until cancelled."""
    while True:
        log.warning("%s", OFF)
        await sleep(REMIND_SECONDS)
