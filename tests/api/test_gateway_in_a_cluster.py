"""The gateway at a real API server: watches, Secrets with keys, and its report, with rights of its own."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from e2e_cluster.control_plane import ControlPlane
from inference_server.ports import free_port
from patio_api.crd import NOT_INSTALLED
from patio_testing.deadline import DEADLINE
from patio_testing.gateway_command import completion, gateway_command
from patio_testing.kube import Kube
from patio_testing.local_servers import engine_double
from patio_testing.model_gateway import until
from patio_testing.model_objects import key_secret, lora_adapter, model_endpoint, serving_adapters, worker_pod

pytestmark = pytest.mark.api

Object = dict[str, Any]
USER = "system:serviceaccount:patio-system:gateway-of-tests"
KEY = "sk-team-a-0123456789"
RIGHTS: Object = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRole",
    "metadata": {"name": "gateway-of-tests"},
    "rules": [
        {
            "apiGroups": ["patio.dev"],
            "resources": ["modelendpoints", "loraadapters"],
            "verbs": ["list", "watch"],
        },
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "get", "patch"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["list", "watch"]},
        {"apiGroups": ["patio.dev"], "resources": ["demandreports"], "verbs": ["create", "patch"]},
    ],
}
"""All that the gateway does; in a chart the last two are of its own namespace alone."""


@pytest.fixture(scope="module", autouse=True)
def rights(plane: ControlPlane) -> Iterator[None]:
    """The kinds, which the chart does not install yet, and the gateway's rights."""
    documents = [definition.to_api() for definition in NOT_INSTALLED]
    names = [f"crd/{document['metadata']['name']}" for document in documents]
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "gateway-of-tests"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "gateway-of-tests"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": USER}],
    }
    for document in (*documents, RIGHTS, binding):
        plane.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(document))
    plane.kubectl("wait", "--for=condition=Established", f"--timeout={DEADLINE:.0f}s", *names)
    yield
    plane.kubectl("delete", *names, "clusterrole/gateway-of-tests", "clusterrolebinding/gateway-of-tests")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder with a short path: the gateway's sockets are in it."""
    made = Path(tempfile.mkdtemp(prefix="gateway-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def written(body: Object) -> Object:
    """Return an object as a user writes it: without what the API server sets."""
    kept = ("name", "namespace", "labels")
    metadata = {key: value for key, value in body["metadata"].items() if key in kept}
    return {key: value for key, value in body.items() if key != "status"} | {"metadata": metadata}


async def test_models_keys_and_demand_on_a_real_api_server(
    plane: ControlPlane, kube: Kube, namespace: str, folder: Path, tmp_path: Path
) -> None:
    def apply(body: Object) -> Object:
        applied = kube.kubectl("apply", "--server-side", "-o", "json", "-f", "-", stdin=json.dumps(written(body)))
        found: Object = json.loads(applied)
        return found

    def set_status(body: Object) -> None:
        name = body["metadata"]["name"]
        patch = json.dumps({"status": body["status"]})
        kube.kubectl("patch", "pod", name, "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)

    port, engine_port = free_port(), free_port()
    own = worker_pod("gateway-0", namespace=namespace, endpoint="none")
    uid = apply(own | {"metadata": own["metadata"] | {"labels": {}}})["metadata"]["uid"]
    apply(model_endpoint(namespace=namespace, adapters=serving_adapters()))
    sql = apply(lora_adapter("sql", namespace=namespace))
    variables = {
        "POD_NAME": "gateway-0",
        "POD_NAMESPACE": namespace,
        "KUBECONFIG": str(plane.kubeconfig_for(USER)),
    }
    words = ("--kubernetes", "--keys-from-secrets", "--namespaces", namespace)
    with engine_double("engine", tmp_path, engine_port, "--model", "m") as engine:
        assert engine.wait_until_ready()
        async with gateway_command(folder, port, *words, variables=variables):

            async def answers(status: int, model: str = "m") -> None:
                async def answered() -> bool:
                    try:
                        return (await completion(port, model, KEY)).status_code == status
                    except httpx.TransportError:
                        return False

                await until(answered, f"requests for {model} are answered {status}")

            def demand() -> Object:
                words = ("get", "demandreports", "gateway-0", "-n", namespace, "--ignore-not-found", "-o", "json")
                found: Object = json.loads(kube.kubectl(*words) or '{"spec": {"endpoints": []}}')
                return found

            await answers(401)
            apply(key_secret("keys", f"- {{name: team-a, key: {KEY}}}\n", namespace=namespace))

            async def accepted() -> bool:
                async with httpx.AsyncClient(trust_env=False) as client:
                    headers = {"authorization": f"Bearer {KEY}"}
                    found = await client.get(f"http://127.0.0.1:{port}/v1/models", headers=headers)
                return found.status_code == 200 and [each["id"] for each in found.json()["data"]] == ["m", "sql"]

            await until(accepted, "the key counts, and the model and its adapter are listed")
            asking = asyncio.create_task(completion(port, "m", KEY))
            await until(lambda: demand()["spec"]["endpoints"][:1], "the demand is reported")
            report = demand()
            assert report["spec"]["endpoints"][0] | {"lastActivity": ""} == {
                "endpoint": f"{namespace}/m",
                "inFlight": 0,
                "held": 1,
                "lastActivity": "",
            }
            assert [owner["uid"] for owner in report["metadata"]["ownerReferences"]] == [uid]
            pod = worker_pod("m-0", namespace=namespace, ip="127.0.0.1", port=engine_port, loaded=[sql])
            pod["status"] |= {"podIPs": [{"ip": "127.0.0.1"}]}
            apply(pod)
            set_status(pod)
            assert (await asking).status_code == 200
            kube.kubectl("delete", "secret", "keys", "-n", namespace)
            await answers(401)
