"""Keeps looking whether upstream's controller is there; `observing` is what it last saw.

Reads only. Whoever must know the state asks `observing`, in any replica. What was asked for by the setting is never
looked for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

from patio_operator.cluster.api import ApiError, Cluster, NotFoundError, Object
from patio_operator.cluster.kinds import DEPLOYMENT, LEASE, POD, VALIDATING_WEBHOOK_CONFIGURATION
from patio_operator.upstream import signs

log = logging.getLogger(__name__)

LOOK_EVERY = 5.0
"""Seconds. A controller that is being installed needs longer than this to pull its image and start."""

Asked = Literal["auto", "manage", "observe", "off"]


class Detector:
    """Looks for upstream's controller, unless it is told what to take for granted."""

    def __init__(self, cluster: Cluster, asked: Asked) -> None:
        self._cluster = cluster
        self._asked = asked
        self._on_change: Callable[[], None] = lambda: None
        self._verdict: signs.Verdict | None = None

    def start(self, on_change: Callable[[], None]) -> None:
        """Begin with what is asked for. `on_change` is called whenever `observing` has become something else."""
        self._on_change = on_change
        if self._asked != "auto":
            self._judge(signs.Verdict(self._asked != "manage", f"the operator is set to {self._asked}"))

    @property
    def observing(self) -> bool:
        """Whether groups are upstream's controller's. Unknown counts as yes: then nothing is written."""
        return self._verdict is None or self._verdict.observing

    @property
    def sentence(self) -> str:
        """What is the case and why, for people."""
        if self._verdict is None:
            return "It is not known yet who realises RoleBasedGroups."
        who = "left to upstream's controller" if self._verdict.observing else "realised by Patio"
        return f"RoleBasedGroups are {who}: {self._verdict.reason}."

    async def run(self) -> None:
        """Look again and again."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            problem = await self.looked()
            if problem is not None:
                log.warning("not known whether upstream's controller is there: %s", problem)

    async def looked(self) -> str | None:
        """Look once; return why the API server did not say, if it did not. What was known stays then."""
        if self._asked != "auto":
            return None
        try:
            found = signs.signs(await self._read(), datetime.now(UTC))
        except ApiError as error:
            return error.message
        self._judge(signs.verdict(self._verdict, found, time.monotonic()))
        return None

    async def _read(self) -> signs.Seen:
        # By name, in all namespaces: that is all the operator may read of Deployments and Leases.
        deployments, pods, leases, webhooks = await asyncio.gather(
            self._cluster.list_all(DEPLOYMENT, fields=f"metadata.name={signs.DEPLOYMENT}"),
            self._cluster.list_all(POD, labels=signs.POD_LABELS),
            self._cluster.list_all(LEASE, fields=f"metadata.name={signs.LEASE}"),
            self._webhooks(),
        )
        return signs.Seen(deployments, pods, leases, webhooks)

    async def _webhooks(self) -> Object | None:
        try:
            return await self._cluster.get(VALIDATING_WEBHOOK_CONFIGURATION, signs.WEBHOOKS)
        except NotFoundError:
            return None

    def _judge(self, verdict: signs.Verdict) -> None:
        known, self._verdict = self._verdict, verdict
        if known is None or known.observing != verdict.observing:
            log.log(logging.WARNING if known else logging.INFO, "%s", self.sentence)
            self._on_change()
