"""The webhook's certificates."""

from __future__ import annotations

from datetime import timedelta

from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from patio_operator.webhooks.certificates import RENEW_BEFORE, SERVING_LIFETIME, decode, due, encode, new_bundle

from builders import NOW

NAMES = ("patio-webhook.patio-system.svc", "patio-webhook.patio-system.svc.cluster.local")


def test_the_certificate_verifies_against_its_ca_for_the_services_names() -> None:
    bundle = new_bundle(NAMES, NOW)
    ca, certificate = x509.load_pem_x509_certificate(bundle.ca), x509.load_pem_x509_certificate(bundle.certificate)
    for name in NAMES:
        verifier = PolicyBuilder().store(Store([ca])).time(NOW).build_server_verifier(x509.DNSName(name))
        assert verifier.verify(certificate, [])


def test_it_is_due_before_it_ends_and_when_the_names_change() -> None:
    bundle = new_bundle(NAMES, NOW)
    assert not due(bundle, NAMES, NOW)
    assert due(bundle, NAMES, NOW + SERVING_LIFETIME - RENEW_BEFORE + timedelta(minutes=1))
    assert due(bundle, ("other.svc",), NOW)


def test_a_renewed_certificate_keeps_its_ca() -> None:
    first = new_bundle(NAMES, NOW)
    second = new_bundle(NAMES, NOW + SERVING_LIFETIME, first)
    assert second.ca == first.ca
    assert second.certificate != first.certificate


def test_a_secret_gives_back_what_was_put_in_and_nothing_from_a_broken_one() -> None:
    bundle = new_bundle(NAMES, NOW)
    data = encode(bundle)
    assert decode(data) == bundle
    assert decode({**data, "tls.crt": "bm90IGEgY2VydGlmaWNhdGU="}) is None
    assert decode({"ca.crt": data["ca.crt"]}) is None
