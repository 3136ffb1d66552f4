"""`SidecarClient`: one method per route, models in, models out.

Used by the operator, fit for anyone. It owns no connections: the caller's `httpx.AsyncClient` is used and stays open.
It knows nothing of the sidecar but the models of this package. Everything it raises is a `SidecarError` (`errors`).
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from patio_protocol.adapters import (
    AdapterList,
    AdapterReport,
    ErrorBody,
    LoadRequest,
    Readiness,
    ServerStatus,
    UnloadAnswer,
    UnloadRequest,
)
from patio_protocol.credentials import HANDSHAKE_PATH, HandshakeAnswer, HandshakeRequest
from patio_protocol.downloads import DownloadList, DownloadReport, DownloadRequest
from patio_protocol.error_text import error_message
from patio_protocol.errors import RejectedError, UnreachableError
from patio_protocol.topology import DrainAnswer, DrainRequest, LeaseRequest, Registration, TopologyReport

_M = TypeVar("_M", bound=BaseModel)

ANSWER_SECONDS = 5.0
"""How long a sidecar may take to answer, on top of the wait that a call asks for."""
CONNECT_SECONDS = 3.0
LARGEST = 16 * 2**20
"""Bytes of an answer: any process may answer at an address."""
LONGEST_DRAIN = 3600.0
"""Seconds that a drain may take whose deadline only the sidecar knows."""


class SidecarClient:
    """A sidecar, by its base URL; outside its pod, `auth` signs the calls that change something."""

    def __init__(self, base_url: str, http: httpx.AsyncClient, auth: httpx.Auth | None = None) -> None:
        self._base = base_url.rstrip("/")
        self._http = http
        self._auth = auth or httpx.USE_CLIENT_DEFAULT

    async def adapters(self, revision: str | None = None, wait: float = 0) -> AdapterList:
        """Return every adapter wanted or present; given a revision, wait up to `wait` seconds for another one."""
        query: dict[str, str | float] = {} if revision is None else {"revision": revision, "wait": wait}
        return await self._call("GET", "/v1/lora_adapters", AdapterList, wait, query=query)

    async def load(self, request: LoadRequest) -> AdapterReport:
        """Load an adapter. The report says `Loaded`, or how far it is when `request.wait` ran out first."""
        return await self._call("POST", "/v1/load_lora_adapter", AdapterReport, request.patience, body=request)

    async def handshake(self, request: HandshakeRequest) -> HandshakeAnswer:
        """Have the sidecar prove which pod it is in, to the holder of a key."""
        return await self._call("POST", HANDSHAKE_PATH, HandshakeAnswer, 0, body=request)

    async def unload(self, request: UnloadRequest) -> UnloadAnswer:
        """Unload an adapter. The answer says whether the engine has unloaded it."""
        return await self._call("POST", "/v1/unload_lora_adapter", UnloadAnswer, request.wait, body=request)

    async def download(self, request: DownloadRequest) -> DownloadReport:
        """Fetch a folder. Without `async_download` the answer comes when it is there, however long that takes."""
        wait = 0 if request.async_download else None
        return await self._call("POST", "/v1/download_model", DownloadReport, wait, body=request)

    async def downloads(self) -> DownloadList:
        """Return every download in progress and the last that ended."""
        return await self._call("GET", "/v1/downloads", DownloadList, 0)

    async def download_report(self, download_id: str) -> DownloadReport:
        """Return how one download stands."""
        return await self._call("GET", f"/v1/downloads/{download_id}", DownloadReport, 0)

    async def cancel_download(self, download_id: str) -> DownloadReport:
        """Stop a download, or strike one that is over off the list."""
        return await self._call("DELETE", f"/v1/downloads/{download_id}", DownloadReport, 0)

    async def ready(self) -> Readiness:
        """Return whether the pod may get requests; not being ready is an answer, not an error."""
        return await self._call("GET", "/ready", Readiness, 0, also=503)

    async def status(self) -> ServerStatus:
        """Return what the sidecar is and what it stands beside."""
        return await self._call("GET", "/", ServerStatus, 0)

    async def topology(self) -> TopologyReport:
        """Return how this pod stands with its routers, as the sidecar read it back; beside a router, all leases."""
        return await self._call("GET", "/v1/topology", TopologyReport, 0)

    async def drain(self, timeout: float | None = None) -> DrainAnswer:
        """Take the pod out of service and wait for its requests, at most so many seconds (None: the pod's setting)."""
        wait = LONGEST_DRAIN if timeout is None else timeout
        return await self._call("POST", "/v1/drain", DrainAnswer, wait, body=DrainRequest(timeout=timeout))

    async def renew_lease(self, lease_id: str, request: LeaseRequest) -> Registration:
        """Beside a router: keep a worker registered for some time; return how it stands."""
        return await self._call("PUT", f"/v1/topology/leases/{lease_id}", Registration, 0, body=request)

    async def release_lease(self, lease_id: str) -> Registration | None:
        """Beside a router: give a lease back. Return how its worker leaves; None once it is gone."""
        try:
            return await self._call("DELETE", f"/v1/topology/leases/{lease_id}", Registration, 0)
        except RejectedError as error:
            if error.status == 404 and error.code == "NotFound":
                return None
            raise

    async def _call(
        self,
        method: str,
        path: str,
        model: type[_M],
        wait: float | None,
        *,
        query: dict[str, str | float] | None = None,
        body: BaseModel | None = None,
        also: int | None = None,
    ) -> _M:
        seconds = None if wait is None else ANSWER_SECONDS + wait
        # Unpacked, a few bytes become millions.
        headers = {"accept-encoding": "identity"}
        if method != "GET":
            # Also where there is no body: over loopback it tells the call from one that a web page could send.
            headers["content-type"] = "application/json"
        content = bytearray()
        try:
            async with (
                asyncio.timeout(None if seconds is None else CONNECT_SECONDS + seconds),
                self._http.stream(
                    method,
                    self._base + path,
                    params=query,
                    content=None if body is None else body.model_dump_json(exclude_none=True, exclude_unset=True),
                    headers=headers,
                    auth=self._auth,
                    timeout=httpx.Timeout(seconds, connect=CONNECT_SECONDS),
                    follow_redirects=False,
                ) as response,
            ):
                if response.headers.get("content-encoding", "identity") != "identity":
                    raise _unreadable(response)
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > LARGEST:
                        raise _unreadable(response)
        except (httpx.HTTPError, TimeoutError) as error:
            raise UnreachableError(f"{method} {self._base}{path}: {error_message(error)}") from error
        if response.is_success or response.status_code == also:
            try:
                return model.model_validate_json(bytes(content))
            except ValidationError as error:
                raise _unreadable(response) from error
        try:
            detail = ErrorBody.model_validate_json(bytes(content)).error
        except ValidationError:
            raise _unreadable(response) from None
        raise RejectedError(detail.code, detail.message, detail.retryable, response.status_code)


def _unreadable(response: httpx.Response) -> RejectedError:
    """What answered does not speak this API: another program on the port, a proxy in between."""
    message = f"{response.request.url} answered {response.status_code}, and the answer is not one of the sidecar's API"
    return RejectedError("UnreadableAnswer", message, True, response.status_code)
