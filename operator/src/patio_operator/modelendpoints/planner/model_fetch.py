"""The text of `fetch_program`, for `python3 -c` in the engine's container, and the names of its variables.

Engines read `s3://` and `obs://` each in a way of their own, or not at all; the sidecar fetches both, resumes, and says
how far it is. `engine_commands` puts the program before the engine's command.
"""

from __future__ import annotations

import inspect

from patio_operator.modelendpoints.planner import fetch_program

PREFIX = fetch_program.PREFIX
"""Of the variables that it reads: the keys of `config` of the sidecar's `POST /v1/download_model`, in capitals."""
SIDECAR = f"{PREFIX}SIDECAR"
"""The sidecar's base URL."""
PROGRAM = inspect.getsource(fetch_program)
