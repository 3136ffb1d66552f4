"""The HTTP that all engines have in common: deadlines, sizes, the model list, faults that no engine words itself.

Below `vllm` and `sglang`, above `patio.exchange`. It turns whatever the network does into `EngineError`s, told apart by
cause: only a refused connection is an engine that is gone. It must never let a key or an httpx exception out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx

from patio.bounded_json import read_json
from patio.engine.address import read_address
from patio.engine.base import EngineError, EngineReason, EngineView, PermanentError, RetryableError
from patio.exchange import Answer, ExchangeError, exchange
from patio.network import Cause
from patio_protocol.engines import TRIAL_PREFIX
from patio_protocol.error_text import is_fit

POLL_SECONDS = 2.0
"""Deadline of a poll of the engine: readiness and its list."""
CHANGE_SECONDS = 300.0
"""Deadline of a load or unload. Generous: weights come from slow disks, and SGLang 0.5.23 unloads wait for requests."""
POLLS_AT_ONCE = 16
ORDERS_AT_ONCE = 64
"""Far more than the reconciler has in progress; a swap on SGLang takes two."""
LARGEST_MESSAGE = 256 * 2**10
"""Bytes that are read of an answer whose status is enough, or whose text is shown to people."""
LARGEST_LIST = 4 * 2**20
"""Bytes of a model list: vLLM 0.32 has 600 for each adapter."""
LARGEST_ANSWER = 2**20
"""Bytes of any other answer that is understood. What holds the event loop up is bounded by it."""
LARGEST_METRICS = 16 * 2**20
LONGEST_NAME = 1024
LONGEST_PATH = 4096
"""Characters of a name and of a path in an engine's list: what is longer is no adapter that anybody could ask for."""
MOST_TOKENS = 2**53

log = logging.getLogger(__name__)


class EngineHttp:
    """An engine's HTTP side. The caller's clients are used and stay open."""

    def __init__(self, endpoint: str, polls: httpx.AsyncClient, orders: httpx.AsyncClient | None = None) -> None:
        """`polls` is for what must never wait, `orders` for loads and unloads; without it, `polls` is for both."""
        self._address = read_address(endpoint)
        self._polls = polls
        self._orders = polls if orders is None else orders
        self._poll_slots = asyncio.Semaphore(POLLS_AT_ONCE)
        self._order_slots = asyncio.Semaphore(ORDERS_AT_ONCE)
        self._answered = False
        """Whether anything was ever answered over this address."""
        self._pending_orders = 0
        """Orders without an answer so far."""
        self._order_count = 0
        """Counts the beginnings and ends of orders: a list from before one of them is no news."""
        self._last_good: tuple[int, EngineView] | None = None
        """The last view that found everything as it should be, and the orders before it."""
        self._list_next = False
        self._unreadable = 0

    async def poll(self, path: str, key: str | None = None, largest: int = LARGEST_MESSAGE) -> Answer:
        """GET; raise `RetryableError` when there is no answer."""
        return await self._send(self._polls, self._poll_slots, "GET", path, key, POLL_SECONDS, largest, None)

    async def change(self, path: str, key: str | None, body: Mapping[str, object]) -> Answer:
        """POST; raise `RetryableError` when there is no answer."""
        self._pending_orders += 1
        self._order_count += 1
        try:
            return await self._send(
                self._orders, self._order_slots, "POST", path, key, CHANGE_SECONDS, LARGEST_ANSWER, body
            )
        finally:
            self._pending_orders -= 1
            self._order_count += 1

    async def view(
        self, not_ready: Callable[[], Awaitable[EngineError | None]], listed: Callable[[], Awaitable[EngineView]]
    ) -> EngineView:
        """Poll the engine with one request where two have lately found everything well.

        Readiness and the list take turns then, and a crash is seen by either. Both are asked while the engine is not
        ready, after anything that was not as it should be, and after every order, whose outcome is read from the list.
        """
        orders, last_good = self._order_count, self._last_good
        fresh = last_good is not None and not self._pending_orders and last_good[0] == orders
        self._last_good, list_only = None, fresh and self._list_next
        self._list_next = fresh and not self._list_next
        error = None if list_only else await not_ready()
        if error is not None:
            return down(error)
        view = last_good[1] if last_good is not None and fresh and not list_only else await listed()
        if view.ready and view.error is None and not self._pending_orders and orders == self._order_count:
            self._last_good = (orders, view)
        return view

    async def listed(self, key: str | None) -> EngineView:
        """Read `/v1/models` of an engine that was ready: entries with a parent are adapters, `root` is their path."""
        try:
            answer = await self.poll("/v1/models", key, LARGEST_LIST)
            if answer.status in (401, 403):
                raise unauthorized("/v1/models", answer.status, "Set ENGINE_API_KEY in the sidecar")
            if not answer.is_success:
                raise RetryableError(EngineReason.ENGINE_ERROR, f"/v1/models {answered(answer.status)}.")
            if not answer.whole:
                message = f"/v1/models answered with more than {LARGEST_LIST} bytes, or compressed."
                raise RetryableError(EngineReason.ENGINE_ERROR, message)
            view, unreadable = _read_list(answer.content)
        except NotListeningError as error:
            # It may have died since it said that it is ready, or be asked for the list alone.
            return down(error)
        except EngineError as error:
            return EngineView(ready=True, adapters=None, error=error)
        if unreadable and unreadable != self._unreadable:
            log.warning("unreadable entries in the engine's model list entries=%d", unreadable)
        self._unreadable = unreadable
        return view

    async def _send(
        self,
        http: httpx.AsyncClient,
        slots: asyncio.Semaphore,
        method: str,
        path: str,
        key: str | None,
        seconds: float,
        largest: int,
        body: Mapping[str, object] | None,
    ) -> Answer:
        shown = self._address.shown
        try:
            answer = await exchange(
                http,
                method,
                self._address.base_url + path,
                where=f"the engine at {shown}",
                path=path,
                seconds=seconds,
                largest=largest,
                headers={} if key is None else {"authorization": f"Bearer {key}"},
                body=body,
                slots=slots,
            )
        except ExchangeError as error:
            if error.cause is Cause.REFUSED:
                raise NotListeningError(shown) from error
            raise RetryableError(EngineReason.UNREACHABLE, error.message + self._remedy(error.cause)) from error
        self._answered = True
        return answer

    def _remedy(self, cause: Cause) -> str:
        if cause is Cause.TLS:
            return (
                " Name the CAs of the engine's certificate with ENGINE_CA_FILE, and the name in it with "
                "ENGINE_TLS_SERVER_NAME. For an engine without TLS, begin the URL with http://."
            )
        if cause is Cause.BROKEN and not self._answered and not self._address.tls:
            return " If the engine speaks TLS, begin its URL with https://."
        return ""


class NotListeningError(RetryableError):
    """The connection was refused: the engine is starting, stopping or gone, and holds no adapter."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(EngineReason.UNREACHABLE, f"Nothing listens at {endpoint}: the engine is not up.")


def down(error: EngineError) -> EngineView:
    """Return the view of an engine that is not ready."""
    return EngineView(ready=False, listening=not isinstance(error, NotListeningError), adapters=None, error=error)


def unauthorized(path: str, status: int, remedy: str) -> PermanentError:
    """Return the error for a key that is missing or wrong, with its remedy."""
    message = f"The engine rejected {path} with {status}: the key is missing or wrong. {remedy}."
    return PermanentError(EngineReason.UNAUTHORIZED, message)


def answered(status: int) -> str:
    """Return a status in words."""
    return f"answered {status}" + (", a redirect that the sidecar does not follow" if 300 <= status < 400 else "")


def _read_list(content: bytes) -> tuple[EngineView, int]:
    """Read a model list, and count the entries that cannot be read. Raise `RetryableError`: it is none at all."""
    try:
        data = read_json(content, LARGEST_LIST)
    except ValueError:
        data = None
    listed = data.get("data") if isinstance(data, dict) else None
    if not isinstance(listed, list):
        message = "/v1/models did not answer with a model list."
        raise RetryableError(EngineReason.ENGINE_ERROR, message)
    entries = [entry for entry in listed if _is_model(entry)]
    base_models = [entry for entry in entries if entry.get("parent") is None]
    context = base_models[0].get("max_model_len") if base_models else None
    loaded = {entry["id"]: entry.get("root") or "" for entry in entries if entry.get("parent") is not None}
    trials = frozenset(name for name in loaded if name.startswith(TRIAL_PREFIX))
    view = EngineView(
        ready=True,
        base_models=tuple(entry["id"] for entry in base_models),
        base_roots=tuple(entry["root"] for entry in base_models if entry.get("root")),
        context_tokens=context if type(context) is int and 0 < context < MOST_TOKENS else None,
        adapters={name: path for name, path in loaded.items() if name not in trials},
        trials=trials,
    )
    return view, len(listed) - len(entries)


def _is_model(entry: Any) -> bool:
    if not isinstance(entry, dict):
        return False
    name, root, parent = entry.get("id"), entry.get("root"), entry.get("parent")
    return (
        _is_text(name, LONGEST_NAME)
        and (root is None or _is_text(root, LONGEST_PATH))
        and (parent is None or _is_text(parent, LONGEST_PATH))
    )


def _is_text(value: object, longest: int) -> bool:
    return isinstance(value, str) and len(value) <= longest and is_fit(value)
