"""Asking a cluster whether it works, without any client library.

Each probe answers yes or no (or with what it learnt) and never raises for a cluster that is not there;
waiting for the answer is the caller's.
"""

import json
import secrets
import socket
import ssl
import struct
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

from e2e_cluster.certificates import Pair

TIMEOUT = 2.0


def tls_context(authority: Path, client: Pair) -> ssl.SSLContext:
    """TLS as a client of the API server."""
    context = ssl.create_default_context(cafile=str(authority))
    context.load_cert_chain(client.certificate, client.key)
    return context


def api_is_ready(server: str, context: ssl.SSLContext) -> bool:
    """Whether the API server says so, with all of its start-up hooks done."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with direct.open(f"{server}/readyz", timeout=TIMEOUT) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def listens(path: Path) -> bool:
    """Whether somebody accepts connections on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(TIMEOUT)
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True


def get(kubectl: Path, kubeconfig: Path, *what: str) -> Any:
    """``kubectl get`` as JSON; None when that fails."""
    command = [str(kubectl), f"--kubeconfig={kubeconfig}", "--request-timeout=5s", "get", *what, "-o", "json"]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=10)
    except subprocess.TimeoutExpired:
        return None
    return json.loads(done.stdout) if done.returncode == 0 else None


def node_is_usable(node: Any) -> bool:
    """Whether a node is Ready and nothing keeps pods off it."""
    if not node:
        return False
    conditions = {c["type"]: c["status"] for c in node.get("status", {}).get("conditions", ())}
    untainted = not node.get("spec", {}).get("taints")
    return untainted and conditions.get("Ready") == "True"


def resolves(server: str, name: str) -> bool:
    """Whether a name server knows an address for a name: one question over UDP."""
    question = dns_question(secrets.randbits(16), name)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.5)
        try:
            client.sendto(question, (server, 53))
            return has_answer(client.recv(512), question)
        except OSError:
            return False


def dns_question(identity: int, name: str) -> bytes:
    """A question for a name's IPv4 address."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split("."))
    return struct.pack(">HHHHHH", identity, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", 1, 1)


def has_answer(reply: bytes, question: bytes) -> bool:
    """Whether a reply belongs to the question, reports success and carries an answer."""
    if len(reply) < 12 or reply[:2] != question[:2]:
        return False
    flags, _, answers = struct.unpack(">HHH", reply[2:8])
    return bool(flags & 0x0F == 0 and answers > 0)
