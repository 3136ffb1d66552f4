"""`python -m patio.document FILE` writes the OpenAPI document of the API; `--check FILE` compares FILE with it.

The committed docs/openapi.json is made by it, so that callers need no running sidecar to read the API.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx

from patio.adapters.store import Store
from patio.app import assemble
from patio.routes.openapi import add_document
from patio.settings import Settings


def document() -> str:
    """Return the document as indented JSON."""
    app = assemble(Settings(), Store(None), httpx.AsyncClient(), asyncio.Event()).app
    add_document(app)
    return json.dumps(app.openapi(), indent=1, sort_keys=True) + "\n"


def main(argv: Sequence[str]) -> int:
    """Write or check the file; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m patio.document", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the file is not up to date")
    parser.add_argument("file", type=Path)
    options = parser.parse_args(argv)
    current = document()
    if not options.check:
        options.file.write_text(current)
    elif not options.file.exists() or options.file.read_text() != current:
        print(f"{options.file} is not up to date with the routes; run `make openapi`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
