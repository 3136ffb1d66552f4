"""The programs of a release: pinned, and their answers told apart."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from e2e_cluster.pins import binary_flags
from patio_release.errors import ReleaseError
from patio_release.programs import BINARIES, TOOLS, Registry, Signer, call, environment

SCRIPT = """\
#!/bin/sh
echo "$@" >> "$0.calls"
case "$*" in *absent*) echo "MANIFEST_UNKNOWN: no such tag" >&2; exit 1;; *denied*) echo DENIED >&2; exit 1;; esac
echo sha256:abc
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Stand for crane or cosign: it notes its arguments."""
    path = tmp_path / "program"
    path.write_text(SCRIPT)
    path.chmod(0o755)
    return path


def calls(program: Path) -> list[str]:
    return Path(f"{program}.calls").read_text().splitlines()


def test_every_program_is_a_tool_of_its_pinned_module() -> None:
    for binary in BINARIES:
        go_mod = (TOOLS / binary.module / "go.mod").read_text()
        assert re.search(rf"^(tool )?\s*{re.escape(binary.package)}$", go_mod, re.MULTILINE), binary
        assert (TOOLS / binary.module / "go.sum").exists()
        assert re.search(r" -X \S+=v\d+\.\d+\.\d+$", binary_flags(binary, {binary.module: go_mod}))


def test_absent_tag_is_no_error_and_a_denial_is_one(program: Path) -> None:
    registry = Registry(program, {"PATH": "/usr/bin:/bin"})
    assert registry.digest("r/a:1") == "sha256:abc"
    assert registry.digest("r/absent:1") is None
    with pytest.raises(ReleaseError, match="DENIED"):
        registry.digest("r/denied:1")


def test_loopback_registry_is_asked_without_tls(program: Path) -> None:
    Registry(program, {"PATH": "/usr/bin:/bin"}, is_plain_http=True).tag("r/a@sha256:1", "1.0.0")
    assert calls(program) == ["--insecure tag r/a@sha256:1 1.0.0"]


def test_signature_with_a_key_asks_no_public_service(program: Path) -> None:
    Signer(program, {"PATH": "/usr/bin:/bin"}, key=Path("k")).sign("r/a@sha256:1")
    (words,) = calls(program)
    assert "--key k" in words
    assert "--tlog-upload=false" in words


def test_keyless_signature_leaves_the_services_to_sigstore(program: Path) -> None:
    Signer(program, {"PATH": "/usr/bin:/bin"}).sign("r/a@sha256:1")
    assert calls(program) == ["sign --yes --recursive r/a@sha256:1"]


def test_missing_program_is_named() -> None:
    with pytest.raises(ReleaseError, match="/no/such/program is missing"):
        call(["/no/such/program"], {})


def test_program_that_hangs_is_an_error() -> None:
    with pytest.raises(ReleaseError, match="did not end within 0 s"):
        call(["sleep", "600"], {"PATH": "/usr/bin:/bin"}, within=0.1)


def test_failure_shows_the_last_words(program: Path) -> None:
    with pytest.raises(ReleaseError, match=r"ended with 1:\nDENIED"):
        call([program, "denied"], {"PATH": "/usr/bin:/bin"})


def test_programs_are_told_the_time_of_the_commit() -> None:
    variables = environment(17, {"HOME": "/x"})
    assert (variables["SOURCE_DATE_EPOCH"], variables["TZ"], variables["HOME"]) == ("17", "UTC", "/x")
