"""Objects of the API server, as plain dictionaries.

A thin shell over `kubernetes.aio`, which brings authentication and TLS; its typed models are passed by, since
parsing a thousand pods into them costs seconds. Callers get dictionaries and a small hierarchy of errors that
says what they can do next. Decides nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, cast
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio import client, config

from patio_kube import bodies
from patio_kube.bodies import TooDeep
from patio_kube.resources import Resource
from patio_kube.runtime.open_file_limit import connection_error

log = logging.getLogger(__name__)

REQUEST_TIMEOUT = 15.0
"""Seconds for one request to the API server."""
GONE = 410
WATCH_SECONDS = "240"
"""After which the API server ends a watch, to be begun again."""
WATCH_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=90)
"""A watch that says nothing for so long is dead: a bookmark comes once a minute."""

PAGE = 250
"""Objects asked for at a time where many are listed: what is parsed at once bounds the memory that is never given back.
"""
MOST_BYTES = 8 * 1024 * 1024
"""Of one answer, and of one event of a watch. Where a page is larger, fewer objects are asked for at a time."""
LONGEST_MESSAGE = 4_000
MOST_CAUSES = 50
"""What is read of a rejection: it repeats what a client wrote, however long that is."""
MOST_OBJECTS = 20_000
"""That a list may have which is read as a whole."""
SLICE_SECONDS = 0.01
"""How long a list is decoded before other tasks have their turn."""
CLOCKS_DIFFER = timedelta(seconds=2)
"""The API server's clock is read in whole seconds, from answers that took some time."""

_METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"

Object = dict[str, Any]

Observe = Callable[[str, int, float], None]
"""Is called with the verb of a request, the status of its answer (0: none came), and its seconds."""


class ApiError(Exception):
    """The API server rejected a request, or could not be reached. The message is the API server's."""

    def __init__(self, status: int, message: str, causes: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status; 0 when no answer came."""
        self.message = message
        self.causes = tuple(causes)
        """Field and message of each thing that is wrong with an object."""


class NotFoundError(ApiError):
    """There is no such object, or no such kind."""


class ConflictError(ApiError):
    """The object exists already, or has changed since it was read."""


class InvalidError(ApiError):
    """The API server will not take this object as it is (400, 403 or 422): the same request fails again."""


class TerminatingError(InvalidError):
    """The namespace is being deleted: nothing new can be made in it, and nothing needs to be."""


class UnreadableError(ApiError):
    """An object is nested more deeply than can be read: the same request fails until its owner changes it."""


class TooLargeError(ApiError):
    """An answer is larger than is read at once."""


class RetryableApiError(ApiError):
    """The API server is out of reach or overloaded: the same request may succeed later."""


@dataclass(frozen=True)
class Scope:
    """Which objects of a kind are meant, and how much of each."""

    namespace: str | None = None
    """None: of all namespaces."""
    labels: str | None = None
    """A label selector."""
    metadata_only: bool = False
    """Nothing but `metadata` leaves the API server."""


EVERYTHING = Scope()


class KubeClient:
    """Reads and writes objects. One for the process; close it at the end."""

    def __init__(self, api_client: client.ApiClient, manager: str) -> None:
        self._client = api_client
        self.manager = manager
        """Under which this process writes objects, so that they show what is its work."""
        self.observe: Observe = lambda verb, status, seconds: None
        """Is called after each request; of a watch, when it has begun."""
        self._ahead = timedelta(0)
        self._differences: deque[timedelta] = deque(maxlen=16)

    def now(self) -> datetime:
        """Return the time by the API server's clock, as of its last answer: to compare with times that it wrote."""
        return datetime.now(UTC) + self._ahead

    @classmethod
    async def connect(cls, manager: str, connections: int = 100) -> KubeClient:
        """Connect with the pod's service account, or with the kubeconfig outside a pod.

        Args:
            manager: under which it writes objects.
            connections: that are there at once, at most; 0: as many as are asked for.

        Raises:
            ApiError: it is not known where the API server is.

        """
        configuration = client.Configuration()
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException:
            try:
                await config.load_kube_config(client_configuration=configuration)
            except config.ConfigException as error:
                raise ApiError(0, f"There is neither a service account nor a usable kubeconfig: {error}") from error
        configuration.connection_pool_maxsize = connections
        return cls(client.ApiClient(configuration), manager)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def get(self, kind: Resource, name: str, namespace: str | None = None) -> Object:
        """Read one object."""
        body = await self._request("GET", _path(kind, namespace, name))
        if isinstance(body, TooDeep):
            raise UnreadableError(0, f"{kind.kind} {name} is nested too deeply to be read")
        return body

    async def list_all(
        self,
        kind: Resource,
        namespace: str | None = None,
        labels: str | None = None,
        fields: str | None = None,
        keep: Callable[[Object], Object] | None = None,
    ) -> list[Object]:
        """Read all objects of a kind, of all namespaces when none is given, that match label and field selectors.

        Args:
            kind: of the objects.
            namespace: where they are.
            labels: a label selector.
            fields: a field selector.
            keep: returns what is kept of each.

        Raises:
            TooLargeError: there are more objects than can be read.

        """
        try:
            return await self._listed(kind, Scope(namespace, labels), fields, keep)
        except ApiError as error:
            if error.status != GONE:
                raise
            return await self._listed(kind, Scope(namespace, labels), fields, keep)  # it took too long the first time

    async def _listed(
        self, kind: Resource, scope: Scope, fields: str | None, keep: Callable[[Object], Object] | None
    ) -> list[Object]:
        found: list[Object] = []
        async for items, _ in self.pages(kind, scope, fields):
            for item in items:
                if isinstance(item, TooDeep):
                    log.warning("%s ignored: it is nested too deeply to be read", _named(kind, item))
                else:
                    found.append(item if keep is None else keep(item))
            if len(found) > MOST_OBJECTS:
                raise TooLargeError(0, f"There are more than {MOST_OBJECTS} {kind.plural}")
        return found

    async def pages(
        self, kind: Resource, scope: Scope = EVERYTHING, fields: str | None = None
    ) -> AsyncGenerator[tuple[list[Object], str], None]:
        """Read all objects of a kind, some at a time; with each page the resourceVersion from which a watch goes on.

        An object that is nested too deeply is a `TooDeep` among the others.

        Raises:
            ApiError: 410 when the reading took longer than the API server remembers; it begins again then.

        """
        selectors = {"labelSelector": scope.labels, "fieldSelector": fields}
        query = {name: selector for name, selector in selectors.items() if selector}
        accept = _METADATA_LIST if scope.metadata_only else "application/json"
        limit = PAGE
        while True:
            try:
                text = await self._text(
                    "GET", _path(kind, scope.namespace), query | {"limit": str(limit)}, accept, verb="list"
                )
            except TooLargeError:
                if limit == 1:
                    raise
                limit = max(1, limit // 8)
                continue
            items, metadata = await _decoded(text)
            yield items, str(metadata.get("resourceVersion") or "")
            if not (more := metadata.get("continue")):
                return
            query["continue"] = more

    async def watch(self, kind: Resource, since: str, scope: Scope = EVERYTHING) -> AsyncGenerator[Object, None]:
        """Yield the events of a kind's objects after a resourceVersion, until the API server ends the watch."""
        query = {"watch": "1", "resourceVersion": since, "allowWatchBookmarks": "true", "timeoutSeconds": WATCH_SECONDS}
        if scope.labels:
            query["labelSelector"] = scope.labels
        accept = _METADATA if scope.metadata_only else "application/json"
        response: Any = None
        try:
            path = _path(kind, scope.namespace)
            with self._observed("watch") as answered:
                response = await self._call("GET", path, query, None, accept=accept, timeout=WATCH_TIMEOUT)
                answered(response.status)
            if response.status >= 300:
                raise _error(response.status, await _read(response))
            async for line in _lines(response.response.content):
                yield bodies.read_event(line.decode())
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise RetryableApiError(0, f"The watch failed: {connection_error(error)}") from error
        except ValueError as error:
            raise RetryableApiError(0, f"The watch failed: {error}") from error
        finally:
            if response is not None:
                response.response.close()

    async def create(self, kind: Resource, body: Object, namespace: str | None = None) -> Object:
        """Create an object; `ConflictError` when it exists."""
        return await self._request("POST", _path(kind, namespace), {"fieldManager": self.manager}, body)

    async def try_create(self, kind: Resource, body: Object, namespace: str, *, strictly: bool = False) -> Object:
        """Have the API server check and admit an object without creating it; `strictly` rejects unknown fields too.

        Return the object that would have been created.
        """
        query = {"dryRun": "All", "fieldValidation": "Strict" if strictly else "Ignore"}
        return await self._request("POST", _path(kind, namespace), {"fieldManager": self.manager, **query}, body)

    async def schemas(self, api_version: str) -> Mapping[str, Object]:
        """Read the API server's own schemas of an API version (OpenAPI v3, components.schemas)."""
        root = f"apis/{api_version}" if "/" in api_version else f"api/{api_version}"
        answer = await self._request("GET", f"/openapi/v3/{root}")
        return cast("Mapping[str, Object]", answer["components"]["schemas"])

    async def apply(self, kind: Resource, body: Object, manager: str | None = None) -> Object:
        """Server-side apply, taking over the fields it names. A `metadata.resourceVersion` in it is a condition."""
        metadata = body["metadata"]
        return await self._request(
            "PATCH",
            _path(kind, metadata.get("namespace"), metadata["name"]),
            {"fieldManager": manager or self.manager, "force": "true"},
            body,
            "application/apply-patch+yaml",
        )

    async def merge(
        self, kind: Resource, name: str, namespace: str | None, patch: Object, subresource: str | None = None
    ) -> Object:
        """JSON merge patch. A `metadata.resourceVersion` in it makes the write conditional."""
        path = _path(kind, namespace, name) + (f"/{subresource}" if subresource else "")
        return await self._request("PATCH", path, {"fieldManager": self.manager}, patch, "application/merge-patch+json")

    async def json_patch(self, kind: Resource, name: str, namespace: str | None, patch: list[Object]) -> Object:
        """JSON patch (RFC 6902)."""
        return await self._request(
            "PATCH",
            _path(kind, namespace, name),
            {"fieldManager": self.manager},
            patch,
            "application/json-patch+json",
        )

    async def delete(self, kind: Resource, name: str, namespace: str | None = None, uid: str | None = None) -> None:
        """Delete an object, only the one with this UID when one is given; gone already is fine."""
        body: Object = {"propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            await self._request("DELETE", _path(kind, namespace, name), {}, body)
        except NotFoundError:
            return

    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | list[Object] | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> Object:
        text = await self._text(method, path, query, accept, body, content_type)
        try:
            return bodies.read_object(text)
        except ValueError as error:
            raise RetryableApiError(0, f"The API server's answer cannot be read: {error}") from error

    async def _text(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        accept: str,
        body: Object | list[Object] | None = None,
        content_type: str = "application/json",
        verb: str | None = None,
    ) -> str:
        try:
            with self._observed(verb or _verb(method, content_type)) as answered:
                response = await self._call(method, path, query, body, content_type, accept)
                answered(response.status)
                self._note_time(response.response.headers.get("Date"))
                data = await _read(response)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise RetryableApiError(0, f"The API server cannot be reached: {connection_error(error)}") from error
        if response.status >= 300:
            raise _error(response.status, data)
        return data.decode("utf-8", "replace")

    @contextmanager
    def _observed(self, verb: str) -> Iterator[Callable[[int], None]]:
        """Observe a request; what is yielded takes the status of its answer."""
        status, began = 0, time.perf_counter()

        def answered(code: int) -> None:
            nonlocal status
            status = code

        try:
            yield answered
        finally:
            self.observe(verb, status, time.perf_counter() - began)

    def _note_time(self, date: str | None) -> None:
        try:
            self._differences.append(parsedate_to_datetime(date or "") - datetime.now(UTC))
        except (ValueError, TypeError):
            return
        ahead = max(self._differences)  # what was on its way for the shortest time
        self._ahead = ahead if abs(ahead) > CLOCKS_DIFFER else timedelta(0)

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Object | list[Object] | None,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout: float | aiohttp.ClientTimeout = REQUEST_TIMEOUT,
    ) -> Any:
        headers = {"Accept": accept, "Content-Type": content_type}
        await self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        url = self._client.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        return await self._client.call_api(method, url, header_params=headers, body=body, _request_timeout=timeout)


async def _read(response: Any) -> bytes:
    """Read an answer that is not too large.

    Raises:
        TooLargeError: it is.

    """
    read = bytearray()
    try:
        async for chunk in response.response.content.iter_any():
            read += chunk
            if len(read) > MOST_BYTES:
                response.response.close()
                raise TooLargeError(0, f"The API server's answer is larger than {MOST_BYTES} bytes")
    finally:
        response.response.release()
    return bytes(read)


async def _decoded(text: str) -> tuple[list[Object], Object]:
    """Decode a list, a slice at a time; return its items and its metadata."""
    items = bodies.Items(text, "items")
    found: list[Object] = []
    begun = time.perf_counter()
    try:
        for item in items:
            found.append(item)
            if time.perf_counter() - begun > SLICE_SECONDS:
                await asyncio.sleep(0)
                begun = time.perf_counter()
    except ValueError as error:
        raise RetryableApiError(0, f"The API server's answer cannot be read: {error}") from error
    return found, items.rest.get("metadata") or {}


async def _lines(content: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
    """Yield whole lines, far longer ones than aiohttp's own reader takes: that gives up at the size of its buffer."""
    begun = bytearray()
    async for chunk in content.iter_any():
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            begun += line
            if begun:
                yield bytes(begun)
            begun.clear()
        begun += rest
        if len(begun) > MOST_BYTES:
            raise RetryableApiError(0, f"The watch failed: an event is larger than {MOST_BYTES} bytes")


def _verb(method: str, content_type: str) -> str:
    """Return the verb of a request that is no list and no watch, in the words of the API server's own metrics."""
    if method == "PATCH":
        return "apply" if content_type.startswith("application/apply-patch") else "patch"
    return {"GET": "get", "POST": "create", "DELETE": "delete"}[method]


def _named(kind: Resource, body: Object) -> str:
    metadata = body.get("metadata") or {}
    return f"{kind.kind} {metadata.get('namespace', '')}/{metadata.get('name', '')}"


def _path(kind: Resource, namespace: str | None, name: str | None = None) -> str:
    root = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    scope = f"/namespaces/{quote(namespace)}" if kind.namespaced and namespace else ""
    return f"{root}{scope}/{kind.plural}" + (f"/{quote(name)}" if name else "")


def _error(status: int, data: bytes) -> ApiError:
    try:
        answer = json.loads(data)
        message = str(answer.get("message") or "")[:LONGEST_MESSAGE]
        causes = ((answer.get("details") or {}).get("causes") or [])[:MOST_CAUSES]
    except (ValueError, AttributeError, RecursionError):
        message, causes = data.decode("utf-8", "replace")[:500], []
    message = message or f"The API server answered {status}."
    if status == 404:
        return NotFoundError(status, message)
    if any(cause.get("reason") == "NamespaceTerminating" for cause in causes):
        return TerminatingError(status, message)
    if status == 409:
        return ConflictError(status, message)
    # Server-side apply of a field that the schema does not have is answered with 500 (Kubernetes 1.34).
    if status == 500 and "failed to create typed patch object" in message:
        return InvalidError(
            status, message, [(cause.get("field") or "", cause.get("message") or "") for cause in causes]
        )
    if status == 429 or status >= 500:
        return RetryableApiError(status, message)
    return InvalidError(status, message, [(cause.get("field") or "", cause.get("message") or "") for cause in causes])
