"""An engine for measurements: answers every scrape at once with a recorded text, and so costs next to nothing."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path


class _Answer(asyncio.Protocol):
    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *requests, self._rest = (self._rest + data).split(b"\r\n\r\n")
        for request in requests:
            text = b" /metrics" in request.partition(b"\r\n")[0]
            self._transport.write(self._answer if text else b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")


async def main(port: int, body: bytes) -> None:
    """Serve until told to stop."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {len(body)}\r\n\r\n"
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Answer(head.encode() + body), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--file", type=Path, required=True)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.port, arguments.file.read_bytes()))
