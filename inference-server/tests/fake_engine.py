"""A small engine for tests: the command lines of vLLM and SGLang, and misbehaviour on order.

It answers /health, /v1/models and the rest as a server does that serves one model, and it can start a tree of processes
that ignore SIGTERM, leave their session or lose their parent. What it does is read from variables, since its arguments
are an engine's.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar, Sequence

GATE_SECONDS = 240.0
"""How long a trace waits for a test that has failed."""


def value_of(arguments: Sequence[str], *names: str, default: str = "") -> str:
    """Return the value of the last of these options."""
    found = default
    for index, word in enumerate(arguments[:-1]):
        if word in names:
            found = arguments[index + 1]
    return found


def note(kind: str) -> None:
    """Write down that a process of the tree exists: `kind pid`."""
    path = os.environ.get("FAKE_TREE")
    if path:
        with open(path, "a") as file:
            file.write("%s %d\n" % (kind, os.getpid()))


def linger() -> None:
    """Live until something kills it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        signal.pause()


def grow_tree() -> None:
    """Start five processes: two children, a grandchild, one in its own session, one orphan in its own session."""
    for kind in ("child", "parent", "session", "orphan"):
        if os.fork() == 0:
            if kind == "session":
                os.setsid()
            if kind in ("parent", "orphan"):
                if os.fork() == 0:
                    if kind == "orphan":
                        os.setsid()
                    note("grandchild" if kind == "parent" else "orphan")
                    linger()
                if kind == "orphan":
                    os._exit(0)
            note(kind)
            linger()
    note("leader")
    wait_until_grown()


def wait_until_grown() -> None:
    """Wait until all six have written themselves down: who asks a server that serves is to find the whole tree."""
    until = time.monotonic() + GATE_SECONDS
    pause = threading.Event()
    while time.monotonic() < until:
        with open(os.environ["FAKE_TREE"]) as file:
            if len(file.readlines()) >= 6:
                return
        pause.wait(0.005)


def wait_for_gate(folder: str, name: str) -> None:
    """Wait until a test has made a file; at once without a folder."""
    until = time.monotonic() + GATE_SECONDS
    pause = threading.Event()
    while folder and not os.path.exists(os.path.join(folder, name)) and time.monotonic() < until:
        pause.wait(0.01)


def write_trace(path: str, gates: str) -> None:
    """Write a trace in two parts, each after its gate, or an empty one, or none."""
    kind = os.environ.get("FAKE_PROFILER", "")
    wait_for_gate(gates, "begin")
    if kind == "silent":
        return
    with open(path, "w") as file:
        if kind != "empty":
            file.write("half ")
            file.flush()
            wait_for_gate(gates, "end")
            file.write("trace")


class Handler(BaseHTTPRequestHandler):
    """Answers as a server that serves one model."""

    model = ""
    arguments: tuple[str, ...] = ()
    adapters: ClassVar[dict[str, str]] = {}
    order: dict[str, Any] | None = None

    def do_GET(self) -> None:
        """Answer the routes that the library asks for."""
        self.note_request()
        if self.path in os.environ.get("FAKE_MISSING", "").split():
            self.answer(404, {"detail": "Not Found"})
        elif os.path.exists(os.environ.get("FAKE_SICK", "/nonexistent")):
            self.answer(503, {})
        elif self.path == "/v1/models":
            base = os.environ.get("FAKE_MODEL", self.model)
            adapters = [{"id": name, "root": path, "parent": base} for name, path in Handler.adapters.items()]
            self.answer(200, {"object": "list", "data": [{"id": base, "root": base, "parent": None}, *adapters]})
        elif self.path == "/openapi.json":
            self.answer(200, {"paths": {"/health": {}, "/v1/models": {}, "/v1/score": {}}})
        elif self.path == "/metrics" and os.environ.get("FAKE_METRICS"):
            with open(os.environ["FAKE_METRICS"], "rb") as file:
                self.send(200, file.read())
        else:
            self.answer(200, {})

    def do_POST(self) -> None:
        """Answer a completion, or what begins or ends a profile."""
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.note_request()
        if self.path in ("/start_profile", "/stop_profile"):
            self.profile(json.loads(body or b"{}"))
        elif self.path == "/v1/load_lora_adapter":
            Handler.adapters[json.loads(body)["lora_name"]] = json.loads(body)["lora_path"]
            self.answer(200, {})
        elif self.path == "/v1/unload_lora_adapter":
            Handler.adapters.pop(json.loads(body)["lora_name"], None)
            self.answer(200, {})
        else:
            self.answer(200, {"choices": [{"text": "hello"}]})

    def profile(self, order: dict[str, Any]) -> None:
        """Record as the engines do: vLLM needs an option and answers when all is written, SGLang before that."""
        engine = "sglang" if "sglang.launch_server" in self.arguments else "vllm"
        profiler = value_of(self.arguments, "--profiler-config.profiler") or ("torch" if engine == "sglang" else "")
        if not profiler or os.environ.get("FAKE_PROFILER") == "none":
            self.answer(404, {"detail": "Not Found"})
        elif self.path == "/start_profile":
            if Handler.order is not None:
                self.answer(409, {"error": {"message": "A profiling session is already active."}})
                return
            Handler.order = order
            self.answer(200, {})
        elif profiler == "cuda" or "activities" in (Handler.order or {}):
            with open(os.environ["FAKE_RANGES"], "a") as file:
                file.write("a range\n")
            Handler.order = None
            self.answer(200, {})
        else:
            folder = (Handler.order or {}).get("output_dir") or value_of(
                self.arguments, "--profiler-config.torch_profiler_dir"
            )
            prefix = (Handler.order or {}).get("profile_prefix", "trace")
            path = os.path.join(folder, prefix + "-rank0.pt.trace.json.gz")
            Handler.order = None
            if engine == "vllm":
                write_trace(path, "")
                self.answer(200, {})
            else:
                self.answer(200, {})
                threading.Thread(target=write_trace, args=(path, os.environ.get("FAKE_GATES", ""))).start()

    def answer(self, status: int, content: dict[str, object]) -> None:
        """Send JSON."""
        self.send(status, json.dumps(content).encode())

    def send(self, status: int, body: bytes) -> None:
        """Send bytes."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def note_request(self) -> None:
        """Write down what was asked for."""
        path = os.environ.get("FAKE_REQUESTS")
        if path:
            with open(path, "a") as file:
                file.write("%s %s\n" % (self.command, self.path))

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main(arguments: list[str]) -> None:
    """Serve until SIGTERM."""
    if os.environ.get("FAKE_ARGUMENTS"):
        with open(os.environ["FAKE_ARGUMENTS"], "w") as file:
            json.dump(arguments, file)
    if os.environ.get("FAKE_LOG"):
        with open(os.environ["FAKE_LOG"]) as file:
            print(file.read(), file=sys.stderr, flush=True)
    if os.environ.get("FAKE_EXIT"):
        sys.exit(int(os.environ["FAKE_EXIT"]))
    if os.environ.get("FAKE_TREE"):
        grow_tree()
    if os.environ.get("FAKE_HANG"):
        linger()
    Handler.arguments = tuple(arguments)
    Handler.model = value_of(arguments, "--model", "--model-path", "--served-model-name", default="custom")
    server = HTTPServer(("127.0.0.1", int(value_of(arguments, "--port", default="8000"))), Handler)
    if os.environ.get("FAKE_STUBBORN"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    print("INFO:     Application startup complete.", file=sys.stderr, flush=True)
    server.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    main(sys.argv[1:])
