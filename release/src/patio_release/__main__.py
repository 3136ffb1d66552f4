"""The release's command line.

    python -m patio_release set 0.2.0          write the version into all places, and the changelog's section
    python -m patio_release check              say what disagrees with the version; what `make lint` runs
    python -m patio_release base               name the base of the images with the digest that its tag has now
    python -m patio_release publish            make and publish a release of the commit that is checked out

docs/project/releasing.md tells a maintainer each step.
"""

import argparse
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path

from e2e_cluster.errors import ClusterError
from e2e_cluster.progress import timed
from patio_release import published
from patio_release.errors import ReleaseError
from patio_release.publisher import Request, pin_base, read_base, release, write_changelog
from patio_release.version import disagreements, parse, read_all, read_source, set_version

ROOT = Path(__file__).resolve().parents[3]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 1 if it could not be done."""
    parser = argparse.ArgumentParser(prog="patio_release", description="Releases of Patio.")
    commands = parser.add_subparsers(dest="command", required=True)
    setting = commands.add_parser(
        "set", help="write the version into all places, and take in the changelog's fragments"
    )
    setting.add_argument("version", help="X.Y.Z, or X.Y.Z-rc.N")
    commands.add_parser("check", help="say which place has another version than pyproject.toml")
    commands.add_parser("base", help=f"write the digest of the images' base into {published.BASE}")
    publishing = commands.add_parser("publish", help="make and publish a release of the commit that is checked out")
    publishing.add_argument("--registry", default=published.REGISTRY, help="where to publish (default: %(default)s)")
    publishing.add_argument("--base", help=f"base of the images, with its digest (default: that of {published.BASE})")
    publishing.add_argument("--output", type=Path, default=ROOT / "dist" / "release", help="folder of the files")
    publishing.add_argument("--key", type=Path, help="a key of cosign's; without one, signatures are keyless")
    publishing.add_argument("--plain-http", action="store_true", help="the registry is on this machine, without TLS")
    arguments = parser.parse_args(argv)
    try:
        return {"set": _set, "check": _check, "base": _base, "publish": _publish}[arguments.command](arguments)
    except (ReleaseError, ClusterError) as error:
        print(error, file=sys.stderr)
        return 1


def _set(arguments: argparse.Namespace) -> int:
    version = parse(arguments.version)
    for file in set_version(ROOT, version):
        print(file)
    write_changelog(ROOT, version, datetime.datetime.now(datetime.UTC).date().isoformat())
    return 0


def _check(arguments: argparse.Namespace) -> int:
    version = read_source(ROOT)
    wrong = disagreements(read_all(ROOT), version)
    for each in wrong:
        # Not `make version`: it would take the changelog's fragments too.
        print(f"{each}, and pyproject.toml has {version.text}: correct it, or generate it again", file=sys.stderr)
    return 1 if wrong else 0


def _base(arguments: argparse.Namespace) -> int:
    print(pin_base(ROOT, timed()))
    return 0


def _publish(arguments: argparse.Namespace) -> int:
    request = Request(
        root=ROOT,
        output=arguments.output.resolve(),
        registry=published.registry(arguments.registry),
        base=arguments.base or read_base(ROOT),
        key=arguments.key,
        is_plain_http=arguments.plain_http,
    )
    for reference, digest in release(request, timed()).items():
        print(f"{reference} {digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
