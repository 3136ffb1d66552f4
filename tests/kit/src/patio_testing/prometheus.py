"""A real Prometheus on the cluster, by prometheus-operator or with a configuration of its own, and what it answers.

prometheus-operator, its CRDs and its rights come from its pinned Go module; `e2e_cluster.guests` builds the images.
Targets are found by what Patio's chart makes, or by the scrape configuration of the documentation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

import e2e_cluster
from e2e_cluster.guests import image_of, load_guests, module_folder
from patio_testing.environment import ROOT, fresh_namespace
from patio_testing.kube import Kube, is_ready, until

NAMESPACE = "monitoring"
MODULE = "github.com/prometheus-operator/prometheus-operator"
RELOADER = "prometheus-config-reloader"
SCRAPER = "prometheus"
"""Service account and role of every Prometheus."""
VERSION = "3.16.0"
"""What prometheus-operator is told; `tests/cluster/tools/prometheus/go.mod` has it as v0.316.0."""
SECONDS = 2
"""Between two scrapes, and between two evaluations of the rules."""
MONITORS = (
    *(f"monitoring.{kind}.enabled=true" for kind in ("podMonitor", "serviceMonitor", "rules")),
    *(f"monitoring.{kind}.interval={SECONDS}s" for kind in ("podMonitor", "serviceMonitor")),
    *(f"monitoring.{kind}.scrapeTimeout={SECONDS}s" for kind in ("podMonitor", "serviceMonitor")),
)
"""Values of Patio's chart for this Prometheus."""
DURATION = re.compile(r"(?<![\w.:])(\d+)([smhd])(?![\w(])")
IN_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

Series = dict[str, Any]


@dataclass(frozen=True)
class Prometheus:
    """A Prometheus in a pod."""

    kube: Kube
    pod: str

    def _ask(self, path: str, **form: str) -> Any:
        where = f"/api/v1/namespaces/{NAMESPACE}/pods/{self.pod}:9090/proxy/api/v1/{path}"
        http = self.kube.http
        answer = http.post(where, data=form) if form else http.get(where)
        if answer.status_code in (400, 422):
            raise AssertionError(f"{form}: {answer.json()['error']}")
        return answer.raise_for_status().json()["data"]

    def query(self, expr: str) -> list[Series]:
        """Return what an expression gives now.

        Raises:
            AssertionError: Prometheus does not accept it.

        """
        found: list[Series] = self._ask("query", query=expr)["result"]
        return found

    def value(self, expr: str) -> float:
        """Return the one number that an expression gives now; NaN when it gives none."""
        found = self.query(expr)
        return float(found[0]["value"][1]) if found else math.nan

    def healthy(self, job: str) -> set[str]:
        """Return the pods of a job whose last scrape succeeded."""
        targets = self._ask("targets")["activeTargets"]
        mine = [target["labels"] for target in targets if target["labels"]["job"] == job and target["health"] == "up"]
        return {labels["pod"] for labels in mine}

    def firing(self) -> list[dict[str, str]]:
        """Return the labels of the alerts that fire."""
        return [alert["labels"] for alert in self._ask("alerts")["alerts"] if alert["state"] == "firing"]

    def rules(self) -> dict[str, str]:
        """Return the health of every alerting rule by its name: `ok`, once it was evaluated."""
        return {rule["name"]: rule["health"] for group in self._ask("rules")["groups"] for rule in group["rules"]}


def install_operator(kube: Kube, report: Callable[[str], None]) -> None:
    """Install prometheus-operator with its CRDs, in a namespace that is made anew."""
    load_guests(e2e_cluster.connect(report=report), ("prometheus", "prometheus-operator", RELOADER), report)
    folder = module_folder("prometheus-operator", MODULE) / "example"
    kube.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(folder / "prometheus-operator-crd"))
    fresh_namespace(kube, NAMESPACE)
    for role in ("prometheus-operator", SCRAPER):
        kube.apply(yaml.safe_load((folder / "rbac" / role / f"{role}-cluster-role.yaml").read_text()), *_bound(role))
    kube.apply(_operator())
    until(
        "prometheus-operator",
        lambda: kube.pods(NAMESPACE, "app=prometheus-operator"),
        lambda pods: bool(pods) and is_ready(pods[0]),
        within=60,
    )


def start_by_operator(kube: Kube) -> Prometheus:
    """Have the operator make a Prometheus of all monitors and rules of the cluster, and wait until it is ready."""
    everywhere: dict[str, Any] = {
        f"{kind}{what}": {}
        for kind in ("podMonitor", "serviceMonitor", "rule")
        for what in ("Selector", "NamespaceSelector")
    }
    spec = {
        "replicas": 1,
        "version": VERSION,
        "image": image_of("prometheus"),
        "imagePullPolicy": "IfNotPresent",
        "serviceAccountName": SCRAPER,
        "scrapeInterval": f"{SECONDS}s",
        "scrapeTimeout": f"{SECONDS}s",
        "evaluationInterval": f"{SECONDS}s",
        **everywhere,
    }
    metadata = {"name": "patio", "namespace": NAMESPACE}
    kube.apply({"apiVersion": "monitoring.coreos.com/v1", "kind": "Prometheus", "metadata": metadata, "spec": spec})
    return _ready(kube, "prometheus-patio-0")


def start_plain(kube: Kube, scrape_configs: Iterable[Mapping[str, Any]]) -> Prometheus:
    """Start a Prometheus with these scrape configurations, the plain file of alerts, and no operator."""
    rules = (ROOT / "charts/patio/rules/patio.rules.yaml").read_text()
    configuration = {
        "global": {"scrape_interval": "10s", "evaluation_interval": "10s"},
        "scrape_configs": [dict(job) for job in scrape_configs],
        "rule_files": ["/etc/patio/patio.rules.yaml"],
    }
    data = {"prometheus.yaml": yaml.safe_dump(configuration), "patio.rules.yaml": rules}
    container = {
        **_container("prometheus", image_of("prometheus")),
        "args": ["--config.file=/etc/patio/prometheus.yaml", "--storage.tsdb.path=/data"],
        "readinessProbe": {"httpGet": {"path": "/-/ready", "port": 9090}, "periodSeconds": 1},
        "volumeMounts": [{"name": "configuration", "mountPath": "/etc/patio"}, {"name": "data", "mountPath": "/data"}],
    }
    volumes = [{"name": "configuration", "configMap": {"name": "plain"}}, {"name": "data", "emptyDir": {}}]
    spec = {"serviceAccountName": SCRAPER, "containers": [container], "volumes": volumes}
    metadata = {"name": "plain", "namespace": NAMESPACE}
    kube.kubectl("-n", NAMESPACE, "delete", "pod", "plain", "--ignore-not-found", "--wait=true")
    kube.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data},
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec},
    )
    return _ready(kube, "plain")


def hastened(rules: Mapping[str, Any], name: str, factor: int) -> dict[str, Any]:
    """Return a copy of a PrometheusRule in which every duration is so many times shorter, and at least four scrapes.

    Durations are each `for`, range and offset. The alerts keep their names, and get the label `hastened`.
    """

    def shorter(text: str) -> str:
        return DURATION.sub(lambda match: f"{max(int(match[1]) * IN_SECONDS[match[2]] // factor, 4 * SECONDS)}s", text)

    groups = [
        {
            "name": f"{group['name']}-{name}",
            "rules": [
                {
                    **rule,
                    "expr": shorter(rule["expr"]),
                    "for": shorter(rule["for"]),
                    "labels": {**rule["labels"], "hastened": "true"},
                }
                for rule in group["rules"]
            ],
        }
        for group in rules["spec"]["groups"]
    ]
    metadata = {"name": name, "namespace": rules["metadata"]["namespace"]}
    return {
        "apiVersion": rules["apiVersion"],
        "kind": rules["kind"],
        "metadata": metadata,
        "spec": {"groups": groups},
    }


def _ready(kube: Kube, pod: str) -> Prometheus:
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}"
    until(f"{pod} ready", lambda: kube.get(path), lambda found: bool(found) and is_ready(found), within=90)
    return Prometheus(kube, pod)


def _operator() -> dict[str, Any]:
    container = {
        **_container("operator", image_of("prometheus-operator")),
        "args": [
            f"--prometheus-config-reloader={image_of(RELOADER)}",
            # A machine that does everything at once needs no limits for it.
            "--config-reloader-cpu-request=0",
            "--config-reloader-cpu-limit=0",
            "--config-reloader-memory-request=0",
            "--config-reloader-memory-limit=0",
        ],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1},
    }
    labels = {"app": "prometheus-operator"}
    spec = {"serviceAccountName": "prometheus-operator", "containers": [container]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "prometheus-operator", "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def _container(name: str, image: str) -> dict[str, Any]:
    return {"name": name, "image": image, "imagePullPolicy": "IfNotPresent"}


def _bound(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a service account, and a binding that gives it the role of its name in the whole cluster."""
    subject = {"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}
    return (
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": NAMESPACE}},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "subjects": [subject],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        },
    )
