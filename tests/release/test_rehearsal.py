"""Two whole releases of one commit, to a registry on this machine: what they publish, and that they are the same.

The first one stops at the signatures, as a release without a key does; nothing of it may be found then. The second one
is made from another folder and must give the same digests. It takes some minutes, so only PATIO_TEST_LONG=1 runs it.
Signatures are by a throw-away key: keyless ones need the workflow's identity. No image for arm64 is run, since nothing
here can.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e_cluster.binaries import ensure_binaries
from e2e_cluster.control_plane import control_plane
from e2e_cluster.mounts import remove_folder
from e2e_cluster.progress import timed
from patio_release.errors import ReleaseError
from patio_release.sbom import python_packages
from patio_release.version import Version
from patio_testing.release.rehearsal import Stage, stage

pytestmark = [
    pytest.mark.release,
    pytest.mark.skipif(os.environ.get("PATIO_TEST_LONG") != "1", reason="two whole releases: PATIO_TEST_LONG=1"),
]

PLATFORMS = {"linux/amd64": 62, "linux/arm64": 183}
"""The platforms, and the numbers by which ELF files name their machine (elf.h: EM_X86_64, EM_AARCH64)."""
PACKAGES = {"operator": ("patio-operator", "patio-protocol"), "sidecar": ("patio", "patio-protocol")}


@dataclass
class Rehearsal:
    """What two releases left."""

    stage: Stage
    first: dict[str, bytes]
    """Files of the release that stopped, by name."""
    tags_after_first: list[str]
    reason: str
    """Why the first one stopped."""
    digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.stage.folder

    @property
    def output(self) -> Path:
        return self.folder / "second"

    @property
    def version(self) -> Version:
        return self.stage.version

    def crane(self, *words: str) -> bytes:
        return crane(self.stage, *words)

    def cosign(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.stage.tools["cosign"], *words],
            env=self.stage.environ,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )

    def named(self, below: str) -> str:
        """Return a published name with its digest."""
        name = f"{self.stage.registry}/{below}"
        return f"{name}@{self.digests[f'{name}:{self.version.text}']}"

    def platform(self, image: str, platform: str) -> str:
        name = self.named(image)
        digest = self.crane("digest", "--platform", platform, name).decode().strip()
        return f"{name.partition('@')[0]}@{digest}"


def crane(stage: Stage, *words: str) -> bytes:
    return subprocess.run([stage.tools["crane"], "--insecure", *words], check=True, capture_output=True).stdout


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    with stage(tmp_path_factory.mktemp("rehearsal"), timed()) as prepared:
        with pytest.raises(ReleaseError) as stopped:
            prepared.release("first", "missing.key")
        files = {path.name: path.read_bytes() for path in (prepared.folder / "first").iterdir() if path.is_file()}
        tags = [
            tag
            for name in ("operator", "sidecar", "charts/patio")
            for tag in crane(prepared, "ls", f"{prepared.registry}/{name}").decode().split()
        ]
        yield Rehearsal(prepared, files, tags, str(stopped.value), prepared.release("second"))


def test_release_that_stops_leaves_nothing_to_be_found(rehearsal: Rehearsal) -> None:
    assert "missing.key" in rehearsal.reason
    assert rehearsal.tags_after_first == []


def test_same_commit_gives_the_same_digests(rehearsal: Rehearsal) -> None:
    before = json.loads((rehearsal.folder / "first/.layouts/operator/index.json").read_text())["manifests"][0]["digest"]
    assert rehearsal.named("operator").endswith(before)
    before = json.loads((rehearsal.folder / "first/.layouts/sidecar/index.json").read_text())["manifests"][0]["digest"]
    assert rehearsal.named("sidecar").endswith(before)
    before = json.loads((rehearsal.folder / "first/.layouts/chart/index.json").read_text())["manifests"][0]["digest"]
    assert rehearsal.named("charts/patio").endswith(before)


def test_same_commit_gives_the_same_files(rehearsal: Rehearsal) -> None:
    assert len(rehearsal.first) > 10, "wheels, CRDs, chart, and lists of the lock and of images for two platforms"
    differing = [name for name, content in rehearsal.first.items() if (rehearsal.output / name).read_bytes() != content]
    assert differing == []


def test_tags_name_what_was_signed(rehearsal: Rehearsal) -> None:
    assert len(rehearsal.digests) == 3
    for reference, digest in rehearsal.digests.items():
        assert rehearsal.crane("digest", reference).decode().strip() == digest


@pytest.mark.parametrize("name", ["operator", "sidecar", "charts/patio"])
def test_signature_is_that_of_the_key_and_of_no_other(rehearsal: Rehearsal, name: str) -> None:
    words = ["--insecure-ignore-tlog=true", "--allow-http-registry", rehearsal.named(name)]
    good = rehearsal.cosign("verify", "--key", "cosign.pub", *words)
    assert good.returncode == 0, good.stderr
    other = rehearsal.folder / "other"
    if not other.exists():
        other.mkdir()
        subprocess.run(
            [rehearsal.stage.tools["cosign"], "generate-key-pair"],
            cwd=other,
            env=rehearsal.stage.environ,
            check=True,
            capture_output=True,
        )
    assert rehearsal.cosign("verify", "--key", "other/cosign.pub", *words).returncode != 0


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("image", PACKAGES)
@pytest.mark.parametrize("kind", ["spdxjson", "cyclonedx"])
def test_lists_are_attested_for_each_platform(rehearsal: Rehearsal, image: str, platform: str, kind: str) -> None:
    words = ["--insecure-ignore-tlog=true", "--allow-http-registry", "--type", kind]
    done = rehearsal.cosign("verify-attestation", "--key", "cosign.pub", *words, rehearsal.platform(image, platform))
    assert done.returncode == 0, done.stderr
    done = rehearsal.cosign("verify", "--key", "cosign.pub", *words[:2], rehearsal.platform(image, platform))
    assert done.returncode == 0, done.stderr


def test_checksums_are_signed_and_right(rehearsal: Rehearsal) -> None:
    done = rehearsal.cosign(
        *("verify-blob", "--key", "cosign.pub", "--insecure-ignore-tlog=true"),
        *("--bundle", "second/SHA256SUMS.sigstore.json", "second/SHA256SUMS"),
    )
    assert done.returncode == 0, done.stderr
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=rehearsal.output, check=True)
    listed = {line.split()[1] for line in (rehearsal.output / "SHA256SUMS").read_text().splitlines()}
    assert {path.name for path in rehearsal.output.iterdir()} - listed == {"SHA256SUMS", "SHA256SUMS.sigstore.json"}


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("image", PACKAGES)
def test_image_has_what_the_lock_says(rehearsal: Rehearsal, image: str, platform: str) -> None:
    lock = json.loads((rehearsal.output / f"{image}-lock.cdx.json").read_text())
    listed = json.loads((rehearsal.output / f"{image}-{platform.replace('/', '-')}.cdx.json").read_text())
    in_image, expected = python_packages(listed), python_packages(lock)
    assert len(expected) > 20
    own_versions = dict.fromkeys(PACKAGES[image], rehearsal.version.python)
    elsewhere = {name for name in expected.keys() - in_image.keys() if has_condition(lock, name)}
    assert in_image == {name: version for name, version in expected.items() if name not in elsewhere} | own_versions


def has_condition(lock: Mapping[str, Any], name: str) -> bool:
    """Whether the lock has a package only for some platforms or versions of Python."""
    (component,) = (component for component in lock["components"] if component["name"] == name)
    return any(each["name"] == "uv:package:marker" for each in component.get("properties", ()))


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("image", PACKAGES)
def test_every_program_in_an_image_is_for_its_platform(rehearsal: Rehearsal, image: str, platform: str) -> None:
    reference = rehearsal.platform(image, platform)
    config = json.loads(rehearsal.crane("config", reference))
    assert f"{config['os']}/{config['architecture']}" == platform
    machines: dict[int, list[str]] = {}
    with tarfile.open(fileobj=io.BytesIO(rehearsal.crane("export", reference, "-"))) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isfile() else None
            start = file.read(20) if file else b""
            if start.startswith(b"\x7fELF"):
                machines.setdefault(int.from_bytes(start[18:20], "little"), []).append(member.name)
    assert machines.keys() == {PLATFORMS[platform]}, {machine: names[:3] for machine, names in machines.items()}
    assert any(name.endswith(".so") and name.startswith("opt/patio/") for names in machines.values() for name in names)


@pytest.mark.parametrize(("image", "module"), [("operator", "patio_operator.app"), ("sidecar", "patio.app")])
def test_image_of_this_platform_starts(rehearsal: Rehearsal, image: str, module: str) -> None:
    store = rehearsal.folder / f"run-{image}"
    place = ["--storage-driver", "overlay", "--root", str(store / "root"), "--runroot", str(store / "run")]

    def buildah(*words: str) -> str:
        done = subprocess.run(["buildah", *place, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    try:
        container = buildah("from", "--quiet", "--tls-verify=false", rehearsal.platform(image, "linux/amd64"))
        program = f"import {module}, {module.partition('.')[0]} as package; print(package.__version__)"
        printed = buildah("run", "--isolation", "chroot", container, "--", "python", "-W", "error", "-c", program)
    finally:
        subprocess.run(["buildah", *place, "rm", "--all"], check=False, capture_output=True)
        remove_folder(store)
    assert printed == rehearsal.version.text


def test_wheel_is_the_client_alone(rehearsal: Rehearsal) -> None:
    (wheel,) = rehearsal.output.glob("*.whl")
    assert wheel.name == f"patio_protocol-{rehearsal.version.python}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        assert {name.split("/")[0].partition("-")[0] for name in archive.namelist()} == {"patio_protocol"}
        assert "patio_protocol/client.py" in archive.namelist()


@pytest.mark.api  # etcd and an API server, and helm
def test_readme_installs_from_the_registry(rehearsal: Rehearsal) -> None:
    """The README's command as it is written, but for the name of the registry and its missing TLS."""
    (command,) = re.findall(r"^helm install .*$", (rehearsal.folder / "origin/README.md").read_text(), re.MULTILINE)
    assert "oci://ghcr.io/patio/charts/patio" in command
    words = shlex.split(command.replace("ghcr.io/patio", rehearsal.stage.registry))[1:]
    with control_plane() as plane:
        crds = rehearsal.output / f"patio-crds-{rehearsal.version.text}.yaml"
        plane.kubectl("apply", "--server-side", "--filename", str(crds), "--dry-run=server")
        helm = [str(ensure_binaries(["helm"]).helm), "--kubeconfig", str(plane.kubeconfig)]
        done = subprocess.run(
            [*helm, *words, "--plain-http"], env=rehearsal.stage.environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        deployment = plane.kubectl("get", "deployment/patio-operator", "-n", "patio-system", "--output=json")
        profile = plane.kubectl("get", "clusterengineruntimeprofile/patio", "--output=json")
    (operator,) = json.loads(deployment)["spec"]["template"]["spec"]["containers"]
    (sidecar,) = json.loads(profile)["spec"]["initContainers"]
    assert (operator["image"], sidecar["image"]) == (rehearsal.named("operator"), rehearsal.named("sidecar"))
    rehearsal.crane("validate", "--remote", operator["image"])


def test_chart_differs_from_the_trees_only_in_its_images(rehearsal: Rehearsal) -> None:
    with tarfile.open(rehearsal.output / f"patio-{rehearsal.version.text}.tgz") as tar:
        released = {name.removeprefix("patio/"): tar.extractfile(name) for name in tar.getnames()}
        content = {name: file.read() for name, file in released.items() if file}
    tree = rehearsal.folder / "origin/charts/patio"
    changed = {name for name, text in content.items() if (tree / name).read_bytes() != text}
    assert changed == {"Chart.yaml", "values.yaml"}
    assert content.keys() == {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}
    before, after = yaml.safe_load((tree / "values.yaml").read_text()), yaml.safe_load(content["values.yaml"])
    for name in ("operator", "sidecar"):
        before[name]["image"]["repository"] = f"{rehearsal.stage.registry}/{name}"
    assert after == before
