"""A program that has the sidecar fetch the model and then becomes the engine: its text, the names of its variables.

Engines read `s3://` and `obs://` each in a way of their own, or not at all; the sidecar fetches both, resumes, and says
how far it is. The planner's `engine_commands` puts the text, for `python3 -c` in the engine's container, before the
engine's command; nothing here runs `program` in the operator.
"""

from __future__ import annotations

import inspect

from patio_operator.modelendpoints.model_fetch import program

PREFIX = program.PREFIX
"""Of the variables that it reads: the keys of `config` of the sidecar's `POST /v1/download_model`, in capitals."""
SIDECAR = f"{PREFIX}SIDECAR"
"""The sidecar's base URL."""
PROGRAM = inspect.getsource(program)
