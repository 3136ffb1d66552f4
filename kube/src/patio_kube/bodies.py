"""Reads the API server's answers: one object (`read_object`), or a list item by item (`Items`).

Most of an object is what its owner wrote, and Kubernetes lets it be nested far deeper (10,000 levels) than Python's
parser follows. Such an object is `TooDeep`: its metadata, and nothing else, so that who reads a list leaves it out and
has the others. A list is decoded one item at a time, so that other tasks can run in between. Pure; `api` reads the
bytes and decides what is too large.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]

DEEPEST = 64
"""Levels that are kept of an object that is nested too deeply."""

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)


class TooDeep(Object):
    """What is left of an object that is nested too deeply: apiVersion, kind and metadata."""


def read_object(text: str) -> Object:
    """Read one object, which may be a `TooDeep`.

    Raises:
        ValueError: the text is no JSON object.

    """
    value, _ = _value(text, _skip(text, 0))
    if not isinstance(value, dict):
        raise ValueError("the API server's answer is not a JSON object")
    return value


def read_event(text: str) -> Object:
    """Read an event of a watch; its object may be a `TooDeep`.

    Raises:
        ValueError: the text is no event.

    """
    too_deep = False
    try:
        event = json.loads(text)
    except RecursionError:
        event, too_deep = json.loads(cut(text, "too-deep")[0]), True
    if not isinstance(event, dict) or not isinstance(event.get("object"), dict) or "type" not in event:
        raise ValueError("the API server sent JSON that is not a watch event")
    return {**event, "object": _left_of(event["object"])} if too_deep else event


class Items:
    """The items of a list in JSON, decoded one by one; what stands beside them is in `rest` when all were read."""

    def __init__(self, text: str, *path: str) -> None:
        """`path` leads to the list: `items` for one of the API server's, `request`, `objects` for a review's."""
        self._text = text
        self._path = path
        self.rest: Object = {}
        self._at = 0

    def __iter__(self) -> Iterator[Object]:
        """Yield the items.

        Raises:
            ValueError: the text is no JSON object, or an item is none.

        """
        for value, _, _ in self.spans():
            if not isinstance(value, dict):
                raise ValueError("an item of a list is not an object")
            yield value

    def spans(self) -> Iterator[tuple[Any, int, int]]:
        """Yield each item with the place in the text where it begins, and where it ends."""
        yield from self._members(_skip(self._text, 0), self._path, self.rest)

    def _members(self, at: int, path: tuple[str, ...], into: Object) -> Iterator[tuple[Any, int, int]]:
        """Go through the members of an object; `self._at` is where it ends afterwards."""
        text = self._text
        at = _skip(text, _expect(text, at, "{"))
        while text[at : at + 1] != "}":
            if text[at : at + 1] != '"':
                raise json.JSONDecodeError("Expecting the name of a member", text, at)
            name, at = _value(text, at)
            at = _skip(text, _expect(text, _skip(text, at), ":"))
            if path[:1] == (name,) and len(path) > 1 and text[at : at + 1] == "{":
                yield from self._members(at, path[1:], into.setdefault(name, {}))
                at = self._at
            elif path == (name,) and text[at : at + 1] == "[":
                yield from self._elements(at)
                at = self._at
            else:
                into[name], at = _value(text, at)
            at = _skip(text, at)
            if text[at : at + 1] == ",":
                at = _skip(text, at + 1)
            elif text[at : at + 1] != "}":
                raise json.JSONDecodeError("Expecting ',' or '}'", text, at)
        self._at = at + 1

    def _elements(self, at: int) -> Iterator[tuple[Any, int, int]]:
        text = self._text
        at = _skip(text, at + 1)
        while text[at : at + 1] != "]":
            value, end = _value(text, at)
            yield value, at, end
            at = _skip(text, end)
            if text[at : at + 1] == ",":
                at = _skip(text, at + 1)
            elif text[at : at + 1] != "]":
                raise json.JSONDecodeError("Expecting ',' or ']'", text, at)
        self._at = at + 1


def cut(text: str, mark: str, deepest: int = DEEPEST) -> tuple[str, list[str]]:
    """Return JSON with what is nested too deeply replaced by strings `MARK-0`, `MARK-1`, ..., and what stood there."""
    kept: list[str] = []
    parts: list[str] = []
    depth = begun = done = 0
    for token in _TOKEN.finditer(text):
        first = text[token.start()]
        if first in "[{":
            depth += 1
            if depth == deepest + 1:
                begun = token.start()
        elif first in "]}":
            if depth == deepest + 1:
                kept += [text[done:begun], f'"{mark}-{len(parts)}"']
                parts.append(text[begun : token.end()])
                done = token.end()
            depth -= 1
    return "".join([*kept, text[done:]]), parts


def mended(text: str, mark: str, parts: list[str]) -> str:
    """Return JSON with the strings that `cut` put there replaced by what stood there before.

    One may be in a text that is itself JSON, as of an annotation: there it is written as that text's string would be.
    """

    def original(found: re.Match[str]) -> str:
        part = parts[int(found[2])]
        return part if found[1] == '"' else json.dumps(part)[1:-1]

    return re.sub(rf'(\\?")(?:{re.escape(mark)})-([0-9]+)\1', original, text)


def _value(text: str, at: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, at)
    except RecursionError:
        end = _end(text, at)
        body = json.loads(cut(text[at:end], "too-deep")[0])
        return (_left_of(body) if isinstance(body, dict) else None), end


def _left_of(body: Object) -> TooDeep:
    return TooDeep({name: body[name] for name in ("apiVersion", "kind", "metadata") if name in body})


def _end(text: str, at: int) -> int:
    """Return where a list or an object ends."""
    depth = 0
    for token in _TOKEN.finditer(text, at):
        first = text[token.start()]
        if first in "[{":
            depth += 1
        elif first in "]}":
            depth -= 1
            if not depth:
                return token.end()
    raise json.JSONDecodeError("Unterminated list or object", text, at)


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _expect(text: str, at: int, character: str) -> int:
    if text[at : at + 1] != character:
        raise json.JSONDecodeError(f"Expecting {character!r}", text, at)
    return at + 1
