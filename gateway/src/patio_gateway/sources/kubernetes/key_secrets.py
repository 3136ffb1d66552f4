"""Clients and their keys from Secrets: each entry of a Secret's data is a list as `sources.keys` reads it. Pure.

A Secret that cannot be read any more leaves its clients as they were, as a file does; a deleted one, or one without the
label, has none. No sentence from here has a key in it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from patio_api.endpoint_labels import GATEWAY_KEYS
from patio_api.precedence import precedence
from patio_gateway.snapshot import Client
from patio_gateway.sources.keys import MOST_KEYS, KeyFileError, parse_keys


@dataclass(frozen=True)
class KeySecret:
    """A Secret with keys."""

    name: str
    uid: str
    created: datetime | None
    clients: tuple[Client, ...] = ()
    problem: str = ""
    """Why it cannot be read, in a sentence; then it has no clients here."""


@dataclass(frozen=True)
class Clients:
    """Who has a key."""

    clients: tuple[Client, ...] = ()
    problems: tuple[str, ...] = ()
    """What was left out or kept, and why: sentences."""
    readable: Mapping[str, tuple[Client, ...]] | None = None
    """The clients of each Secret as it was last read, by its UID: give it to the next call."""


def decode_key_secret(body: Mapping[str, Any]) -> KeySecret | None:
    """Reduce a Secret; None for one that has no keys of clients."""
    metadata = body["metadata"]
    if (metadata.get("labels") or {}).get(GATEWAY_KEYS) != "true":
        return None
    created = metadata.get("creationTimestamp")
    secret = KeySecret(metadata["name"], metadata["uid"], datetime.fromisoformat(created) if created else None)
    found: list[Client] = []
    for entry, text in sorted((body.get("data") or {}).items()):
        try:
            data = base64.b64decode(text or "", validate=True)
            found += parse_keys(data, f"Secret {secret.name}, entry {entry}")
        except ValueError:
            return _broken(secret, f"Secret {secret.name}, entry {entry}, is no base64.")
        except KeyFileError as error:
            return _broken(secret, str(error))
    return KeySecret(secret.name, secret.uid, secret.created, tuple(found))


def _broken(secret: KeySecret, problem: str) -> KeySecret:
    return KeySecret(secret.name, secret.uid, secret.created, problem=problem)


def clients_of(secrets: Iterable[KeySecret], before: Mapping[str, tuple[Client, ...]] | None = None) -> Clients:
    """Return who has a key. A name or key that two entries have is the first one's, of the older Secret.

    Args:
        secrets: all of them.
        before: `readable` of the last call.

    """
    readable: dict[str, tuple[Client, ...]] = {}
    problems: list[str] = []
    clients: list[Client] = []
    names: set[str] = set()
    keys: set[str] = set()
    for secret in sorted(secrets, key=lambda each: precedence(each.created, each.name)):
        if secret.problem:
            kept = (before or {}).get(secret.uid, ())
            problems.append(f"{secret.problem} Its {len(kept)} clients of before are kept.")
        else:
            kept = secret.clients
        readable[secret.uid] = kept
        for client in kept:
            if client.name in names or client.key in keys:
                same = "name" if client.name in names else "key"
                problems.append(f"Secret {secret.name}: client {client.name} is left out: another has the same {same}.")
            elif len(clients) == MOST_KEYS:
                problems.append(
                    f"Secret {secret.name}: client {client.name} is left out: there are {MOST_KEYS} others."
                )
            else:
                names.add(client.name)
                keys.add(client.key)
                clients.append(client)
    return Clients(tuple(clients), tuple(problems), readable)
