"""Asks an interpreter whether it has an engine, and which version, without importing the engine.

The start of an engine takes tens of seconds; that its interpreter does not have it can be known in 0.1 s. A program
that is no Python interpreter gives no clear answer, and then nothing is concluded.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from typing import Mapping

PROBE = """\
import importlib.util
name = {name!r}
found = importlib.util.find_spec(name) is not None
version = ''
try:
    import importlib.metadata
    version = importlib.metadata.version(name)
except Exception:  # no metadata, or Python 3.7: the version stays unknown
    pass
print('inference-server-probe', int(found), version)
"""
SECONDS = 20.0
MAX_ANSWER = 4096


@dataclass(frozen=True)
class Installed:
    """What an interpreter has of an engine."""

    found: bool | None
    """None: it gave no clear answer."""
    version: str = ""


_answers: dict[tuple[str, str, str], Installed] = {}


def parse_answer(text: str) -> Installed:
    """Read what the probe printed. Pure."""
    match = re.search(r"^inference-server-probe ([01])(?: (\S*))?$", text, re.M)
    return Installed(match.group(1) == "1", match.group(2) or "") if match else Installed(None)


def probe(interpreter: str, engine: str, environment: Mapping[str, str]) -> Installed:
    """Return what an interpreter has of an engine; each one is asked once while it says yes."""
    key = (interpreter, engine, environment.get("PYTHONPATH", ""))
    if key in _answers:
        return _answers[key]
    try:
        done = subprocess.run(  # noqa: S603 - the interpreter that the caller chose
            [interpreter, "-c", PROBE.format(name=engine)],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return Installed(None)
    answer = parse_answer(done.stdout[:MAX_ANSWER].decode("utf-8", "replace"))
    if answer.found:
        _answers[key] = answer
    return answer


def version_numbers(version: str) -> tuple[int, ...] | None:
    """Return the numbers at the beginning of a version, or None if there are none. Pure."""
    match = re.match(r"(\d+(?:\.\d+)*)", version)
    return tuple(int(part) for part in match.group(1).split(".")) if match else None
