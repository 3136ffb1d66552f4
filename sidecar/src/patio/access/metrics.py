"""Metrics of access control, and a warning that repeats while it is off."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator

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


class AccessMetrics:
    """The families of access control."""

    def __init__(self, registry: CollectorRegistry, enforced: bool, last_accepted: Callable[[], float]) -> None:
        """`last_accepted` returns the Unix seconds of the last call whose proof was accepted, 0 before any."""
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
            known=((code,) for code in CODES),
        )
        registry.register(Read(last_accepted, _contact))

    def count_rejection(self, code: str) -> None:
        """Count one rejected call."""
        self._rejections.count(code)


def _contact(last_accepted: float) -> Iterator[Metric]:
    yield gauges(
        "patio:operator_contact_timestamp_seconds",
        "Unix time of the last call whose signature by the operator was accepted; 0: none since the sidecar's start.",
        (),
        {(): last_accepted},
    )


async def warn_while_off(sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
    """Warn now and every hour, until cancelled."""
    while True:
        log.warning("%s", OFF)
        await sleep(REMIND_SECONDS)
