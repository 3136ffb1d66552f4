"""What stands between the API server and the operator's webhook where no pod runs: a Service, as a proxy of TCP.

The API server dials the Service's external name, which is loopback; the proxy goes on to one replica after the other
and passes by those that do not listen, as endpoints would.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

from patio_testing.kube import Kube
from patio_testing.tcp_proxy import TcpProxy

CONFIGURATION = "mutatingwebhookconfiguration/patio"


@contextmanager
def webhook_service(kube: Kube, ports: Callable[[], Sequence[int]]) -> Iterator[int]:
    """Have the API server's calls reach one of the ports, for as long as the context lasts; yields the proxy's own."""
    with closing(TcpProxy(ports)) as proxy:
        _point_to(
            kube,
            proxy.port,
            {"type": "ExternalName", "externalName": "localhost", "clusterIP": "", "clusterIPs": None},
        )
        try:
            yield proxy.port
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
