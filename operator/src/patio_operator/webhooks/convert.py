"""Answers one ConversionReview: RoleBasedGroups in the API version that somebody asked for.

The API server asks whenever a RoleBasedGroup is read or written as v1alpha1. Nothing is read from it: every replica
answers, and what `groups.conversion` says is the answer. Objects that cannot be converted fail their request by name,
with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from patio_operator.cluster.api import Object
from patio_operator.groups import conversion


def answer(review: Mapping[str, Any]) -> Object:
    """Return the ConversionReview that answers this one."""
    request = review["request"]
    response: Object = {"uid": request["uid"], "convertedObjects": [], "result": {"status": "Success"}}
    try:
        response["convertedObjects"] = [
            conversion.convert(one, request["desiredAPIVersion"]) for one in request["objects"]
        ]
    except conversion.ConversionError as error:
        response["result"] = {"status": "Failure", "message": str(error)}
    return {"apiVersion": review["apiVersion"], "kind": "ConversionReview", "response": response}
