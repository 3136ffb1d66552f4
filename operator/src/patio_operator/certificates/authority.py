"""The webhook's certificates: what a good set of them is, and the next step from one set to a better one. Pure.

A CA of our own signs serving certificates; `rotation` keeps both in a Secret that all replicas share. The API server
trusts what stands in the webhook configurations, and it and the replicas learn of changes at times of their own. So a
new CA is first trusted and only later signs, and an old one stays trusted until every replica has had time to
serve a certificate of the new one. At no moment does any replica serve what any API server does not trust.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CLOCK_SKEW = timedelta(hours=1)
"""A certificate is valid from this long before it was made: clocks differ."""
A_SECOND = timedelta(seconds=1)
SETTLED = timedelta(seconds=60)
RETIRED = timedelta(hours=1)
CHECKED = timedelta(seconds=10)


@dataclass(frozen=True)
class Periods:
    """How long certificates last, and what follows from that. Shorter ones make every step shorter."""

    lifetime: timedelta = timedelta(days=365)
    """Of a serving certificate."""
    renew_after: timedelta = timedelta(days=120)
    """Age at which a serving certificate is replaced."""

    @property
    def ca_lifetime(self) -> timedelta:
        """Of a CA. It is replaced when it could not outlive a new serving certificate."""
        return self.lifetime * 10

    @property
    def settle(self) -> timedelta:
        """How long a new CA must have been trusted before it signs: every API server has read it by then."""
        return min(SETTLED, self.renew_after / 2)

    @property
    def change(self) -> timedelta:
        """How long it may take to change to a certificate of a new CA, with time to spare."""
        return self.settle * 2 + self.check * 3

    @property
    def retire(self) -> timedelta:
        """How long the new CA's certificate must have been there before the old CA goes: every replica serves it."""
        return min(RETIRED, self.renew_after / 2)

    @property
    def check(self) -> timedelta:
        """Time between two looks of a replica."""
        return min(CHECKED, self.renew_after / 4)


@dataclass(frozen=True)
class Bundle:
    """Trusted CAs, the newest first, the newest one's key, and a serving certificate with its key; all PEM."""

    authorities: tuple[bytes, ...]
    ca_key: bytes
    """Empty when it is lost: then a new CA is made."""
    certificate: bytes
    key: bytes

    @property
    def trusted(self) -> bytes:
        """What the API server has to trust."""
        return b"".join(self.authorities)


def first(names: Sequence[str], now: datetime, periods: Periods) -> Bundle:
    """Make a CA and a serving certificate for DNS names."""
    return _signed(_with_new_ca(None, now, periods), names, now, periods)


def improved(bundle: Bundle, names: Sequence[str], now: datetime, periods: Periods, trusted: bytes) -> Bundle:
    """Take the next step; return the same bundle when there is none to take now.

    Args:
        bundle: what there is.
        names: DNS names to serve.
        now: the time; UTC.
        periods: how long things last.
        trusted: PEM of the CAs that the API server trusts at this time.

    """
    certificate = x509.load_pem_x509_certificate(bundle.certificate)
    usable = is_usable(bundle, names, now)
    newest = x509.load_pem_x509_certificate(bundle.authorities[0])
    settled = _age(newest, now) >= periods.settle and bundle.authorities[0] in trusted
    signed_by_newest = _is_signed_by(certificate, newest)
    rest, ca_rest = certificate.not_valid_after_utc - now, newest.not_valid_after_utc - now
    if usable and bundle.ca_key and (settled or signed_by_newest) and rest < min(periods.change, ca_rest):
        # It would end while a new CA settles: the one there is signs once more.
        return _signed(bundle, names, now, periods)
    if not bundle.ca_key or newest.not_valid_after_utc < now + periods.lifetime:
        renewed = _with_new_ca(bundle, now, periods)
        # Where what is served is no good, there is nothing that a careful step could keep up.
        return renewed if usable else _signed(renewed, names, now, periods)
    age = _age(certificate, now)
    # One that was made to last less than certificates do now would end before it is old enough.
    young = age + A_SECOND < periods.renew_after and rest > periods.lifetime - periods.renew_after - A_SECOND
    if usable and signed_by_newest and young:
        expired = [
            authority
            for authority in bundle.authorities
            if x509.load_pem_x509_certificate(authority).not_valid_after_utc < now
        ]
        if age >= periods.retire:
            return replace(bundle, authorities=bundle.authorities[:1])
        return replace(
            bundle, authorities=tuple(authority for authority in bundle.authorities if authority not in expired)
        )
    return _signed(bundle, names, now, periods) if settled or signed_by_newest or not usable else bundle


def is_usable(bundle: Bundle, names: Sequence[str], now: datetime) -> bool:
    """Return whether the serving certificate is for these DNS names and has not ended."""
    certificate = x509.load_pem_x509_certificate(bundle.certificate)
    return now < certificate.not_valid_after_utc and _names(certificate) == set(names)


def restored(bundle: Bundle, trusted: bytes) -> Bundle:
    """Return a bundle that takes the place of one that was lost, and by which nothing is trusted less.

    Another replica may serve a certificate of a newer CA, which went with the lost one: it stays trusted.
    """
    try:
        loaded = tuple(_pem(certificate) for certificate in x509.load_pem_x509_certificates(trusted)) if trusted else ()
    except ValueError:
        loaded = ()
    others = tuple(certificate for certificate in loaded if certificate not in bundle.authorities)
    return replace(bundle, authorities=(*bundle.authorities, *others))


@dataclass(frozen=True)
class Ends:
    """When a serving certificate ends, and the CA that signed it."""

    serving: datetime
    ca: datetime


def ends(certificate: bytes, trusted: bytes) -> Ends:
    """Return when a certificate and its CA end.

    Where no trusted CA signed it itself, as with an intermediate one between them, it is the CA that ends last: before
    then the certificate may still be trusted.

    Args:
        certificate: PEM of the serving certificate, perhaps followed by others.
        trusted: PEM of the trusted CAs.

    Raises:
        ValueError: one of them cannot be read, or there is no CA.

    """
    serving = x509.load_pem_x509_certificates(certificate)[0]
    authorities = x509.load_pem_x509_certificates(trusted)
    signers = [authority for authority in authorities if _is_signed_by(serving, authority)]
    return Ends(serving.not_valid_after_utc, max(signer.not_valid_after_utc for signer in signers or authorities))


def encode(bundle: Bundle) -> dict[str, str]:
    """Return the bundle as the data of a Secret."""
    data = {"ca.crt": bundle.trusted, "ca.key": bundle.ca_key, "tls.crt": bundle.certificate, "tls.key": bundle.key}
    return {name: base64.b64encode(pem).decode() for name, pem in data.items()}


def decode(data: Mapping[str, str]) -> Bundle | None:
    """Read the data of a Secret; None when it is not a whole bundle."""
    try:
        trusted, certificate, key = (
            base64.b64decode(data[name], validate=True) for name in ("ca.crt", "tls.crt", "tls.key")
        )
        ca_key = base64.b64decode(data.get("ca.key", ""), validate=True)
        authorities = x509.load_pem_x509_certificates(trusted)
        if ca_key and not _fits(ca_key, authorities[0]):
            return None
        if not _fits(key, x509.load_pem_x509_certificate(certificate)):
            return None
    except (KeyError, ValueError, TypeError, binascii.Error, UnsupportedAlgorithm):
        return None
    return Bundle(tuple(_pem(authority) for authority in authorities), ca_key, certificate, key)


def _with_new_ca(bundle: Bundle | None, now: datetime, periods: Periods) -> Bundle:
    key = ec.generate_private_key(ec.SECP256R1())
    # Names of their own: a client that looks for a CA by its name finds the right one of two.
    serial = x509.random_serial_number()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"patio-webhook-ca-{serial % 10**8:08d}")])
    ca = (
        _builder(name, name, key.public_key(), now, periods.ca_lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    if bundle is None:
        return Bundle((_pem(ca),), _key_pem(key), b"", b"")
    return replace(bundle, authorities=(_pem(ca), *bundle.authorities), ca_key=_key_pem(key))


def _signed(bundle: Bundle, names: Sequence[str], now: datetime, periods: Periods) -> Bundle:
    """Make a serving certificate by the newest CA."""
    ca = x509.load_pem_x509_certificate(bundle.authorities[0])
    ca_key = serialization.load_pem_private_key(bundle.ca_key, None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "patio-webhook")])
    lifetime = min(periods.lifetime, ca.not_valid_after_utc - now)
    certificate = (
        _builder(name, ca.subject, key.public_key(), now, lifetime)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return replace(bundle, certificate=_pem(certificate), key=_key_pem(key))


def _age(certificate: x509.Certificate, now: datetime) -> timedelta:
    """Return how old it is at least: a certificate's times are whole seconds."""
    return now - certificate.not_valid_before_utc - CLOCK_SKEW - A_SECOND


def _names(certificate: x509.Certificate) -> set[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return set(names.get_values_for_type(x509.DNSName))


def _is_signed_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _fits(key: bytes, certificate: x509.Certificate) -> bool:
    loaded = serialization.load_pem_private_key(key, None)
    return isinstance(loaded, ec.EllipticCurvePrivateKey) and loaded.public_key() == certificate.public_key()


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + lifetime)
    )


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
