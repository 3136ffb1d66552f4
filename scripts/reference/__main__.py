"""`python -m scripts.reference FOLDER` writes the reference; `--check FOLDER` says whether it is up to date."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.reference import chart, inference_command, kinds, metrics, pictures, reasons, routes, settings

ROOT = Path(__file__).resolve().parents[2]


def pages() -> dict[str, str]:
    """Return the text of every generated page and picture, by its path from docs/reference."""
    patio = ROOT / "charts/patio"
    return {
        "../../charts/patio/README.md": chart.write_readme(patio),
        "../../charts/patio/values.schema.json": chart.write_schema(patio),
        "crds.md": kinds.write(patio / "crds"),
        "helm-values.md": chart.write_values(patio),
        "inference-server.md": inference_command.write(),
        "http-routes.md": routes.write(ROOT / "docs/openapi.json"),
        "metrics.md": metrics.write(),
        "rbac.md": chart.write_rights(patio / "templates" / name for name in chart.RBAC),
        "reasons.md": reasons.write(),
        "settings.md": settings.write(),
        **{
            f"../pictures/{source.stem}.svg": pictures.write(source)
            for source in sorted(pictures.SOURCES.glob("*.yaml"))
        },
    }


def main(argv: Sequence[str]) -> int:
    """Write or check the pages; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if a page is not up to date")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(argv)
    stale = []
    for name, text in pages().items():
        path = options.folder / name
        if path.exists() and path.read_text() == text:
            continue
        stale.append(str(path))
        if not options.check:
            path.write_text(text)
    if options.check and stale:
        print(f"not up to date: {', '.join(stale)}; run `make reference`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
