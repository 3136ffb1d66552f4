"""`make fuzz`, the third part: calls from outside the pod, in every spelling of every route, none with a good proof.

Two halves with one source of attempts. In this process, against the application itself: the routes are taken from it,
and each is made to tell when it is reached, so that a new route is covered and is closed until it says otherwise. Over
raw sockets, against a sidecar as a process of its own beside an engine double, from an address that is not loopback.
Laws: no closed endpoint is reached and nothing changes, nothing is a 500, memory and open files do not grow.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import re
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import httpx
from fastapi import FastAPI
from nacl.signing import SigningKey
from starlette.types import ASGIApp, Receive, Scope, Send

from benchmarks.fuzz_api import running_sidecar
from patio.access.openness import To, openness_of
from patio.access.settings import AccessSettings
from patio.adapters.store import Store
from patio.app import assemble
from patio.downloads.settings import DownloadSettings
from patio.settings import Settings
from patio.topology.settings import Endpoint, Role, TopologySettings
from patio_protocol.authentication import EndorsementClaims, Header, ProofClaims, base64url, body_digest, signing_input

OUTSIDE = "10.1.2.3"
POD = "6d1f4c1e-8a55-4b38-9f0e-2f6f3c1b7d10"
OPERATOR = SigningKey((1).to_bytes(32, "big"))
STRANGER = SigningKey((2).to_bytes(32, "big"))
ROUTER_KEY = "the-key-of-the-router"
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE")
ODD_METHODS = ("CONNECT", "get", "Post", "GETT", "PROPFIND", "QUERY", "!#$%&'*+-.^_`|~")
CONTROL = ("%0A", "%0a", "%00", "%0D", "%0d%0a", "%09", "%7F", "%1B", "%C2%85", "%E2%80%A8", "%20", "%85")
ENDS = (
    "/",
    "//",
    "?",
    "%",
    "%2",
    "%zz",
    "\\",
    "%5c",
    "%2f",
    "%2F..",
    ";",
    ";a=b",
    ";/x",
    "#",
    ".",
    "..",
    "/.",
    "/..",
    "$",
)
PREFIXES = ("http://sidecar", "http://localhost:9091", "https://x@y", "//", "//sidecar", "/.", "/x/..", "*", "%2F", "")
QUERIES = (
    *("timeout=1", "timeout=nan", "timeout=-1", "timeout=1e999", "timeout=1&timeout=2", "timeout=%00", "timeout"),
    *("revision=x&wait=0.01", "revision=x&wait=nan", "revision=x&wait=inf", "wait=1e400", "revision=%ff&wait=0"),
    *("a=" + "b" * 3000, "%", "&&&=", "?", "x" * 9000),
)
TYPES = ("application/json", "APPLICATION/JSON", "text/plain", "application/x-www-form-urlencoded", "a/b+json", "", ";")
BODIES = (
    b"",
    b"{}",
    b"null",
    b'{"lora_name": "a", "lora_path": "/adapters/a"}',
    b'{"lora_name": "a", "source": "file:///etc", "wait": 0}',
    b'{"source": "file:///etc", "async_download": true}',
    b'{"timeout": 1}',
    b'{"timeout": NaN}',
    b'{"url": "http://a:1", "seconds": 60}',
    b'{"lora_name": "\\ud800"}',
    b"[" * 100_000,
    b'{"a":' * 5_000,
    b'["\\"]' + b"[" * 40,
    b"1" * 5_000,
    b"1e999999",
    b"\xff\xfe{\x00}\x00",
    b"\x00",
    b"x" * 70_000,
)


@dataclass(frozen=True)
class Attempt:
    """One call, as it is sent."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def __str__(self) -> str:
        return f"{self.method} {self.target[:300]!r} {dict(self.headers)} {self.body[:80]!r}"


@dataclass
class Answers:
    """What was answered."""

    statuses: Counter[int] = field(default_factory=Counter)
    reached: Counter[str] = field(default_factory=Counter)
    """Open endpoints, by method and path."""

    @property
    def total(self) -> int:
        """How many there were."""
        return sum(self.statuses.values())


class Attempts:
    """Makes attempts on the routes of an application."""

    def __init__(self, routes: Sequence[tuple[str, str]]) -> None:
        """`routes` are methods and paths."""
        self._routes = routes

    def make(self, rng: random.Random) -> Attempt:
        """Return one more."""
        method, path = rng.choice(self._routes)
        chance = rng.random()
        if chance < 0.3:
            method = rng.choice(METHODS)
        elif chance < 0.35:
            method = rng.choice(ODD_METHODS)
        path = path.replace("{download_id}", rng.choice(("1", "a%2Fb", "..", "%0A"))).replace("{lease_id}", "a.b")
        for _ in range(rng.choice((0, 0, 1, 1, 2, 3))):
            path = rng.choice(MUTATIONS)(path, rng)
        body = rng.choice(BODIES) if rng.random() < 0.5 else b""
        query = "?" + rng.choice(QUERIES) if rng.random() < 0.3 else ""
        target = path + query
        return Attempt(method, target, tuple(self._headers(rng, method, target, body)), body)

    def _headers(self, rng: random.Random, method: str, target: str, body: bytes) -> Iterator[tuple[str, str]]:
        if rng.random() < 0.7:
            yield "content-type", rng.choice(TYPES)
        if rng.random() < 0.1:
            yield "content-type", "application/json"
        if rng.random() < 0.3:
            name = rng.choice(("x-forwarded-for", "forwarded", "x-real-ip", "x-http-method-override", "x-original-url"))
            yield name, rng.choice(("127.0.0.1", "::1", "for=127.0.0.1", "DELETE", "/v1/drain"))
        if rng.random() < 0.1:
            yield "x-prometheus-scrape-timeout-seconds", rng.choice(("0.000001", "nan", "inf", "-1", "1e-300", "x"))
        if rng.random() < 0.1:
            yield "patio-endorsements", rng.choice((endorsement(), ",".join([endorsement()] * 40), ",,,", "a.b.c"))
        for _ in range(rng.choice((0, 0, 1, 1, 1, 2))):
            yield "authorization", _authorization(rng, method, target, body)


def _authorization(rng: random.Random, method: str, target: str, body: bytes) -> str:
    return rng.choice(
        (
            lambda: "Patio-Drain",
            lambda: "Patio-Drain x",
            lambda: "patio-drain  ",
            lambda: "Bearer x",
            lambda: "Basic eDp5",
            lambda: "Patio-Proof",
            lambda: "Patio-Proof a.b.c",
            lambda: "Patio-Proof " + proof(STRANGER, method, target, body),
            lambda: "Patio-Proof " + proof(STRANGER, method, target, body, base64url(bytes(OPERATOR.verify_key))),
            lambda: "Patio-Proof " + "A" * 20_000,
            lambda: "Patio-Proof " + proof(OPERATOR, "GET", "/v1/lora_adapters", b"another"),
        )
    )()


def proof(by: SigningKey, method: str, target: str, body: bytes, kid: str | None = None) -> str:
    """Sign a call."""
    now = time.time()
    claims = ProofClaims(
        aud=POD,
        iat=now,
        exp=now + 30,
        jti=f"fuzz-{random.getrandbits(64):020}",
        method=method[:16],
        target=target[:8192],
        body=body_digest(body),
    )
    text = signing_input(Header(typ="patio-proof", kid=kid or base64url(bytes(by.verify_key))), claims)
    return f"{text}.{base64url(by.sign(text.encode()).signature)}"


def endorsement() -> str:
    """Endorse the stranger's key by itself."""
    kid = base64url(bytes(STRANGER.verify_key))
    text = signing_input(Header(typ="patio-endorsement", kid=kid), EndorsementClaims(key=kid, iat=time.time()))
    return f"{text}.{base64url(STRANGER.sign(text.encode()).signature)}"


def _encode(path: str, rng: random.Random) -> str:
    at = rng.randrange(len(path)) if path else 0
    code = quote(path[at : at + 1], safe="") if not path[at : at + 1].isalnum() else f"%{ord(path[at]):02x}"
    return path[:at] + (code.upper() if rng.random() < 0.5 else code) + path[at + 1 :]


def _insert(of: Sequence[str]) -> Callable[[str, random.Random], str]:
    def insert(path: str, rng: random.Random) -> str:
        at = rng.choice((len(path), rng.randint(0, len(path))))
        return path[:at] + rng.choice(of) + path[at:]

    return insert


def _case(path: str, rng: random.Random) -> str:
    at = rng.randrange(len(path)) if path else 0
    return path[:at] + path[at : at + 1].swapcase() + path[at + 1 :]


MUTATIONS: tuple[Callable[[str, random.Random], str], ...] = (
    _encode,
    lambda path, rng: _encode(_encode(path, rng), rng),
    lambda path, rng: path.replace("/", rng.choice(("//", "/./", "/x/../", "%2f", "\\", "%5C", "%c0%af")), 2),
    _insert(CONTROL),
    _insert(CONTROL),
    _insert(ENDS),
    _case,
    lambda path, rng: rng.choice(PREFIXES) + path,
    lambda path, rng: path.upper(),
    lambda path, rng: path.replace("%", "%25"),
)


# --- in this process


def routes_of(app: FastAPI) -> list[tuple[str, str]]:
    """Return methods and paths of every route that the application has."""
    return [
        (method, route.path)  # type: ignore[attr-defined]
        for route in app.router.routes
        for method in sorted(getattr(route, "methods", None) or ("GET",))
    ]


def applications(folder: Path) -> Iterator[FastAPI]:
    """The sidecar's application beside an engine and beside a router, with the pages of its document."""
    access = AccessSettings(
        keys=(base64url(bytes(OPERATOR.verify_key)),), pod_uid=POD, drain_proof_sha256=body_digest(b"the-hooks-word")
    )
    router = TopologySettings(
        enabled=True, role=Role.SERVER, endpoints=(Endpoint(("http://127.0.0.1:9",)),), router_key=ROUTER_KEY
    )
    for topology in (TopologySettings(), router):
        settings = Settings(
            access=access, docs=True, topology=topology, downloads=DownloadSettings(root=folder), scrape_engine=False
        )
        yield assemble(settings, Store(None), httpx.AsyncClient(), asyncio.Event()).app


class ClosedReachedError(AssertionError):
    """An endpoint was reached that is not open."""


def watch(app: FastAPI, answers: Answers) -> None:
    """Have every route tell when it is reached, and closed ones go no further."""
    for route in app.router.routes:
        openness = openness_of(getattr(route, "endpoint", None))
        route.app = _watched(route.app, openness.to is To.EVERYONE, answers)  # type: ignore[attr-defined]


def _watched(app: ASGIApp, is_open: bool, answers: Answers) -> ASGIApp:
    async def reached(scope: Scope, receive: Receive, send: Send) -> None:
        where = f"{scope['method']} {scope['path']}"
        if not is_open:
            raise ClosedReachedError(where)
        answers.reached[where] += 1
        await app(scope, receive, send)

    return reached


async def call(app: FastAPI, attempt: Attempt, peer: str = OUTSIDE) -> tuple[int, bytes]:
    """Hand an attempt to the application as uvicorn does; return status and body."""
    raw, _, query = attempt.target.encode("latin-1").partition(b"?")
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("10.0.0.1", 9091),
        "client": (peer, 5),
        "scheme": "http",
        "method": attempt.method,
        "root_path": "",
        "path": unquote(raw.decode("latin-1")),
        "raw_path": raw,
        "query_string": query,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in attempt.headers],
        "state": {},
    }
    incoming: list[Mapping[str, Any]] = [{"type": "http.request", "body": attempt.body, "more_body": False}]
    sent: list[Mapping[str, Any]] = []

    async def receive() -> Any:
        return incoming.pop() if incoming else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


async def hold(app: FastAPI, attempt: Attempt, answers: Answers) -> None:
    """Call, and see that the laws hold."""
    status, body = await call(app, attempt)
    answers.statuses[status] += 1
    assert status < 500 or (status == 503 and unquote(attempt.target).startswith("/ready")), (
        f"{attempt} answered {status}: {body[:300]!r}"
    )


async def fuzz_application(app: FastAPI, count: int, chosen: int) -> Answers:
    """Send so many attempts to an application; raise what a broken law raises."""
    answers, rng = Answers(), random.Random(chosen)
    attempts = Attempts(routes_of(app))
    watch(app, answers)
    for _ in range(count):
        attempt = attempts.make(rng)
        try:
            await hold(app, attempt, answers)
        except ClosedReachedError as error:
            raise AssertionError(f"{attempt} reached {error}") from error
    return answers


# --- over sockets, against a process


def outside_address() -> str | None:
    """Return an address of this machine that is not loopback; None where it has none."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing
        address: str = probe.getsockname()[0]
        return None if address.startswith("127.") else address
    return None


def written(attempt: Attempt, rng: random.Random, last: bool) -> bytes:
    """Return an attempt as bytes, its framing now and then odd."""
    headers = [(name, value.replace("\n", " ")) for name, value in attempt.headers]
    body = attempt.body
    framing = rng.random()
    if framing < 0.15 and body:
        body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:10], body[10:]) if part) + b"0\r\n\r\n"
        headers.append(("transfer-encoding", "chunked"))
    elif body or framing < 0.5:
        headers.append(("content-length", str(len(body))))
    if framing > 0.97:
        headers.append(rng.choice((("upgrade", "websocket"), ("expect", "100-continue"), ("host", "again"))))
        headers.append(("connection", "upgrade"))
    if last:
        headers.append(("connection", "close"))
    head = (
        f"{attempt.method} {attempt.target} HTTP/1.1\r\nhost: {rng.choice(('sidecar', 'localhost:9091', '[', ''))}\r\n"
    )
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return (head + lines + "\r\n").encode("latin-1", "replace") + body


STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


async def fuzz_process(address: str, port: int, count: int, chosen: int) -> Answers:
    """Have so many attempts answered over sockets; raise at the first that breaks a law."""
    answers = Answers()
    settings = Settings(docs=True)
    attempts = Attempts(routes_of(assemble(settings, Store(None), httpx.AsyncClient(), asyncio.Event()).app))
    report_at = 0

    async def worker(number: int) -> None:
        nonlocal report_at
        own = random.Random(chosen * 1000 + number)
        while answers.total < count:
            batch = [attempts.make(own) for _ in range(10)]
            sent = b"".join(written(attempt, own, last=attempt is batch[-1]) for attempt in batch)
            if own.random() < 0.02:
                sent = own.randbytes(own.randrange(1, 300)) + sent
            got = await _exchange(address, port, sent)
            for status in STATUS.findall(got):
                answers.statuses[int(status)] += 1
            if re.search(rb"HTTP/1\.1 50[0-24-9] ", got):
                raise AssertionError(
                    f"a 500 among the answers to {[str(attempt) for attempt in batch]}: {got[:3000]!r}"
                )
            if number == 0 and answers.total >= report_at:
                print(f"  {answers.total} answered", file=sys.stderr)
                report_at = answers.total + max(1, count // 5)

    async with asyncio.TaskGroup() as tasks:
        for number in range(16):
            tasks.create_task(worker(number))
    return answers


async def _exchange(address: str, port: int, sent: bytes) -> bytes:
    try:
        reader, writer = await asyncio.open_connection(address, port)
    except ConnectionError:
        return b""
    got = b""
    try:
        async with asyncio.timeout(60):
            writer.write(sent)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            with contextlib.suppress(ConnectionError):
                while part := await reader.read(1 << 16):
                    got += part
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    return got


def state_of(url: str) -> dict[str, Any]:
    """What a stranger must not change, asked from inside the pod."""
    seen: dict[str, Any] = {}
    for path in ("/v1/lora_adapters", "/v1/downloads", "/ready", "/v1/topology"):
        answer = httpx.get(url + path, timeout=10)
        seen[path] = (answer.status_code, answer.json())
    return seen


def size_of(process: int) -> tuple[float, int]:
    """Return MB of resident memory and the number of open files."""
    status = Path(f"/proc/{process}/status").read_text()
    (resident,) = re.findall(r"VmRSS:\s+(\d+) kB", status)
    return int(resident) / 1000, len(list(Path(f"/proc/{process}/fd").iterdir()))


def _listener(port: int) -> int:
    """Return the process that listens on a port: one of our children."""
    needle = f"--port\0{port}\0".encode()
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                if needle in (folder / "cmdline").read_bytes():
                    return int(folder.name)
    raise RuntimeError(f"nobody listens on {port}")


def main(argv: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz_guard", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000, help="of each half (%(default)s)")
    parser.add_argument("--seed", type=int, default=11, help="of the attempts (%(default)s)")
    options = parser.parse_args(argv)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for app in applications(Path(folder)):
            answers = asyncio.run(fuzz_application(app, options.cases // 2, options.seed))
            names = ", ".join(f"{status}: {number}" for status, number in sorted(answers.statuses.items()))
            print(f"in process: {answers.total} calls of {len(routes_of(app))} routes, no law broken ({names})")
    print(f"in process: {time.monotonic() - began:.0f} s")
    address = outside_address()
    if address is None:
        print("this machine has no address but loopback: nothing can come from outside, so no sockets are tried")
        return 0
    began = time.monotonic()
    access = {"PATIO_OPERATOR_KEYS": base64url(bytes(OPERATOR.verify_key)), "POD_UID": POD}
    access["PATIO_DRAIN_PROOF_SHA256"] = body_digest(b"the-hooks-word")
    with running_sidecar("vllm", host="::", **access) as url:
        port = httpx.URL(url).port or 0
        process = _listener(port)
        asyncio.run(fuzz_process(address, port, options.cases // 20, options.seed + 1))
        before, size = state_of(url), size_of(process)
        answers = asyncio.run(fuzz_process(address, port, options.cases, options.seed))
        after, grown = state_of(url), size_of(process)
    assert before == after, f"{before} became {after}"
    names = ", ".join(f"{status}: {number}" for status, number in sorted(answers.statuses.items()))
    print(f"over sockets: {answers.total} answers, nothing changed, no 500 ({names}), {time.monotonic() - began:.0f} s")
    print(f"memory {size[0]:.1f} MB before, {grown[0]:.1f} MB after; open files {size[1]} before, {grown[1]} after")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
