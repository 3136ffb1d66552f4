"""The HTTP of the routers: sglang-router 0.3.2 and smg 1.13.0, told apart by what they answer, never by a version.

Below `registrar`, above httpx. It turns whatever the network and the router do into `Entry`s and `RouterError`s, and
must never let a key or an httpx exception out. What a router answers is text of others: of a size, within a time, and
what cannot be read of a list is left out of it.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from patio.network import INCONCLUSIVE, cause_of
from patio.rejection import Rejection
from patio.topology.planner import Entry, Reason
from patio.topology.registered_worker import Kind, Worker
from patio.topology.settings import Endpoint
from patio_protocol.error_text import error_message

log = logging.getLogger(__name__)

ANSWER_SECONDS = 5.0
"""For the whole of an answer."""
CONNECT_SECONDS = 2.0
LARGEST = 4 * 2**20
"""Bytes of an answer: thousands of workers."""
LONGEST_MESSAGE = 500

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class RouterError(Exception):
    """A call to a router that failed."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection.message)
        self.rejection = rejection


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Job(_Read):
    job_type: str = ""
    status: str = ""
    message: str | None = None


class _Worker(_Read):
    id: str = Field(min_length=1, max_length=256)
    url: str = Field(max_length=2048)
    worker_type: str = Field(default="regular", max_length=64)
    bootstrap_port: int | None = None
    connection_mode: str = ""
    is_healthy: bool = False
    status: str = ""
    job_status: _Job | None = None


class _Workers(_Read):
    workers: tuple[object, ...]


class _Accepted(_Read):
    worker_id: str | None = Field(default=None, max_length=256)


class _Server(_Read):
    routers_count: int | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a router said, whole."""

    status_code: int
    content: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status_code < 300

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")


class Router:
    """One router. The caller's HTTP client is used and stays open."""

    def __init__(self, endpoint: Endpoint, http: httpx.AsyncClient, key: str | None) -> None:
        self._endpoint = endpoint
        self._urls = list(endpoint.urls)
        self._http = http
        self._headers = {"accept-encoding": "identity"}
        if key is not None:
            self._headers["authorization"] = f"Bearer {key}"
        self._unreadable = 0
        """Workers of the last list that could not be read."""

    @property
    def name(self) -> str:
        """What it is called in reports."""
        return self._endpoint.name

    async def workers(self) -> dict[str, Entry]:
        """Return what the router lists, by URL; raise `RouterError`. What smg has not finished adding is not listed."""
        response = await self._call("GET", "/workers")
        if not response.is_success:
            raise self._rejection(response)
        try:
            listed = _Workers.model_validate_json(response.content).workers
        except ValidationError:
            raise self._not_a_router(response) from None
        workers = []
        for entry in listed:
            try:
                workers.append(_Worker.model_validate(entry))
            except ValidationError:
                continue
        unreadable = len(listed) - len(workers)
        if unreadable != self._unreadable:
            log.warning("unreadable workers in the router's list router=%s workers=%d", self.name, unreadable)
            self._unreadable = unreadable
        return {worker.url.rstrip("/"): _entry(worker, listed=True) for worker in workers}

    async def worker(self, worker_id: str) -> Entry | None:
        """Return one worker, listed or on its way; None when the router knows no such id. Raise `RouterError`."""
        response = await self._call("GET", f"/workers/{quote(worker_id, safe='')}")
        if response.status_code == 404:
            return None
        if not response.is_success:
            raise self._rejection(response)
        try:
            return _entry(_Worker.model_validate_json(response.content), listed=False)
        except ValidationError:
            raise self._not_a_router(response) from None

    async def add(self, worker: Worker) -> str | None:
        """Order a worker to be added; return the id under which to look for it. Raise `RouterError`.

        Nothing is added by that: both routers answer 202 first and try afterwards.
        """
        response = await self._call("POST", "/workers", worker.order())
        if response.status_code == 409:
            # smg 1.13.0: WORKER_ALREADY_EXISTS or WORKER_CREATE_IN_PROGRESS, with the id in the text.
            match = _ID.search(response.text)
            return match.group() if match else None
        if not response.is_success:
            raise self._rejection(response)
        try:
            return _Accepted.model_validate_json(response.content).worker_id
        except ValidationError:
            return None

    async def remove(self, worker_id: str) -> None:
        """Order a worker to be forgotten; one that is not there is no error. Raise `RouterError`."""
        response = await self._call("DELETE", f"/workers/{quote(worker_id, safe='')}")
        if not response.is_success and response.status_code != 404:
            raise self._rejection(response)

    async def ignores(self, kind: Kind) -> str | None:
        """Tell why the router sends nothing to a worker of this kind that it lists as healthy, if that can be seen.

        Both routers list workers of every kind, whatever mode they were started in (seen on 0.3.2 and 1.13.0). What
        gives the mode away: with --pd-disaggregation, `/readiness` wants a prefill and a decode worker; smg answers
        `/get_server_info` from a worker that it would route to; sglang-router says there how many routers it runs,
        and one of several (--enable-igw) may be for pairs. Raise `RouterError`.
        """
        ready = (await self._call("GET", "/readiness")).status_code
        if kind is Kind.REGULAR:
            if ready != 503:
                return None
            return (
                "The router lists the worker, but sends regular workers no requests: it runs with --pd-disaggregation."
            )
        info = await self._call("GET", "/get_server_info")
        message = (
            f"The router lists the worker, but sends {kind} workers no requests: it runs without --pd-disaggregation. "
            "Restart the router with --pd-disaggregation."
        )
        if info.status_code == 503 and "no_workers" in info.text:
            return message
        if ready != 200 or _routers_count(info) != 1:
            return None
        kinds = {entry.kind for entry in (await self.workers()).values() if entry.healthy}
        return None if {Kind.PREFILL, Kind.DECODE} <= kinds else message

    async def _call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> _Answer:
        failed: RouterError | None = None
        for url in tuple(self._urls):
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    response = await self._send(method, url, path, body)
            except (httpx.RequestError, httpx.InvalidURL, OSError, ValueError) as error:
                message = f"The router at {url} does not answer: {error_message(error)}."
                # A router that was not asked, or not believed, may send requests all the same.
                reason = Reason.ERROR if cause_of(error) in INCONCLUSIVE else Reason.UNREACHABLE
                failed = failed or RouterError(Rejection(reason, message))
                if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
                    continue
                break
            # Where it answered once, it is asked first from now on.
            self._urls.remove(url)
            self._urls.insert(0, url)
            return response
        assert failed is not None
        raise failed from None

    async def _send(self, method: str, url: str, path: str, body: Mapping[str, object] | None) -> _Answer:
        content = bytearray()
        timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
        async with self._http.stream(
            method, url + path, json=body, headers=self._headers, timeout=timeout, follow_redirects=False
        ) as response:
            async for chunk in response.aiter_raw():
                content += chunk
                if len(content) > LARGEST:
                    message = f"The router at {url} answered with more than {LARGEST} bytes."
                    raise RouterError(Rejection(Reason.ERROR, message))
            return _Answer(response.status_code, bytes(content))

    def _rejection(self, response: _Answer) -> RouterError:
        message = " ".join(response.text.split())[:LONGEST_MESSAGE] or "no message"
        where = f"The router at {self._urls[0]} answered {response.status_code}"
        if response.status_code in (401, 403):
            message = f"{where}: the key is missing or wrong. Set SGL_ROUTER_API_KEY to its --api-key."
            return RouterError(Rejection(Reason.UNAUTHORIZED, message, retryable=False))
        if response.status_code in (404, 405):
            return self._not_a_router(response)
        if 400 <= response.status_code < 500 and response.status_code not in (408, 425, 429):
            return RouterError(Rejection(Reason.REJECTED, f"{where}: {message}", retryable=False))
        return RouterError(Rejection(Reason.ERROR, f"{where}: {message}"))

    def _not_a_router(self, response: _Answer) -> RouterError:
        message = (
            f"{self._urls[0]} is not a router with /workers (sglang-router 0.3, smg 1): it answered "
            f"{response.status_code}."
        )
        return RouterError(Rejection(Reason.REJECTED, message, retryable=False))


def _entry(worker: _Worker, listed: bool) -> Entry:
    """Read one worker.

    Not listed: sglang-router 0.3.2 shows a pending order as `worker_type: unknown`, smg 1.13.0 as `status: pending`.
    """
    job = worker.job_status
    pending = not listed and (worker.worker_type == "unknown" or worker.status == "pending")
    failed = pending and job is not None and (job.job_type, job.status) == ("AddWorker", "failed")
    return Entry(
        id=worker.id,
        url=worker.url.rstrip("/"),
        kind=worker.worker_type,
        bootstrap_port=worker.bootstrap_port,
        healthy=worker.is_healthy,
        draining=worker.status == "draining",
        pending=pending,
        failed=(job.message or "no message")[:LONGEST_MESSAGE] if failed and job is not None else None,
    )


def _routers_count(response: _Answer) -> int | None:
    try:
        return _Server.model_validate_json(response.content).routers_count
    except ValidationError:
        return None
