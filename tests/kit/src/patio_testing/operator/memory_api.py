"""An API server in memory, behind HTTP: what it has is a dictionary, and what it is asked is counted.

It knows no kind: an object is where its path says. Lists take label selectors of equality, watches tell of every write,
server-side apply stores what is applied with the fields' owner beside it.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from kubernetes.aio import client

from patio_kube.client import KubeClient

Object = dict[str, Any]

ROOT = "/apis/workloads.x-k8s.io/v1alpha2"
GROUPS = f"{ROOT}/namespaces/team/rolebasedgroups"
PROFILES = f"{ROOT}/clusterengineruntimeprofiles"
STATEFUL_SETS = "/apis/apps/v1/namespaces/team/statefulsets"
PODS = "/api/v1/namespaces/team/pods"


def role(name: str = "w", **fields: Any) -> Object:
    """A role of one pod each."""
    template = {"spec": {"containers": [{"name": "e", "image": "i"}]}}
    return {"name": name, "replicas": 1, "standalonePattern": {"template": template}} | fields


def group(name: str, *roles: Object, **metadata: Any) -> Object:
    """A RoleBasedGroup of one role unless some are given."""
    return {
        "apiVersion": "workloads.x-k8s.io/v1alpha2",
        "kind": "RoleBasedGroup",
        "metadata": {"name": name, **metadata},
        "spec": {"roles": list(roles or (role(),))},
    }


def profile(name: str, **status: Any) -> Object:
    """A profile that adds nothing, with a status."""
    return {"kind": "ClusterEngineRuntimeProfile", "metadata": {"name": name}, "spec": {}, "status": status}


class MemoryApi:
    """The server; `objects` is by path."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.requests: Counter[str] = Counter()
        """Requests by method, and by the plural they are about; watches apart."""
        self.latency = 0.0
        self.fast = ""
        """A part of a path that is answered at once."""
        self.at_once = self.most_at_once = 0
        self.refused: dict[str, int] = {}
        """Statuses by path."""
        self.version = 1
        self._watches: list[tuple[str, asyncio.Queue[str | None]]] = []
        self._event_lines: list[tuple[int, str, str]] = []
        """Every event: its version, its object's path and its line, for watches that begin later."""

    @property
    def writes(self) -> int:
        """How many requests changed something, events apart."""
        return sum(
            number
            for request, number in self.requests.items()
            if request.split()[0] in ("PATCH", "POST", "PUT", "DELETE") and request.split()[1] != "events"
        )

    def put(self, collection: str, body: Object) -> Object:
        """Store an object under a collection's path, and tell the watches."""
        metadata = body["metadata"]
        path = f"{collection}/{metadata['name']}"
        self.version += 1
        known = path in self.objects
        stored = copy.deepcopy(body)
        if "/namespaces/" in collection:
            stored["metadata"]["namespace"] = collection.split("/namespaces/")[1].split("/")[0]
        stored["metadata"].setdefault("uid", f"uid-{path}-{self.version}")
        stored["metadata"]["resourceVersion"] = str(self.version)
        if not known or self.objects[path].get("spec") != stored.get("spec"):
            stored["metadata"]["generation"] = self.objects.get(path, {}).get("metadata", {}).get("generation", 0) + 1
        self.objects[path] = stored
        self._notify("MODIFIED" if known else "ADDED", path)
        return stored

    def remove(self, path: str) -> None:
        """Delete an object, and tell the watches."""
        self.version += 1
        self.objects[path]["metadata"]["resourceVersion"] = str(self.version)
        self._notify("DELETED", path)
        del self.objects[path]

    def _notify(self, type_: str, path: str) -> None:
        line = json.dumps({"type": type_, "object": self.objects[path]})
        self._event_lines.append((self.version, path, line))
        for collection, queue in self._watches:
            if _is_in(path, collection):
                queue.put_nowait(line)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request."""
        path = request.path
        if "watch" in request.query:
            return await self._watch(request)
        plural = path.split("/namespaces/")[-1].split("/")[1] if "/namespaces/" in path else path.split("/")[-1]
        self.requests[f"{request.method} {plural}"] += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.latency and not (self.fast and self.fast in path):
                await asyncio.sleep(self.latency)
            status, body = self._answered(request, await request.json() if request.can_read_body else None)
        finally:
            self.at_once -= 1
        return web.json_response(body, status=status)

    def _answered(self, request: web.Request, body: Any) -> tuple[int, Object]:
        path = request.path.removesuffix("/status")
        if path in self.refused:
            return self.refused[path], {"message": f"{path} is refused"}
        if request.method == "POST":
            if "dryRun" in request.query:
                return 201, body
            entry: Object = {"manager": request.query.get("fieldManager"), "operation": "Update", "fieldsV1": {}}
            self.put(path, body | {"metadata": body["metadata"] | {"managedFields": [entry]}})
            return 201, self.objects[f"{path}/{body['metadata']['name']}"]
        if request.method == "PATCH" and "apply" in request.headers["Content-Type"]:
            return 200, self._applied(path, body)
        if path not in self.objects:
            if request.method == "GET" and not self._is_object(path):
                return 200, self._listed(path, request.query)
            return 404, {"message": f"{path} not found"}
        if request.method == "PATCH":
            merged = _merged(self.objects[path], body)
            return 200, self.put(path.rsplit("/", 1)[0], merged)
        if request.method == "DELETE":
            deleted = self.objects[path]
            self.remove(path)
            return 200, deleted
        return 200, self.objects[path]

    def _applied(self, path: str, body: Object) -> Object:
        before = self.objects.get(path, {"metadata": {}})
        entry = {"manager": "patio-operator", "operation": "Apply", "fieldsV1": _fields(body)}
        after = _merged(before, body)
        after["metadata"]["managedFields"] = [
            *(entry for entry in before["metadata"].get("managedFields", []) if entry["manager"] != "patio-operator"),
            entry,
        ]
        return before if after == before else self.put(path.rsplit("/", 1)[0], after)

    def _is_object(self, path: str) -> bool:
        """Tell whether a path is that of an object, by the number of its parts."""
        parts = path.strip("/").split("/")
        root = 2 if parts[0] == "api" else 3
        return len(parts) - root in ((4,) if "namespaces" in parts else (2,))

    def _listed(self, collection: str, query: Any) -> Object:
        requirements = [
            requirement.split("=") for requirement in query.get("labelSelector", "").split(",") if requirement
        ]
        named = query.get("fieldSelector", "").removeprefix("metadata.name=")
        items = [
            body
            for path, body in self.objects.items()
            if _is_in(path, collection)
            and (not named or body["metadata"]["name"] == named)
            and all(
                (body["metadata"].get("labels") or {}).get(key[0])
                in (key[1:] or [*body["metadata"].get("labels", {}).values()])
                for key in requirements
            )
        ]
        return {"items": items, "metadata": {"resourceVersion": str(self.version)}}

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        since = int(request.query.get("resourceVersion") or self.version)
        for version, path, event_line in self._event_lines:
            if version > since and _is_in(path, request.path):
                queue.put_nowait(event_line)
        self._watches.append((request.path, queue))
        response = web.StreamResponse()
        await response.prepare(request)
        while (line := await queue.get()) is not None:
            await response.write(line.encode() + b"\n")
        return response

    def end(self) -> None:
        """End the watches."""
        for _, queue in self._watches:
            queue.put_nowait(None)


def _is_in(path: str, collection: str) -> bool:
    """Tell whether an object is in a collection: of its namespace, or of all."""
    own = path.rsplit("/", 1)[0]
    if own == collection:
        return True
    root, _, rest = own.partition("/namespaces/")
    return bool(rest) and f"{root}/{rest.split('/')[1]}" == collection


def _merged(before: Any, patch: Any) -> Any:
    if not isinstance(patch, dict) or not isinstance(before, dict):
        return copy.deepcopy(patch)
    after = dict(before)
    for key, value in patch.items():
        if value is None:
            after.pop(key, None)
        else:
            after[key] = _merged(before.get(key), value)
    return after


def _fields(body: Any) -> Any:
    return {f"f:{key}": _fields(value) for key, value in body.items()} if isinstance(body, dict) else {}


@asynccontextmanager
async def serving(api: MemoryApi) -> AsyncIterator[str]:
    """Serve; yield the address."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    try:
        yield f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]
    finally:
        api.end()
        await runner.cleanup()


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[KubeClient]:
    """Connect to it."""
    cluster = KubeClient(client.ApiClient(client.Configuration(host=address)), "patio-operator")
    try:
        yield cluster
    finally:
        await cluster.close()
