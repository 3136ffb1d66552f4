"""A Secret that all replicas of the operator share: made by the first to need it, replaced by the first to find it due.

The owner of one says what should be in it (`decide`, pure); here it is read and written, and the replica that was
slower takes what the faster one wrote. Where it cannot be written, what is in it is used on, if it is still good: the
right to replace it is not what makes it good. Nothing of a Secret's content is ever logged.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from patio_kube.client import ApiError, ConflictError, KubeClient, NotFoundError, Object
from patio_kube.resources import SECRET
from patio_protocol.backoff import exponential, with_jitter

log = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
"""Seconds between tries."""
MOST_TRIES = 10
"""How often another replica may be faster before the next pass is waited for."""


@dataclass(frozen=True)
class Decision(Generic[T]):
    """What a Secret means, and what has to be written for that."""

    value: T
    data: dict[str, str] | None = None
    """New data of the Secret, base64; None when it is right as it is."""
    annotations: dict[str, str | None] | None = None
    """Annotations to change; None as a value removes one."""
    message: str = ""
    """For the log, once it is written."""
    fallback: T | None = None
    """What counts as long as it cannot be written; None where that is nothing."""


async def ensure_shared_secret(
    client: KubeClient, namespace: str, name: str, decide: Callable[[Object | None], Decision[T]]
) -> tuple[T, ApiError | None]:
    """Read the Secret, write what `decide` says about it, and return the value that counts.

    Returns:
        The decision's value, and None; or its fallback, and why the Secret could not be written.

    Args:
        client: the API server.
        namespace: the operator's own.
        name: of the Secret.
        decide: is given the Secret, None when there is none; asked again when another replica was faster.

    Raises:
        ApiError: it cannot be read, or not written without a fallback; also when another replica was faster each time.

    """
    failures = 0
    while True:
        secret: Object | None
        try:
            secret = await client.get(SECRET, name, namespace)
        except NotFoundError:
            secret = None
        decision = decide(secret)
        if decision.data is None:
            return decision.value, None
        try:
            if secret is None:
                await client.create(SECRET, _new(name, decision.data), namespace)
            else:
                metadata = {
                    "resourceVersion": secret["metadata"]["resourceVersion"],
                    "annotations": decision.annotations or {},
                }
                await client.merge(SECRET, name, namespace, {"metadata": metadata, "data": decision.data})
        except (ConflictError, NotFoundError):
            failures += 1
            if failures == MOST_TRIES:
                raise
            pause = exponential(FIRST_PAUSE, LONGEST_PAUSE, failures)
            await asyncio.sleep(with_jitter(pause, random.random()))  # noqa: S311 - jitter only
            continue
        except ApiError as error:
            if decision.fallback is None:
                raise
            return decision.fallback, error
        log.info("%s, stored in Secret %s", decision.message, name)
        return decision.value, None


def _new(name: str, data: dict[str, str]) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "patio"}},
        "data": data,
    }
