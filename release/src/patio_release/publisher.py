"""Carrying out the plan of a release: reads the tree, builds, pushes, signs, and tags last.

`plan` decides whether and in which order; this module is its shell. Files go into the request's output folder, which is
emptied first. A release that failed can be done again: what is in the registry already has the same digest.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from e2e_cluster.binaries import Binaries, ensure_binaries
from e2e_cluster.places import cache_root
from patio_release import changelog, chart, checksums, crds, oci_layout, plan, published, sbom
from patio_release.errors import ReleaseError
from patio_release.images import Builder, BuiltImage, Origin
from patio_release.oci_layout import Artifact
from patio_release.plan import STEPS, Step, Tree
from patio_release.programs import BINARIES, TOOLS, Registry, Signer, call, ensure_tools, environment
from patio_release.report import Report
from patio_release.version import Version, disagreements, read_all, read_source

LOG = "release.log"
LAYOUTS = ".layouts"
"""The folder of what is not pushed yet: there from the start of a release to its end."""


@dataclass(frozen=True)
class Request:
    """What a maintainer asks for."""

    root: Path
    """The repository."""
    output: Path
    registry: str
    base: str
    key: Path | None
    """A key of cosign's; None: keyless."""
    is_plain_http: bool = False
    cache: Path = field(default_factory=cache_root)


@dataclass
class Work:
    """What the steps know, and what they leave for later ones."""

    request: Request
    origin: Origin
    environ: Mapping[str, str]
    registry: Registry
    signer: Signer
    syft: Path
    report: Report
    notes: str
    images: dict[str, BuiltImage] = field(default_factory=dict)
    chart: Artifact | None = None

    @property
    def version(self) -> Version:
        """The version that is released."""
        return self.origin.version

    @property
    def layouts(self) -> Path:
        """Where OCI layouts wait until they are pushed."""
        return self.request.output / LAYOUTS

    def name(self, below: str) -> str:
        """Return a published name."""
        return f"{self.request.registry}/{below}"

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file of the release."""
        (self.request.output / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def read_base(root: Path) -> str:
    """Return the base of released images, as the tree names it."""
    return (root / published.BASE).read_text().strip()


def pin_base(root: Path, report: Report) -> str:
    """Name the base with the digest that its tag has now.

    Raises:
        ReleaseError: the registry has no such tag, or gives no answer.

    """
    name = read_base(root).partition("@")[0]
    crane = ensure_binaries(["crane"], report, tools=TOOLS, table=BINARIES)["crane"]
    digest = Registry(crane, os.environ).digest(name)
    if digest is None:
        raise ReleaseError(f"there is no base image {name}")
    (root / published.BASE).write_text(f"{name}@{digest}\n")
    return f"{name}@{digest}"


def read_fragments(root: Path) -> tuple[str, ...]:
    """Return the names of the changelog's fragments that no release has taken yet."""
    return tuple(sorted(path.name for path in (root / "changelog.d").glob("*.md") if path.name != "README.md"))


def read_tree(root: Path, base: str) -> Tree:
    """Return what Git and the files say of the commit that is checked out."""
    environ = dict(os.environ)
    version = read_source(root)
    text = (root / "CHANGELOG.md").read_text()
    return Tree(
        version=version,
        disagreements=tuple(disagreements(read_all(root), version)),
        tags=tuple(call(["git", "tag", "--points-at", "HEAD"], environ, folder=root).split()),
        is_clean=not call(["git", "status", "--porcelain"], environ, folder=root).strip(),
        fragments=read_fragments(root),
        has_section=changelog.section(text, version) is not None,
        base=base,
    )


def release(request: Request, report: Report) -> Mapping[str, str]:
    """Make and publish a release of the commit that is checked out.

    Returns:
        The digests by reference, each reference with its tag.

    Raises:
        ReleaseError: something has to be done first, or a step failed. Before `Step.TAG_IMAGES` nothing is published.
        ClusterError: a program is missing, or the log of a long command says why it failed.

    """
    tree = read_tree(request.root, request.base)
    if refused := plan.refusals(tree):
        raise ReleaseError(
            "\n".join([f"{tree.version.tag} cannot be released:", *(f"- {reason}" for reason in refused)])
        )
    work = _begin(request, tree, ensure_tools(report), report)
    for number, step in enumerate(STEPS, start=1):
        report(f"{number}/{len(STEPS)} {step.value}")
        _DO[step](work)
    shutil.rmtree(work.layouts)
    return _references(work)


def empty(output: Path, root: Path) -> None:
    """Make the folder of the release's files, without what an earlier release left there.

    Raises:
        ReleaseError: the repository is in it, or something that no release has left there.

    """
    if root.is_relative_to(output):
        raise ReleaseError(f"--output {output}: give a folder that the repository is not in, since it is emptied")
    if output.exists():
        names = {path.name for path in output.iterdir()} if output.is_dir() else {output.name}
        if names and not names & {LAYOUTS, checksums.FILE}:
            raise ReleaseError(f"--output {output} has files that are not of a release: give a new or empty folder")
        shutil.rmtree(output)
    (output / LAYOUTS).mkdir(parents=True)


def _begin(request: Request, tree: Tree, tools: Binaries, report: Report) -> Work:
    commit, created = call(["git", "log", "-1", "--format=%H %ct"], os.environ, folder=request.root).split()
    environ = environment(int(created))
    registry = Registry(tools["crane"], environ, request.is_plain_http)
    base = registry.digest(request.base)
    builder = registry.digest(request.base, published.own_platform(platform.machine()))
    if base is None or builder is None:
        raise ReleaseError(f"there is no base image {request.base}")
    empty(request.output, request.root)
    metadata = yaml.safe_load((request.root / published.CHART / chart.METADATA).read_text())
    notes = changelog.section((request.root / "CHANGELOG.md").read_text(), tree.version)
    return Work(
        request=request,
        origin=Origin(tree.version, commit, int(created), request.base, base, builder, str(metadata["home"])),
        environ=environ,
        registry=registry,
        signer=Signer(tools["cosign"], environ, request.key, request.is_plain_http),
        syft=tools["syft"],
        report=report,
        notes=notes or f"A candidate of {tree.version.text.partition('-')[0]}.",
    )


def _build_wheels(work: Work) -> None:
    for package in published.WHEELS:
        words = ["build", "--quiet", "--no-create-gitignore", "--package", package]
        call([_uv(work), *words, "--out-dir", work.request.output], work.environ, folder=work.request.root)


def _join_crds(work: Work) -> None:
    files = {path.name: path.read_text() for path in (work.request.root / published.CHART / "crds").glob("*.yaml")}
    work.write(f"patio-crds-{work.version.text}.yaml", crds.joined(files, work.version))


def _list_lock(work: Work) -> None:
    for image in published.IMAGES:
        words = ["export", "--quiet", "--frozen", "--no-dev", "--format", "cyclonedx1.5", "--package", image.package]
        text = call([_uv(work), *words], work.environ, folder=work.request.root)
        subject = f"{image.package} {work.origin.commit}"
        work.write(f"{image.name}-lock.cdx.json", sbom.settled_cyclonedx(text, subject, work.origin.created))


def _build_images(work: Work) -> None:
    request = work.request
    log = request.cache / "release" / LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    store = request.cache / "release" / "buildah"
    builder = Builder(request.root, store, work.environ, request.is_plain_http, log, work.report)
    builder.prepare()
    try:
        for image in published.IMAGES:
            work.images[image.name] = builder.build(image, work.origin, work.layouts / image.name)
    finally:
        builder.clear()


def _pack_chart(work: Work) -> None:
    root = work.request.root / published.CHART
    tracked = call(["git", "ls-files", "."], work.environ, folder=root).split()
    files = {name: (root / name).read_bytes() for name in tracked}
    digests = {name: image.digest for name, image in work.images.items()}
    files = chart.released(files, work.request.registry, digests, changelog.changes(work.notes))
    archive = chart.packed(files, "patio", work.origin.created)
    work.write(chart.archive_name(work.version), archive)
    metadata: dict[str, Any] = yaml.safe_load(files[chart.METADATA])
    work.chart = oci_layout.helm_artifact(metadata, archive, work.origin.created)
    oci_layout.write(work.chart, work.layouts / "chart")


def _push(work: Work) -> None:
    for name, image in work.images.items():
        work.registry.push(image.layout, f"{work.name(name)}@{image.digest}")
    work.registry.push(work.layouts / "chart", f"{work.name(published.CHART)}@{_chart(work).digest}")


def _compare_tags(work: Work) -> None:
    built = _references(work)
    if taken := plan.clashes(built, _present(work, built)):
        raise ReleaseError("\n".join(taken))


def _list_images(work: Work) -> None:
    environ = dict(work.environ)
    if work.request.is_plain_http:
        environ["SYFT_REGISTRY_INSECURE_USE_HTTP"] = "true"
    for name, image in work.images.items():
        for for_platform, digest in image.platforms.items():
            spdx, cyclonedx = _lists(work, name, for_platform)
            command: list[str | Path] = [work.syft, "scan", f"registry:{work.name(name)}@{digest}", "--quiet"]
            command += ["--source-name", f"patio-{name}", "--source-version", work.version.text]
            command += ["--output", f"spdx-json={spdx}", "--output", f"cyclonedx-json={cyclonedx}"]
            call(command, environ)
            subject, created = f"{name}@{digest}", work.origin.created
            spdx.write_text(sbom.settled_spdx(spdx.read_text(), subject, created))
            cyclonedx.write_text(sbom.settled_cyclonedx(cyclonedx.read_text(), subject, created))


def _sign(work: Work) -> None:
    for name, image in work.images.items():
        work.signer.sign(f"{work.name(name)}@{image.digest}")
        for for_platform, digest in image.platforms.items():
            spdx, cyclonedx = _lists(work, name, for_platform)
            work.signer.attest(f"{work.name(name)}@{digest}", spdx, "spdxjson")
            work.signer.attest(f"{work.name(name)}@{digest}", cyclonedx, "cyclonedx")
    work.signer.sign(f"{work.name(published.CHART)}@{_chart(work).digest}")


def _sum(work: Work) -> None:
    output = work.request.output
    work.write("notes.md", work.notes + "\n")
    work.write("digests.json", json.dumps(_references(work), indent=2) + "\n")
    files = {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()}
    work.write(checksums.FILE, checksums.checksums(files))
    work.signer.sign_file(output / checksums.FILE, output / f"{checksums.FILE}.sigstore.json")


def _tag_images(work: Work) -> None:
    _tag(work, {ref: digest for ref, digest in _references(work).items() if published.CHART not in ref})


def _tag_chart(work: Work) -> None:
    _tag(work, {ref: digest for ref, digest in _references(work).items() if published.CHART in ref})


_DO: Mapping[Step, Callable[[Work], None]] = {
    Step.BUILD_WHEELS: _build_wheels,
    Step.JOIN_CRDS: _join_crds,
    Step.LIST_LOCK: _list_lock,
    Step.BUILD_IMAGES: _build_images,
    Step.PACK_CHART: _pack_chart,
    Step.PUSH: _push,
    Step.COMPARE_TAGS: _compare_tags,
    Step.LIST_IMAGES: _list_images,
    Step.SIGN: _sign,
    Step.SUM: _sum,
    Step.TAG_IMAGES: _tag_images,
    Step.TAG_CHART: _tag_chart,
}


def _tag(work: Work, wanted: Mapping[str, str]) -> None:
    present = _present(work, wanted)
    if taken := plan.clashes(wanted, present):
        raise ReleaseError("\n".join(taken))
    for reference, digest in plan.missing_tags(wanted, present):
        repository, _, tag = reference.rpartition(":")
        work.registry.tag(f"{repository}@{digest}", tag)


def _present(work: Work, wanted: Mapping[str, str]) -> dict[str, str]:
    found = {reference: work.registry.digest(reference) for reference in wanted}
    return {reference: digest for reference, digest in found.items() if digest is not None}


def _references(work: Work) -> dict[str, str]:
    tag = work.version.text
    images = {f"{work.name(name)}:{tag}": image.digest for name, image in work.images.items()}
    return {**images, f"{work.name(published.CHART)}:{tag}": _chart(work).digest}


def _chart(work: Work) -> Artifact:
    if work.chart is None:
        raise ReleaseError("the chart is packed after the images are built")
    return work.chart


def _lists(work: Work, name: str, for_platform: str) -> tuple[Path, Path]:
    stem = f"{name}-{for_platform.replace('/', '-')}"
    return work.request.output / f"{stem}.spdx.json", work.request.output / f"{stem}.cdx.json"


def _uv(work: Work) -> Path:
    return work.request.root / "scripts" / "uv"


def write_changelog(root: Path, version: Version, date: str) -> None:
    """Take the fragments into CHANGELOG.md, unless the version is a candidate. Doing it again changes nothing.

    Raises:
        ReleaseError: there are fragments, and the version has a section already; or towncrier failed.

    """
    if version.is_candidate:
        return
    if changelog.section((root / "CHANGELOG.md").read_text(), version) is not None:
        if left := read_fragments(root):
            raise ReleaseError(
                f"CHANGELOG.md has a section {version.text} already: move the text of {', '.join(left)} into it, and "
                "remove the fragments"
            )
        return
    command = [sys.executable, "-m", "towncrier", "build", "--yes"]
    done = subprocess.run(
        [*command, "--version", version.text, "--date", date], cwd=root, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ReleaseError(f"towncrier ended with {done.returncode}:\n{done.stdout}{done.stderr}")
