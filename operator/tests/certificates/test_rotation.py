"""What keeps the webhook's certificate: where the API server is told of it, and cert-manager's files."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from patio_kube.resources import MUTATING_WEBHOOK_CONFIGURATION, Resource
from patio_operator.certificates.authority import Bundle, Ends, Periods, first, improved
from patio_operator.certificates.rotation import CertificateError, MountedCertificate, client_configs, refresh_once
from patio_testing.operator.builders import NOW

NAMES = ("patio-webhook.patio-system.svc",)
CRD = Resource("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False)


def write(folder: Path, bundle: Bundle) -> None:
    Path(folder, "tls.crt").write_bytes(bundle.certificate)
    Path(folder, "tls.key").write_bytes(bundle.key)
    Path(folder, "ca.crt").write_bytes(bundle.trusted)


def publisher(published: list[bytes]) -> Callable[[bytes], Awaitable[None]]:
    async def publish(ca: bytes) -> None:
        published.append(ca)

    return publish


def served(context: ssl.SSLContext) -> int:
    """Shake hands with a server that has this context, in memory; return its certificate's serial number."""
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname, client_context.verify_mode = False, ssl.CERT_NONE
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    while client.version() is None or client.getpeercert(binary_form=True) is None:
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    der = client.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


def serial(bundle: Bundle) -> int:
    return x509.load_pem_x509_certificate(bundle.certificate).serial_number


async def test_renewed_file_is_served_to_the_next_connection(tmp_path: Path) -> None:
    periods = Periods()
    old = first(NAMES, NOW, periods)
    new = improved(old, NAMES, NOW + periods.renew_after + timedelta(days=1), periods, old.trusted)
    published: list[bytes] = []
    serving = MountedCertificate(tmp_path, publisher(published))
    write(tmp_path, old)
    await serving.refresh()
    assert published == [old.trusted]
    assert served(serving.context) == serial(old)
    write(tmp_path, new)
    await serving.refresh()
    assert served(serving.context) == serial(new) != serial(old)


async def test_mismatched_files_are_reported_and_served_ones_stay(tmp_path: Path) -> None:
    serving = MountedCertificate(tmp_path, publisher([]))
    with pytest.raises(CertificateError, match="no certificate in"):
        await serving.refresh()
    good, other = first(NAMES, NOW, Periods()), first(NAMES, NOW, Periods())
    write(tmp_path, good)
    assert await refresh_once(serving) is None
    write(tmp_path, replace(good, key=other.key))
    problem = await refresh_once(serving)
    assert problem is not None
    assert "PRIVATE" not in problem
    assert served(serving.context) == serial(good)


def calls(name: str, **more: Any) -> dict[str, Any]:
    return {"clientConfig": {"service": {"namespace": "patio-system", "name": name}, **more}}


def test_only_webhooks_that_call_our_service_get_the_ca_bundle() -> None:
    body = {
        "webhooks": [calls("patio-webhook", caBundle="x"), calls("another"), {"clientConfig": {"url": "https://x"}}]
    }
    found = list(client_configs(MUTATING_WEBHOOK_CONFIGURATION, body, "patio-system", "patio-webhook"))
    assert [(path, entry.get("caBundle")) for path, entry in found] == [("/webhooks/0/clientConfig", "x")]


@pytest.mark.parametrize(
    ("service", "paths"),
    [("patio-webhook", ["/spec/conversion/webhook/clientConfig"]), ("rbgs-webhook-service", [])],
)
def test_crd_conversion_gets_the_ca_bundle_unless_upstreams(service: str, paths: list[str]) -> None:
    body = {"spec": {"conversion": {"strategy": "Webhook", "webhook": calls(service)}}}
    assert [path for path, _ in client_configs(CRD, body, "patio-system", "patio-webhook")] == paths
    assert not list(client_configs(CRD, {"spec": {"conversion": {"strategy": "None"}}}, "patio-system", service))


async def test_ends_follow_the_files_and_need_no_readable_ca(tmp_path: Path) -> None:
    periods = Periods()
    write(tmp_path, first(NAMES, NOW, periods))
    mounted = MountedCertificate(tmp_path, publisher([]))
    assert mounted.ends is None
    assert await refresh_once(mounted) is None
    assert mounted.ends == Ends(NOW + periods.lifetime, NOW + periods.ca_lifetime)
    later = NOW + timedelta(days=10)
    write(tmp_path, first(NAMES, later, periods))
    assert await refresh_once(mounted) is None
    assert mounted.ends == Ends(later + periods.lifetime, later + periods.ca_lifetime)
    write(tmp_path, replace(first(NAMES, later, periods), authorities=(b"none",)))
    assert await refresh_once(mounted) is None, "what is served stays"
    assert mounted.ends is None
