"""Scales a Deployment of engines up and looks on: no new pod may be Ready before its engine lists its adapters."""

from __future__ import annotations

import time
from collections.abc import Set

from patio_testing.kube import Kube, is_ready, until


def grow(kube: Kube, namespace: str, deployment: str, replicas: int, adapters: Set[str], within: float) -> list[float]:
    """Scale up; return, for each new pod, the seconds from when its engine answered to when it listed all adapters."""
    old = {pod["metadata"]["name"] for pod in kube.pods(namespace)}
    kube.kubectl("-n", namespace, "scale", f"deployment/{deployment}", f"--replicas={replicas}")
    up: dict[str, float] = {}
    loaded: dict[str, float] = {}

    def look() -> bool:
        for pod in kube.pods(namespace):
            name = pod["metadata"]["name"]
            if name in old or name in loaded or "podIP" not in pod["status"]:
                continue
            answer = kube.to_pod("GET", namespace, name, 8000, "/v1/models")
            if answer.status_code != 200:
                assert not is_ready(pod)
                continue
            now = time.monotonic()
            up.setdefault(name, now)
            if adapters <= {model["id"] for model in answer.json()["data"]}:
                loaded[name] = now
            else:
                assert not is_ready(kube.get(f"/api/v1/namespaces/{namespace}/pods/{name}"))
        return len(loaded) == replicas - len(old)

    until(f"{replicas} engines with {', '.join(sorted(adapters))}", look, within=within)
    return sorted(loaded[name] - up[name] for name in loaded)
