"""Threads for calls that may hang on a disk: daemons, so that the process can end without them, and of a number."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Threads:
    """So many calls at once; others wait."""

    def __init__(self, most: int, name: str) -> None:
        self._turn = asyncio.Semaphore(most)
        self._name = name

    async def run(self, call: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Make a call on a thread. Cancelled, its caller leaves; its turn is given back when the call returns."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[_T] = loop.create_future()

        def end(result: _T | None, error: BaseException | None) -> None:
            self._turn.release()
            if done.cancelled():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)  # type: ignore[arg-type]  # there is a result where there is no error

        def work() -> None:
            result, error = None, None
            try:
                result = call(*args, **kwargs)
            except BaseException as raised:  # noqa: BLE001 - whatever it is, it is the caller's
                error = raised
            try:
                loop.call_soon_threadsafe(end, result, error)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

        await self._turn.acquire()
        try:
            threading.Thread(target=work, name=self._name, daemon=True).start()
        except RuntimeError:  # no more threads
            self._turn.release()
            raise
        return await done
