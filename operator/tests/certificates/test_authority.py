"""The webhook's certificates: made, renewed, and replaced with their CA, never untrusted on the way."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from patio_operator.certificates.authority import Bundle, Ends, Periods, decode, encode, ends, first, improved, restored
from patio_testing.operator.builders import NOW

NAMES = ("patio-webhook.patio-system.svc", "patio-webhook.patio-system.svc.cluster.local")
PERIODS = Periods()
A_MINUTE = timedelta(minutes=1)


def verifies(certificate: bytes, trusted: bytes, now: datetime, name: str = NAMES[0]) -> bool:
    if not trusted:
        return False
    store = Store(x509.load_pem_x509_certificates(trusted))
    verifier = PolicyBuilder().store(store).time(now).build_server_verifier(x509.DNSName(name))
    try:
        return bool(verifier.verify(x509.load_pem_x509_certificate(certificate), []))
    except VerificationError:
        return False


def step(bundle: Bundle, now: datetime, trusted: bytes | None = None) -> Bundle:
    """Take one step, where the API server trusts what the bundle says unless told otherwise."""
    return improved(bundle, NAMES, now, PERIODS, bundle.trusted if trusted is None else trusted)


def without_key(bundle: Bundle) -> Bundle:
    return replace(bundle, ca_key=b"")


def test_certificate_verifies_against_its_ca_for_service_names() -> None:
    bundle = first(NAMES, NOW, PERIODS)
    assert all(verifies(bundle.certificate, bundle.trusted, NOW, name) for name in NAMES)
    assert not verifies(bundle.certificate, bundle.trusted, NOW, "other.svc")


def test_nothing_is_done_while_it_is_young() -> None:
    bundle = first(NAMES, NOW, PERIODS)
    for later in (A_MINUTE, PERIODS.retire + A_MINUTE, PERIODS.renew_after - A_MINUTE):
        assert step(bundle, NOW + later) == bundle


def test_certificate_is_renewed_long_before_its_end_by_same_ca() -> None:
    bundle = first(NAMES, NOW, PERIODS)
    later = NOW + PERIODS.renew_after + A_MINUTE
    renewed = step(bundle, later)
    assert renewed.certificate != bundle.certificate
    assert renewed.authorities == bundle.authorities
    assert verifies(renewed.certificate, bundle.trusted, later)


def test_certificate_shorter_than_the_setting_is_renewed_at_once() -> None:
    """The hours were raised: it would end long before it is old enough."""
    days = Periods(timedelta(days=5), timedelta(0))
    bundle = first(NAMES, NOW, PERIODS)
    short = improved(bundle, NAMES, NOW + A_MINUTE, days, bundle.trusted)
    assert ends(short.certificate, short.trusted).serving == NOW + A_MINUTE + days.lifetime
    later = NOW + A_MINUTE * 2
    renewed = step(short, later)
    assert ends(renewed.certificate, renewed.trusted).serving == later + PERIODS.lifetime
    assert renewed.authorities == bundle.authorities


def test_other_names_are_served_at_once() -> None:
    bundle = first(("other.svc",), NOW, PERIODS)
    renewed = step(bundle, NOW + A_MINUTE, trusted=b"")
    assert verifies(renewed.certificate, renewed.trusted, NOW + A_MINUTE)


def test_new_ca_is_trusted_before_it_signs_old_one_until_unused() -> None:
    """The old CA is trusted until all replicas serve the new certificate."""
    old = first(NAMES, NOW, PERIODS)
    now = NOW + timedelta(days=1)
    both = step(without_key(old), now)
    assert both.certificate == old.certificate
    assert both.authorities[1:] == old.authorities
    assert both.ca_key
    settled = now + PERIODS.settle + timedelta(seconds=1)
    assert step(both, settled - timedelta(seconds=2)) == both, "not every API server may have read it yet"
    assert step(both, settled, trusted=old.trusted) == both, "the API server is not told of it"
    signed = step(both, settled)
    assert verifies(signed.certificate, signed.authorities[0], settled)
    assert signed.authorities == both.authorities
    assert step(signed, settled + PERIODS.retire - A_MINUTE) == signed, "a replica may still serve the old one"
    assert step(signed, settled + PERIODS.retire + timedelta(seconds=1)).authorities == signed.authorities[:1]


def test_ca_that_would_end_before_a_new_certificate_is_replaced() -> None:
    bundle = first(NAMES, NOW, PERIODS)
    late = NOW + PERIODS.ca_lifetime - PERIODS.lifetime + A_MINUTE
    young = step(bundle, late - timedelta(days=1))
    assert len(young.authorities) == 1
    assert len(step(young, late).authorities) == 2


def test_certificate_ending_while_a_ca_settles_is_renewed_first() -> None:
    """Such a certificate is renewed by the old CA before there is a new one."""
    short = Periods(timedelta(seconds=30), timedelta(seconds=1))
    bundle = improved(first(NAMES, NOW, short), NAMES, NOW + timedelta(seconds=20), short, b"")
    now = NOW + timedelta(seconds=25)  # and from now on they last as long as usual
    renewed = step(bundle, now)
    assert (renewed.authorities, renewed.certificate != bundle.certificate) == (bundle.authorities, True)
    end = x509.load_pem_x509_certificate(renewed.certificate).not_valid_after_utc
    assert end == x509.load_pem_x509_certificate(bundle.authorities[0]).not_valid_after_utc
    both = step(renewed, now + timedelta(seconds=10))
    assert len(both.authorities) == 2
    signed = step(both, now + timedelta(seconds=10) + PERIODS.settle + timedelta(seconds=1))
    assert verifies(signed.certificate, signed.authorities[0], now)


def test_everything_is_recreated_at_once_after_a_long_outage() -> None:
    bundle = first(NAMES, NOW, PERIODS)
    late = NOW + PERIODS.ca_lifetime + A_MINUTE
    renewed = step(bundle, late)
    assert verifies(renewed.certificate, renewed.trusted, late)


@pytest.mark.parametrize("periods", [Periods(), Periods(timedelta(seconds=40), timedelta(seconds=4))])
def test_replica_never_serves_what_an_api_server_does_not_trust(periods: Periods) -> None:
    """Ten CAs and a hundred certificates; replica and API server each learn of a step as late as they may."""
    bundle = first(NAMES, NOW, periods)
    served, trusted = bundle, bundle.trusted
    news: list[tuple[datetime, Bundle]] = []
    now, certificates = NOW, set()
    for tick in _ticks(periods):
        now += tick
        if len(certificates) % 10 == 0 and bundle.certificate not in certificates:
            bundle = without_key(bundle)  # somebody wants a new CA
        certificates.add(bundle.certificate)
        after = improved(bundle, NAMES, now, periods, trusted)
        if after != bundle:
            news.append((now, after))
            bundle = after
        # the API server reads what it is told within `settle`, a replica what it is to serve within two checks
        for published_at, renewed in news:
            if now - published_at >= periods.settle / 2:
                trusted = renewed.trusted
            if now - published_at >= periods.check * 2:
                served = renewed
        assert verifies(served.certificate, trusted, now)
        assert len(x509.load_pem_x509_certificates(bundle.trusted)) <= 3
    assert len(certificates) > 20


def _ticks(periods: Periods) -> Iterator[timedelta]:
    for _ in range(400):
        yield periods.check / 3
        yield periods.renew_after / 8


def test_new_bundle_for_a_lost_one_still_trusts_what_was_trusted() -> None:
    old = first(NAMES, NOW, PERIODS)
    newer = step(without_key(old), NOW + A_MINUTE)  # which another replica made, and which is lost
    back = restored(old, newer.trusted)
    assert (back.ca_key, back.certificate) == (old.ca_key, old.certificate)
    assert back.authorities == (*old.authorities, newer.authorities[0])
    assert restored(old, old.trusted) == restored(old, b"") == restored(old, b"not a certificate") == old


def test_secret_round_trips_and_broken_one_gives_nothing() -> None:
    bundle = step(without_key(first(NAMES, NOW, PERIODS)), NOW + A_MINUTE)
    data = encode(bundle)
    assert decode(data) == bundle
    assert decode({**data, "tls.crt": base64.b64encode(b"not a certificate").decode()}) is None
    assert decode({**data, "tls.key": data["ca.key"]}) is None, "a key that is not the certificate's"
    assert decode({"ca.crt": data["ca.crt"]}) is None
    unsupported = b"-----BEGIN PRIVATE KEY-----\nMA4CAQAwBQYDKgMEBAIEAA==\n-----END PRIVATE KEY-----\n"
    assert decode({**data, "tls.key": base64.b64encode(unsupported).decode()}) is None, "a kind that nobody knows"
    without = decode({name: value for name, value in data.items() if name != "ca.key"})
    assert without == without_key(bundle), "how a new CA is asked for"


def test_ends_are_those_of_certificate_and_signing_ca() -> None:
    periods = Periods()
    old = first(NAMES, NOW, periods)
    assert ends(old.certificate, old.trusted) == Ends(NOW + periods.lifetime, NOW + periods.ca_lifetime)
    later = NOW + timedelta(days=10)
    new = first(NAMES, later, periods)
    assert ends(old.certificate, new.trusted + old.trusted).ca == NOW + periods.ca_lifetime
    assert ends(old.certificate, new.trusted).ca == later + periods.ca_lifetime, "no trusted CA signed it itself"
    assert ends(old.certificate + new.trusted, old.trusted).serving == NOW + periods.lifetime
    for certificate, trusted in ((b"", old.trusted), (old.certificate, b"")):
        with pytest.raises(ValueError, match="PEM"):
            ends(certificate, trusted)
