"""Endpoints: those of an engine's own OpenAPI document."""

from __future__ import annotations

from typing import Any

import pytest

from inference_server.endpoints import MAX_ROUTES, served_endpoints


def test_routes_of_a_document_are_named_by_their_path() -> None:
    openapi = {"paths": {"/health": {}, "/v1/chat/completions": {}, "/v1/models/{id}": {}, "/": {}}}
    assert served_endpoints("http://h:1", openapi) == {
        "health": "http://h:1/health",
        "chat_completions": "http://h:1/v1/chat/completions",
        "root": "http://h:1/",
    }


@pytest.mark.parametrize("openapi", [None, [], {}, {"paths": []}, {"paths": {1: {}, "x": {}}}])
def test_what_is_no_document_has_no_routes(openapi: Any) -> None:
    assert served_endpoints("http://h:1", openapi) == {}


def test_only_so_many_routes_are_read() -> None:
    openapi = {"paths": {f"/r{number}": {} for number in range(MAX_ROUTES + 1)}}
    assert len(served_endpoints("http://h:1", openapi)) == MAX_ROUTES
