"""Whose signatures count: the keys given at admission, and those that followed them.

Each key endorses the next, so that a pod admitted under an old one follows a rotation without a restart. The one that
was followed is dropped: it endorses nothing any more, and after a grace period its proofs are rejected as well. What
was learnt is not stored; a restarted sidecar gets the endorsements again. Pure: values in, values out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from patio.access.proof import read, verify
from patio_protocol.authentication import ENDORSEMENT, MAX_ENDORSEMENTS, EndorsementClaims, from_base64url

GRACE = 600.0
"""Seconds that a key's proofs are taken after its successor was shown: another replica may not know yet."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys that count now."""

    current: frozenset[str] = frozenset()
    """These sign proofs and endorse. As many as were given at admission: each is replaced by its successor."""
    former: Mapping[str, float] = field(default_factory=dict)
    """These still sign proofs, until that time."""

    def knows(self, key: str, now: float) -> bool:
        """Whether proofs of this key are taken."""
        return key in self.current or self.former.get(key, now) > now


def follow(keys: Keys, endorsements: Iterable[str], now: float) -> Keys:
    """Return the keys after walking as far as endorsements lead, those that lead nowhere skipped.

    Args:
        keys: what is known.
        endorsements: compact JWS, oldest first; more than `MAX_ENDORSEMENTS` are not read.
        now: Unix seconds.

    """
    for _, text in zip(range(MAX_ENDORSEMENTS), endorsements, strict=False):
        token = read(text)
        if token is None or token.header.typ != ENDORSEMENT or token.header.kid not in keys.current:
            continue
        claims = verify(token, EndorsementClaims)
        if claims is None or len(from_base64url(claims.key) or b"") != 32 or claims.key in keys.former:
            continue
        former = {key: until for key, until in keys.former.items() if until > now}
        keys = replace(
            keys,
            current=keys.current - {token.header.kid} | {claims.key},
            former={**former, token.header.kid: now + GRACE},
        )
    return keys
