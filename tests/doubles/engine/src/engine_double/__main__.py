"""`python -m engine_double`: run one double until a signal ends it. See `cli` for the flags."""

from __future__ import annotations

import asyncio
import os
import sys

from engine_double.cli import settings_from
from engine_double.server import serve


def main() -> int:
    """Run it; the exit status is 0 after SIGTERM and 137 after an ordered crash."""
    settings, ignored = settings_from(sys.argv[1:], os.environ)
    notes = [str(settings)]
    if ignored:
        notes.append(f"ignored flags, which change no answer: {' '.join(ignored)}")
    return asyncio.run(serve(settings, notes))


if __name__ == "__main__":
    sys.exit(main())
