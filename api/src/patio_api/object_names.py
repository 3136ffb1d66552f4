"""Which text can be the name of an object: what users write into labels and annotations is often none. Pure."""

from __future__ import annotations

import re

_LABEL = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_SUBDOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_LONGEST = 253


def is_object_name(text: object) -> bool:
    """Tell whether an object can have this name: a DNS subdomain (RFC 1123)."""
    return isinstance(text, str) and len(text) <= _LONGEST and _SUBDOMAIN.fullmatch(text) is not None
