"""A certificate authority made for one cluster, what it issues, and the kubeconfigs that carry it.

Keys are P-256: made in a millisecond. Everything is written into one folder that ends with the cluster;
private keys are readable for their owner alone. Who a certificate names (user, groups) is decided by
the caller.
"""

import base64
import datetime
import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = datetime.timedelta(days=365)
# Clocks of virtual machines jump when they are restored.
LEEWAY = datetime.timedelta(hours=1)
ADMINISTRATORS = "system:masters"


@dataclass(frozen=True)
class Pair:
    """The files of a certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """A self-made certificate authority that writes what it issues into one folder."""

    def __init__(self, folder: Path, now: datetime.datetime) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._now = now
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "patio-cluster")])
        certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.pair = self._write("ca", certificate, self._key)

    def issue_server(self, file: str, name: str, hosts: Sequence[str]) -> Pair:
        """A certificate for a server reached by these names and addresses."""
        names = x509.SubjectAlternativeName([_host(host) for host in hosts])
        return self._issue(file, name, (), ExtendedKeyUsageOID.SERVER_AUTH, names)

    def issue_client(self, file: str, user: str, groups: Sequence[str] = ()) -> Pair:
        """A certificate by which the API server knows a user and their groups."""
        return self._issue(file, user, groups, ExtendedKeyUsageOID.CLIENT_AUTH, None)

    def make_signing_key(self, file: str) -> Pair:
        """A key pair (not a certificate) for service account tokens."""
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        pair = Pair(self.folder / f"{file}.pub", self.folder / f"{file}.key")
        pair.certificate.write_bytes(public)
        _write_private(pair.key, _pem(key))
        return pair

    def write_kubeconfig(self, path: Path, server: str, client: Pair) -> Path:
        """A kubeconfig with everything inside it, for whoever the certificate names."""
        _write_private(
            path,
            kubeconfig(
                server,
                self.pair.certificate.read_bytes(),
                client.certificate.read_bytes(),
                client.key.read_bytes(),
            ).encode(),
        )
        return path

    def _issue(
        self,
        file: str,
        name: str,
        groups: Sequence[str],
        purpose: x509.ObjectIdentifier,
        names: x509.SubjectAlternativeName | None,
    ) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name(
            [
                *(x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups),
                x509.NameAttribute(NameOID.COMMON_NAME, name),
            ]
        )
        builder = (
            self._builder(subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        )
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        return self._write(file, builder.sign(self._key, hashes.SHA256()), key)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - LEEWAY)
            .not_valid_after(self._now + LIFETIME)
        )

    def _write(self, file: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
        pair = Pair(self.folder / f"{file}.crt", self.folder / f"{file}.key")
        pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        _write_private(pair.key, _pem(key))
        return pair


def kubeconfig(server: str, authority: bytes, certificate: bytes, key: bytes) -> str:
    """A kubeconfig's text (JSON, which is YAML too)."""
    encoded = {
        name: base64.b64encode(value).decode()
        for name, value in (("authority", authority), ("certificate", certificate), ("key", key))
    }
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "patio",
            "clusters": [
                {
                    "name": "patio",
                    "cluster": {"server": server, "certificate-authority-data": encoded["authority"]},
                }
            ],
            "users": [
                {
                    "name": "patio",
                    "user": {
                        "client-certificate-data": encoded["certificate"],
                        "client-key-data": encoded["key"],
                    },
                }
            ],
            "contexts": [{"name": "patio", "context": {"cluster": "patio", "user": "patio"}}],
        },
        indent=2,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write_private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
