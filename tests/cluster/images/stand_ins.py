#!/opt/patio/bin/python3
"""What runs in the image `sample-parts` under the names that upstream's samples call: python3 -m, vllm, nginx, ...

Engines are the engine double, routers are the real smg, everything else is a server that says 200 on the ports its
command line names. So the commands of the samples run unchanged, shell scripts included.
"""

import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

PYTHON = "/opt/patio/bin/python3"
ENGINES = {
    "vllm": ["vllm"],
    "vllm.entrypoints.openai.api_server": ["-m", "vllm.entrypoints.openai.api_server"],
    "sglang.launch_server": ["-m", "sglang.launch_server"],
    "dynamo.sglang": ["-m", "sglang.launch_server"],
}
"""How the double is asked to be one."""
QUICK = ["--health-seconds", "0.1"]
"""A real SGLang answers /health after a second, just too long for a probe that says nothing of its timeout."""
ROUTERS = ("sglang_router.launch_router", "smg.launch_router")
PORT_FLAGS = ("--port", "--http-port", "--http_metadata_server_port", "--rpc_port", "--metrics_port")
DEFAULT_PORT = 80
"""nginx's."""


def main() -> None:
    name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    if name.startswith("python"):
        if arguments[:1] != ["-m"]:
            os.execv(PYTHON, [PYTHON, *arguments])
        name, arguments = arguments[1], arguments[2:]
    if name in ENGINES:
        os.execv(PYTHON, [PYTHON, "-m", "engine_double", *ENGINES[name], *arguments, *QUICK])
    if name in ROUTERS:
        os.execv(PYTHON, [PYTHON, "-m", "smg.launch_router", *arguments])
    serve([int(value) for flag, value in pairwise(arguments) if flag in PORT_FLAGS] or [DEFAULT_PORT])


class Fine(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Probes are no news."""


def serve(ports: list[int]) -> None:
    ended = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ended)  # the first process of a container gets only what it waits for
    for port in ports:
        try:
            server = ThreadingHTTPServer(("", port), Fine)
        except OSError as error:  # two containers of a sample's pod are both an nginx
            print(f"{port}: {error}", flush=True)
            continue
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"listening on {port}", flush=True)
    signal.sigwait(ended)


if __name__ == "__main__":
    main()
