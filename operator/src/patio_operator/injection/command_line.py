"""The simple commands that a container's words start, shells within shells included. Pure.

Used by `engine`, which looks among them for one that starts an engine. Reads as much of the shell's language as
manifests have: quotes, separators, redirections, comments, heredocs (whose text is no command), assignments, `exec`,
`env`, `tini --`, `sh -c` inside `sh -c`, `"$@"`. Never runs or resolves anything: what a shell would compute stays as
it is written. The words are anybody's: one pass over them, no recursion without a bound, no exception.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

DEEPEST = 8
"""Shells within shells."""
MOST_CHARACTERS = 64 * 1024
"""Of all scripts of one pod, those inside others counted again: about 0.1 s. A script that does not fit is not
read, not even its beginning."""
MOST_WORDS = 50_000
"""That are put into scripts for references."""
LONGEST_VALUE = 4096
"""Characters of a word in which references are resolved."""

_SHELLS = frozenset(("sh", "bash", "dash", "ash", "zsh", "ksh", "su", "runuser"))
_LEADING = frozenset(
    (
        *("exec", "command", "builtin", "nohup", "time", "env", "sudo", "setsid", "nice", "stdbuf"),
        *("then", "do", "else", "if", "elif", "while", "until", "!", "{"),
    )
)
"""What may stand before the program of a command."""
_STARTS_NOTHING = frozenset(
    (
        *("echo", "printf", "logger", "cat", "test", "[", "[[", ":", "true", "false", "which", "type", "hash"),
        *("grep", "egrep", "fgrep", "pgrep", "pkill", "sed", "awk", "find", "ls", "rm", "cp", "mv", "mkdir", "touch"),
        *("pip", "pip3", "apt-get", "curl", "wget", "sleep", "kill", "trap", "alias", "unset", "for", "case"),
    )
)
"""Programs whose words are text for them, not a command."""
_DECLARING = frozenset(("export", "declare", "local", "readonly", "typeset"))
_WITH_VALUE = frozenset(("-o", "+o", "-O", "+O", "--rcfile", "--init-file"))
ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
REFERENCE = re.compile(r"\$(?:\((\w+)\)|\{(\w+)\}|\{(\w+):-([^{}$]*)\}|(\w+))")
_POSITIONAL = re.compile(r"\$(?:(\d)|\{(\d)\})")
_ALL_POSITIONAL = frozenset(("$@", "$*", "${@}", "${*}"))

_BLANK = re.compile(r"(?:[ \t\r]|\\\r?\n)+")
_REDIRECTION = re.compile(r"(?:\d{0,4}|&)(?:<<<|<<-|<<|<&|<>|>>|>&|>\||<|>)")
_SEPARATOR = re.compile(r";;&|;;|;&|&&|\|\||\|&|[\n;&|()]")
_COMMENT = re.compile(r"#[^\n]*")
_PLAIN = re.compile(r"[^\s;&|()<>\"'\\$`#]+(?=[ \t\n])")
"""A word without anything special in it, whole."""
_TEXT = re.compile(r"[^\s;&|()<>\"'\\$`]+")
_QUOTED_TEXT = re.compile(r"[^\"\\$`]+")
_NOTABLE = re.compile(r"[()'\"\\]")
_REST_OF_QUOTE = re.compile(r"(?:[^\"\\]|\\.)*+\"", re.DOTALL)

Variables = Mapping[str, Mapping[str, Any]]


class _UnfinishedError(Exception):
    """A quote or substitution without its end."""


@dataclass(frozen=True, slots=True)
class _Word:
    text: str
    bare: bool
    """Nothing of it was quoted."""


@dataclass
class Budget:
    """What has been read of a pod's scripts."""

    characters: int = 0
    words: int = 0


@dataclass
class CommandLine:
    """What a container runs. Iterate over `commands` once; `variables` is what is set where the last command stands."""

    container: Mapping[str, Any]
    variables: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """By name, as in a container's `env`, without `value` where it is not known. A script's own have `script`."""
    budget: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        self.variables.update((variable["name"], variable) for variable in self.container.get("env") or [])

    def commands(self) -> Iterator[list[str]]:
        """Yield the simple commands in the order in which they are written, each as its words."""
        words = [*(self.container.get("command") or []), *(self.container.get("args") or [])]
        yield from self._commands(words, 0)

    def _commands(self, words: Sequence[str], depth: int) -> Iterator[list[str]]:
        start = _program(words)
        program = words[start].rsplit("/", 1)[-1] if start < len(words) else ""
        if program in _STARTS_NOTHING:
            return
        if all(ASSIGNMENT.fullmatch(word) for word in words) or program in _DECLARING:
            self._assign(words)
            return
        if program == "eval":
            yield from self._script(" ".join(words[start + 1 :]), [], depth + 1)
            return
        inner = _script_of(words)
        if inner is None:
            yield list(words)
            return
        script, positional = inner
        yield from self._script(script, positional, depth + 1)

    def _script(self, script: str, positional: Sequence[str], depth: int) -> Iterator[list[str]]:
        self.budget.characters += len(script)
        if depth > DEEPEST or self.budget.characters > MOST_CHARACTERS:
            return
        for command in _simple_commands(script):
            words = self._expanded(command, positional)
            if words is None:
                return
            yield from self._commands(words, depth)

    def _expanded(self, command: Sequence[_Word], positional: Sequence[str]) -> list[str] | None:
        """Put in what stands for several words: the shell's arguments, and variables whose text it splits.

        None when that is too much.
        """
        words: list[str] = []
        for word in command:
            several: Sequence[str] | None = None
            if word.text in _ALL_POSITIONAL and len(positional) > 1:
                several = positional[1:]
            elif positional and (number := _POSITIONAL.fullmatch(word.text)):
                index = int(number[1] or number[2])
                several = [positional[index]] if index < len(positional) else []
            elif word.bare and word.text.startswith("$"):
                value = resolved(word.text, self.variables)
                self.budget.characters += len(value or "")
                if value is not None and re.search(r"\s|^-", value):
                    several = value.split()
            if several is None:
                words.append(word.text)
                continue
            self.budget.words += len(several)
            if self.budget.words > MOST_WORDS or self.budget.characters > MOST_CHARACTERS:
                return None
            words += several
        return words

    def _assign(self, words: Sequence[str]) -> None:
        """Take note of what a script sets; what it sets to two things is not known, since it may be by a condition."""
        for word in words:
            match = ASSIGNMENT.fullmatch(word)
            if match is None:
                continue
            name, value = match[1], resolved(match[2], self.variables)
            before = self.variables.get(name)
            entry: dict[str, Any] = {"name": name, "script": True}
            if value is not None and not (before and before.get("script") and before.get("value") != value):
                entry["value"] = value
            self.variables[name] = entry


def resolved(text: str | None, variables: Variables) -> str | None:
    """Put known variables in; None when something else is referred to, or nothing is left."""
    if text is None or len(text) > LONGEST_VALUE:
        return None
    unknown, room = False, LONGEST_VALUE

    def value(match: re.Match[str]) -> str:
        nonlocal unknown, room
        if unknown:
            return ""
        name = name_in(match)
        text: str | None = (variables.get(name) or {}).get("value")
        if text is None and match[3] and name not in variables:
            text = match[4]
        if text is None or len(text) > room:
            unknown = True
            return ""
        room -= len(text)
        return text

    result = REFERENCE.sub(value, text)
    return None if unknown or "$" in result or "`" in result else result or None


def name_in(match: re.Match[str]) -> str:
    """Return the name of the variable that a reference is to."""
    return str(match[1] or match[2] or match[3] or match[5])


def _program(words: Sequence[str]) -> int:
    """Return where a command's program stands: after assignments, reserved words and what starts other programs."""
    for index, word in enumerate(words):
        if not ASSIGNMENT.fullmatch(word) and word.rsplit("/", 1)[-1] not in _LEADING:
            return index
    return len(words)


def _script_of(words: Sequence[str]) -> tuple[str, Sequence[str]] | None:
    """Return the script that a command gives to a shell, and the shell's arguments from `$0` on."""
    for index, word in enumerate(words):
        if word.rsplit("/", 1)[-1] not in _SHELLS:
            continue
        runs_script = False
        at = index + 1
        if word.rsplit("/", 1)[-1] in ("su", "runuser"):
            at = next((place for place in range(at, len(words)) if words[place] == "-c"), len(words))
        while at < len(words) and words[at][:1] in ("-", "+") and len(words[at]) > 1:
            option = words[at]
            runs_script = runs_script or (option[0] == "-" and option[1] != "-" and "c" in option)
            at += 2 if option in _WITH_VALUE else 1
        if runs_script and at < len(words):
            return words[at], words[at + 1 :]
        return None
    return None


def _simple_commands(script: str) -> Iterator[list[_Word]]:
    """Yield the simple commands of a script; what stands after a quote without its end is left out."""
    command: list[_Word] = []
    at, skip_next = 0, False
    heredocs: list[tuple[str, bool]] = []
    heredoc: bool | None = None
    while at < len(script):
        if match := _BLANK.match(script, at):
            at = match.end()
        elif not skip_next and (match := _PLAIN.match(script, at)):
            command.append(_Word(match[0], bare=True))
            at = match.end()
        elif match := _COMMENT.match(script, at):
            at = match.end()
        elif match := _REDIRECTION.match(script, at):
            operator = match[0].lstrip("0123456789&")
            heredoc = operator == "<<-" if operator in ("<<", "<<-") else None
            skip_next, at = True, match.end()
        elif match := _SEPARATOR.match(script, at):
            at = match.end()
            if match[0] == "\n" and heredocs:
                at = _after(script, at, heredocs)
                heredocs = []
            yield command
            command, skip_next, heredoc = [], False, None
        else:
            try:
                word, at = _word(script, at)
            except _UnfinishedError:
                break
            if not skip_next:
                command.append(word)
            elif heredoc is not None:
                heredocs.append((word.text, heredoc))
            skip_next, heredoc = False, None
    yield command


def _after(script: str, at: int, heredocs: Sequence[tuple[str, bool]]) -> int:
    """Return where a script goes on after the texts of heredocs."""
    for end, tabs in heredocs:
        while at < len(script):
            stop = script.find("\n", at)
            stop = len(script) if stop < 0 else stop
            line = script[at:stop]
            at = stop + 1
            if (line.lstrip("\t") if tabs else line) == end:
                break
    return at


def _word(script: str, at: int) -> tuple[_Word, int]:
    """Read the word that begins at a place; return it and where it ends."""
    parts: list[str] = []
    begin, bare, quoted = at, True, False
    while at < len(script):
        character = script[at]
        if character == '"':
            quoted, bare, at = not quoted, False, at + 1
        elif character == "\\":
            following = script[at + 1 : at + 2]
            if quoted and following not in ('"', "\\", "$", "`", "\n"):
                parts.append("\\")
            parts.append("" if following == "\n" else following)
            bare, at = False, at + 2
        elif character == "'" and not quoted:
            stop = _found(script, "'", at + 1)
            parts.append(script[at + 1 : stop])
            bare, at = False, stop + 1
        elif character == "`":
            stop = _found(script, "`", at + 1) + 1
            parts.append(script[at:stop])
            at = stop
        elif script.startswith("$(", at):
            stop = _closing(script, at + 2)
            parts.append(script[at:stop])
            at = stop
        elif script.startswith("${", at):
            stop = _found(script, "}", at + 2) + 1
            parts.append(script[at:stop])
            at = stop
        elif character == "$":
            if quoted or script[at + 1 : at + 2] not in ("'", '"'):
                parts.append("$")
            at += 1
        elif match := (_QUOTED_TEXT if quoted else _TEXT).match(script, at):
            parts.append(match[0])
            at = match.end()
        elif not quoted and at > begin:
            break
        else:  # a blank of another kind than the shell's
            parts.append(character)
            at += 1
    if quoted:
        raise _UnfinishedError
    return _Word("".join(parts), bare), at


def _found(script: str, what: str, at: int) -> int:
    place = script.find(what, at)
    if place < 0:
        raise _UnfinishedError
    return place


def _closing(script: str, at: int) -> int:
    """Return where `$(`, whose inside begins at a place, ends."""
    depth = 1
    while match := _NOTABLE.search(script, at):
        character, at = match[0], match.end()
        if character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
            if depth == 0:
                return at
        elif character == "\\":
            at += 1
        elif character == "'":
            at = _found(script, "'", at) + 1
        else:
            quote = _REST_OF_QUOTE.match(script, at)
            if quote is None:
                raise _UnfinishedError
            at = quote.end()
    raise _UnfinishedError
