"""The version of this tree: one source, and the places that repeat it.

The source is `version` of the root's pyproject.toml. Other files need the same text: packages, the chart, the lock,
pages with commands. `PLACES` lists them; `set_version` writes all of them, and `disagreements` says which differ. The
CRDs and the OpenAPI document are generated from the packages' `__version__`, so they are only read here. Pure but for
the reading and writing of files.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from patio_release.errors import ReleaseError

SOURCE = "pyproject.toml"
FORM = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-rc\.([1-9]\d*))?", re.ASCII)
"""SemVer as this project uses it: a release, or a numbered candidate. Helm, OCI tags and Python packages take it."""
_ANY = r"[^\s\"'`\\:@]+"


@dataclass(frozen=True)
class Version:
    """A version in the forms that its readers want."""

    text: str
    """As it is written in the tree, for example `0.2.0` or `0.2.0-rc.1`."""

    @property
    def tag(self) -> str:
        """The Git tag of the release."""
        return f"v{self.text}"

    @property
    def python(self) -> str:
        """As Python's tools write it (PEP 440) in names of files and in the lock."""
        return self.text.replace("-rc.", "rc")

    @property
    def is_candidate(self) -> bool:
        """Whether it comes before a release."""
        return "-" in self.text


def parse(text: str) -> Version:
    """Read a version.

    Raises:
        ReleaseError: it has another form than `X.Y.Z` or `X.Y.Z-rc.N`.

    """
    if len(text) > 64 or FORM.fullmatch(text) is None:
        raise ReleaseError(f"{text[:80]!r} is no version of this project: it has the form X.Y.Z or X.Y.Z-rc.N")
    return Version(text)


@dataclass(frozen=True)
class Place:
    """Files that repeat the version: a glob from the root, and what stands before and after it in them."""

    files: str
    before: str
    after: str = ""
    is_python: bool = False
    """Whether it is written as PEP 440 says."""
    is_generated: bool = False
    """Whether `make crds openapi` writes the file."""

    def pattern(self) -> re.Pattern[str]:
        """Return what finds the version: it is the second group."""
        return re.compile(f"({self.before})({_ANY})(?={self.after})", re.MULTILINE)


MEMBERS = r'^\[project\]\nname = "[\w-]+"\nversion = "'
CHART = "charts/patio/Chart.yaml"
PLACES = (
    Place("pyproject.toml", MEMBERS, '"'),
    Place("*/pyproject.toml", MEMBERS, '"'),
    Place("tests/**/pyproject.toml", MEMBERS, '"'),
    Place("*/src/*/__init__.py", r'^__version__ = "', '"'),
    Place(CHART, "^version: ", "$"),
    Place(CHART, "^appVersion: ", "$"),
    Place(CHART, r"^      image: [\w./-]+/patio/\w+:", "$"),
    Place("uv.lock", r'^name = "patio[\w-]*"\nversion = "', r'"\nsource = \{ (?:editable|virtual)', is_python=True),
    Place("README.md", r"charts/patio --version "),
    Place("docs/tasks/*.md", r"charts/patio --version "),
    Place("charts/patio/README.md", r"charts/patio --version "),
    Place("scripts/reference/chart.py", r"charts/patio --version "),
    Place("docs/tasks/*.md", r"release\.yaml@refs/tags/v", r" "),
    Place("docs/tasks/*.md", r"patio/(?:sidecar|operator|charts/patio):"),
    Place("examples/*.yaml", r"patio/sidecar:", "$"),
    Place("docs/openapi.json", r'^  "version": "', '"', is_generated=True),
    Place("charts/patio/crds/*.yaml", r"^    patio\.dev/version: ", "$", is_generated=True),
)


@dataclass(frozen=True)
class Found:
    """A version that stands in a file."""

    file: str
    text: str
    place: Place


def found_in(file: str, content: str, place: Place) -> list[Found]:
    """Return the versions that stand in a file at a place."""
    return [Found(file, match[2], place) for match in place.pattern().finditer(content)]


def renewed(content: str, place: Place, version: Version) -> str:
    """Return the content with another version at a place."""
    text = version.python if place.is_python else version.text
    return place.pattern().sub(lambda match: match[1] + text, content)


def disagreements(found: list[Found], version: Version) -> list[str]:
    """Say, for every place with another version than the source, which file has which."""
    return [
        f"{occurrence.file} has {occurrence.text}"
        for occurrence in found
        if occurrence.text != (version.python if occurrence.place.is_python else version.text)
    ]


def with_candidate_mark(chart: str, version: Version) -> str:
    """Return Chart.yaml with the mark that Artifact Hub shows on candidates."""
    mark = "true" if version.is_candidate else "false"
    return re.sub(r'^(  artifacthub\.io/prerelease: )"\w+"$', rf'\1"{mark}"', chart, flags=re.MULTILINE)


def read_source(root: Path) -> Version:
    """Return the version that the tree says it has.

    Raises:
        ReleaseError: the source has none, or one of another form.

    """
    (source,) = (place for place in PLACES if place.files == SOURCE)
    found = found_in(SOURCE, (root / SOURCE).read_text(), source)
    if len(found) != 1:
        raise ReleaseError(f"{SOURCE} has no version below [project]")
    return parse(found[0].text)


def read_all(root: Path) -> list[Found]:
    """Return every version in the tree.

    Raises:
        ReleaseError: no file has a version at one of the places: the file has another form than `PLACES` says.

    """
    everything: list[Found] = []
    for place in PLACES:
        here = [
            occurrence
            for file in _files(root, place)
            for occurrence in found_in(file, (root / file).read_text(), place)
        ]
        if not here:
            raise ReleaseError(f"no {place.files} has a version after {place.before!r}: correct PLACES in version.py")
        everything += here
    return everything


def set_version(root: Path, version: Version) -> list[str]:
    """Write another version into all places that are not generated; return the files that changed."""
    changed: dict[str, str] = {}
    for place in PLACES:
        if place.is_generated:
            continue
        for file in _files(root, place):
            before = changed.get(file, (root / file).read_text())
            after = renewed(before, place, version)
            if file == CHART:
                after = with_candidate_mark(after, version)
            if after != before:
                changed[file] = after
    return _write(root, changed)


def _write(root: Path, changed: Mapping[str, str]) -> list[str]:
    for file, content in changed.items():
        (root / file).write_text(content)
    return sorted(changed)


def _files(root: Path, place: Place) -> Iterator[str]:
    for path in sorted(root.glob(place.files)):
        if path.is_file() and ".venv" not in path.parts:
            yield str(path.relative_to(root))
