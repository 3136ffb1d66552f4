"""To whom a route is open. Declared beside the route (`open_to`), read by the guard; one that says nothing is closed.

It is a property of the endpoint and never of a path: there are many spellings of a path, and one endpoint. `authorizer`
says what follows from it for a call. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from patio_protocol.authentication import MAX_BODY

_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Any])
_ATTRIBUTE = "patio_openness"


class To(Enum):
    """Who gets through without the operator's signature."""

    NOBODY = "nobody"
    """From outside. Inside the pod: a call that only a program of the pod can have made (`loopback`)."""
    EVERYONE = "everyone"
    """It changes nothing."""
    HOOK = "hook"
    """As `NOBODY`, and the preStop hook of this pod."""
    OPERATOR = "operator"
    """No one without it: neither from inside the pod, nor where access control is off."""
    KEY = "key"
    """Those who show another key, which `admits` knows: from everywhere, also where access control is off."""


@dataclass(frozen=True, slots=True)
class Openness:
    """What a route declares."""

    to: To = To.NOBODY
    admits: Callable[[str | None], bool] | None = None
    """For `To.KEY`: whether a call with this Authorization header is taken."""
    message: str = ""
    """For `To.KEY`: what a rejected caller reads, with the remedy."""
    max_body: int = MAX_BODY
    """Bytes that a body may have."""


CLOSED = Openness()
EVERYONE = Openness(To.EVERYONE)
HOOK = Openness(To.HOOK)
OPERATOR = Openness(To.OPERATOR)


def open_to(openness: Openness) -> Callable[[_Endpoint], _Endpoint]:
    """Declare to whom an endpoint is open: the decorator next to the function, below the route's."""

    def declare(endpoint: _Endpoint) -> _Endpoint:
        setattr(endpoint, _ATTRIBUTE, openness)
        return endpoint

    return declare


def openness_of(endpoint: object) -> Openness:
    """Return what an endpoint declares, and `CLOSED` for one that declares nothing."""
    declared = getattr(endpoint, _ATTRIBUTE, CLOSED)
    return declared if isinstance(declared, Openness) else CLOSED
