"""Keeps what the webhook serves and what the API server trusts in step with what `authority` says is right.

`SharedCertificate` shares one set among all replicas through a Secret, and writes its CAs where the API server reads
them. The annotation `patio.dev/rotate` on the Secret, whatever its value, asks for a new CA and all that follows from
it. `MountedCertificate` serves what cert-manager keeps in a folder, and writes nothing. Both have one `context`: a
certificate that is loaded later serves the connections that come after, and never breaks one that is there.
"""

from __future__ import annotations

import base64
import logging
import ssl
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from patio_api import labels
from patio_kube.client import ApiError, ConflictError, KubeClient, NotFoundError, Object
from patio_kube.resources import Resource
from patio_kube.shared_secret import Decision, ensure_shared_secret
from patio_operator.certificates import authority, crd_bundle
from patio_operator.certificates.authority import Bundle, Ends, Periods

log = logging.getLogger(__name__)

FILES_CHECK_SECONDS = 10.0


class CertificateError(Exception):
    """There is no certificate to serve yet, or it cannot be used; the message says what is missing."""


class ServingCertificate(Protocol):
    """Keeps a serving certificate in `context`; `keep` is one pass, to be repeated every `check_seconds`."""

    context: ssl.SSLContext
    check_seconds: float
    ends: Ends | None
    """When what is served ends; None before there is something."""

    @property
    def serves(self) -> bool:
        """Whether there is a certificate in `context`."""

    async def refresh(self) -> None:
        """Make one pass.

        Raises:
            ApiError: the API server did not do its part; what is served stays, and is served from the start.
            CertificateError: there is nothing to serve.

        """


class SharedCertificate:
    """Keeps an SSL context, the Secret behind it and the CA bundles of the webhook configurations in step."""

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        secret: str,
        service: str,
        periods: Periods,
        configurations: Sequence[tuple[Resource, str]],
    ) -> None:
        """`configurations` are objects that say which CAs are trusted for the Service, by kind and name."""
        self._client = client
        self._namespace = namespace
        self._secret = secret
        self._service = service
        self._periods = periods
        self._configurations = configurations
        self._names = (f"{service}.{namespace}.svc", f"{service}.{namespace}.svc.cluster.local")
        self._loaded: Bundle | None = None
        self.ends: Ends | None = None
        self.check_seconds = periods.check.total_seconds()
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)

    @property
    def serves(self) -> bool:
        """Whether there is a certificate in `context`."""
        return self._loaded is not None

    async def refresh(self) -> None:
        """Make one pass: a right certificate is in the Secret and in the context, its CAs are trusted."""
        # The configurations are read before the Secret, and written with that resource version: if another replica
        # wrote a newer Secret and its CAs meanwhile, this write fails, never the other way round.
        configurations = [await self._read(kind, name) for kind, name in self._configurations]
        client_config_entries = [
            entry for kind, body in configurations for _, entry in client_configs(kind, body, *self._place)
        ]
        trusted = _trusted_by_all(client_config_entries)
        bundle, failure = await ensure_shared_secret(
            self._client, self._namespace, self._secret, lambda secret: self._decide(secret, trusted)
        )
        if bundle != self._loaded:
            _load(self.context, bundle.certificate, bundle.key)
            self._loaded = bundle
            self.ends = authority.ends(bundle.certificate, bundle.trusted)
        for kind, body in configurations:
            await self._trust(kind, body, bundle.trusted)
        await crd_bundle.correct(self._client, self._service, self._namespace, bundle.trusted)
        if failure is not None:
            raise failure

    @property
    def _place(self) -> tuple[str, str]:
        return self._namespace, self._service

    async def _read(self, kind: Resource, name: str) -> tuple[Resource, Object]:
        try:
            return kind, await self._client.get(kind, name)
        except NotFoundError:
            log.error("%s %s does not exist, so no pod gets a sidecar. Reinstall the chart.", kind.kind, name)
            return kind, {}

    def _decide(self, secret: Object | None, trusted: bytes) -> Decision[Bundle]:
        """Say what has to be done to the Secret, where the API server trusts these CAs."""
        now = datetime.now(UTC)
        existing = authority.decode(secret.get("data") or {}) if secret is not None else None
        if existing is None:
            # Deleted or broken under our hands: what is served, and trusted, goes back.
            bundle = authority.restored(self._loaded or authority.first(self._names, now, self._periods), trusted)
            return Decision(bundle, authority.encode(bundle), message="webhook certificate: created")
        rotation_requested = secret is not None and labels.ROTATE in (secret["metadata"].get("annotations") or {})
        before = replace(existing, ca_key=b"") if rotation_requested else existing
        bundle = authority.improved(before, self._names, now, self._periods, trusted)
        if bundle == existing:
            return Decision(bundle)
        message = f"webhook certificate: {_what_changed(existing, bundle)}"
        fallback = existing if authority.is_usable(existing, self._names, now) else None
        return Decision(bundle, authority.encode(bundle), {labels.ROTATE: None}, message, fallback)

    async def _trust(self, kind: Resource, body: Object, trusted: bytes) -> None:
        encoded = base64.b64encode(trusted).decode()
        changes: list[Object] = [
            {"op": "add", "path": f"{path}/caBundle", "value": encoded}
            for path, entry in client_configs(kind, body, *self._place)
            if entry.get("caBundle") != encoded
        ]
        if changes:
            version = body["metadata"]["resourceVersion"]
            unchanged = {"op": "replace", "path": "/metadata/resourceVersion", "value": version}
            await self._client.json_patch(kind, body["metadata"]["name"], None, [unchanged, *changes])
            log.info("CA bundle written to %s %s", kind.kind, body["metadata"]["name"])


class MountedCertificate:
    """Serves the certificate in a folder (`tls.crt`, `tls.key`, `ca.crt`), as cert-manager renews it there.

    cert-manager writes the CA into the webhook configurations. The CRD of RoleBasedGroups is not from a template and
    cannot ask it to, so `tell_crd` does, given the CA.
    """

    def __init__(self, folder: Path, tell_crd: Callable[[bytes], Awaitable[None]]) -> None:
        self._folder = folder
        self._tell_crd = tell_crd
        self._loaded: list[bytes] = []
        self._trusted = b""
        self.ends: Ends | None = None
        self.check_seconds = FILES_CHECK_SECONDS
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)

    @property
    def serves(self) -> bool:
        """Whether there is a certificate in `context`."""
        return bool(self._loaded)

    async def refresh(self) -> None:
        """Serve what is in the folder now."""
        await self._tell_crd(self._serve())

    def _serve(self) -> bytes:
        """Load what is new; return the CA."""
        try:
            ca, *pair = (Path(self._folder, name).read_bytes() for name in ("ca.crt", "tls.crt", "tls.key"))
            if pair != self._loaded:
                _load(self.context, *pair)
                log.info("webhook certificate loaded from %s", self._folder)
        except (OSError, ssl.SSLError) as error:
            raise CertificateError(f"no certificate in {self._folder}: {error}") from error
        if pair != self._loaded or ca != self._trusted:
            self.ends = _ends(pair[0], ca)
        self._loaded, self._trusted = pair, ca
        return ca


def _ends(certificate: bytes, ca: bytes) -> Ends | None:
    try:
        return authority.ends(certificate, ca)
    except ValueError as error:
        log.warning("the end of the webhook certificate or of its CA is not known: %s", error)
        return None


def client_configs(
    kind: Resource, body: Object, namespace: str, service: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield path and content of each place that says how the API server calls the Service, of these alone.

    A webhook configuration has one for each webhook, a CRD one for its conversion. What calls another Service is
    another's: beside upstream the CRDs are.
    """
    webhooks = [(f"/webhooks/{index}", webhook) for index, webhook in enumerate(body.get("webhooks") or [])]
    if kind.kind == "CustomResourceDefinition":
        webhook = ((body.get("spec") or {}).get("conversion") or {}).get("webhook")
        webhooks = [("/spec/conversion/webhook", webhook)] if webhook else []
    for path, webhook in webhooks:
        config = webhook.get("clientConfig") or {}
        called = config.get("service") or {}
        if (called.get("namespace"), called.get("name")) == (namespace, service):
            yield f"{path}/clientConfig", config


def _trusted_by_all(entries: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the CA bundle that the API server has in all its places; nothing where they differ."""
    bundles = {entry.get("caBundle") or "" for entry in entries}
    return base64.b64decode(bundles.pop()) if len(bundles) == 1 else b""


def _what_changed(before: Bundle, after: Bundle) -> str:
    if before.authorities[0] != after.authorities[0]:
        return "a new CA, trusted beside the old one"
    return "renewed" if before.certificate != after.certificate else "an old CA is no longer trusted"


def _load(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    # The ssl module takes certificates from files only; this one lives for the length of the call.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tls.pem")
        path.touch(mode=0o600)
        path.write_bytes(key + certificate)
        context.load_cert_chain(path)


async def refresh_once(serving: ServingCertificate) -> str | None:
    """Make one pass; return why it was not made, if it was not."""
    for _ in range(5):
        try:
            await serving.refresh()
            return None
        except ConflictError:
            # Another replica wrote at the same time: what it wrote is as good.
            continue
        except ApiError as error:
            return error.message
        except CertificateError as error:
            return str(error)
    return "other replicas keep writing it at the same time"
