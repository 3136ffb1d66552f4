"""How the sidecar logs: one line per event, in words and then `key=value` fields, as text or as JSON.

`app` sets it up once. Modules use `logging.getLogger(__name__)`; no secret is ever given to it. Words of others, in
fields, are quoted as logfmt does where they have spaces or quotes, cut where they are long, and never make a second
line or move a terminal's cursor. `LineLimit` is for lines that strangers cause.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Callable
from functools import lru_cache

LONGEST_FIELD = 2000
"""Characters of one field."""
LONGEST_LINE = 8000

_PLACEHOLDER = re.compile(r"%(?:%|[-#0 +]*(?:\d+)?(?:\.\d+)?([a-zA-Z]))")
_PLAIN = re.compile(r"[^\s\"'=\\\x00-\x1f\x7f-\x9f]+")
# C0 and C1 controls (ESC and CSI among them), and what Unicode counts as the end of a line.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CONTROL_BUT_LINES = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    return _SHORT.get(character) or (f"\\x{ord(character):02x}" if ord(character) < 256 else f"\\u{ord(character):04x}")


def quoted(value: object) -> str:
    """Write a field's value as logfmt does: as it is, or in quotes where it could be read as more than one."""
    text = str(value)
    if len(text) > LONGEST_FIELD:
        text = text[: LONGEST_FIELD - 1] + "…"
    if _PLAIN.fullmatch(text):
        return text
    return '"' + _CONTROL.sub(_escape, text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


@lru_cache(maxsize=512)
def _fields(form: str) -> tuple[str, tuple[bool, ...]]:
    """Return a message's form with each field's text as `%s`, and which of its values are such."""
    quoting: list[bool] = []

    def quote_field(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0]
        is_field = match[1] in "sr" and form[: match.start()].endswith("=")
        quoting.append(is_field)
        return "%s" if is_field else match[0]

    return _PLACEHOLDER.sub(quote_field, form), tuple(quoting)


def _message(record: logging.LogRecord) -> str:
    """Return a record's message with its fields quoted."""
    if isinstance(record.msg, str) and isinstance(record.args, tuple) and record.args:
        form, quoting = _fields(record.msg)
        if len(quoting) == len(record.args):
            return form % tuple(
                quoted(value) if quote else value for value, quote in zip(record.args, quoting, strict=True)
            )
    return record.getMessage()


class _Json(logging.Formatter):
    """A JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage()[:LONGEST_LINE],
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        # JSON itself lets DEL, C1 controls and Unicode's ends of lines through.
        return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(line, ensure_ascii=False))


class _Text(logging.Formatter):
    """A line of text; an engine's words may have several, and must not look like lines of ours."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = _message(record)[:LONGEST_LINE]
        return _CONTROL.sub(_escape, super().formatMessage(record))

    def formatException(self, ei: object) -> str:  # noqa: N802 - logging's name
        return _CONTROL_BUT_LINES.sub(_escape, super().formatException(ei))  # type: ignore[arg-type]


class LineLimit:
    """Lets so many lines of a kind through in a span of time, and counts those that it does not."""

    def __init__(self, lines: int = 20, seconds: float = 10.0, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._lines = lines
        self._seconds = seconds
        self._monotonic = monotonic
        self._began = monotonic()
        self._written = 0
        self._suppressed = 0

    def take(self) -> int | None:
        """Return how many lines were left out since the last one that was written; None: leave this one out, too."""
        now = self._monotonic()
        if now - self._began >= self._seconds:
            self._began, self._written = now, 0
        if self._written >= self._lines:
            self._suppressed += 1
            return None
        self._written += 1
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed


def configure(level: str, as_json: bool) -> None:
    """Log to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    text = _Text("%(asctime)s.%(msecs)03dZ %(levelname)-7s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    text.converter = time.gmtime
    handler.setFormatter(_Json() if as_json else text)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # A line for every poll of the engine would bury all others.
    for chatty in ("httpx", "httpcore", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
