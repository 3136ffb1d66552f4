from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from docker_stand_in import NO_DAEMON, stand_in

from e2e_cluster import image_builders, images
from e2e_cluster.errors import ClusterError, MachineError
from e2e_cluster.image_builders import Build, find_builder
from e2e_cluster.progress import Report, silent

ROOT = Path(__file__).resolve().parents[3]
OURS = {"sidecar": "sidecar/Dockerfile", "operator": "operator/Dockerfile"}


@dataclass
class Recorder:
    """A builder that only notes what it is asked for."""

    name: str = "recorder"
    builds: list[Build] = field(default_factory=list)

    def tidy(self) -> None:
        pass

    def can_get(self, ref: str) -> bool:
        return ref.startswith("localhost/patio-base:")

    def import_root(self, archive: Path, ref: str, log: Path, report: Report) -> None:
        raise AssertionError(f"{ref} was there already")

    def build(self, build: Build, log: Path, report: Report) -> None:
        self.builds.append(build)

    def save(self, ref: str, archive: Path, log: Path, report: Report) -> None:
        archive.write_text(ref)


def tree(folder: Path) -> Path:
    (folder / "app" / "src").mkdir(parents=True)
    (folder / "app" / "src" / "main.py").write_text("print(1)")
    (folder / "uv.lock").write_text("locked")
    (folder / "Dockerfile").write_text(
        "FROM x AS builder\nCOPY uv.lock ./\nCOPY app/src src\nFROM x\nCOPY --from=builder /src /src\n"
    )
    return folder


def key(folder: Path, ref: str = "a:dev", base: str = "debian") -> str:
    return images.image_key(folder, "Dockerfile", ref, base)


@pytest.mark.parametrize("changed", ["app/src/main.py", "app/src/new.py", "uv.lock", "Dockerfile"])
def test_change_in_anything_that_is_copied_gives_another_image(tmp_path: Path, changed: str) -> None:
    before = key(tree(tmp_path))
    path = tmp_path / changed
    path.write_text((path.read_text() if path.exists() else "") + "# more\n")
    assert key(tmp_path) != before


def test_another_base_or_tag_gives_another_image(tmp_path: Path) -> None:
    tree(tmp_path)
    assert len({key(tmp_path), key(tmp_path, base="alpine"), key(tmp_path, ref="a:v1")}) == 3


def test_bytecode_and_what_is_not_copied_do_not_matter(tmp_path: Path) -> None:
    before = key(tree(tmp_path))
    (tmp_path / "app" / "src" / "__pycache__").mkdir()
    (tmp_path / "app" / "src" / "__pycache__" / "main.pyc").write_text("x")
    (tmp_path / "README.md").write_text("x")
    assert key(tmp_path) == before


def test_unchanged_image_is_not_built_again(tmp_path: Path) -> None:
    builder, environ = Recorder(), {"PATIO_CACHE": str(tmp_path)}
    first = images.build(["sidecar"], environ=environ, builder=builder)
    assert images.build(["sidecar"], environ=environ, builder=builder) == first
    assert len(builder.builds) == 1
    assert first[0].ref == "ghcr.io/patio/sidecar:dev"
    assert first[0].archive.read_text() == first[0].ref


@pytest.mark.parametrize(
    ("variables", "base", "expected"),
    [
        ({}, "mine:1", "mine:1"),
        ({"PATIO_BASE_IMAGE": "theirs:1"}, None, "theirs:1"),
        ({}, None, "localhost/patio-base:"),
    ],
)
def test_base_is_the_one_named_or_else_one_that_is_made(
    tmp_path: Path, variables: Mapping[str, str], base: str | None, expected: str
) -> None:
    builder = Recorder()
    images.build(["sidecar"], base=base, environ={"PATIO_CACHE": str(tmp_path), **variables}, builder=builder)
    assert builder.builds[0].arguments["BASE"].startswith(expected)


def test_build_that_fails_leaves_no_archive(tmp_path: Path) -> None:
    class Failing(Recorder):
        def save(self, ref: str, archive: Path, log: Path, report: Report) -> None:
            archive.write_text("half of it")
            raise ClusterError("the disk is full")

    environ = {"PATIO_CACHE": str(tmp_path)}
    with pytest.raises(ClusterError, match="the disk is full"):
        images.build(["sidecar"], environ=environ, builder=Failing())
    assert not list(tmp_path.glob("images/*.tar"))


def test_only_the_newest_archives_of_an_image_are_kept(tmp_path: Path) -> None:
    environ = {"PATIO_CACHE": str(tmp_path)}
    for tag in ("1", "2", "3", "4", "5"):
        images.build(["sidecar", "operator"], tag, environ=environ, builder=Recorder())
    assert len(list(tmp_path.glob("images/sidecar-*.tar"))) == images.KEPT


def test_certificate_bundle_reaches_the_build_only_as_a_secret(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.crt"
    bundle.write_text("certificate")
    arguments, secrets = images.certificate_options({"SSL_CERT_FILE": str(bundle)})
    assert secrets == {"ca-bundle": bundle}
    assert set(arguments.values()) == {"/run/secrets/ca-bundle"}
    assert images.certificate_options({}) == ({}, {})


def test_unknown_image_name_is_rejected_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert images.main(["build", "sidcar"]) == 1
    assert "there is no sidcar; there are sidecar, operator" in capsys.readouterr().err


@pytest.mark.parametrize("name", images.DOCKERFILES)
def test_dockerfile_takes_its_base_as_argument_public_by_default(name: str) -> None:
    text = (ROOT / images.DOCKERFILES[name]).read_text()
    assert f"ARG BASE={images.PUBLIC_BASE}\n" in text
    stages = [line.split()[1:] for line in text.splitlines() if line.startswith("FROM ")]
    builder = ["--platform=${BUILDPLATFORM}", "${BUILDER}", "AS", "builder"]
    assert all(words == builder or words[0] == "${BASE}" for words in stages)
    assert builder not in stages or "ARG BUILDER=${BASE}\n" in text


@pytest.mark.parametrize("name", OURS)
def test_product_image_runs_without_root_and_without_a_shell(name: str) -> None:
    final = (ROOT / OURS[name]).read_text().rpartition("\nFROM ")[2].splitlines()
    assert "USER 65532:65532" in final
    assert not [line for line in final if line.startswith("RUN")]
    assert [line for line in final if line.startswith('ENTRYPOINT ["python", "-m", ')]


@pytest.mark.parametrize("name", images.DOCKERFILES)
def test_what_a_dockerfile_copies_is_in_its_context(name: str) -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(images.copied_paths((ROOT / images.DOCKERFILES[name]).read_text())) <= let_in


def test_docker_builds_where_its_client_can(tmp_path: Path) -> None:
    answers = {"info": (0, ""), "version": (0, "28.2.2"), "buildx version": (0, "buildx")}
    assert find_builder(tmp_path, silent, stand_in(tmp_path, answers)).name == "docker"


def test_client_without_buildx_leaves_building_to_buildah(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_builders, "ensure_packages", lambda packages, report: None)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    lines: list[str] = []
    docker = stand_in(tmp_path, {"info": (0, ""), "version": (0, "28.2.2"), "buildx": (1, "unknown command")})
    assert find_builder(tmp_path, lines.append, docker).name == "buildah"
    assert "docker-buildx" in lines[0]


@pytest.mark.parametrize(
    ("answers", "remedy"),
    [
        ({"info": (0, ""), "version": (0, "28.2.2")}, "install its package docker-buildx"),
        ({"info": (1, NO_DAEMON)}, "install Docker"),
    ],
)
def test_machine_that_can_build_with_neither_is_told_what_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: Mapping[str, tuple[int, str]], remedy: str
) -> None:
    monkeypatch.setattr(image_builders, "ensure_packages", lambda packages, report: None)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(MachineError, match=remedy):
        find_builder(tmp_path, silent, stand_in(tmp_path, answers))


def test_progress_goes_to_the_callers_report(tmp_path: Path) -> None:
    lines: list[str] = []
    environ = {"PATIO_CACHE": str(tmp_path)}
    images.build(["sidecar"], environ=environ, builder=Recorder(), report=lines.append)
    assert lines[0].startswith("image sidecar: building with recorder")
    assert "ghcr.io/patio/sidecar:dev" in lines[-1]
    images.build(["sidecar"], environ=environ, builder=Recorder(), report=silent)
