"""Turns the arguments that a caller gives in several forms into words of a command line, and checks them. Pure.

`server` calls `normalize_server_args` in its constructor and `review` before a start. The options of an engine come
as an `OptionTable`, which `options` reads from the files that were made from the engines' own parsers.
"""

from __future__ import annotations

import enum
import json
import re
import shlex
from dataclasses import dataclass, field
from typing import Any, Iterable, Mapping, Sequence

MASK = "***"
SECRET_OPTIONS = frozenset({"--api-key", "--admin-api-key", "--hf-token", "--ssl-keyfile-password"})


class Kind(enum.Enum):
    """What an option takes."""

    FLAG = "flag"
    """Nothing, and there is no `--no-` form."""
    BOOLEAN = "boolean"
    """Nothing, and there is a `--no-` form."""
    VALUE = "value"
    OPTIONAL = "optional"
    """One value or none."""
    LIST = "list"
    """Several words."""
    JSON = "json"


@dataclass(frozen=True)
class Retired:
    """An option that the engine no longer has."""

    hint: str
    replacement: tuple[str, ...] | None = None
    """What means the same today. None: nothing can be put in its place without changing what is meant."""


@dataclass(frozen=True)
class OptionTable:
    """The options of one version of an engine."""

    engine: str
    version: str
    kinds: Mapping[str, Kind]
    """By each name that the parser knows, `--no-` forms too."""
    retired: Mapping[str, Retired] = field(default_factory=dict)
    underscores: bool = False
    """Whether the parser takes `_` for `-` (vLLM does, SGLang does not)."""
    dotted: bool = False
    """Whether `--option.key value` sets a part of an option (vLLM)."""

    def canonical(self, word: str) -> str:
        """Return an option as the table names it: no value, dashes, the part before the first dot."""
        name = word.split("=", 1)[0]
        if self.dotted:
            name = name.split(".", 1)[0].rstrip("+")
        return name[:2] + name[2:].replace("_", "-") if self.underscores else name

    def kind_of(self, word: str) -> Kind | None:
        """Return what an option takes, or None if the engine does not know it.

        A unique beginning of a name is enough, as it is for argparse.
        """
        name = self.canonical(word)
        if name in self.kinds:
            return self.kinds[name]
        if name.startswith("--"):
            kinds = {self.kinds[each] for each in self.kinds if each.startswith(name)}
            return kinds.pop() if len(kinds) == 1 else (Kind.VALUE if kinds else None)
        # `-O3`: a short option with its value in the same word.
        return next((kind for each, kind in self.kinds.items() if len(each) == 2 and name.startswith(each)), None)

    def nearest(self, word: str) -> str | None:
        """Return the known option that looks most like this one."""
        import difflib  # only when something is wrong: it is a fifth of the package's import

        matches = difflib.get_close_matches(self.canonical(word), self.kinds, n=1, cutoff=0.6)
        return matches[0] if matches else None


def normalize_server_args(args: Any, options: OptionTable | None = None) -> list[str]:
    """Return arguments as words of a command line.

    A list stays as it is, each item as text; a dictionary in it stands for its words. A dictionary's keys may have
    leading dashes or not, and underscores. `True` is a flag, `False` its `--no-` form (or nothing, where the engine has
    none), `None` nothing, a dictionary JSON, a list JSON or several words, as the option takes it.
    """
    if args is None:
        return []
    if isinstance(args, Mapping):
        return _words_of(args, options)
    if isinstance(args, str):
        return shlex.split(args)
    if isinstance(args, (list, tuple)):
        return [
            word for item in args for word in (_words_of(item, options) if isinstance(item, Mapping) else [_text(item)])
        ]
    return [_text(args)]


def option_name(key: str) -> str:
    """Return the option that a dictionary's key names. vLLM keeps underscores after the first dot."""
    text = str(key)
    if re.match(r"-[^-]", text):
        return text
    head, dot, rest = text.lstrip("-").partition(".")
    return "--" + head.replace("_", "-") + dot + rest


def _words_of(arguments: Mapping[Any, Any], options: OptionTable | None) -> list[str]:
    words: list[str] = []
    seen: dict[str, list[str]] = {}
    for key, value in arguments.items():
        name = option_name(key)
        these = _option(name, value, options)
        if seen.get(name) == these:
            continue  # `--x` and `x` in one dictionary, with the same value
        seen[name] = these
        words += these
    return words


def _option(name: str, value: Any, options: OptionTable | None) -> list[str]:
    kind = options.kind_of(name) if options else None
    if value is None:
        return []
    if value is True:
        return [name]
    if value is False:
        if kind is Kind.FLAG:
            return []
        if name.startswith("--no-"):
            return ["--" + name[len("--no-") :]]
        return ["--no-" + name.lstrip("-")]
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else list(value)
        if kind is Kind.LIST:
            return [name, *(_text(item) for item in items)] if items else []
        return [name, _json(items)]
    return [name, _text(value)]


def _text(value: Any) -> str:
    if isinstance(value, enum.Enum):
        return _text(value.value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return _json(value) if isinstance(value, (Mapping, list, tuple)) else str(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_text)


def is_option(word: str) -> bool:
    """Whether a word is an option and not a value; `-1` and `-0.5` are values."""
    return len(word) > 1 and word[0] == "-" and not re.match(r"-[\d.]", word)


def values_of(words: Sequence[str], *names: str) -> list[str]:
    """Return the values of the last time that one of these options is given, in either form (`--x v`, `--x=v`)."""
    found: list[str] = []
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if (name[:2] + name[2:].replace("_", "-")) not in names:
            continue
        found = [value] if equals else []
        if not equals:
            for following in words[index + 1 :]:
                if is_option(following):
                    break
                found.append(following)
    return found


@dataclass(frozen=True)
class Finding:
    """Something about one option that a person should know before the engine starts."""

    problem: str
    """`unknown`, `retired` or `duplicate`."""
    option: str
    message: str
    hint: str = ""


@dataclass(frozen=True)
class Review:
    """Arguments as they will be passed, and what was found in them."""

    words: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def unknown(self) -> tuple[Finding, ...]:
        """The options that the engine does not know."""
        return tuple(finding for finding in self.findings if finding.problem == "unknown")


def review(words: Sequence[str], options: OptionTable, *, removed: str = "translate") -> Review:
    """Check words against an engine's options.

    `removed` says what happens to an option that the engine no longer has: `translate` puts in its place what means the
    same, `error` reports it as unknown, `pass` leaves it to the engine.
    """
    kept: list[str] = []
    findings: list[Finding] = []
    counts: dict[str, int] = {}
    for word in words:
        name = options.canonical(word)
        if not is_option(word) or word == "--":
            kept.append(word)
            continue
        retired = options.retired.get(name)
        if options.kind_of(word) is not None:
            whole = word.split("=", 1)[0]
            counts[whole] = counts.get(whole, 0) + 1
            if counts[whole] == 2:
                findings.append(Finding("duplicate", name, "%s is given more than once; the last one counts" % name))
        elif removed == "pass":
            pass
        elif retired and retired.replacement is not None and removed == "translate":
            findings.append(Finding("retired", name, "%s was removed from %s" % (name, options.engine), retired.hint))
            kept += retired.replacement
            continue
        else:
            nearest = options.nearest(word)
            hint = retired.hint if retired else ("the nearest option is %s" % nearest if nearest else "")
            findings.append(
                Finding("unknown", name, "%s %s has no option %s" % (options.engine, options.version, name), hint)
            )
        kept.append(word)
    return Review(tuple(kept), tuple(findings))


def is_secret_option(name: str) -> bool:
    """Whether an option's value is a secret; `_` is as good as `-`."""
    return (name[:2] + name[2:].replace("_", "-")) in SECRET_OPTIONS


def mask_command(words: Iterable[str]) -> list[str]:
    """Return a command line in which no value of a secret option can be read."""
    masked: list[str] = []
    secret = False
    for word in words:
        name, equals, _ = word.partition("=")
        is_secret = is_secret_option(name)
        if is_secret:
            masked.append(name + equals + (MASK if equals else ""))
        else:
            masked.append(MASK if secret and not is_option(word) else word)
        secret = (is_secret and not equals) or (secret and not is_option(word))
    return masked
