"""Text of others, made fit for our reports and logs: an engine's message, the text of a library's error.

Whatever is shown of them is bounded, says how much was cut, and has no character that a terminal or an encoder trips
over. The text of an error never has a header's value in it.
"""

from __future__ import annotations

import os
import re
import ssl

import httpx

LONGEST_TEXT = 2000
"""Characters of an engine's message that are shown: the longest recorded one has some 600."""
LONGEST_ERROR = 300
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def bounded_text(text: str, longest: int = LONGEST_TEXT) -> str:
    """Return a text of at most so many characters, and how many more there were."""
    # JSON may have half a pair of surrogates, which nothing can encode. (In the pattern they would cost 0.5 MB.)
    shown = _CONTROL.sub("?", text[:longest].encode("utf-8", "replace").decode())
    return shown if len(text) <= longest else f"{shown}... ({len(text) - longest} characters more)"


def is_fit(text: str) -> bool:
    """Whether a text can be shown as it is, whatever its length."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return _CONTROL.search(text) is None


def error_message(error: BaseException) -> str:
    """Return what a library's error says, or its class where it says nothing or could say too much."""
    root = _root(error)
    # h11 quotes the header that it does not send, and a codec the text that it can not encode: keys may be in both.
    if isinstance(root, UnicodeError) or any(isinstance(cause, httpx.LocalProtocolError) for cause in (error, root)):
        return type(error).__name__
    if isinstance(root, ssl.SSLError):
        reason = (getattr(root, "reason", None) or "").replace("_", " ").lower()
        text: str = getattr(root, "verify_message", "") or reason or root.strerror or type(root).__name__
        return bounded_text(text.rstrip("."), LONGEST_ERROR)
    if isinstance(root, OSError) and root.errno is not None and root.errno > 0:
        return os.strerror(root.errno)
    text = (root.strerror if isinstance(root, OSError) else str(root)) or str(root) or str(error)
    return bounded_text(" ".join(text.split()).rstrip(".") or type(error).__name__, LONGEST_ERROR)


def causes(error: BaseException) -> list[BaseException]:
    """Return an error and everything that it came from, the members of groups included; each once."""
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting and len(found) < 64:
        current = waiting.pop(0)
        if current is None or any(current is seen for seen in found):
            continue
        found.append(current)
        waiting += list(current.exceptions) if isinstance(current, BaseExceptionGroup) else []
        # httpcore 1 raises what it mapped once more "from None", which leaves the context as the only way.
        waiting.append(current.__context__ if current.__cause__ is None else current.__cause__)
    return found


def _root(error: BaseException) -> BaseException:
    """Return the error that says most: the system's own, where there is one."""
    chain = causes(error)
    system = [cause for cause in chain if isinstance(cause, OSError) and (cause.errno is not None or cause.strerror)]
    return system[-1] if system else error
