"""The programs that a release calls, and how: from the pinned Go modules in `release/tools`, and Git, uv and buildah.

They are built when a release is made, and cached as the cluster's binaries are. Everything that a program reads beside
its arguments is given here: the time zone, and the time of the commit. Decides nothing.
"""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from e2e_cluster.binaries import Binaries, ensure_binaries
from e2e_cluster.pins import Binary
from patio_release.errors import ReleaseError
from patio_release.report import Report

TOOLS = Path(__file__).resolve().parents[2] / "tools"
BINARIES = (
    Binary(
        "crane",
        "crane",
        "github.com/google/go-containerregistry/cmd/crane",
        ("github.com/google/go-containerregistry/cmd/crane/cmd.Version", "github.com/google/go-containerregistry"),
    ),
    Binary("syft", "syft", "github.com/anchore/syft/cmd/syft", ("main.version", "github.com/anchore/syft")),
    Binary(
        "cosign",
        "cosign",
        "github.com/sigstore/cosign/v3/cmd/cosign",
        ("sigs.k8s.io/release-utils/version.gitVersion", "github.com/sigstore/cosign/v3"),
    ),
)
LAST_LINES = 25
WITHIN = 1800.0
"""Seconds that one call may take: far above the slowest, a push of new layers."""
ABSENT = ("MANIFEST_UNKNOWN", "NAME_UNKNOWN")
"""What a registry answers (distribution-spec 1.1, error codes) if there is no such tag."""


def ensure_tools(report: Report) -> Binaries:
    """Return crane, syft and cosign; build those that the cache does not hold."""
    return ensure_binaries([binary.name for binary in BINARIES], report, tools=TOOLS, table=BINARIES)


def environment(created: int, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of all programs of a release.

    Args:
        created: the time of the commit, in seconds since 1970.
        environ: the caller's, which has credentials of registries and of the signing service.

    """
    return {
        **environ,
        "SOURCE_DATE_EPOCH": str(created),
        "TZ": "UTC",
        "LC_ALL": "C.UTF-8",
        "SYFT_CHECK_FOR_APP_UPDATE": "false",
    }


def call(
    command: list[str | Path], environ: Mapping[str, str], *, folder: Path | None = None, within: float = WITHIN
) -> str:
    """Run a program and return what it prints.

    Raises:
        ReleaseError: it ended with a fault, took more than `within` seconds, or is missing; the text ends with its
            last lines.

    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            env=dict(environ),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=within,
        )
    except FileNotFoundError as error:
        raise ReleaseError(f"{words[0]} is missing on this machine") from error
    except subprocess.TimeoutExpired as error:
        raise ReleaseError(f"`{' '.join(words)}` did not end within {within:.0f} s") from error
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-LAST_LINES:])
        raise ReleaseError(f"`{' '.join(words)}` ended with {done.returncode}:\n{tail}")
    return done.stdout


@dataclass(frozen=True)
class Registry:
    """A registry, as crane speaks to it."""

    crane: Path
    environ: Mapping[str, str]
    is_plain_http: bool = False

    def digest(self, reference: str, platform: str | None = None) -> str | None:
        """Return the digest behind a reference; None if the registry has no such tag.

        Args:
            reference: a name with a tag or a digest.
            platform: which image of an index; None: the index itself.

        Raises:
            ReleaseError: the registry gives another answer.

        """
        try:
            return self._crane("digest", *(["--platform", platform] if platform else []), reference).strip()
        except ReleaseError as error:
            if any(code in str(error) for code in ABSENT):
                return None
            raise

    def push(self, layout: Path, reference: str) -> None:
        """Push an OCI layout to a reference by digest."""
        self._crane("push", str(layout), reference)

    def tag(self, reference: str, tag: str) -> None:
        """Give a digest a tag."""
        self._crane("tag", reference, tag)

    def _crane(self, *arguments: str) -> str:
        insecure = ["--insecure"] if self.is_plain_http else []
        return call([self.crane, *insecure, *arguments], self.environ)


@dataclass(frozen=True)
class Signer:
    """cosign, with a key for a rehearsal, or keyless: then the identity of the workflow signs (OIDC), by Sigstore."""

    cosign: Path
    environ: Mapping[str, str]
    key: Path | None = None
    is_plain_http: bool = False

    def sign(self, reference: str) -> None:
        """Sign what a digest names, and everything that it names in turn."""
        self._cosign("sign", "--recursive", *self._where(), reference)

    def attest(self, reference: str, predicate: Path, kind: str) -> None:
        """Sign a statement about what a digest names: a list of a kind, `spdxjson` or `cyclonedx`."""
        self._cosign("attest", "--type", kind, "--predicate", str(predicate), *self._where(), reference)

    def sign_file(self, path: Path, bundle: Path) -> None:
        """Sign a file; the signature is in another file."""
        self._cosign("sign-blob", "--bundle", str(bundle), str(path))

    def _where(self) -> list[str]:
        return ["--allow-http-registry"] if self.is_plain_http else []

    def _cosign(self, command: str, *arguments: str) -> None:
        # Without a key it takes the public services from Sigstore's own configuration; with one it asks no service.
        by_key = ["--key", str(self.key), "--use-signing-config=false", "--tlog-upload=false"] if self.key else []
        call([self.cosign, command, "--yes", *by_key, *arguments], self.environ)
