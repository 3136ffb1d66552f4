"""The webhook's TLS certificates: a CA of our own, kept in a Secret, and serving certificates signed with it.

The CA outlives many serving certificates, so that replacing one never needs a new CA bundle in the webhook
configuration. `new_bundle` and `due` are pure; `CertificateKeeper` keeps them in a Secret, so that all
replicas use the same one, and keeps the configuration's CA bundle right.
"""

from __future__ import annotations

import base64
import binascii
import logging
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from patio_operator.cluster.api import Cluster, NotFoundError, Object
from patio_operator.cluster.kept_secret import Decision, keep_secret
from patio_operator.cluster.kinds import MUTATING_WEBHOOK_CONFIGURATION, VALIDATING_WEBHOOK_CONFIGURATION, Kind
from patio_operator.settings import Settings

log = logging.getLogger(__name__)

CA_LIFETIME = timedelta(days=3650)
SERVING_LIFETIME = timedelta(days=365)
RENEW_BEFORE = timedelta(days=30)
CLOCK_SKEW = timedelta(hours=1)
CHECK_SECONDS = 60.0
"""How often the Secret and the CA bundle are looked at."""

_CONFIGURATIONS = (
    (MUTATING_WEBHOOK_CONFIGURATION, "no pod gets its sidecar"),
    (VALIDATING_WEBHOOK_CONFIGURATION, "no profile is tried before it is stored"),
)


@dataclass(frozen=True)
class Bundle:
    """A CA and a serving certificate signed by it, as PEM."""

    ca: bytes
    ca_key: bytes
    certificate: bytes
    key: bytes


def new_bundle(names: Sequence[str], now: datetime, old: Bundle | None = None) -> Bundle:
    """Make a serving certificate for DNS names, signed by the old bundle's CA while that lasts, else by a new one."""
    if old is not None and x509.load_pem_x509_certificate(old.ca).not_valid_after_utc > now + SERVING_LIFETIME:
        ca = x509.load_pem_x509_certificate(old.ca)
        ca_key = serialization.load_pem_private_key(old.ca_key, None)
        assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    else:
        ca_key = ec.generate_private_key(ec.SECP256R1())
        ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "patio-webhook-ca")])
        ca = (
            _builder(ca_name, ca_name, ca_key.public_key(), now, CA_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(sign_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "patio-webhook")])
    certificate = (
        _builder(name, ca.subject, key.public_key(), now, SERVING_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(one) for one in names]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return Bundle(_pem(ca), _key_pem(ca_key), _pem(certificate), _key_pem(key))


def due(bundle: Bundle, names: Sequence[str], now: datetime) -> bool:
    """Tell whether the serving certificate must be replaced: it ends soon, or is for other names."""
    certificate = x509.load_pem_x509_certificate(bundle.certificate)
    there = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return certificate.not_valid_after_utc < now + RENEW_BEFORE or set(names) != set(
        there.get_values_for_type(x509.DNSName)
    )


def encode(bundle: Bundle) -> dict[str, str]:
    """Return the bundle as the data of a Secret."""
    data = {
        "ca.crt": bundle.ca,
        "ca.key": bundle.ca_key,
        "tls.crt": bundle.certificate,
        "tls.key": bundle.key,
    }
    return {name: base64.b64encode(pem).decode() for name, pem in data.items()}


def decode(data: dict[str, str]) -> Bundle | None:
    """Read the data of a Secret; None when it is not a whole bundle."""
    try:
        ca, ca_key, certificate, key = (
            base64.b64decode(data[name], validate=True) for name in ("ca.crt", "ca.key", "tls.crt", "tls.key")
        )
        x509.load_pem_x509_certificate(ca)
        x509.load_pem_x509_certificate(certificate)
    except (KeyError, ValueError, binascii.Error):
        return None
    return Bundle(ca, ca_key, certificate, key)


class CertificateKeeper:
    """Keeps an SSL context, the Secret behind it and the webhook configuration's CA bundle in step."""

    def __init__(self, cluster: Cluster, settings: Settings) -> None:
        self._cluster = cluster
        self._settings = settings
        service, namespace = settings.service_name, settings.namespace
        self._names = (f"{service}.{namespace}.svc", f"{service}.{namespace}.svc.cluster.local")
        self._loaded: Bundle | None = None
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        """For the server; a certificate loaded later serves the connections that come after."""

    async def keep(self) -> None:
        """Make one pass: a valid certificate is in the Secret and in the context, its CA in the configuration."""
        bundle = await self._bundle()
        if bundle != self._loaded:
            self._load(bundle)
        await self._write_ca(bundle.ca)

    async def _bundle(self) -> Bundle:
        settings = self._settings
        return await keep_secret(self._cluster, settings.namespace, settings.webhook_secret, self._decide)

    def _decide(self, secret: Object | None) -> Decision[Bundle]:
        now = datetime.now(UTC)
        there = decode(secret.get("data") or {}) if secret is not None else None
        if there is not None and not due(there, self._names, now):
            return Decision(there)
        bundle = new_bundle(self._names, now, there)
        done = "made" if secret is None else "renewed"
        return Decision(bundle, encode(bundle), words=f"webhook certificate {done}")

    def _load(self, bundle: Bundle) -> None:
        # The ssl module takes certificates from files only; this one lives for the length of the call.
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "tls.pem")
            path.touch(mode=0o600)
            path.write_bytes(bundle.key + bundle.certificate)
            self.context.load_cert_chain(path)
        self._loaded = bundle

    async def _write_ca(self, ca: bytes) -> None:
        for kind, without in _CONFIGURATIONS:
            await self._write_ca_into(kind, without, ca)

    async def _write_ca_into(self, kind: Kind, without: str, ca: bytes) -> None:
        name = self._settings.webhook_configuration
        try:
            body = await self._cluster.get(kind, name)
        except NotFoundError:
            log.error("%s %s is gone: %s. Reinstall the chart.", kind.kind, name, without)
            return
        encoded = base64.b64encode(ca).decode()
        webhooks = body.get("webhooks") or []
        patch: list[Object] = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": body["metadata"]["resourceVersion"]}
        ]
        for index, webhook in enumerate(webhooks):
            if webhook["clientConfig"].get("caBundle") != encoded:
                patch.append({"op": "add", "path": f"/webhooks/{index}/clientConfig/caBundle", "value": encoded})
        if len(patch) > 1:
            await self._cluster.json_patch(kind, name, None, patch)
            log.info("CA bundle written to %s %s", kind.kind, name)


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
