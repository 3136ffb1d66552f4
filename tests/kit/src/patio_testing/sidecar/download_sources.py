"""Sources of downloads for tests: a real S3 server (moto), a double of the Hub, and a proxy that counts and slows."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

ACCESS_KEY = "AKIDTESTTESTTEST"
SECRET_KEY = "s3kr3tS3kr3tS3kr3t/with+signs"
TOKEN = "hf_tokenTOKENtokenTOKEN"


def content(size: int, seed: int = 1) -> bytes:
    """Return bytes that look like weights: no two megabytes of them the same."""
    block = b"".join(hashlib.sha256(f"{seed}-{index}".encode()).digest() for index in range(min(size // 32 + 1, 8192)))
    blocks = [block[index % 251 :] + block[: index % 251] for index in range(size // len(block) + 1)]
    return b"".join(blocks)[:size]


@dataclass
class S3Server:
    """A real S3 server, in this process."""

    url: str
    client: Any

    def put(self, bucket: str, objects: dict[str, bytes]) -> None:
        with contextlib.suppress(self.client.exceptions.BucketAlreadyOwnedByYou):
            self.client.create_bucket(Bucket=bucket)
        for key, body in objects.items():
            self.client.put_object(Bucket=bucket, Key=key, Body=body)


@contextlib.contextmanager
def s3_server(address: str = "127.0.0.1") -> Iterator[S3Server]:
    import boto3  # type: ignore[import-untyped]
    from botocore.config import Config
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address=address, port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(s3={"addressing_style": "path"}),
    )
    try:
        yield S3Server(url, client)
    finally:
        server.stop()


@dataclass
class Proxy:
    """A TCP proxy in front of a server: counts what comes back, and slows it down when asked to."""

    target: tuple[str, int]
    port: int = 0
    received: int = 0
    """Bytes that came back through it."""
    connections: int = 0
    rate: float | None = None
    """Bytes a second, for each connection."""
    cut_after: int | None = None
    """Cut the next connection that has carried so many bytes, once."""
    refuse: bool = False
    _listening: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        # Small, so that what a killed reader never read was hardly sent.
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            if self.refuse:
                near.close()
                continue
            self.connections += 1
            far = socket.create_connection(self.target)
            threading.Thread(target=self._up, args=(near, far), daemon=True).start()
            threading.Thread(target=self._down, args=(far, near), daemon=True).start()

    def _up(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := near.recv(65536):
                far.sendall(data)
            far.shutdown(socket.SHUT_WR)

    def _down(self, far: socket.socket, near: socket.socket) -> None:
        carried = 0
        with contextlib.suppress(OSError):
            while data := far.recv(65536):
                near.sendall(data)
                carried += len(data)
                with self._lock:
                    self.received += len(data)
                    cut = self.cut_after is not None and carried >= self.cut_after
                    if cut:
                        self.cut_after = None
                if cut:
                    break
                if self.rate is not None:
                    time.sleep(len(data) / self.rate)
        for side in (near, far):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
            side.close()


@contextlib.contextmanager
def proxy_to(url: str) -> Iterator[Proxy]:
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    proxy = Proxy((parts.hostname, parts.port))
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


@dataclass
class Hub:
    """A double of the Hugging Face Hub, as far as its documented API is used to read a repository.

    Files of ten bytes or more whose name ends in .safetensors are kept in LFS: resolving them redirects to another
    origin, where the token must not go.
    """

    url: str = ""
    cdn: str = ""
    """The other origin, to which large files are redirected."""
    files: dict[str, bytes] = field(default_factory=dict)
    repository: str = "team/adapter"
    revisions: tuple[str, ...] = ("main",)
    token: str | None = None
    """Wanted in every call, if set."""
    gated: bool = False
    lists: dict[str, Any] = field(default_factory=dict)
    """Sibling entries to list in place of the true ones, by name."""
    faults: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Statuses and headers to answer with first, one a call."""
    ignores_range: bool = False
    fixed_commit: str | None = None
    calls: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Method, path and headers of every call, those to the other origin with `cdn` in front."""

    @property
    def commit(self) -> str:
        if self.fixed_commit is not None:
            return self.fixed_commit
        listing = json.dumps([(name, hashlib.sha256(body).hexdigest()) for name, body in sorted(self.files.items())])
        return hashlib.sha1(listing.encode()).hexdigest()

    def lfs(self, name: str) -> bool:
        return name.endswith(".safetensors") and len(self.files[name]) >= 10

    def sibling(self, name: str) -> dict[str, Any]:
        body = self.files[name]
        git = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
        entry: dict[str, Any] = {"rfilename": name, "size": len(body), "blobId": git}
        if self.lfs(name):
            sha = hashlib.sha256(body).hexdigest()
            entry["lfs"] = {"sha256": sha, "size": len(body), "pointerSize": 134}
        return entry


class _HubHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    is_cdn: bool

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        hub = self.hub
        path = unquote(urlsplit(self.path).path)
        kind = "cdn" if self.is_cdn else ""
        hub.calls.append((self.command, kind + self.path, dict(self.headers.items())))
        if hub.faults:
            status, headers = hub.faults.pop(0)
            return self._answer(status, b"{}", headers)
        if self.is_cdn:
            return self._file(hub.files[path.removeprefix("/")])
        if hub.token is not None and self.headers.get("authorization") != f"Bearer {hub.token}":
            # The Hub does not say whether a repository exists to whoever may not see it.
            return self._answer(401, b"{}", {"X-Error-Message": "Invalid username or password."})
        if hub.gated:
            return self._answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
        listing = re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path)
        if listing:
            if listing.group(1) != hub.repository:
                return self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            if listing.group(2) not in (*hub.revisions, hub.commit):
                return self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            assert parse_qs(urlsplit(self.path).query).get("blobs")
            siblings = list(hub.lists.values()) or [hub.sibling(name) for name in hub.files]
            body = json.dumps({"id": hub.repository, "sha": hub.commit, "siblings": siblings}).encode()
            return self._answer(200, body, {"Content-Type": "application/json"})
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if not file or file.group(2) != hub.commit or file.group(3) not in hub.files:
            return self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        name = file.group(3)
        if hub.lfs(name):
            return self._answer(302, b"", {"Location": f"{hub.cdn}/{name}"})
        return self._file(hub.files[name])

    def _file(self, body: bytes) -> None:
        requested = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        if requested and not self.hub.ignores_range:
            start = int(requested.group(1))
            if start >= len(body):
                return self._answer(416, b"", {})
            headers = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
            return self._answer(206, body[start:], headers)
        return self._answer(200, body, {"Accept-Ranges": "bytes"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        with contextlib.suppress(OSError):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@contextlib.contextmanager
def running_hub(files: dict[str, bytes], **fields: Any) -> Iterator[Hub]:
    hub = Hub(files=files, **fields)
    cdn = _Server(("127.0.0.1", 0), type("Cdn", (_HubHandler,), {"hub": hub, "is_cdn": True}))
    main = _Server(("127.0.0.1", 0), type("Main", (_HubHandler,), {"hub": hub, "is_cdn": False}))
    hub.cdn = f"http://127.0.0.1:{cdn.server_address[1]}"
    hub.url = f"http://127.0.0.1:{main.server_address[1]}"
    threads = [threading.Thread(target=server.serve_forever, args=(0.05,)) for server in (cdn, main)]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server in (cdn, main):
            server.shutdown()
            server.server_close()


def workers(parent: int | None = None) -> list[int]:
    """Return the ids of the download workers that a process started; None: of this one."""
    parent = os.getpid() if parent is None else parent
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(stat[1]) == parent and stat[0] != "Z" and b"patio.downloads.worker" in _argv(entry):
                found.append(int(entry.name))
    return found


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def kill_worker(parent: int | None = None) -> None:
    (pid,) = workers(parent)
    os.kill(pid, signal.SIGKILL)


def below(folder: Path) -> set[str]:
    """Return every path below a folder, links included and not followed."""
    return {
        os.path.relpath(os.path.join(path, name), folder)
        for path, folders, names in os.walk(folder)
        for name in [*folders, *names]
    }


def _argv(entry: Path) -> bytes:
    return (entry / "cmdline").read_bytes()
