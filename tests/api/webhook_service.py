"""What stands between the API server and the operator's webhook where no pod runs: a Service, as a proxy of TCP.

The API server dials the Service's external name, which is loopback; the proxy goes on to one replica after the other
and passes by those that do not listen, as endpoints would.
"""

from __future__ import annotations

import itertools
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from kube import Kube

CONFIGURATION = "mutatingwebhookconfiguration/patio"


@contextmanager
def webhook_service(kube: Kube, ports: Callable[[], Sequence[int]]) -> Iterator[int]:
    """Have the API server's calls reach one of the ports, for as long as the context lasts; yields the proxy's own."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        threading.Thread(target=_accept, args=(listening, ports), daemon=True).start()
        _point_to(
            kube, port, {"type": "ExternalName", "externalName": "localhost", "clusterIP": "", "clusterIPs": None}
        )
        try:
            yield port
        finally:
            _point_to(kube, 443, {})  # where nobody listens


def _point_to(kube: Kube, port: int, service: dict[str, object]) -> None:
    kube.kubectl(
        *("-n", "patio-system", "patch", "service", "patio-webhook", "--type=merge"),
        *("-p", json.dumps({"spec": service})),
    )
    webhooks = kube.get("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/patio")["webhooks"]
    patch = [
        {"op": "replace", "path": f"/webhooks/{index}/clientConfig/service/port", "value": port}
        for index in range(len(webhooks))
    ]
    kube.kubectl("patch", CONFIGURATION, "--type=json", "-p", json.dumps(patch))


def _accept(listening: socket.socket, ports: Callable[[], Sequence[int]]) -> None:
    for turn in itertools.count():
        try:
            caller, _ = listening.accept()
        except OSError:
            return  # closed: the context has ended
        threading.Thread(target=_pass_on, args=(caller, ports, turn), daemon=True).start()


def _pass_on(caller: socket.socket, ports: Callable[[], Sequence[int]], turn: int) -> None:
    there = ports()
    for index in range(len(there)):
        try:
            replica = socket.create_connection(("127.0.0.1", there[(turn + index) % len(there)]))
        except OSError:
            continue
        threading.Thread(target=_pump, args=(caller, replica), daemon=True).start()
        _pump(replica, caller)
        return
    caller.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    finally:
        for one in (source, target):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
