"""Keeps the process small: what libraries load and the sidecar never uses stays out, and start-up leaves no waste.

`app` imports it before all else, and calls `settle` once everything is put together. Nothing but `app` may import it:
it changes what the whole process imports. Each step may be taken out, and costs only its memory, of 55 MB when idle
(62 MB without any of them; medians of seven starts, Python 3.11, x86-64):

- asyncio's backend of anyio is imported at the start: 5 MB. The first request would import it, and by then its objects
  would lie between those of the application, whose memory could not be given back.
- unused modules stay out: pydantic 1 2 MB, httpx' command line 1 MB (4 MB where rich is installed).
- freed memory is given back, and the collector skips what stays: 1 to 2 MB.

A uvicorn without its own `__init__`, and FastAPI models that are built late, would save 3 MB more and no measurable
time. They depend on how these libraries look inside, and were taken out for that.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import sys

UNUSED = (
    # FastAPI looks for models of pydantic 1 wherever the old pydantic is still part of the new one.
    "pydantic.v1",
    # httpx' command line, with all of rich where that is installed.
    "httpx._main",
)


def settle() -> None:
    """Give back what starting left behind, and spare the collector the objects that stay."""
    gc.collect()
    gc.freeze()
    # glibc keeps freed pages between those in use until it is called; other C libraries have no such call.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


for name in UNUSED:
    # The import system then raises ImportError, which the users of these modules are prepared for.
    sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # typeshed does not know it
importlib.import_module("anyio._backends._asyncio")
