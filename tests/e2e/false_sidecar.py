"""A pod that says it has a sidecar and has none: what a tenant may run, to mislead or to exhaust who asks it.

Runs in the pod by itself, with nothing but Python's standard library: `python3 false_sidecar.py MODE`. It records every
request, head and body, and gives the records back at GET /recorded on port 9092. MODE says how port 9091 answers.
"""

import gzip
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

RECORDED: list[str] = []
LONGEST = 20_000
"""Bytes kept of a request."""


def report(revision: str, adapters: list[object]) -> bytes:
    """What a sidecar would answer."""
    body = {"revision": revision, "engine": "vllm", "engine_ready": True, "base_models": ["tiny"], "adapters": adapters}
    return json.dumps(body).encode()


def foreign() -> list[object]:
    """Adapters that belong to a LoraAdapter of another namespace, and more of them than any engine has."""
    return [
        {
            "lora_name": f"kept-{number}",
            "state": "Loaded",
            "owner": f"loraadapter/neighbour/kept-{number}",
            "revision": "x" * 64,
            "message": "m" * 2000,
        }
        for number in range(5000)
    ]


class Handler(BaseHTTPRequestHandler):
    """Records, and answers as the mode says."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the records are the log."""

    def do_GET(self) -> None:
        """Record and answer."""
        length = min(int(self.headers.get("content-length") or 0), LONGEST)
        body = self.rfile.read(length)
        head = f"{self.command} {self.path} {dict(self.headers)}"
        RECORDED.append(f"{head} {body!r}"[:LONGEST])
        del RECORDED[:-2000]
        getattr(self, f"answer_{MODE}")()

    def do_POST(self) -> None:
        """Record and answer."""
        self.do_GET()

    def _send(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer_redirect(self) -> None:
        """Send whoever asks to the API server, and to a cloud's metadata."""
        to = ("https://kubernetes.default.svc/api", "http://169.254.169.254/latest/meta-data/")[len(RECORDED) % 2]
        self._send(b"", 307, location=to)

    def answer_bomb(self) -> None:
        """Half a gigabyte in half a megabyte."""
        self._send(BOMB, content_encoding="gzip")

    def answer_deep(self) -> None:
        """JSON deeper than any reader's stack."""
        self._send(b'{"adapters": ' + b"[" * 1_000_000)

    def answer_drip(self) -> None:
        """A byte a second, for ever."""
        self.send_response(200)
        self.send_header("content-length", "1000000")
        self.end_headers()
        for _ in range(100):
            self.wfile.write(b" ")
            self.wfile.flush()
            time.sleep(1)

    def answer_restless(self) -> None:
        """Something new at once, each time."""
        self._send(report(f"r-{len(RECORDED)}-{time.monotonic_ns()}", []))

    def answer_foreign(self) -> None:
        """What belongs to others."""
        self._send(report("b-1", foreign()))

    def answer_records(self) -> None:
        """What was recorded."""
        self._send(json.dumps(RECORDED).encode())


class Records(Handler):
    """Gives the records, and records nothing."""

    def do_GET(self) -> None:
        """Give the records."""
        self.answer_records()


if __name__ == "__main__":
    MODE = sys.argv[1]
    BOMB = gzip.compress(bytes(500 << 20), 9) if MODE == "bomb" else b""
    records = ThreadingHTTPServer(("0.0.0.0", 9092), Records)
    threading.Thread(target=records.serve_forever, daemon=True).start()
    ThreadingHTTPServer(("0.0.0.0", 9091), Handler).serve_forever()
