"""Keeps looking whether upstream's controller is there; `observing` is what it last saw.

Reads only, and only where no user of another namespace can put anything. Callers read the state from `observing`,
in any replica. What was asked for by the setting is never looked for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from typing import Literal

from patio_kube.client import ApiError, KubeClient, NotFoundError, Object
from patio_kube.resources import (
    CUSTOM_RESOURCE_DEFINITION,
    DEPLOYMENT,
    LEASE,
    POD,
    VALIDATING_WEBHOOK_CONFIGURATION,
    Resource,
)
from patio_operator.groups.upstream import detection

log = logging.getLogger(__name__)

LOOK_EVERY = 5.0
"""Seconds. A controller that is being installed needs longer than this to pull its image and start."""

Mode = Literal["auto", "manage", "observe", "off"]


class UpstreamDetector:
    """Looks for upstream's controller, unless the settings say who realises groups."""

    def __init__(self, client: KubeClient, mode: Mode, namespaces: Collection[str], own_service: str) -> None:
        """Take the namespaces where upstream's controller may be, and the name of Patio's own webhook Service."""
        self._client = client
        self._mode = mode
        self._namespaces = namespaces
        self._own_service = own_service
        self._on_change: Callable[[], None] = lambda: None
        self._detection: detection.Detection | None = None

    def start(self, on_change: Callable[[], None]) -> None:
        """Begin with what is asked for. `on_change` is called whenever `observing` has become something else."""
        self._on_change = on_change
        if self._mode != "auto":
            self._judge(detection.Detection(self._mode != "manage", f"the operator is set to {self._mode}"))

    @property
    def observing(self) -> bool:
        """Whether groups are upstream's controller's. Unknown counts as yes: then nothing is written."""
        return self._detection is None or self._detection.observing

    @property
    def sentence(self) -> str:
        """What is the case and why, for people."""
        if self._detection is None:
            return "The operator does not know yet who realises RoleBasedGroups."
        realiser = "Upstream's controller" if self._detection.observing else "Patio"
        return f"{realiser} realises RoleBasedGroups: {self._detection.reason}."

    async def run(self) -> None:
        """Look again and again."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            try:
                problem = await self.check()
            except Exception as error:  # noqa: BLE001 - the outermost place: it ends nothing else
                problem = f"{type(error).__name__}: {error}"
            if problem is not None:
                log.warning("cannot find out whether upstream's controller runs: %s", problem)

    async def check(self) -> str | None:
        """Look once; return why the API server did not say, if it did not. What was known stays then."""
        if self._mode != "auto":
            return None
        try:
            found = detection.signs(await self._read(), self._client.now())
        except ApiError as error:
            return error.message
        self._judge(detection.detect(self._detection, found, time.monotonic()))
        return None

    async def _read(self) -> detection.Evidence:
        webhooks = await self._found(VALIDATING_WEBHOOK_CONFIGURATION, detection.WEBHOOKS)
        if webhooks is not None:
            return detection.Evidence(webhooks=webhooks)
        crd = await self._found(CUSTOM_RESOURCE_DEFINITION, detection.CRD)
        home = None if crd is None else detection.home_of(crd, self._own_service)
        deployments: list[Object] = []
        pods: list[Object] = []
        leases: list[Object] = []
        for namespace in {*self._namespaces, *([] if home is None else [home])}:
            # By their names: that is all the operator may read of Deployments and Leases.
            by_name = f"metadata.name={detection.DEPLOYMENT}"
            deployments += await self._client.list_all(DEPLOYMENT, namespace, fields=by_name)
            pods += await self._client.list_all(POD, namespace, labels=detection.POD_LABELS)
            leases += await self._client.list_all(LEASE, namespace, fields=f"metadata.name={detection.LEASE}")
        return detection.Evidence(deployments, pods, leases)

    async def _found(self, kind: Resource, name: str) -> Object | None:
        try:
            return await self._client.get(kind, name)
        except NotFoundError:
            return None

    def _judge(self, current: detection.Detection) -> None:
        previous, self._detection = self._detection, current
        if previous is None or previous.observing != current.observing:
            log.log(logging.WARNING if previous else logging.INFO, "%s", self.sentence)
            self._on_change()
