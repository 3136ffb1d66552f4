"""The page for people: three files without any data. Its script asks `/overview` with the key that a person enters.

Nothing is loaded from elsewhere and no script or style is inline, which the policy in `PAGE_HEADERS` also forbids.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files

ASSETS: Mapping[str, tuple[str, str]] = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
"""File and media type by path."""

PAGE_HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


@cache
def asset(path: str) -> tuple[bytes, str]:
    """Return the content and the media type of a file of the page."""
    name, media_type = ASSETS[path]
    return files(__package__).joinpath(name).read_bytes(), media_type
