"""Reads the CRDs, lets `planner` decide about all of them, and applies them. The program behind the chart's hook.

If one CRD is rejected, none is written. An applied CRD is waited for until the API server serves it, since the upgrade
goes on with objects of its kind. Each line that it prints is a sentence about one CRD.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Callable, Sequence
from enum import IntEnum

from patio_api.crd import DEFINITIONS
from patio_kube.client import ApiError, ConflictError, KubeClient, NotFoundError, Object
from patio_kube.resources import CUSTOM_RESOURCE_DEFINITION
from patio_operator.crd_upgrade import planner
from patio_operator.crd_upgrade.planner import Apply, Decision, Reject

FIELD_MANAGER = "patio-crd-upgrade"
"""Under which CRDs are applied: apart from what the running operator writes into them."""
ATTEMPTS = 5
"""In case the operator writes a CRD at the same moment."""
SERVED_SECONDS = 30.0
PAUSE_SECONDS = 0.5


class Outcome(IntEnum):
    """Exit codes. The hook's Job tries again after FAILED, and not after REJECTED."""

    DONE = 0
    FAILED = 1
    REJECTED = 2


async def upgrade(
    client: KubeClient,
    crds: Sequence[Object],
    namespace: str,
    report: Callable[[str], None],
    pause: float = PAUSE_SECONDS,
) -> Outcome:
    """Upgrade the CRDs; report what was done with each."""
    try:
        decisions = [planner.decide(await _read(client, crd), crd, namespace) for crd in crds]
        rejected = [decision for decision in decisions if isinstance(decision, Reject)]
        for rejection in rejected:
            report(f"rejected: {rejection.name}: {rejection.reason}")
        if rejected:
            report("No CRD was changed.")
            return Outcome.REJECTED
        for crd, decision in zip(crds, decisions, strict=True):
            last = await _carry_out(client, crd, decision, namespace, pause)
            report(f"{_verb(last)} {last.name}: {last.reason}")
            if isinstance(last, Reject):
                return Outcome.REJECTED
            if isinstance(last, Apply) and not await _served(client, crd, pause):
                report(f"failed: {last.name} is not served after {SERVED_SECONDS:.0f} s")
                return Outcome.FAILED
    except ApiError as error:
        report(f"failed: {error.message}")
        return Outcome.FAILED
    return Outcome.DONE


def _verb(decision: Decision) -> str:
    if isinstance(decision, Apply):
        return "applied"
    return "rejected:" if isinstance(decision, Reject) else "left"


async def _read(client: KubeClient, crd: Object) -> Object | None:
    try:
        return await client.get(CUSTOM_RESOURCE_DEFINITION, crd["metadata"]["name"])
    except NotFoundError:
        return None


async def _carry_out(client: KubeClient, crd: Object, decision: Decision, namespace: str, pause: float) -> Decision:
    """Apply what is decided. If the CRD has changed since, decide again; return the decision that counted."""
    for attempt in range(ATTEMPTS):
        if not isinstance(decision, Apply):
            break
        try:
            await client.apply(CUSTOM_RESOURCE_DEFINITION, decision.body, manager=FIELD_MANAGER)
            break
        except ConflictError:
            if attempt + 1 == ATTEMPTS:
                raise
            await asyncio.sleep(pause)
            decision = planner.decide(await _read(client, crd), crd, namespace)
    return decision


async def _served(client: KubeClient, crd: Object, pause: float) -> bool:
    """Wait until the API server serves a CRD; return whether it does in time."""
    end = time.monotonic() + SERVED_SECONDS
    while time.monotonic() < end:
        body = await _read(client, crd) or {}
        conditions = (body.get("status") or {}).get("conditions") or []
        if any((each.get("type"), each.get("status")) == ("Established", "True") for each in conditions):
            return True
        await asyncio.sleep(pause)
    return False


async def _main(namespace: str) -> Outcome:
    client = await KubeClient.connect(FIELD_MANAGER)
    try:
        return await upgrade(client, [definition.to_api() for definition in DEFINITIONS], namespace, print)
    finally:
        await client.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Upgrade; return the exit code: 0 done, 1 failed and may be tried again, 2 rejected."""
    parser = argparse.ArgumentParser(prog="python -m patio_operator.crd_upgrade", description=__doc__)
    parser.add_argument(
        "--namespace", default=os.environ.get("PATIO_NAMESPACE", "patio-system"), help="of the operator (%(default)s)"
    )
    return int(asyncio.run(_main(parser.parse_args(arguments).namespace)))
