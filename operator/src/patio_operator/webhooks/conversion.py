"""Answers one ConversionReview: RoleBasedGroups in the API version that a client asked for.

The API server asks whenever a RoleBasedGroup is read or written as v1alpha1. Nothing is read from it: every replica
answers, and what `groups.conversion` says is the answer. A review has all groups of a list, and fails as a whole: so
that no group keeps others from being listed, one that cannot be converted to the old version is given as it is. To the
new version, which is stored, such a one fails its request by name, with the reason. Groups are decoded, converted and
encoded one after the other, and other tasks run in between.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from dataclasses import dataclass
from typing import Any

from patio_kube import bodies
from patio_kube.client import SLICE_SECONDS
from patio_operator.groups import conversion

log = logging.getLogger(__name__)

LARGE = 65_536
"""Characters of a group above which it is converted in a thread."""

_FAULTS = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)
"""What an object raises that is not as the schema says."""


@dataclass(frozen=True)
class Answer:
    """The ConversionReview that answers another one."""

    text: str
    """In JSON."""
    succeeded: bool


async def answer(review: str) -> Answer:
    """Return what answers a ConversionReview, which is JSON.

    Raises:
        ValueError: the text is no ConversionReview.

    """
    whole = bodies.Items(review, "request", "objects")
    objects: list[tuple[Any, str]] = []
    begun = time.perf_counter()
    for body, start, end in whole.spans():
        objects.append((body, review[start:end]))
        begun = await _pause_since(begun)
    request = whole.rest.get("request")
    if not isinstance(request, dict) or not isinstance(request.get("desiredAPIVersion"), str):
        raise ValueError("it has no request, or no desired version")
    converted: list[str] = []
    result: dict[str, str] = {"status": "Success"}
    try:
        for body, text in objects:
            if len(text) > LARGE:
                converted.append(await asyncio.to_thread(_converted, body, text, request["desiredAPIVersion"]))
            else:
                converted.append(_converted(body, text, request["desiredAPIVersion"]))
            begun = await _pause_since(begun)
    except conversion.ConversionError as error:
        converted, result = [], {"status": "Failure", "message": str(error)[:2000]}
    response = json.dumps({"uid": request.get("uid"), "result": result})
    head = json.dumps({"apiVersion": whole.rest.get("apiVersion"), "kind": "ConversionReview"})
    text = f'{head[:-1]}, "response": {response[:-1]}, "convertedObjects": [{", ".join(converted)}]}}}}'
    return Answer(text, result["status"] == "Success")


def _converted(body: Any, text: str, version: str) -> str:
    """Convert a group; of one that is nested too deeply, the deepest parts pass through as the text that they are."""
    try:
        if not isinstance(body, bodies.TooDeep):
            return json.dumps(conversion.convert(body, version))
    except RecursionError:
        pass
    except _FAULTS as error:
        return _as_it_is(body, version, error)
    mark = secrets.token_hex(16)  # no object can contain this
    shallow, parts = bodies.cut(text, mark)
    body = json.loads(shallow)
    try:
        return bodies.mended(json.dumps(conversion.convert(body, version)), mark, parts)
    except _FAULTS as error:
        return bodies.mended(_as_it_is(body, version, error), mark, parts)


def _as_it_is(body: Any, version: str, error: Exception) -> str:
    """Return a group that cannot be converted as if it could.

    Raises:
        ConversionError: it would be stored like that.

    """
    metadata = body.get("metadata") if isinstance(body, dict) else None
    if not isinstance(metadata, dict):
        raise ValueError("an object in it is not a RoleBasedGroup") from error
    name = f"{metadata.get('namespace')}/{metadata.get('name')}"
    message = f"RoleBasedGroup {name} cannot be converted to {version}: {type(error).__name__}: {error}"[:1000]
    log.error("%s", message)
    if version != conversion.V1ALPHA1:
        raise conversion.ConversionError(message) from error
    return json.dumps({**body, "apiVersion": version})


async def _pause_since(begun: float) -> float:
    """Let other tasks run, if none did for a while; return since when none does."""
    if time.perf_counter() - begun < SLICE_SECONDS:
        return begun
    await asyncio.sleep(0)
    return time.perf_counter()
