"""What is made of the engines' answers, as recorded from the real ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from patio.engine import sglang, vllm
from patio.engine.base import EngineError, FaultReason

from sidecar_recordings import sglang_answers, vllm_answers


def test_every_recorded_refusal_of_vllm_is_permanent_and_in_its_own_words(recordings: Path) -> None:
    refusals = [answer for answer in vllm_answers(recordings) if answer[1] != 200]
    assert len(refusals) >= 8
    for path, status, body in refusals:
        fault = vllm.fault_of(path, status, body)
        assert fault.permanent, body
        if status == 401:
            assert "ENGINE_API_KEY" in fault.message
        else:
            assert fault.message in body


def test_every_recorded_refusal_of_sglang_is_permanent_but_a_name_that_is_taken(recordings: Path) -> None:
    refusals = [answer for answer in sglang_answers(recordings) if answer[1] != 200]
    assert len(refusals) >= 20
    for path, status, body in refusals:
        fault = sglang.fault_of(path, status, body)
        assert fault.permanent is ("already loaded" not in body), body


def reason(fault: EngineError) -> FaultReason:
    return fault.reason


@pytest.mark.parametrize(
    ("status", "body", "permanent", "why"),
    [
        (404, '{"error":{"message":"No adapter found for /x","type":"NotFoundError"}}', True, "AdapterNotFound"),
        (404, '{"detail":"Not Found"}', True, "LoraUnavailable"),
        (405, '{"detail":"Method Not Allowed"}', True, "LoraUnavailable"),
        (500, '{"error":{"message":"Call failed: Worker failed with error \'x\'"}}', True, "AdapterRefused"),
        (500, '{"object":"error","message":"Worker failed with error \'x\'"}', True, "AdapterRefused"),
        (500, '{"error":{"message":"EngineCore encountered an issue"}}', False, "EngineFault"),
        (500, "Internal Server Error", False, "EngineFault"),
        (502, "", False, "EngineFault"),
        (503, "busy", False, "EngineFault"),
        (429, "slow down", False, "EngineFault"),
        (400, '{"error":{"message":"conflicts with a served base model."}}', True, "AdapterRefused"),
        (400, '{"error":{"message":"The lora adapter \'a\' has already been loaded."}}', False, "EngineFault"),
        (401, '{"error":"Unauthorized"}', True, "EngineUnauthorized"),
        (400, "[]", True, "AdapterRefused"),
    ],
)
def test_vllm_faults_are_told_apart(status: int, body: str, permanent: bool, why: str) -> None:
    fault = vllm.fault_of(vllm.LOAD, status, body)
    assert (fault.permanent, fault.reason) == (permanent, why)
    assert fault.message


@pytest.mark.parametrize(
    ("status", "body", "permanent", "why"),
    [
        (400, '{"success":false,"error_message":"LoRA is not enabled."}', True, "LoraUnavailable"),
        (400, '{"success":false,"error_message":"Repo id must be in the form"}', True, "AdapterNotFound"),
        (400, '{"success":false,"error_message":"[Errno 2] No such file or directory: x"}', True, "AdapterNotFound"),
        (400, '{"success":false,"error_message":"rank 32 is incompatible"}', True, "AdapterRefused"),
        (400, '{"object":"error","message":"2 validation errors"}', True, "AdapterRefused"),
        (500, "Internal Server Error", True, "LoraUnavailable"),
        (503, "", False, "EngineFault"),
        (404, '{"detail":"Not Found"}', True, "LoraUnavailable"),
        (401, '{"error":"Unauthorized"}', True, "EngineUnauthorized"),
    ],
)
def test_sglang_faults_are_told_apart(status: int, body: str, permanent: bool, why: str) -> None:
    fault = sglang.fault_of(sglang.LOAD, status, body)
    assert (fault.permanent, fault.reason) == (permanent, why)
    assert fault.message
