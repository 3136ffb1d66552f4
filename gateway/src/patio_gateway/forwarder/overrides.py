"""Reads `--set KEY.PATH=VALUE` and lays it over what the config file has. Pure.

A value is what Model Engine's forwarder makes of it: digits are a number, `[...]` is a list of Python (JSON has no
single quotes), everything else is text, which `config` turns into a boolean where one is expected. Three differences:
`=` may stand in the value, `null` is null, and a list that is not one is an error that names the option.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MOST_OVERRIDES = 1000
MOST_LENGTH = 64 * 1024
"""Characters of one option."""
MOST_DEPTH = 8
"""Keys of a path."""
MOST_DIGITS = 18
"""A longer row of digits is text."""
MOST_REPEATED = 128
"""Characters of an option that an error repeats."""


class OverrideError(ValueError):
    """An option `--set` cannot be used. The text says why, and repeats at most its beginning."""


@dataclass(frozen=True)
class Override:
    """A value for the field at a path."""

    path: tuple[str, ...]
    value: object

    @property
    def name(self) -> str:
        """The path as it is written."""
        return ".".join(self.path)


def parse_override(text: str) -> Override:
    """Return what one option sets.

    Raises:
        OverrideError: it has no `=`, an empty key, a list that cannot be read, or it is too long or too deep.

    """
    if len(text) > MOST_LENGTH:
        raise OverrideError(f"--set {_short(text)}: longer than {MOST_LENGTH} characters.")
    name, equals, value = text.partition("=")
    path = tuple(name.split("."))
    if not equals or not all(path):
        raise OverrideError(f"--set {_short(text)}: expected KEY.PATH=VALUE, such as forwarder.max_concurrency=20.")
    if len(path) > MOST_DEPTH:
        raise OverrideError(f"--set {_short(text)}: the path has more than {MOST_DEPTH} keys.")
    return Override(path, _value(_short(text), value))


def _value(option: str, text: str) -> object:
    if text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS:
        return int(text)
    if text == "null":
        return None
    if not (text.startswith("[") and text.endswith("]")):
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, list):
        raise OverrideError(f"--set {option}: expected a list, such as ['/v1/completions'].")
    return value


def overridden(content: Mapping[str, object], overrides: Iterable[Override]) -> dict[str, object]:
    """Return the content with these values in their places, in their order; it is not changed itself.

    Raises:
        OverrideError: a path leads through a value that has no fields.

    """
    result: dict[str, object] = dict(content)
    for override in overrides:
        fields = result
        *parents, last = override.path
        for depth, key in enumerate(parents, 1):
            inner = fields.get(key, {})
            if not isinstance(inner, Mapping):
                raise OverrideError(f"--set {override.name}: {'.'.join(parents[:depth])} has no fields.")
            fields[key] = copy = dict(inner)
            fields = copy
        fields[last] = override.value
    return result


def _short(text: str) -> str:
    text = text if len(text) <= MOST_REPEATED else f"{text[:MOST_REPEATED]}..."
    return text if text.isprintable() else ascii(text)
