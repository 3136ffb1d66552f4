"""The servers for asyncio: each call that waits runs on a thread of its own, so the event loop goes on.

There is one implementation of a server beneath, which has threads anyway: for the keeper, the heartbeat and deaths.
What is added here is cancellation. A cancelled start stops the server, a cancelled stop is carried out all the same,
and the cancellation is raised when nothing is left: both are bounded. No pool of threads is shared, because calls that
wait for an engine would keep a stop from getting a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, AsyncIterator, Callable, ContextManager, TypeVar

from inference_server.backends import SGLangServer, VLLMServer
from inference_server.factory import create_server
from inference_server.recording import Profile
from inference_server.server import InferenceServer
from inference_server.stopping import StopReport

WAIT_SECONDS = 1.0
"""How long a thread may outlive a cancelled `wait`."""

Result = TypeVar("Result")
Self = TypeVar("Self", bound="AsyncInferenceServer")


def on_thread(function: Callable[[], Result]) -> asyncio.Future[Result]:
    """Run a function on a new thread; return its result to come. To cancel that does not end the function."""
    threads = ThreadPoolExecutor(1, thread_name_prefix="inference-server-call")
    try:
        return asyncio.wrap_future(threads.submit(function))
    finally:
        threads.shutdown(wait=False)


async def settled(*futures: asyncio.Future[Any]) -> None:
    """Wait until these are done, however often this is cancelled. Their errors are left to who awaits them."""
    while not all(future.done() for future in futures):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait(futures)
    for future in futures:
        if not future.cancelled():
            future.exception()  # so that it counts as seen


class AsyncInferenceServer:
    """A server for asyncio. `server` is the one beneath, whose attributes may be read at any time.

    The callbacks `on_phase` and `on_change` come from other threads than the event loop's.
    """

    def __init__(self, server: InferenceServer) -> None:
        self.server = server

    @property
    def server_url(self) -> str:
        """The URL that requests begin with."""
        return self.server.server_url

    @property
    def port(self) -> int:
        """The port that it serves on."""
        return self.server.port

    @property
    def state(self) -> str:
        """`new`, `starting`, `ready`, `degraded`, `unhealthy`, `dead`, `stopping` or `stopped`."""
        return self.server.state

    @property
    def is_running(self) -> bool:
        """Whether it was ready and has not ended since."""
        return self.server.is_running

    def check_health(self) -> bool:
        """Whether the last heartbeat succeeded. Asks nothing."""
        return self.server.check_health()

    def list_endpoints(self) -> dict[str, str]:
        """Return the URLs of the server by name."""
        return self.server.list_endpoints()

    async def start(self) -> bool:
        """Start the server; return True when it serves. If cancelled, it is stopped."""
        return await self._or_stopped(self.server.start)

    async def restart(self) -> bool:
        """Stop the server and start it again on the same port. If cancelled, it is stopped."""
        return await self._or_stopped(self.server.restart)

    async def stop(self) -> StopReport | None:
        """Stop the server. If cancelled, it is stopped all the same."""
        return await self._in_any_case(self.server.stop)

    async def kill(self) -> None:
        """End every process of the server at once."""
        await self._in_any_case(self.server.kill)

    async def wait(self) -> int:
        """Wait for the engine to end; return its exit code. If cancelled, it runs on."""
        while True:
            code = await on_thread(lambda: self.server.wait(WAIT_SECONDS))
            if code is not None:
                return code
            if self.server.process is None:
                raise ValueError("the server was not started")

    async def probe(self) -> bool:
        """Ask the server now whether it is well."""
        return await on_thread(self.server.probe)

    async def discover_endpoints(self) -> dict[str, str]:
        """Ask the running server which routes it has."""
        return await on_thread(self.server.discover_endpoints)

    async def load_adapter(self, name: str, path: str | Path) -> str:
        """Load a LoRA adapter; return what requests put in `model` for it."""
        return await on_thread(lambda: self.server.load_adapter(name, path))

    async def unload_adapter(self, name: str) -> None:
        """Unload a LoRA adapter."""
        await on_thread(lambda: self.server.unload_adapter(name))

    async def metrics(self) -> str:
        """Return the engine's metrics as Prometheus text."""
        return await on_thread(self.server.metrics)

    async def drain(self, timeout: float = 60) -> bool:
        """Wait until the engine has no request; return whether that came in time."""
        return await on_thread(lambda: self.server.drain(timeout))

    @contextlib.asynccontextmanager
    async def profile(self, name: str = "") -> AsyncIterator[Profile]:
        """Record what happens within the block, as `InferenceServer.profile` does."""
        block = self.server.profile(name)
        running = self.server.is_running
        entering = on_thread(block.__enter__)
        try:
            profile = await asyncio.shield(entering)
        except asyncio.CancelledError as cancellation:
            await settled(entering, *([] if running else [on_thread(self.server.stop)]))
            if entering.exception() is None:
                await settled(on_thread(functools.partial(_leave, block, cancellation)))
            raise
        try:
            yield profile
        except BaseException as error:
            await self._in_any_case(functools.partial(_leave, block, error))
            raise
        else:
            await self._in_any_case(lambda: block.__exit__(None, None, None))

    async def __aenter__(self: Self) -> Self:
        """Start the server."""
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the server."""
        await self._in_any_case(lambda: self.server.__exit__(kind, error, trace))

    async def _or_stopped(self, function: Callable[[], Result]) -> Result:
        starting = on_thread(function)
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # The stop ends the start, whatever that waits for.
            await settled(starting, on_thread(self.server.stop))
            raise

    async def _in_any_case(self, function: Callable[[], Result]) -> Result:
        working = on_thread(function)
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            await settled(working)
            raise


def _leave(block: ContextManager[Profile], error: BaseException) -> None:
    """Let a block have the error that ends it, which is then raised where it came from."""
    with contextlib.suppress(type(error)):
        block.__exit__(type(error), error, error.__traceback__)


class AsyncVLLMServer(AsyncInferenceServer):
    """A vLLM server for asyncio; the arguments are those of `VLLMServer`."""

    def __init__(self, model: str, **kwargs: Any) -> None:
        super().__init__(VLLMServer(model, **kwargs))


class AsyncSGLangServer(AsyncInferenceServer):
    """An SGLang server for asyncio; the arguments are those of `SGLangServer`."""

    def __init__(self, model: str, **kwargs: Any) -> None:
        super().__init__(SGLangServer(model, **kwargs))


def create_async_server(backend: str, model: str, **kwargs: Any) -> AsyncInferenceServer:
    """Return a server of a backend for asyncio, not started.

    Raises:
        ValueError: there is no such backend.
    """
    return AsyncInferenceServer(create_server(backend, model, **kwargs))
