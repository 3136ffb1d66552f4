"""What the process does without, and that nothing misses it: each test in an interpreter of its own."""

from __future__ import annotations

import subprocess
import sys

from patio_testing.deadline import DEADLINE


def run(program: str) -> str:
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


def test_unused_module_is_not_imported() -> None:
    program = """
import sys, patio.app
names = ("rich", "pygments", "pydantic.v1", "httpx._main", "nacl")
print([name for name in names if sys.modules.get(name) is not None])
"""
    assert run(program) == "[]"


def test_uvicorn_is_whole_for_every_importer() -> None:
    program = """
import patio.app, patio.server, uvicorn, uvicorn.server
assert uvicorn.Server is uvicorn.server.Server
assert uvicorn.Config is patio.server.Config
print(callable(uvicorn.run), uvicorn.__version__ != "", hasattr(uvicorn, "nothing"))
"""
    assert run(program) == "True True False"


def test_openapi_document_is_made_on_request() -> None:
    program = """
import patio.app, pydantic
from fastapi import FastAPI
app = FastAPI()
@app.get("/")
def root() -> dict[str, int]: ...
print(app.openapi()["paths"]["/"]["get"]["responses"]["200"]["description"], pydantic.BaseModel.model_config)
"""
    assert run(program) == "Successful Response {}"
