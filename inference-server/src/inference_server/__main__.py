"""`python -m inference_server`: the command `inference-server`."""

from __future__ import annotations

import sys

from inference_server.commands import main

if __name__ == "__main__":
    sys.exit(main())
