"""Keeps the process small and quick to start: what libraries load and the sidecar never uses stays out.

`app` imports it before all else, and calls `settle` once everything is put together. Nothing but `app` may import it: a
program that uses `patio.client` keeps what it has. docs/project/benchmarks.md says what each step gains; every one of
them may be taken out, and costs only that.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import importlib.util
import sys

from pydantic import BaseModel, ConfigDict

UNUSED = (
    # FastAPI looks for models of pydantic 1 wherever the old pydantic is still part of the new one.
    "pydantic.v1",
    # httpx' command line, with all of rich where that is installed.
    "httpx._main",
)


def _without(names: tuple[str, ...]) -> None:
    """Have the import system say that there are no such modules, which their users are prepared for."""
    for name in names:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # typeshed does not know it


def _uvicorn() -> None:
    """Make uvicorn known without running its `__init__`, which loads a command line and supervisors of many processes.

    It runs all the same if something is asked for that only it has.
    """
    spec = importlib.util.find_spec("uvicorn")
    if "uvicorn" in sys.modules or spec is None or spec.loader is None:
        return
    package = importlib.util.module_from_spec(spec)
    loader = spec.loader

    def ask(attribute: str) -> object:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        vars(package).pop("__getattr__", None)
        loader.exec_module(package)
        return getattr(package, attribute)

    vars(package)["__getattr__"] = ask
    sys.modules["uvicorn"] = package
    # The one thing that its own modules ask the package for.
    vars(package)["Config"] = importlib.import_module("uvicorn.config").Config


def _fastapi() -> None:
    """Import FastAPI with its models of the OpenAPI document left to be built when one is asked for."""
    before = BaseModel.model_config
    BaseModel.model_config = ConfigDict(defer_build=True)
    try:
        import fastapi  # noqa: F401
    finally:
        BaseModel.model_config = before


def settle() -> None:
    """Give back what starting left behind, and spare the collector the objects that stay for good."""
    gc.collect()
    gc.freeze()
    # glibc keeps freed pages between those in use until it is told; other C libraries have no such call.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


_without(UNUSED)
_uvicorn()
_fastapi()
# The first request would load it, and by then it would leave its memory in pieces.
importlib.import_module("anyio._backends._asyncio")
