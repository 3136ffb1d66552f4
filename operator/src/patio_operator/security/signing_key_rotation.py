"""Keeps the key that the operator signs with: in one Secret for all replicas, replaced by age or when asked for.

Asked for by the annotation `patio.dev/rotate` on the Secret, whatever its value. A Secret that was deleted is recreated
with a key that nothing endorses: pods admitted before then reject the operator until they are recreated as well.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import httpx

from patio_api import labels
from patio_kube.client import ApiError, KubeClient, Object
from patio_kube.shared_secret import Decision, ensure_shared_secret
from patio_operator.security.auth import ProofAuth
from patio_operator.security.signing_keys import SigningKey, decode, encode, is_due, new_key, successor
from patio_operator.settings import Settings

log = logging.getLogger(__name__)


def decide(secret: Object | None, age: timedelta, now: datetime) -> Decision[SigningKey]:
    """Say which key counts, and what has to be written for that."""
    existing = decode(secret.get("data") or {}) if secret is not None else None
    if secret is None or existing is None:
        key = new_key(now)
        instead = "" if secret is None else " in place of an unreadable one"
        return Decision(key, encode(key), message=f"signing key {key.public[:8]}… created{instead}, not endorsed")
    rotation_requested = labels.ROTATE in (secret["metadata"].get("annotations") or {})
    if not rotation_requested and not is_due(existing, age, now):
        return Decision(existing)
    key = successor(existing, now)
    message = f"signing key {key.public[:8]}… created, endorsed by {existing.public[:8]}…"
    return Decision(key, encode(key), {labels.ROTATE: None}, message, fallback=existing)


class SigningKeyRotation:
    """Holds the current key. `keep` before the first use, and again and again."""

    def __init__(self, client: KubeClient, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._key: SigningKey | None = None

    @property
    def key(self) -> SigningKey:
        """The key to sign with."""
        assert self._key is not None, "call keep() first"
        return self._key

    @property
    def current(self) -> SigningKey | None:
        """The key to sign with; None before there is one."""
        return self._key

    async def refresh(self) -> None:
        """Make one pass: the key in the Secret is there, is not too old, and is the one that is used.

        Raises:
            ApiError: the Secret cannot be read or written. A key that is in it is used all the same.

        """
        settings = self._settings
        key, failure = await ensure_shared_secret(
            self._client,
            settings.namespace,
            settings.signing_secret,
            lambda secret: decide(secret, settings.signing_key_age, datetime.now(UTC)),
        )
        if self._key is not None and self._key.public != key.public and not key.endorsements:
            log.warning("the previous signing key did not endorse the new one: recreate the pods that have a sidecar")
        self._key = key
        if failure is not None:
            raise failure

    async def check(self) -> str | None:
        """Make one pass; return why it was not made, if it was not."""
        try:
            await self.refresh()
        except ApiError as error:
            return error.message
        return None

    async def look_up(self) -> None:
        """Take the key that another replica may have made a moment ago."""
        problem = await self.check()
        if problem is not None:
            log.warning("signing key not read: %s", problem)

    def auth(self, pod_uid: str) -> httpx.Auth:
        """Return what signs requests to a pod's sidecar, with the key that is current when they are sent."""
        return ProofAuth(pod_uid, lambda: self.key, self.look_up)
