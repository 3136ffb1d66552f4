"""The Secrets that LoraAdapters name: whether each has what its source needs, and its values when an order is sent.

Only in the namespaces that the chart's user grants. Secrets are watched by their metadata; a content is read when it is
judged, once for each version, and when an order is about to be sent. What is kept is the verdict, never a value, and
nothing of a content is ever logged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from patio_api.loraadapter import LoraAdapter
from patio_kube.client import ApiError, InvalidError, KubeClient, NotFoundError, Object, Scope
from patio_kube.informer import Informer
from patio_kube.resources import SECRET
from patio_operator.loraadapters.dispatcher import SecretValues
from patio_operator.loraadapters.planner.credentials import (
    Credentials,
    InvalidSecretError,
    check,
    decode,
    judge,
)
from patio_operator.loraadapters.planner.plan import Condition
from patio_operator.loraadapters.planner.selection import load_request

log = logging.getLogger(__name__)

EVERYWHERE = "*"
READ_AT_ONCE = 8
"""Secrets that are read at once for one namespace."""


class SecretReader:
    """Reads Secrets where that is allowed."""

    def __init__(self, client: KubeClient, namespaces: Iterable[str], on_change: Callable[[str, str], None]) -> None:
        """Take the namespaces, `*` for all; `on_change` is called with the namespace and name of a Secret."""
        self._client = client
        self._watched: dict[str | None, Informer[tuple[str, str]]] = {}
        self._results: dict[tuple[str, str], tuple[str, Credentials | Condition]] = {}
        granted = set(namespaces)
        for namespace in {None} if EVERYWHERE in granted else granted:
            watched = Informer(client, SECRET, _name_and_revision, Scope(namespace, metadata_only=True))
            watched.add_event_handler(
                lambda where, previous, current: on_change(where, (current or previous or ("", ""))[0])
            )
            self._watched[namespace] = watched

    def watches(self) -> list[Coroutine[Any, Any, None]]:
        """Return what keeps the metadata up to date, until cancelled."""
        return [watched.run() for watched in self.informers]

    @property
    def informers(self) -> tuple[Informer[tuple[str, str]], ...]:
        """What watches Secrets: one for each namespace, or one for all."""
        return tuple(self._watched.values())

    async def credentials(self, adapters: Iterable[LoraAdapter]) -> dict[str, Credentials | Condition]:
        """Say what there is for those LoraAdapters of one namespace that name a Secret, by their names."""
        found: dict[str, Credentials | Condition] = {}
        unread: list[tuple[LoraAdapter, str, str]] = []
        for adapter in adapters:
            if adapter.spec.source.secret_ref is not None:
                judged = self._judged(adapter, adapter.spec.source.secret_ref.name)
                if isinstance(judged, str):
                    unread.append((adapter, adapter.spec.source.secret_ref.name, judged))
                else:
                    found[adapter.metadata.name] = judged
        if unread:
            waiting = iter(unread)

            async def some() -> None:
                for adapter, name, cache_key in waiting:
                    found[adapter.metadata.name] = await self._read(adapter, name, cache_key)

            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(READ_AT_ONCE, len(unread))):
                    tasks.create_task(some())
        return found

    async def values(self, namespace: str, name: str) -> SecretValues | None:
        """Read a Secret; None when it cannot be had at the moment, which is logged."""
        try:
            body = await self._client.get(SECRET, name, namespace)
        except ApiError as error:
            log.warning("secret %s/%s not read: %s", namespace, name, error.message)
            return None
        try:
            return SecretValues(_revision(body), decode(body.get("data")))
        except InvalidSecretError as error:
            log.warning("secret %s/%s cannot be used: %s", namespace, name, error)
            return None

    def _judged(self, adapter: LoraAdapter, name: str) -> Credentials | Condition | str:
        """Judge a LoraAdapter's Secret by what is known; return for which version it is to be read, if it is."""
        namespace = adapter.metadata.namespace
        watched = self._watched.get(namespace) or self._watched.get(None)
        if watched is None:
            return Condition(
                "SecretForbidden",
                f"The operator has no permission to read Secret {name}. Add {namespace} to the chart's value "
                "adapters.secrets.namespaces.",
            )
        if not watched.synced_in(namespace):
            reason = "SecretForbidden" if watched.forbidden_in(namespace) else "SecretNotRead"
            return Condition(reason, f"The operator cannot read Secret {name}: {watched.problem_in(namespace)}")
        cached = watched.get(name, namespace)
        if cached is None:
            return Condition("SecretNotFound", f"Secret {name} does not exist in namespace {namespace}.")
        _, revision = cached
        cache_key = f"{revision}/{adapter.metadata.generation}"
        before = self._results.get((namespace, adapter.metadata.name))
        return before[1] if before is not None and before[0] == cache_key else cache_key

    async def _read(self, adapter: LoraAdapter, name: str, cache_key: str) -> Credentials | Condition:
        namespace = adapter.metadata.namespace
        try:
            body = await self._client.get(SECRET, name, namespace)
        except NotFoundError:
            return Condition("SecretNotFound", f"Secret {name} does not exist in namespace {namespace}.")
        except ApiError as error:
            reason = "SecretForbidden" if isinstance(error, InvalidError) else "SecretNotRead"
            return Condition(reason, f"The operator cannot read Secret {name}: {error.message}")
        judged = _checked(adapter, name, body)
        self._results[namespace, adapter.metadata.name] = cache_key, judged
        return judged

    def forget(self, namespace: str, adapter: str) -> None:
        """Forget a LoraAdapter that is gone."""
        self._results.pop((namespace, adapter), None)


def _checked(adapter: LoraAdapter, name: str, body: Object) -> Credentials | Condition:
    try:
        values = decode(body.get("data"))
        judged = judge(adapter, values, _revision(body))
        if isinstance(judged, Credentials):
            check(load_request(adapter), values)
    except InvalidSecretError as error:
        return Condition("SecretIncomplete", f"Secret {name} cannot be used: {error}.")
    return judged


def _name_and_revision(body: Object) -> tuple[str, str]:
    return body["metadata"]["name"], _revision(body)


def _revision(body: Object) -> str:
    metadata = body["metadata"]
    return f"{metadata['uid']}.{metadata['resourceVersion']}"
