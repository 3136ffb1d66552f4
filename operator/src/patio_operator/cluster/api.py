"""Objects of the API server, as plain dictionaries.

A thin shell over `kubernetes.aio`, which brings authentication and TLS; its typed models are passed by, since
parsing a thousand pods into them costs seconds. Callers get dictionaries and a small hierarchy of errors that
says what they can do next. Decides nothing.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio import client, config

from patio_operator.api.labels import FIELD_MANAGER
from patio_operator.cluster.kinds import Kind

REQUEST_TIMEOUT = 15.0
"""Seconds for one request to the API server."""
WATCH_SECONDS = "240"
"""After which the API server ends a watch, to be begun anew."""
WATCH_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=90)
"""A watch that says nothing for so long is dead: a bookmark comes once a minute."""

PAGE = 250
"""Objects asked for at a time where many are listed: what is parsed at once bounds the memory that is never given back.
"""

_METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"

Object = dict[str, Any]


class ApiError(Exception):
    """The API server refused a request, or could not be reached. Its own words are the message."""

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


class Cluster:
    """Reads and writes objects. One for the process; close it at the end."""

    def __init__(self, api_client: client.ApiClient) -> None:
        self._client = api_client

    @classmethod
    async def connect(cls) -> Cluster:
        """Connect with the pod's service account, or with the kubeconfig outside a pod."""
        configuration = client.Configuration()
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException:
            await config.load_kube_config(client_configuration=configuration)
        return cls(client.ApiClient(configuration))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> Object:
        """Read one object."""
        return await self._request("GET", _path(kind, namespace, name))

    async def list_all(
        self, kind: Kind, namespace: str | None = None, labels: str | None = None, fields: str | None = None
    ) -> list[Object]:
        """Read all objects of a kind, of all namespaces when none is given, that match label and field selectors."""
        selectors = {"labelSelector": labels, "fieldSelector": fields}
        query = {name: selector for name, selector in selectors.items() if selector}
        answer = await self._request("GET", _path(kind, namespace), query)
        return cast("list[Object]", answer["items"])

    async def list_metadata(self, kind: Kind, labels: str, fields: str, namespace: str | None = None) -> list[Object]:
        """Read the metadata alone of all objects of a kind that match selectors of labels and fields."""
        query = {"labelSelector": labels, "fieldSelector": fields}
        answer = await self._request("GET", _path(kind, namespace), query, accept=_METADATA_LIST)
        return cast("list[Object]", answer["items"] or [])

    async def pages(self, kind: Kind, scope: Scope = EVERYTHING) -> AsyncGenerator[tuple[list[Object], str], None]:
        """Read all objects of a kind, some at a time; with each page the resourceVersion from which a watch goes on.

        Raises:
            ApiError: 410 when the reading took longer than the API server remembers; it begins anew then.

        """
        query = {"limit": str(PAGE)} | ({"labelSelector": scope.labels} if scope.labels else {})
        accept = _METADATA_LIST if scope.metadata_only else "application/json"
        while True:
            answer = await self._request("GET", _path(kind, scope.namespace), query, accept=accept)
            yield answer["items"] or [], answer["metadata"]["resourceVersion"]
            if not (more := answer["metadata"].get("continue")):
                return
            query["continue"] = more

    async def watch(self, kind: Kind, since: str, scope: Scope = EVERYTHING) -> AsyncGenerator[Object, None]:
        """Yield the events of a kind's objects after a resourceVersion, until the API server ends the watch."""
        query = {"watch": "1", "resourceVersion": since, "allowWatchBookmarks": "true", "timeoutSeconds": WATCH_SECONDS}
        if scope.labels:
            query["labelSelector"] = scope.labels
        accept = _METADATA if scope.metadata_only else "application/json"
        response: Any = None
        try:
            path = _path(kind, scope.namespace)
            response = await self._call("GET", path, query, None, accept=accept, timeout=WATCH_TIMEOUT)
            if response.status >= 300:
                raise _error(response.status, await response.read())
            async for line in _lines(response.response.content):
                yield json.loads(line)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise RetryableApiError(0, f"The watch broke off: {error or type(error).__name__}") from error
        finally:
            if response is not None:
                response.response.close()

    async def create(self, kind: Kind, body: Object, namespace: str | None = None) -> Object:
        """Create an object; `ConflictError` when it exists."""
        return await self._request("POST", _path(kind, namespace), {"fieldManager": FIELD_MANAGER}, body)

    async def try_create(self, kind: Kind, body: Object, namespace: str, *, strictly: bool = False) -> None:
        """Have the API server check and admit an object without creating it; `strictly` refuses unknown fields too."""
        query = {"dryRun": "All", "fieldValidation": "Strict" if strictly else "Ignore"}
        await self._request("POST", _path(kind, namespace), {"fieldManager": FIELD_MANAGER, **query}, body)

    async def schemas(self, api_version: str) -> Mapping[str, Object]:
        """Read the API server's own schemas of an API version (OpenAPI v3, components.schemas)."""
        root = f"apis/{api_version}" if "/" in api_version else f"api/{api_version}"
        answer = await self._request("GET", f"/openapi/v3/{root}")
        return cast("Mapping[str, Object]", answer["components"]["schemas"])

    async def apply(self, kind: Kind, body: Object) -> Object:
        """Server-side apply, taking over the fields it names."""
        metadata = body["metadata"]
        return await self._request(
            "PATCH",
            _path(kind, metadata.get("namespace"), metadata["name"]),
            {"fieldManager": FIELD_MANAGER, "force": "true"},
            body,
            "application/apply-patch+yaml",
        )

    async def merge(
        self, kind: Kind, name: str, namespace: str | None, patch: Object, subresource: str | None = None
    ) -> Object:
        """JSON merge patch. A `metadata.resourceVersion` in it makes the write conditional."""
        path = _path(kind, namespace, name) + (f"/{subresource}" if subresource else "")
        return await self._request(
            "PATCH", path, {"fieldManager": FIELD_MANAGER}, patch, "application/merge-patch+json"
        )

    async def json_patch(self, kind: Kind, name: str, namespace: str | None, patch: list[Object]) -> Object:
        """JSON patch (RFC 6902)."""
        return await self._request(
            "PATCH",
            _path(kind, namespace, name),
            {"fieldManager": FIELD_MANAGER},
            patch,
            "application/json-patch+json",
        )

    async def delete(self, kind: Kind, name: str, namespace: str | None = None, uid: str | None = None) -> None:
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
        try:
            response = await self._call(method, path, query, body, content_type, accept)
            data = await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise RetryableApiError(0, f"The API server cannot be reached: {error or type(error).__name__}") from error
        if response.status >= 300:
            raise _error(response.status, data)
        return cast("Object", json.loads(data))

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


async def _lines(content: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
    """Yield whole lines however long they are: aiohttp's own gives up at twice the size of its buffer."""
    begun = bytearray()
    async for chunk in content.iter_any():
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            yield bytes(begun + line)
            begun.clear()
        begun += rest


def _path(kind: Kind, namespace: str | None, name: str | None = None) -> str:
    root = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    scope = f"/namespaces/{quote(namespace)}" if kind.namespaced and namespace else ""
    return f"{root}{scope}/{kind.plural}" + (f"/{quote(name)}" if name else "")


def _error(status: int, data: bytes) -> ApiError:
    try:
        answer = json.loads(data)
        message = str(answer.get("message") or "")
        causes = (answer.get("details") or {}).get("causes") or []
    except (ValueError, AttributeError):
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
        return InvalidError(status, message, [(one.get("field") or "", one.get("message") or "") for one in causes])
    if status == 429 or status >= 500:
        return RetryableApiError(status, message)
    return InvalidError(status, message, [(one.get("field") or "", one.get("message") or "") for one in causes])
