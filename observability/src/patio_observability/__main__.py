"""`python -m patio_observability ROOT` writes dashboards, rules and pages; `--check ROOT` says what is not up to date.

`--queries` prints every query of every panel and alert instead, one JSON object a line, with the variables replaced by
"all": what a test needs to run them on a Prometheus.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from patio_observability import grafana, pages, perses, rules
from patio_observability.dashboards import DASHBOARDS
from patio_observability.queries import all_queries


def files() -> dict[str, str]:
    """Return the text of every generated file, by its path in the repository."""
    return {
        **{f"charts/patio/dashboards/{dashboard.uid}.json": grafana.write(dashboard) for dashboard in DASHBOARDS},
        **{f"observability/perses/{dashboard.uid}.json": perses.write(dashboard) for dashboard in DASHBOARDS},
        "charts/patio/rules/alerts.yaml": rules.chart_data(),
        "charts/patio/rules/patio.rules.yaml": rules.plain(),
        "docs/reference/alerts.md": pages.alerts(),
        **{f"docs/runbooks/{name}": text for name, text in pages.runbooks().items()},
    }


def stale(root: Path, wanted: Mapping[str, str]) -> list[str]:
    """Return the paths of files that are not up to date, or should not be there."""
    found = [path for path, text in wanted.items() if not (root / path).exists() or (root / path).read_text() != text]
    for folder in ("charts/patio/dashboards", "charts/patio/rules", "observability/perses", "docs/runbooks"):
        found += [name for path in (root / folder).glob("*") if (name := f"{folder}/{path.name}") not in wanted]
    return found


def main(argv: Sequence[str]) -> int:
    """Write or check the files; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m patio_observability", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if a file is not up to date")
    parser.add_argument("--queries", action="store_true", help="write nothing; print the queries")
    parser.add_argument("root", type=Path, help="the repository's root")
    options = parser.parse_args(argv)
    if options.queries:
        for query in all_queries():
            print(json.dumps(query))
        return 0
    wanted = files()
    outdated = stale(options.root, wanted)
    if options.check and outdated:
        print(f"not up to date: {', '.join(outdated)}; run `make dashboards`", file=sys.stderr)
        return 1
    if not options.check:
        for path in outdated:
            file = options.root / path
            if path not in wanted:
                file.unlink()
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(wanted[path])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
