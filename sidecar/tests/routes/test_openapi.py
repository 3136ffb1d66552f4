"""The OpenAPI document: its examples can be sent, its faults are those that the routes answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel

from patio.document import document
from patio.routes.adapters import ERROR_STATUS
from patio.routes.downloads import DOWNLOAD_STATUS
from patio.routes.openapi import ANSWERS, ERRORS, REQUESTS
from patio_protocol.adapters import AdapterList, AdapterReport, LoadRequest, Readiness, UnloadAnswer, UnloadRequest
from patio_protocol.downloads import DownloadRequest
from patio_protocol.topology import DrainRequest

MODELS: dict[tuple[str, str], tuple[type[BaseModel] | None, type[BaseModel] | None]] = {
    ("post", "/v1/load_lora_adapter"): (LoadRequest, AdapterReport),
    ("post", "/v1/unload_lora_adapter"): (UnloadRequest, UnloadAnswer),
    ("post", "/v1/download_model"): (DownloadRequest, None),
    ("post", "/v1/drain"): (DrainRequest, None),
    ("get", "/v1/lora_adapters"): (None, AdapterList),
    ("get", "/ready"): (None, Readiness),
}
OTHER_FAULTS = {
    "InvalidRequest": 400,
    "ProofMissing": 401,
    "NotFound": 404,
    "Conflict": 409,
    "TooManyAdapters": 409,
    "InUse": 409,
    "EngineError": 503,
    "NotStored": 507,
    "BodyTooLarge": 413,
    "TooManyLongPolls": 429,
}


@pytest.mark.parametrize("key", [*REQUESTS, *ANSWERS])
def test_examples_are_what_the_api_takes_and_gives(key: tuple[str, str]) -> None:
    request, answer_model = MODELS[key]
    for example in REQUESTS.get(key, {}).values():
        assert request is not None
        request.model_validate(example)
    if key in ANSWERS:
        assert answer_model is not None
        assert answer_model.model_validate(ANSWERS[key]).model_dump(mode="json") == ANSWERS[key]


def test_faults_have_the_status_that_the_routes_give_them() -> None:
    statuses = {**OTHER_FAULTS, **ERROR_STATUS, **DOWNLOAD_STATUS}
    for faults in ERRORS.values():
        for status, code, _, _ in faults:
            assert statuses[code] == status, code


def test_every_fault_has_the_one_error_shape() -> None:
    openapi: dict[str, Any] = json.loads(document())
    assert "HTTPValidationError" not in json.dumps(openapi)
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            for status, response in operation["responses"].items():
                if status[0] in "45" and (path, status) != ("/ready", "503"):
                    assert response["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorBody"), (
                        method,
                        path,
                        status,
                    )
