"""What the command prints: events and answers as text or as JSON. Pure.

An event is a dictionary with the key `event`; `serving` emits them, and a server in the background sends them to the
command that started it. With `--json` each is a line, and an answer is one document.
"""

from __future__ import annotations

import json
from typing import Any, Iterable, Mapping, Sequence

from inference_server.checks import PROBLEM, WARNING, CheckReport
from inference_server.errors import FleetStartupError, InferenceServerError, ServerStartupError
from inference_server.exit_codes import code_of
from inference_server.run_record import RunRecord

Event = Mapping[str, Any]
MARKS = {PROBLEM: "PROBLEM", WARNING: "warning"}


def error_event(error: BaseException) -> Event:
    """Return what is printed of an error."""
    startup = error if isinstance(error, ServerStartupError) else None
    fleet = error if isinstance(error, FleetStartupError) else None
    return {
        "event": "error",
        "code": code_of(error),
        "cause": startup.cause.value if startup else "",
        "message": startup.message if startup else str(error),
        "hint": startup.hint if startup else "",
        "log_tail": startup.log_tail if startup else "",
        "exit_code": startup.exit_code if startup else None,
        "failed": [name for name, _ in fleet.failures] if fleet else [],
        "stopped": list(fleet.stopped) if fleet else [],
        "known": isinstance(error, (InferenceServerError, ValueError, OSError, ImportError)),
    }


def text_of(event: Event) -> str:
    """Return an event for people, or an empty text if the log says it already."""
    kind = event["event"]
    if kind == "starting":
        return "\n".join("starting %(name)s: logs in %(output_dir)s" % server for server in event["servers"])
    if kind == "phase":
        return "%(server)s: %(phase)s after %(seconds).1f s" % event
    if kind == "ready":
        return "\n".join("%(name)s serves %(model)s: %(url)s" % server for server in event["servers"])
    if kind == "recording":
        return "recording %(server)s for %(seconds)g s; Ctrl-C ends it earlier" % event
    if kind == "profile":
        return "\n".join(event["files"])
    if kind == "stopped":
        return "\n".join(_stopped(server) for server in event["servers"])
    if kind == "error":
        parts = [event["message"]]
        if event["hint"]:
            parts.append("Hint: " + event["hint"])
        if event["log_tail"]:
            parts.append("Last lines of the log:\n" + event["log_tail"])
        return "inference-server: error: " + "\n".join(parts)
    return ""


def _stopped(server: Mapping[str, Any]) -> str:
    left = ", ".join(map(str, server.get("survivors") or ()))
    text = "%s stopped in %.1f s with exit code %s" % (server["name"], server["seconds"], server["exit_code"])
    return text + ("; LEFT: " + left if left else "")


def line_of(event: Mapping[str, Any]) -> str:
    """Return an event or an answer as one line of JSON."""
    return json.dumps(event, ensure_ascii=False)


def document_of(answer: Any) -> str:
    """Return an answer as a JSON document."""
    return json.dumps(answer, ensure_ascii=False, indent=1)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows below heads, in columns that are as wide as they need to be."""
    lines = [list(heads), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def server_values(record: RunRecord) -> Mapping[str, Any]:
    """Return what `ps --json` says of a server."""
    return {
        "backend": record.backend,
        "model": record.model,
        "port": record.port,
        "url": record.url,
        "state": record.state,
        "phase": record.phase,
        "owner_pid": record.owner.pid,
        "owned_by": record.owned_by,
        "engine_pid": record.engine.pid if record.engine else None,
        "keeper_pid": record.keeper.pid,
        "started_at": record.started_at,
        "output_dir": record.output_dir,
    }


PS_HEADS = ("PORT", "BACKEND", "MODEL", "STATE", "PHASE", "OWNER", "ENGINE", "SINCE", "LOGS")


def ps_row(record: RunRecord) -> Sequence[str]:
    """Return a server's row of `ps`."""
    return (
        str(record.port),
        record.backend,
        record.model,
        record.state,
        record.phase or "-",
        "%d (%s)" % (record.owner.pid, record.owned_by),
        str(record.engine.pid) if record.engine else "-",
        record.started_at,
        record.output_dir,
    )


def check_values(report: CheckReport) -> Mapping[str, Any]:
    """Return what `check --json` says of a server."""
    return {
        "name": report.name,
        "passed": report.passed,
        "command": list(report.command),
        "environment": dict(report.environment),
        "checks": [
            {
                "subject": item.subject,
                "level": item.level,
                "message": item.message,
                "hint": item.hint,
                "cause": item.cause.value if item.cause else None,
            }
            for item in report.items
        ],
    }


def check_text(report: CheckReport) -> str:
    """Return what `check` says of a server."""
    import shlex  # only here

    lines = [report.name, "  command: " + " ".join(shlex.quote(word) for word in report.command)]
    lines += ["  variable: %s=%s" % each for each in sorted(report.environment.items())]
    for item in report.items:
        mark = MARKS.get(item.level, item.level)
        lines.append("  %-8s %s: %s%s" % (mark, item.subject, item.message, "; " + item.hint if item.hint else ""))
    return "\n".join(lines)
