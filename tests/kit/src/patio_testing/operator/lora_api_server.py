"""An API server in miniature, for what the operator does with LoraAdapters: objects, merge patches, watches, refusals.

It knows nothing of schemas. `denies` is what a policy of the cluster does: it refuses writes by their path.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from kubernetes.aio import client

from patio_kube.client import KubeClient

Object = dict[str, Any]
Key = tuple[str, str, str]
"""Plural, namespace and name."""


class LoraApiServer:
    """Objects by plural, namespace and name."""

    def __init__(self) -> None:
        self.objects: dict[Key, Object] = {}
        self.denies: Callable[[str, str], str | None] = lambda method, path: None
        """Returns the message with which a write is refused, by its method and the object's path; None: it is taken."""
        self.writes: list[tuple[str, str, Object]] = []
        self.lists: list[tuple[str, dict[str, str]]] = []
        """Each list: the plural and the query."""
        self.selects_fields = True
        """Whether it knows selectors of a custom resource's fields (Kubernetes 1.31)."""
        self.sent = 0
        """Bytes of answers to lists."""
        self._version = 100
        self._watches: set[tuple[str, asyncio.Queue[str]]] = set()

    def put(self, plural: str, body: Object) -> Object:
        """Store an object, and tell the watches."""
        metadata = body["metadata"]
        key = (plural, metadata["namespace"], metadata["name"])
        type_ = "MODIFIED" if key in self.objects else "ADDED"
        self._version += 1
        metadata.setdefault("uid", f"uid-{metadata['name']}")
        metadata["resourceVersion"] = str(self._version)
        self.objects[key] = body
        self._notify(plural, type_, body)
        return body

    def drop(self, plural: str, name: str, namespace: str = "team") -> None:
        """Delete an object."""
        body = self.objects.pop((plural, namespace, name))
        self._version += 1
        body["metadata"]["resourceVersion"] = str(self._version)
        self._notify(plural, "DELETED", body)

    def get(self, plural: str, name: str, namespace: str = "team") -> Object:
        """Return an object."""
        return self.objects[plural, namespace, name]

    def events(self) -> list[tuple[str, str]]:
        """Return object and reason of each event that was recorded."""
        events = [body for method, path, body in self.writes if method == "POST" and path.endswith("/events")]
        return [(event["involvedObject"]["name"], event["reason"]) for event in events]

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[KubeClient]:
        """Serve, and return a client."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        configuration = client.Configuration()
        configuration.host = f"http://127.0.0.1:{runner.addresses[0][1]}"
        cluster = KubeClient(client.ApiClient(configuration), "patio-operator")
        try:
            yield cluster
        finally:
            await cluster.close()
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        parts = request.path.strip("/").split("/")
        parts = parts[2:] if parts[0] == "api" else parts[3:]
        namespace = parts[1] if parts[0] == "namespaces" and len(parts) > 2 else ""
        plural, *rest = parts[2:] if namespace else parts
        if request.method == "GET" and not rest:
            if "watch" in request.query:
                return await self._watch(request, plural)
            return self._list(request, plural, namespace)
        body = await request.json() if request.can_read_body else {}
        if request.method != "GET":
            self.writes.append((request.method, request.path, body))
            suffix = f"/{body['metadata']['name']}" if request.method == "POST" else ""
            if (message := self.denies(request.method, request.path + suffix)) is not None:
                return web.json_response({"message": message}, status=403)
        if request.method == "POST":
            key = (plural, namespace, body["metadata"]["name"])
            if key in self.objects:
                return web.json_response({"message": "exists"}, status=409)
            body["metadata"]["namespace"] = namespace
            return web.json_response(self.put(plural, body))
        existing = self.objects.get((plural, namespace, rest[0]))
        if existing is None:
            return web.json_response({"message": "not found"}, status=404)
        if request.method == "DELETE":
            self.drop(plural, rest[0], namespace)
        elif request.method == "PATCH":
            metadata = body.get("metadata", {})
            if any(
                existing["metadata"].get(key) != metadata.get(key)
                for key in metadata.keys() & {"uid", "resourceVersion"}
            ):
                return web.json_response({"message": "changed"}, status=409)
            existing = self.put(plural, _merged(copy.deepcopy(existing), body))
            if "deletionTimestamp" in existing["metadata"] and not existing["metadata"].get("finalizers"):
                self.drop(plural, rest[0], namespace)
        return web.json_response(existing)

    def _list(self, request: web.Request, plural: str, namespace: str) -> web.Response:
        self.lists.append((plural, dict(request.query)))
        if "fieldSelector" in request.query and not self.selects_fields:
            return web.json_response({"message": "field label not supported: spec.adapterName"}, status=400)
        adapter_name = request.query.get("fieldSelector", "").removeprefix("spec.adapterName=")
        items = [
            item
            for (kind, object_namespace, _), item in self.objects.items()
            if kind == plural
            and namespace in ("", object_namespace)
            and (not adapter_name or item["spec"].get("adapterName") == adapter_name)
        ]
        text = json.dumps({"metadata": {"resourceVersion": str(self._version)}, "items": items})
        self.sent += len(text)
        return web.Response(text=text, content_type="application/json")

    async def _watch(self, request: web.Request, plural: str) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        watch = (plural, asyncio.Queue[str]())
        self._watches.add(watch)
        since = int(request.query["resourceVersion"])
        for (kind, _, _), existing in self.objects.items():
            if kind == plural and int(existing["metadata"]["resourceVersion"]) > since:
                watch[1].put_nowait(json.dumps({"type": "MODIFIED", "object": existing}))
        try:
            while True:
                await response.write((await watch[1].get()).encode() + b"\n")
        except ConnectionError:
            return response
        finally:
            self._watches.discard(watch)

    def _notify(self, plural: str, type_: str, body: Object) -> None:
        for kind, queue in self._watches:
            if kind == plural:
                queue.put_nowait(json.dumps({"type": type_, "object": body}))


def _merged(body: Object, patch: Object) -> Object:
    for key, value in patch.items():
        if value is None:
            body.pop(key, None)
        elif isinstance(value, dict):
            body[key] = _merged(dict(body.get(key) or {}), value)
        else:
            body[key] = value
    return body
