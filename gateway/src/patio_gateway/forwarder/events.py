"""Reads a stream of server-sent events as its bytes come: the data of each event, within a bound. Pure.

Only `data` counts, as in Model Engine's forwarder: names, ids and comments of events are left out. The last event
counts without a blank line after it too, since the engine's connection says whether the stream is whole.
"""

from __future__ import annotations

import re

MOST_EVENT = 4 * 1024 * 1024
"""Bytes of one event."""

_LINE_END = re.compile(rb"\r\n|\r|\n")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventTooLongError(ValueError):
    """An event is longer than its bound."""


class EventReader:
    """Takes the bytes of one stream."""

    def __init__(self, most: int = MOST_EVENT) -> None:
        """`most` bytes are in an event."""
        self._most = most
        self._line = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._is_first = True
        self._after_return = False

    def feed(self, chunk: bytes) -> list[str]:
        """Return the data of the events that end in these bytes.

        Raises:
            EventTooLongError: an event is too long.

        """
        if chunk and self._after_return:
            self._after_return = False
            # The second half of a line end that two chunks share.
            chunk = chunk.removeprefix(b"\n")
        if not chunk:
            return []
        self._after_return = chunk.endswith(b"\r")
        events = []
        first, *others = _LINE_END.split(chunk)
        self._extend(first)
        for part in others:
            events += self._end_line()
            self._extend(part)
        return events

    def finish(self) -> list[str]:
        """Return the data of the last event, if it has any."""
        events = self._end_line() if self._line else []
        return events + self._end_event()

    def _extend(self, part: bytes) -> None:
        self._line += part
        if self._size + len(self._line) > self._most:
            raise EventTooLongError(f"an event is longer than {self._most} bytes")

    def _end_line(self) -> list[str]:
        line = bytes(self._line)
        self._line.clear()
        if self._is_first:
            self._is_first = False
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if not line:
            return self._end_event()
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._size += len(line)
        return []

    def _end_event(self) -> list[str]:
        if not self._data:
            return []
        event = b"\n".join(self._data).decode("utf-8", "replace")
        self._data.clear()
        self._size = 0
        return [event]
