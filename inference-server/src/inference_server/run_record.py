"""What is written down of one run of a server: `run.json`, and how it is read again. Pure.

`run_file` writes and finds the files. A record has no secret: its command and variables are masked before they come
here. A reader takes nothing for true that could have changed since: whether a run still lives is asked of the keeper.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Mapping

from inference_server.processes import Identity
from inference_server.stopping import StopReport

FORMAT = 1
LIBRARY, COMMAND = "library", "command"
"""Who owns a server: a program that uses the library, or the command `inference-server`, which stops it when asked."""


@dataclass(frozen=True)
class RunRecord:
    """One run of one server."""

    backend: str
    model: str
    port: int
    url: str
    state: str
    output_dir: str
    log_file: str
    error_log_file: str
    command: tuple[str, ...]
    working_directory: str
    environment: Mapping[str, str]
    """The variables that the server was given beyond those of its owner, masked."""
    endpoints: Mapping[str, str]
    versions: Mapping[str, str]
    owner: Identity
    owned_by: str
    keeper: Identity
    engine: Identity | None
    started_at: str
    """UTC, ISO 8601."""
    stop_timeout: float
    phase: str = ""
    phases: Mapping[str, float] | None = None
    """Seconds after the start."""
    ended_at: str = ""
    error: Mapping[str, Any] | None = None
    """Why it did not start, or ended: `cause`, `message`, `hint`, `exit_code`."""
    stop: Mapping[str, Any] | None = None
    """What the last stop did: a `StopReport`."""


def to_text(record: RunRecord) -> str:
    """Return a record as JSON, for people too."""
    return json.dumps({"format": FORMAT, **asdict(record)}, indent=1, ensure_ascii=False) + "\n"


def record_of(text: str) -> RunRecord:
    """Read a record.

    Raises:
        ValueError: it is not one, or one of another format.
    """
    content = json.loads(text)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError("not a record of a run in format %d" % FORMAT)
    field_names = {field.name for field in fields(RunRecord)}
    values = {name: value for name, value in content.items() if name in field_names}
    try:
        for name in ("owner", "keeper", "engine"):
            values[name] = values[name] and Identity(int(values[name]["pid"]), int(values[name]["start"]))
        values["command"] = tuple(str(word) for word in values["command"])
        values["port"] = int(values["port"])
        values["stop_timeout"] = float(values["stop_timeout"])
        for name in ("environment", "endpoints", "versions"):
            if not isinstance(values[name], dict):
                raise ValueError("%s is not a mapping" % name)
        for name in ("backend", "model", "url", "state", "output_dir", "log_file", "error_log_file", "owned_by"):
            if not isinstance(values[name], str):
                raise ValueError("%s is not text" % name)
        if values["owner"] is None or values["keeper"] is None:
            raise ValueError("owner or keeper is missing")
        return RunRecord(**values)
    except (KeyError, TypeError) as error:
        raise ValueError("not a record of a run: %s" % error) from error


def stop_values(report: StopReport) -> dict[str, Any]:
    """Return what a record says of a stop."""
    return {
        "seconds": round(report.seconds, 3),
        "signals": [list(each) for each in report.signals],
        "exit_code": report.exit_code,
        "survivors": list(report.survivors),
        "gpu_memory": asdict(report.gpu_memory) if report.gpu_memory is not None else None,
    }
