"""Threads for calls that block, each of its own: a call that hangs delays no other, and not the end of the process.

The default executor of asyncio has a few threads for all, name look-ups included, and the process waits for them at its
end. A call on a network volume may never return; here it costs a thread, and its caller decides how long to wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import threading
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


def in_thread(function: Callable[[], _T], name: str) -> asyncio.Future[_T]:
    """Start a function in a daemon thread; the future has what comes of it. Cancelling it ends only the waiting."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def finish(result: _T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # there is no error, so this is the result

    def work() -> None:
        result, error = None, None
        try:
            result = function()
        except BaseException as raised:  # noqa: BLE001 - the outermost of the thread: the future has it
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed, and no caller waits any more
            loop.call_soon_threadsafe(finish, result, error)

    try:
        threading.Thread(target=work, name=name, daemon=True).start()
    except RuntimeError as raised:
        future.set_exception(OSError(errno.EAGAIN, f"cannot start a thread: {raised}"))
    return future


class Threads:
    """So many calls at once, each in a thread of its own; others wait."""

    def __init__(self, most: int, name: str) -> None:
        self._slots = asyncio.Semaphore(most)
        self._name = name

    async def run(self, call: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Make a call. Cancelled, its caller leaves; its turn is given back when the call returns."""
        await self._slots.acquire()
        running = in_thread(partial(call, *args, **kwargs), self._name)
        running.add_done_callback(self._release)
        return await asyncio.shield(running)

    def _release(self, running: asyncio.Future[_T]) -> None:
        self._slots.release()
        running.exception()  # a caller that has left does not ask for it
