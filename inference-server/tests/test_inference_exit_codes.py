"""Each cause has an exit code, and each exit code a meaning."""

from __future__ import annotations

import pytest

from inference_server import Cause, CleanupError, ProfileError, ServerStartupError, ServerTimeoutError
from inference_server.errors import FleetStartupError
from inference_server.exit_codes import (
    BY_CAUSE,
    ENDED,
    FAILED,
    INTERRUPTED,
    MEANINGS,
    MEMORY,
    NOT_FOUND,
    OK,
    TIME,
    WRONG_INPUT,
    code_of,
)


def test_every_cause_has_a_code_with_a_meaning() -> None:
    assert set(BY_CAUSE) == set(Cause)
    assert set(BY_CAUSE.values()) | {OK, ENDED, NOT_FOUND, INTERRUPTED} == set(MEANINGS)
    assert OK not in BY_CAUSE.values()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ServerStartupError("m", cause=Cause.GPU_MEMORY), MEMORY),
        (ServerTimeoutError("m", cause=Cause.STALLED), TIME),
        (ServerStartupError("m"), FAILED),
        (FleetStartupError([("a", ServerStartupError("m", cause=Cause.GPU_MEMORY))], ["b"], 2), MEMORY),
        (FleetStartupError([("a", OSError("m"))], [], 2), FAILED),
        (ProfileError("m"), WRONG_INPUT),
        (CleanupError("m"), FAILED),
        (ValueError("m"), WRONG_INPUT),
        (FileNotFoundError("m"), WRONG_INPUT),
        (ImportError("m"), WRONG_INPUT),
        (RuntimeError("m"), FAILED),
        (KeyboardInterrupt(), INTERRUPTED),
    ],
)
def test_error_has_the_code_of_its_cause(error: BaseException, code: int) -> None:
    assert code_of(error) == code
