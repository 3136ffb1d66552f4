"""A headless Chromium, driven over its own protocol (Chrome DevTools Protocol) by a WebSocket.

It is the program that the variable CHROMIUM names, or the one that a distribution installs. Tests are skipped where
there is none.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from patio_testing.deadline import DEADLINE
from patio_testing.model_gateway import until

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: set CHROMIUM, or install the package")

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server"),
    *("--remote-debugging-port=0", "--window-size=1280,900"),
)


class Tab:
    """A page of the browser."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self.errors: list[str] = []
        """What the page logged as an error, and exceptions of its script."""

    async def listen(self) -> None:
        """Take what the browser says, until it ends."""
        async for text in self._connection:
            message = json.loads(text)
            if "id" in message:
                self._answers.pop(message["id"]).set_result(message)
            elif message["method"] in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.errors.append(json.dumps(message["params"]))

    async def command(self, method: str, **parameters: Any) -> Any:
        """Give a command; return its result."""
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        async with asyncio.timeout(DEADLINE):
            answer = await self._answers[number]
        assert "error" not in answer, answer
        return answer["result"]

    async def value(self, script: str) -> Any:
        """Return the value of a JavaScript expression."""
        result = await self.command("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def text(self, selector: str) -> str:
        """Return the text of the first element that a selector finds."""
        return str(await self.value(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    async def sees(self, selector: str, words: str) -> None:
        """Wait until an element has some words."""

        async def shown() -> bool:
            return words in await self.text(selector)

        await until(shown, f"{selector} says {words!r}")

    async def type(self, selector: str, text: str) -> None:
        """Focus a field, and type into it in place of what it has."""
        await self.value(f"document.querySelector({json.dumps(selector)}).select()")
        await self.command("Input.insertText", text=text)

    async def press(self, key: str, code: int) -> None:
        """Press a key and let it go."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            await self.command(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text
            )

    async def picture(self) -> bytes:
        """Return a picture of the whole page."""
        result = await self.command("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(result["data"])


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Tab]:
    """Open a page in a browser of its own."""
    assert CHROMIUM is not None
    folder = tempfile.mkdtemp(prefix="chromium-")
    process = await asyncio.create_subprocess_exec(
        *(CHROMIUM, *FLAGS, f"--user-data-dir={folder}", "about:blank"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        port, path = await until(lambda: _address(Path(folder)), "Chromium listens")
        async with connect(f"ws://127.0.0.1:{port}{path}", max_size=None, proxy=None) as browser:
            listening = asyncio.create_task((whole := Tab(browser)).listen())
            targets = (await whole.command("Target.getTargets"))["targetInfos"]
            listening.cancel()
        page = next(each["targetId"] for each in targets if each["type"] == "page")
        async with connect(f"ws://127.0.0.1:{port}/devtools/page/{page}", max_size=None, proxy=None) as connection:
            tab = Tab(connection)
            listening = asyncio.create_task(tab.listen())
            for domain in ("Page", "Runtime", "Log"):
                await tab.command(f"{domain}.enable")
            await tab.command("Page.navigate", url=url)
            yield tab
            listening.cancel()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _address(folder: Path) -> list[str] | None:
    """Return the port and the path at which a browser takes commands; None while it does not."""
    file = folder / "DevToolsActivePort"
    words = file.read_text().split() if file.exists() else []
    return words if len(words) == 2 else None
