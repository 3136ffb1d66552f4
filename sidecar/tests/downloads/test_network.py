"""The network of downloads: what is never asked, what is not sent in clear, whose certificates count."""

from __future__ import annotations

import datetime
import http.server
import ipaddress
import json
import os
import random
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import CollectorRegistry

from patio.downloads import network
from patio.downloads.addresses import in_clear, is_loopback, is_never_asked
from patio.downloads.downloads import Downloads
from patio.downloads.errors import DownloadError
from patio.downloads.messages import Job
from patio.downloads.metrics import DownloadMetrics
from patio.downloads.network import BUNDLES, bypass_proxies, use_one_bundle
from patio.downloads.settings import DownloadSettings
from patio.downloads.worker import backend_of
from patio.downloads.worker_process import run_worker
from patio_protocol.downloads import DownloadReason, DownloadRequest
from patio_protocol.sources import Source, SourceKind
from patio_testing.sidecar.download_sources import ACCESS_KEY, SECRET_KEY, TOKEN, running_hub

MACHINE = [
    "169.254.169.254",
    "169.254.0.1",
    "2852039166",
    "0xa9fea9fe",
    "0xa9.0xfe.0xa9.0xfe",
    "0251.0376.0251.0376",
    "169.254.43518",
    "::ffff:169.254.169.254",
    "[::ffff:a9fe:a9fe]",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "fe80::1",
    "fe80::1%eth0",
    "[febf::1]",
    "fd00:ec2::254",
    "100.100.100.200",
]


@pytest.mark.parametrize("host", MACHINE)
def test_addresses_of_the_machine_are_known_however_written(host: str) -> None:
    assert is_never_asked(host)


@pytest.mark.parametrize("host", ["169.253.0.1", "10.0.0.1", "127.0.0.1", "::1", "fd00::7", "s3.example.com", "", "x"])
def test_other_hosts_may_be_called(host: str) -> None:
    assert not is_never_asked(host)


@pytest.mark.parametrize(
    ("url", "clear"),
    [
        ("http://minio:9000", True),
        ("http://10.0.0.1", True),
        ("http://localhost.example.com", True),
        ("https://minio:9000", False),
        ("http://127.0.0.1:9000", False),
        ("http://localhost", False),
        ("http://[::1]:9000", False),
        ("http://[::ffff:127.0.0.1]", False),
        ("http://2130706433", False),
    ],
)
def test_what_leaves_the_pod_without_tls_is_in_clear(url: str, clear: bool) -> None:
    assert in_clear(url) == clear
    assert not (clear and is_loopback(url.removeprefix("http://")))


def job(folder: Path, source: Source, **config: str) -> Job:
    root = folder / "root"
    return Job(
        source=source,
        config=config,
        revisions=str(root / "s3-bucket-0123456789ab"),
        shown=None,
        root=str(root),
        roots=(str(root),),
        max_workers=2,
        all_files=False,
        limit=None,
    )


BUCKET = Source(SourceKind.S3, "bucket", "m")
REPOSITORY = Source(SourceKind.HF, "team/adapter", "")


async def fault(job: Job, environ: Mapping[str, str] | None = None) -> DownloadError:
    """Run a worker, and return what it could not do."""
    with pytest.raises(DownloadError) as raised:
        await run_worker(job, {"PATH": os.environ["PATH"], **(environ or {})}, lambda event: None)
    return raised.value


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Addresses by name, as a name server would have them; the process is put right afterwards."""
    addresses: dict[str, str] = {}

    def resolve(host: str, *_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (addresses[host], 80))]

    monkeypatch.setattr(network, "_resolve", resolve)
    monkeypatch.setattr(socket, "getaddrinfo", socket.getaddrinfo)
    for name in (*BUNDLES, "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    return addresses


def test_no_name_stands_for_the_machine(tmp_path: Path, resolver: dict[str, str]) -> None:
    network.prepare(job(tmp_path, BUCKET))
    resolver |= {"store": "10.0.0.1", "rebound": "169.254.169.254", "169.254.170.23": "169.254.170.23"}
    assert socket.getaddrinfo("store", 80)
    for host in ("rebound", "169.254.170.23"):
        with pytest.raises(DownloadError) as raised:
            socket.getaddrinfo(host, 80)
        assert raised.value.reason is DownloadReason.INVALID


@pytest.mark.parametrize("source", [BUCKET, REPOSITORY], ids=["s3", "hf"])
def test_libraries_ask_no_name_that_stands_for_the_machine(
    tmp_path: Path, resolver: dict[str, str], source: Source
) -> None:
    local_job = job(tmp_path, source, endpoint="http://rebound:80", hf_endpoint="http://rebound:80")
    network.prepare(local_job)
    resolver["rebound"] = "169.254.169.254"
    with pytest.raises(DownloadError) as raised:
        backend_of(local_job).listing()
    assert raised.value.reason is DownloadReason.INVALID
    assert "never connects" in raised.value.message


def test_clusters_own_agent_gives_a_pod_its_role(
    tmp_path: Path, resolver: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1/credentials")
    network.prepare(job(tmp_path, BUCKET))
    resolver |= {"169.254.170.23": "169.254.170.23", "other": "169.254.170.23"}
    assert socket.getaddrinfo("169.254.170.23", 80)
    with pytest.raises(DownloadError):
        socket.getaddrinfo("other", 80)


@pytest.mark.parametrize("kind", ["s3", "hf"])
async def test_order_can_not_name_the_machine(tmp_path: Path, kind: str) -> None:
    for endpoint in ("http://169.254.169.254", "https://2852039166", "http://[::ffff:169.254.169.254]:80"):
        error = await order_error(tmp_path, kind, {}, {"hf_endpoint" if kind == "hf" else "endpoint": endpoint})
        assert error is not None
        assert error.reason is DownloadReason.INVALID
        assert "never connects" in error.message


async def order_error(
    folder: Path, kind: str, settings: dict[str, Any], config: dict[str, str]
) -> DownloadError | None:
    """Return why an order can not be, before anything is asked."""
    source = "hf://team/adapter" if kind == "hf" else "s3://bucket/m"
    downloads = Downloads(
        DownloadSettings(root=folder, **settings),
        DownloadMetrics(CollectorRegistry(), tuple, lambda: None),
        random.Random(0),
        {},
        str,
    )
    order = DownloadRequest(source=source, config=json.dumps(config) if config else None)
    try:
        report = downloads.order(order)
    except DownloadError as error:
        return error
    await downloads.cancel(report.id)
    return None


KEYS = {"access_key": ACCESS_KEY, "secret_key": SECRET_KEY}
STORE = "http://minio:9000"


@pytest.mark.parametrize(
    ("kind", "settings", "config", "is_accepted"),
    [
        ("s3", {}, {**KEYS, "endpoint": STORE}, False),
        ("s3", {}, {**KEYS, "endpoint": STORE, "allow_plain_http": "true"}, True),
        ("s3", {}, {**KEYS, "endpoint": STORE, "allow_plain_http": "false"}, False),
        ("s3", {}, {**KEYS, "endpoint": "https://minio:9000"}, True),
        ("s3", {}, {**KEYS, "endpoint": "http://127.0.0.1:9000"}, True),
        ("s3", {}, {"endpoint": STORE}, True),
        ("s3", {**KEYS, "endpoint": STORE}, {}, False),
        ("s3", {**KEYS, "endpoint": STORE, "plain_http": True}, {}, True),
        ("s3", {**KEYS, "plain_http": True}, {"endpoint": STORE}, False),
        ("s3", {"endpoint": STORE, "plain_http": True}, KEYS, False),
        ("hf", {}, {"hf_token": TOKEN, "hf_endpoint": "http://hub"}, False),
        ("hf", {"hf_token": TOKEN, "hf_endpoint": "http://hub"}, {}, False),
        ("hf", {"hf_token": TOKEN}, {"hf_endpoint": "http://hub"}, True),
        ("hf", {}, {"hf_endpoint": "http://hub"}, True),
    ],
)
async def test_credentials_are_not_sent_in_clear(
    tmp_path: Path, kind: str, settings: dict[str, Any], config: dict[str, str], is_accepted: bool
) -> None:
    error = await order_error(tmp_path, kind, settings, config)
    assert (error is None) == is_accepted
    if error is not None:
        assert (error.reason, error.retryable) == (DownloadReason.INVALID, False)
        assert "source.allowPlainHTTP" in error.message
        assert not [secret for secret in (ACCESS_KEY, SECRET_KEY, TOKEN) if secret in error.message]


async def test_role_is_not_used_in_clear(tmp_path: Path) -> None:
    agent = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1/credentials"}
    error = await fault(job(tmp_path, BUCKET, endpoint=STORE), agent)
    assert error.reason is DownloadReason.INVALID
    assert "in clear" in error.message


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("http://169.254.169.254/latest", "never connects"),
        ("https://2852039166/latest", "never connects"),
        ("http://other.invalid", "follows only https"),
        ("ftp://127.0.0.1/x", "follows only https"),
    ],
)
async def test_hub_redirects_to_https_only(tmp_path: Path, target: str, message: str) -> None:
    with running_hub({"model.safetensors": b"x" * 100, "adapter_config.json": b"{}"}) as hub:
        hub.cdn = target
        error = await fault(job(tmp_path, REPOSITORY, hf_endpoint=hub.url))
    assert (error.reason, error.retryable) == (DownloadReason.REJECTED, False)
    assert message in error.message


async def test_redirects_of_a_hub_come_to_an_end(tmp_path: Path) -> None:
    with running_hub({"adapter_config.json": b"{}", "m.safetensors": b"x"}) as hub:
        hub.faults = [(302, {"Location": f"{hub.url}/again"})] * 20
        error = await fault(job(tmp_path, REPOSITORY, hf_endpoint=hub.url))
        assert error.reason is DownloadReason.REJECTED
        assert len(hub.calls) == 6


@pytest.mark.parametrize(
    "entry",
    [
        {"rfilename": "m.safetensors", "size": "12"},
        {"rfilename": "m.safetensors", "size": True},
        {"rfilename": 7, "size": 1},
        {"rfilename": "m.safetensors", "size": 1, "lfs": "x"},
        {"size": 1},
        "x",
    ],
)
async def test_invalid_listing_is_reported_as_such(tmp_path: Path, entry: Any) -> None:
    with running_hub({}, lists={"": entry}, fixed_commit="0" * 40) as hub:
        error = await fault(job(tmp_path, REPOSITORY, hf_endpoint=hub.url))
    assert error.reason is DownloadReason.ERROR, error.message


class _Store(http.server.BaseHTTPRequestHandler):
    """A store that answers every request alike, and remembers what was asked."""

    answer: tuple[int, dict[str, str], bytes]
    requests: list[tuple[str, dict[str, str]]]

    def do_GET(self) -> None:
        self.requests.append((self.path, dict(self.headers.items())))
        status, headers, body = self.answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        if b"<NextContinuationToken>" in body:
            # No page is the last.
            type(self).answer = (status, headers, body.replace(b"Token>t", b"Token>tt", 1))

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def store(
    status: int, headers: dict[str, str] | None = None, body: bytes = b"", tls: ssl.SSLContext | None = None
) -> Iterator[tuple[str, list[tuple[str, dict[str, str]]]]]:
    requests: list[tuple[str, dict[str, str]]] = []
    handler = type("Handler", (_Store,), {"answer": (status, headers or {}, body), "requests": requests})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{server.server_address[1]}", requests
    finally:
        server.shutdown()
        server.server_close()


async def test_redirects_of_a_store_are_not_followed(tmp_path: Path) -> None:
    with store(200) as (target_url, requests), store(307, {"location": f"{target_url}/x"}) as (url, _):
        error = await fault(job(tmp_path, BUCKET, endpoint=url, **KEYS))
    assert error.reason is DownloadReason.REJECTED, error.message
    assert "follows no redirect" in error.message
    assert requests == []


@pytest.mark.parametrize("source", [BUCKET, REPOSITORY])
async def test_without_credentials_the_sentence_says_so(tmp_path: Path, source: Source) -> None:
    with store(403) as (url, _):
        error = await fault(job(tmp_path, source, endpoint=url, hf_endpoint=url))
        assert error.reason is DownloadReason.UNAUTHORIZED
        assert "a request without credentials" in error.message
        error = await fault(job(tmp_path, source, endpoint=url, hf_endpoint=url, hf_token=TOKEN, **KEYS))
        assert "without credentials" not in error.message


@pytest.mark.parametrize(
    ("config", "region"),
    [
        ({"region": "eu-west-1", "default_region": "eu-west-2"}, "eu-west-1"),
        ({"default_region": "eu-west-2"}, "eu-west-2"),
        ({}, "us-east-1"),
    ],
)
async def test_requests_are_signed_for_the_given_region(tmp_path: Path, config: dict[str, str], region: str) -> None:
    with store(404) as (url, requests):
        await fault(job(tmp_path, BUCKET, endpoint=url, session_token="of-the-session", **KEYS, **config))
    _, headers = requests[0]
    assert f"/{region}/s3/" in headers["Authorization"]
    assert headers["X-Amz-Security-Token"] == "of-the-session"


async def test_listing_without_an_end_is_rejected(tmp_path: Path) -> None:
    entries = b"".join(
        b'<Contents><Key>m/%d/</Key><Size>0</Size><ETag>"x"</ETag></Contents>' % number for number in range(1000)
    )
    body = b"<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
    with store(200, {"content-type": "application/xml"}, body + entries + b"</ListBucketResult>") as (url, requests):
        error = await fault(job(tmp_path, BUCKET, endpoint=url))
    assert error.reason is DownloadReason.REJECTED, error.message
    assert len(requests) <= 11, "folders are counted too"


async def test_answer_that_fills_the_memory_costs_the_worker(tmp_path: Path) -> None:
    with store(200, {"content-type": "application/json"}, b'["' + b"x" * 2**29 + b'"]') as (url, _):
        error = await fault(job(tmp_path, REPOSITORY, hf_endpoint=url))
    assert error.reason is DownloadReason.REJECTED, error.message
    assert "MiB of memory" in error.message


async def test_network_in_no_proxy_is_honoured(tmp_path: Path) -> None:
    proxy = {"HTTP_PROXY": "http://127.0.0.1:1", "NO_PROXY": "10.0.0.0/8,127.0.0.0/8"}
    for source in (BUCKET, REPOSITORY):
        with store(404) as (url, requests):
            error = await fault(job(tmp_path, source, endpoint=url, hf_endpoint=url), proxy)
        assert error.reason is DownloadReason.NOT_FOUND, error.message
        assert requests


def test_only_addresses_in_a_network_pass_the_proxy_by() -> None:
    for host, entry in (("10.1.2.3", "10.1.2.3"), ("fd00::7", "fd00::7"), ("11.0.0.1", ""), ("minio", "")):
        environ = {"NO_PROXY": ".svc,10.0.0.0/8,fd00::/8,nonsense/99"}
        bypass_proxies(environ, host)
        assert environ["NO_PROXY"].endswith(f",{entry}") == bool(entry)


def certificates(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """Return a CA's file, and what a server needs that it vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "of our own")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    bundle, private = folder / "ca.pem", folder / "key.pem"
    bundle.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(bundle, private)
    return bundle, context


@pytest.mark.parametrize("variable", BUNDLES)
@pytest.mark.parametrize("source", [BUCKET, REPOSITORY], ids=["s3", "hf"])
async def test_one_bundle_counts_for_all_sources(tmp_path: Path, variable: str, source: Source) -> None:
    bundle, context = certificates(tmp_path)
    with store(404, tls=context) as (url, requests):
        tls_job = job(tmp_path, source, endpoint=url, hf_endpoint=url)
        assert (await fault(tls_job, {variable: str(bundle)})).reason is DownloadReason.NOT_FOUND
    assert requests


async def test_unknown_ca_is_reported_with_the_remedy(tmp_path: Path) -> None:
    _, context = certificates(tmp_path)
    for source in (BUCKET, REPOSITORY):
        with store(404, tls=context) as (url, _):
            error = await fault(job(tmp_path, source, endpoint=url, hf_endpoint=url))
        assert error.reason is DownloadReason.UNREACHABLE
        assert "SSL_CERT_FILE" in error.message


async def test_store_without_tls_is_reported_with_the_remedy(tmp_path: Path) -> None:
    with store(404) as (url, _):
        error = await fault(job(tmp_path, BUCKET, endpoint=url.replace("http:", "https:")))
    assert "begin its URL with http://" in error.message


def test_missing_bundle_does_not_hide_an_existing_one(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text("")
    environ = {"SSL_CERT_FILE": "/nowhere", "CURL_CA_BUNDLE": str(bundle)}
    use_one_bundle(environ)
    assert environ == dict.fromkeys(BUNDLES, str(bundle))
    environ = {"REQUESTS_CA_BUNDLE": str(tmp_path)}
    use_one_bundle(environ)
    assert environ == {"SSL_CERT_DIR": str(tmp_path)}
    environ = {"SSL_CERT_FILE": "/nowhere"}
    use_one_bundle(environ)
    assert environ == {}


async def test_answer_of_a_source_is_reported_in_short(tmp_path: Path) -> None:
    body = b"<ListBucketResult><a>" + b"x" * 2_000_000 + SECRET_KEY.encode()
    with store(200, {"content-type": "application/xml"}, body) as (url, _):
        error = await fault(job(tmp_path, BUCKET, endpoint=url, **KEYS))
    assert len(error.message) <= 1000
    assert SECRET_KEY not in error.message
    assert error.reason in (DownloadReason.ERROR, DownloadReason.UNREACHABLE), error.message
