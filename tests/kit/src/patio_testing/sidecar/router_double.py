"""A router for tests, in this process: `/workers` as sglang-router 0.3.2 and smg 1.13.0 answer it.

    double = RouterDouble("smg", alive={"http://10.0.0.1:8000"})
    async with httpx.AsyncClient(mounts={"all://router": httpx.ASGITransport(app=double.app)}) as http: ...

Compared with the recordings in `sidecar/tests/topology/test_router_double.py`. What the real ones do over time is
ordered by tests: `finish` ends what is in progress, `forget` is a restart.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route


@dataclass
class Listed:
    """A worker in one of its states: pending, failed, ready, draining."""

    id: str
    url: str
    body: dict[str, Any]
    status: str
    healthy: bool = True
    message: str | None = None


@dataclass
class RouterDouble:
    kind: str
    alive: set[str] = field(default_factory=set)
    """Engines that answer; workers elsewhere stay pending."""
    at_once: bool = True
    """Whether orders are carried out before their answer is read."""
    pairs: bool = False
    """Started with --pd-disaggregation."""
    key: str | None = None
    refuse: bool = False
    """Whether orders are answered 400."""
    broken: Response | None = None
    """What every request is answered."""
    workers: dict[str, Listed] = field(default_factory=dict)
    requests: list[tuple[str, str, Any]] = field(default_factory=list)

    @property
    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/workers", self._workers, methods=["GET", "POST"]),
                Route("/workers/{id}", self._worker, methods=["GET", "DELETE"]),
                Route("/readiness", self._readiness),
                Route("/get_server_info", self._info),
            ]
        )

    def orders(self, method: str = "POST") -> list[Any]:
        return [body for verb, _, body in self.requests if verb == method]

    def forget(self) -> None:
        """Lose everything, as a restart does."""
        self.workers.clear()

    def finish(self) -> None:
        """End what is in progress: additions of workers that answer, and drains."""
        for worker in list(self.workers.values()):
            if worker.status == "draining":
                del self.workers[worker.id]
            elif worker.status == "pending" and worker.url in self.alive:
                worker.status = "ready"

    def fail(self, message: str) -> None:
        """Let every addition in progress end in an error, which smg then forgets."""
        for worker in list(self.workers.values()):
            if worker.status == "pending" and self._smg:
                del self.workers[worker.id]
            elif worker.status == "pending":
                worker.status, worker.message = "failed", message

    def listed(self) -> dict[str, Listed]:
        return {worker.url: worker for worker in self.workers.values() if worker.status in ("ready", "draining")}

    @property
    def _smg(self) -> bool:
        return self.kind == "smg"

    def _find(self, url: str) -> Listed | None:
        return next((worker for worker in self.workers.values() if worker.url == url), None)

    async def _refused(self, request: Request) -> Response | None:
        text = await request.body()
        self.requests.append((request.method, request.url.path, json.loads(text) if text else None))
        if self.broken is not None:
            return self.broken
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            return Response(status_code=401)
        return None

    async def _workers(self, request: Request) -> Response:
        refused = await self._refused(request)
        if refused is not None:
            return refused
        if request.method == "POST":
            return self._add(self.requests[-1][2])
        shown = [self._show(worker, by_id=False) for worker in self.listed().values()]
        kinds = [worker["worker_type"] for worker in shown]
        stats = {f"{kind}_count": kinds.count(kind) for kind in ("prefill", "decode", "regular")}
        return JSONResponse({"workers": shown, "total": len(shown), "stats": stats})

    def _add(self, body: dict[str, Any]) -> Response:
        url = body.get("url")
        if self.refuse:
            return JSONResponse({"error": "not you", "code": "BAD_REQUEST"}, 400)
        if url is None:
            return (
                JSONResponse({"error": "missing field `url`", "code": "BAD_REQUEST"}, 400)
                if self._smg
                else (PlainTextResponse("missing field `url`", 422))
            )
        if self._smg and not url.startswith(("http://", "https://")):
            return JSONResponse({"error": f"Invalid value for field 'worker_url': {url}", "code": "BAD_REQUEST"}, 400)
        listed = self._find(url)
        if listed is None:
            at_once = self.at_once and url in self.alive
            listed = Listed(str(uuid.uuid4()), url, body, "ready" if at_once else "pending")
            self.workers[listed.id] = listed
        elif self._smg:
            code = "WORKER_CREATE_IN_PROGRESS" if listed.status == "pending" else "WORKER_ALREADY_EXISTS"
            return JSONResponse({"error": f"Worker at URL '{url}' with ID {listed.id}.", "code": code}, 409)
        elif listed.status == "ready":
            listed.message = f"Worker {url} already exists"
        elif listed.status == "failed":
            listed.status = "pending"
        path = f"/workers/{listed.id}"
        accepted = {"status": "accepted", "worker_id": listed.id, "url": url, "location": path, "message": "queued"}
        return JSONResponse(accepted, 202)

    async def _worker(self, request: Request) -> Response:
        refused = await self._refused(request)
        if refused is not None:
            return refused
        worker_id = request.path_params["id"]
        try:
            uuid.UUID(worker_id)
        except ValueError:
            return JSONResponse({"error": f"Invalid worker_id '{worker_id}'", "code": "BAD_REQUEST"}, 400)
        worker = self.workers.get(worker_id)
        if worker is None:
            return JSONResponse({"error": f"Worker {worker_id} not found", "code": "WORKER_NOT_FOUND"}, 404)
        if request.method == "GET":
            return JSONResponse(self._show(worker, by_id=True))
        if worker.status in ("pending", "failed"):
            pass  # accepted and then not carried out: neither router can remove what it has not added
        elif self._smg:
            worker.status = "draining"
        else:
            del self.workers[worker_id]
        return JSONResponse({"status": "accepted", "worker_id": worker_id, "message": "queued"}, 202)

    def _show(self, worker: Listed, by_id: bool) -> dict[str, Any]:
        unready = worker.status in ("pending", "failed")
        shown: dict[str, Any] = {"id": worker.id, "url": worker.url}
        kind = worker.body.get("worker_type", "regular")
        if self._smg:
            # Its kind is not known to smg before the worker has answered.
            shown |= {"worker_type": "regular" if unready else kind, "connection_mode": "http", "status": worker.status}
        else:
            shown |= {
                "worker_type": "unknown" if unready else kind,
                "connection_mode": "unknown" if unready else "HTTP",
            }
        if worker.body.get("bootstrap_port") and not unready:
            shown["bootstrap_port"] = worker.body["bootstrap_port"]
        shown |= {"is_healthy": worker.status == "ready" and worker.healthy, "load": 0, "priority": 50, "cost": 1.0}
        job = {"pending": "processing", "draining": "processing", "failed": "failed"}.get(worker.status)
        if worker.status == "ready" and worker.message is not None:
            job = "failed"
        if by_id and job is not None:
            type_ = "RemoveWorker" if worker.status == "draining" else "AddWorker"
            body = {
                "job_type": type_,
                "worker_url": worker.url,
                "status": job,
                "message": worker.message,
                "timestamp": 1,
            }
            shown["job_status"] = body
        return shown

    async def _readiness(self, request: Request) -> Response:
        kinds = {worker.body.get("worker_type", "regular") for worker in self.listed().values() if worker.healthy}
        ready = {"prefill", "decode"} <= kinds if self.pairs else bool(kinds)
        healthy = len(self.listed())
        if not ready:
            return JSONResponse({"status": "not ready", "reason": "insufficient healthy workers"}, 503)
        return JSONResponse({"status": "ready", "healthy_workers": healthy, "total_workers": healthy})

    async def _info(self, request: Request) -> Response:
        if not self._smg:
            return JSONResponse({"router_manager": True, "routers_count": 1, "workers_count": len(self.workers)})
        kinds = {worker.body.get("worker_type", "regular") for worker in self.listed().values()}
        if kinds & ({"prefill", "decode"} if self.pairs else {"regular"}):
            return JSONResponse({"model_path": "/models/tiny"})
        error = {"type": "server_error", "code": "no_workers", "message": "No workers are available", "param": None}
        return JSONResponse({"error": error}, 503)
