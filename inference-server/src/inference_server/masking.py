"""Keeps secrets out of what is logged, printed and written: by the names of options and variables, and by value. Pure.

`server` masks its command, its errors and its `run.json` with this. The engine's own log files are the engine's: what
it writes there is not changed.
"""

from __future__ import annotations

import re
from typing import Iterable, Mapping, Sequence

from inference_server.arguments import MASK, is_option, is_secret_option, mask_command

SHORTEST_SECRET = 6
"""Characters of a value that is looked for in texts: a shorter one would be found where it is no secret."""

_NAME = re.compile(
    r"(?:^|_)(?:(?:API)?(?:TOKEN|KEY)|KEYS|SECRETS?|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|AUTH|AUTHORIZATION|COOKIE)(?:_|$)",
    re.I,
)
_IN_JSON = re.compile(r'("(?:[a-z0-9]+[_-])*(?:api_?key|key|token|secret|password)"\s*:\s*)"(?:[^"\\]|\\.)*"', re.I)
_IN_URL = re.compile(r"(://)[^/@\s]+@")


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name holds a secret: `HF_TOKEN` does, `MAX_TOKENS` does not."""
    return _NAME.search(name) is not None


def secret_values(words: Sequence[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values that must not be shown, of secret options and of secret variables, the longest first."""
    found = {value for name, value in environment.items() if is_secret_name(name)}
    secret = False
    for word in words:
        name, equals, value = word.partition("=")
        if is_secret_option(name):
            secret = not equals
            found.add(value)
        elif secret and not is_option(word):
            found.add(word)
        else:
            secret = False
    return tuple(
        sorted((value for value in found if len(value) >= SHORTEST_SECRET), key=lambda each: (-len(each), each))
    )


def mask_text(text: str, secrets: Iterable[str] = ()) -> str:
    """Return a text without these values, without secrets in JSON, and without the user and password of a URL."""
    for value in secrets:
        text = text.replace(value, MASK)
    return _IN_URL.sub(r"\1%s@" % MASK, _IN_JSON.sub(r'\1"%s"' % MASK, text))


def mask_words(words: Sequence[str], secrets: Iterable[str] = ()) -> list[str]:
    """Return a command line in which no secret can be read."""
    values = tuple(secrets)
    return [mask_text(word, values) for word in mask_command(words)]


def mask_variables(variables: Mapping[str, str], secrets: Iterable[str] = ()) -> dict[str, str]:
    """Return variables in which no secret can be read."""
    values = tuple(secrets)
    return {
        name: MASK if value and is_secret_name(name) else mask_text(value, values) for name, value in variables.items()
    }
