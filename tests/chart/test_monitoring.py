"""What the chart makes for Prometheus and Grafana: nothing unless it is asked for, and then what was asked for."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e_cluster.binaries import ensure_binaries
from e2e_cluster.unpacked import PROMTOOL, ensure_unpacked
from patio_observability import rules
from patio_observability.alerts import ALERTS, THRESHOLDS
from patio_observability.dashboards import DASHBOARDS

pytestmark = pytest.mark.api  # helm is one of the cluster's binaries

CHART = Path(__file__).resolve().parents[2] / "charts" / "patio"
NAMESPACE = "patio-system"
KINDS = {
    "podMonitor": "PodMonitor",
    "serviceMonitor": "ServiceMonitor",
    "rules": "PrometheusRule",
    "dashboards.grafanaOperator": "GrafanaDashboard",
}
APIS = {
    "PodMonitor": "monitoring.coreos.com/v1/PodMonitor",
    "ServiceMonitor": "monitoring.coreos.com/v1/ServiceMonitor",
    "PrometheusRule": "monitoring.coreos.com/v1/PrometheusRule",
    "GrafanaDashboard": "grafana.integreatly.org/v1beta1/GrafanaDashboard",
}

Object = dict[str, Any]
Helm = Callable[..., "subprocess.CompletedProcess[str]"]
Render = Callable[..., list[Object]]


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [body for body in objects if body["kind"] == kind]


def on(name: str, mode: str = "always") -> tuple[str, ...]:
    return (
        f"monitoring.{name}.enabled=true",
        f"monitoring.{name}.renderMode={mode}",
        "monitoring.dashboards.enabled=true",
    )


def only(objects: list[Object], kind: str) -> Object:
    (body,) = of_kind(objects, kind)
    return body


def test_nothing_for_monitoring_is_there_by_default(rendered: list[Object]) -> None:
    assert not [body for body in rendered if body["kind"] in (*APIS, "ConfigMap")]
    annotations = only(rendered, "Deployment")["spec"]["template"]["metadata"].get("annotations", {})
    assert not [name for name in annotations if name.startswith("prometheus.io/")]


@pytest.mark.parametrize("name", KINDS)
def test_object_is_skipped_where_its_crd_is_missing(helm: Helm, render: Render, name: str) -> None:
    kind = KINDS[name]
    values = on(name, "skip")
    assert not of_kind(render(*values), kind)
    enabled = helm("template", "--api-versions", APIS[kind], *(f"--set={value}" for value in values))
    assert f"kind: {kind}\n" in enabled.stdout, enabled.stderr


@pytest.mark.parametrize("name", KINDS)
def test_notes_say_that_an_object_was_skipped(name: str, tmp_path: Path) -> None:
    # Helm shows notes only when it installs, which needs a cluster: here they are the text of a ConfigMap.
    chart = shutil.copytree(CHART, tmp_path / "patio")
    templates = chart / "templates"
    notes = (templates / "NOTES.txt").read_text()
    (templates / "_notes.tpl").write_text(f'{{{{ define "notes" }}}}{notes}{{{{ end }}}}')
    (templates / "notes.yaml").write_text(
        "kind: ConfigMap\napiVersion: v1\nmetadata: {name: notes}\ndata:\n  text: |-\n"
        '    {{- include "notes" . | nindent 4 }}\n'
    )
    command = [ensure_binaries(["helm"]).helm, "template", chart, "--show-only", "templates/notes.yaml"]
    values = [f"--set={value}" for value in on(name, "skip")]
    done = subprocess.run([*command, *values], capture_output=True, text=True, check=False)
    text = yaml.safe_load(done.stdout)["data"]["text"]
    assert f"WARNING: monitoring.{name} is enabled, but the cluster has no {KINDS[name]}, so none was made." in text


@pytest.mark.parametrize("name", KINDS)
def test_missing_crd_fails_the_install_if_that_is_wanted(helm: Helm, name: str) -> None:
    values = [f"--set={value}" for value in on(name, "fail")]
    done = helm("template", *values)
    assert done.returncode != 0
    assert f"the cluster has no {APIS[KINDS[name]]}" in done.stderr
    assert helm("template", "--api-versions", APIS[KINDS[name]], *values).returncode == 0


@pytest.mark.parametrize("name", KINDS)
def test_object_is_made_without_asking_the_cluster(render: Render, name: str) -> None:
    assert of_kind(render(*on(name)), KINDS[name])


@pytest.mark.parametrize("name", ["podMonitor", "serviceMonitor", "rules"])
def test_object_gets_namespace_labels_and_annotations(render: Render, name: str) -> None:
    at = f"monitoring.{name}"
    made = only(
        render(*on(name), f"{at}.namespace=metrics", f"{at}.labels.release=stack", f"{at}.annotations.note=x"),
        KINDS[name],
    )
    assert made["metadata"]["namespace"] == "metrics"
    assert made["metadata"]["labels"]["release"] == "stack"
    assert made["metadata"]["labels"]["app.kubernetes.io/name"] == "patio"
    assert made["metadata"]["annotations"] == {"note": "x"}


def test_pod_monitor_finds_the_sidecars_port(rendered: list[Object], render: Render) -> None:
    spec = only(render(*on("podMonitor")), "PodMonitor")["spec"]
    assert spec["selector"] == {"matchLabels": {"patio.dev/injected": "true"}}
    assert spec["namespaceSelector"] == {"any": True}
    (endpoint,) = spec["podMetricsEndpoints"]
    (sidecar,) = only(rendered, "ClusterEngineRuntimeProfile")["spec"]["initContainers"]
    assert endpoint["port"] in {port["name"] for port in sidecar["ports"]}
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": "patio-sidecar"}]
    assert "metricRelabelings" not in endpoint


def test_pod_monitor_gives_the_labels_that_dashboards_use(render: Render) -> None:
    labels = only(render(*on("podMonitor")), "PodMonitor")["spec"]["podTargetLabels"]
    names = {re.sub(r"[^a-zA-Z0-9_]", "_", label) for label in labels}
    used = {
        variable.label for dashboard in DASHBOARDS for variable in dashboard.variables if hasattr(variable, "label")
    }
    assert {label for label in used if label.startswith("rbg_")} <= names


def test_pod_monitor_can_drop_the_engines_own_series(render: Render) -> None:
    at = "monitoring.podMonitor"
    more = (f"{at}.dropEngineSeries=true", f"{at}.metricRelabelings[0].action=drop", f"{at}.relabelings[0].action=keep")
    (endpoint,) = only(render(*on("podMonitor"), *more), "PodMonitor")["spec"]["podMetricsEndpoints"]
    first, second = endpoint["metricRelabelings"]
    assert (first["sourceLabels"], first["action"], second) == (["__name__"], "drop", {"action": "drop"})
    assert endpoint["relabelings"][1] == {"action": "keep"}
    for name, dropped in (("vllm:num_requests_running", True), ("sglang:x", True), ("patio:engine_up", False)):
        assert bool(re.fullmatch(first["regex"], name)) is dropped


def test_pod_monitor_stays_in_the_watched_namespaces(render: Render) -> None:
    watched = ("watchNamespaces[0]=team-a", "groups.mode=manage")
    spec = only(render(*on("podMonitor"), *watched), "PodMonitor")["spec"]
    assert spec["namespaceSelector"] == {"matchNames": ["team-a"]}
    chosen = only(render(*on("podMonitor"), *watched, "monitoring.podMonitor.namespaces[0]=b"), "PodMonitor")["spec"]
    assert chosen["namespaceSelector"] == {"matchNames": ["b"]}


def test_service_monitor_selects_the_operators_service_alone(render: Render) -> None:
    objects = render(*on("serviceMonitor"))
    spec = only(objects, "ServiceMonitor")["spec"]
    assert spec["namespaceSelector"] == {"matchNames": [NAMESPACE]}
    wanted = spec["selector"]["matchLabels"].items()
    (service,) = [service for service in of_kind(objects, "Service") if wanted <= service["metadata"]["labels"].items()]
    assert service["metadata"]["name"] == "patio-operator"
    assert {endpoint["port"] for endpoint in spec["endpoints"]} == {port["name"] for port in service["spec"]["ports"]}


def test_annotations_name_the_operators_port(render: Render) -> None:
    objects = render("monitoring.annotations=true", "operator.healthPort=8081", "operator.podAnnotations.built=today")
    assert only(objects, "Deployment")["spec"]["template"]["metadata"]["annotations"] == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": "8081",
        "prometheus.io/path": "/metrics",
        "built": "today",
    }


SECURE = "operator.metrics.secure=true"


def port_named(objects: list[Object], name: str) -> Object:
    (container,) = only(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    (port,) = [port for port in container["ports"] if port["name"] == name]
    variables = {variable["name"]: variable.get("value") for variable in container["env"]}
    return {**port, "variables": variables}


def test_secured_metrics_have_a_port_of_their_own(rendered: list[Object], render: Render) -> None:
    objects = render(SECURE, "operator.metrics.port=8444", "monitoring.annotations=true", "networkPolicy.enabled=true",
        "networkPolicy.metricsFrom[0].podSelector.matchLabels.app=prometheus")  # fmt: skip
    port = port_named(objects, "metrics")
    assert (port["containerPort"], port["variables"]["PATIO_METRICS_PORT"]) == (8444, "8444")
    annotations = only(objects, "Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert (annotations["prometheus.io/port"], annotations["prometheus.io/scheme"]) == ("8444", "https")
    (service,) = [service for service in of_kind(objects, "Service") if service["metadata"]["name"] == "patio-operator"]
    assert service["spec"]["ports"] == [{"name": "metrics", "port": 8443, "targetPort": "metrics"}]
    policy = only(objects, "NetworkPolicy")["spec"]
    assert [rule["ports"][0]["port"] for rule in policy["ingress"]] == ["webhook", "metrics"]
    assert "PATIO_METRICS_PORT" not in port_named(rendered, "http")["variables"]


@pytest.mark.parametrize("manager", [False, True])
def test_service_monitor_of_secured_metrics_proves_itself(render: Render, manager: bool) -> None:
    objects = render(*on("serviceMonitor"), SECURE, f"webhook.certManager.enabled={str(manager).lower()}")
    (endpoint,) = only(objects, "ServiceMonitor")["spec"]["endpoints"]
    secret = "patio-webhook-certificate" if manager else "patio-webhook-tls"
    assert (endpoint["port"], endpoint["scheme"]) == ("metrics", "https")
    assert endpoint["bearerTokenFile"] == "/var/run/secrets/kubernetes.io/serviceaccount/token"
    assert endpoint["tlsConfig"] == {
        "ca": {"secret": {"name": secret, "key": "ca.crt"}},
        "serverName": f"patio-webhook.{NAMESPACE}.svc",
    }
    if manager:
        (certificate,) = [
            certificate
            for certificate in of_kind(objects, "Certificate")
            if certificate["spec"]["secretName"] == secret
        ]
        assert endpoint["tlsConfig"]["serverName"] in certificate["spec"]["dnsNames"]


def test_service_monitor_may_have_a_token_and_ca_of_its_own(helm: Helm, render: Render) -> None:
    at = "monitoring.serviceMonitor"
    token = (f"{at}.tokenSecret.name=scraper", f"{at}.tokenSecret.key=token")
    elsewhere = (*on("serviceMonitor"), SECURE, *token, f"{at}.namespace=monitoring")
    assert (
        "set monitoring.serviceMonitor.tlsConfig" in helm("template", *(f"--set={value}" for value in elsewhere)).stderr
    )
    objects = render(*elsewhere, f"{at}.tlsConfig.insecureSkipVerify=true")
    (endpoint,) = only(objects, "ServiceMonitor")["spec"]["endpoints"]
    credentials = {"name": "scraper", "key": "token"}
    assert endpoint["authorization"] == {"type": "Bearer", "credentials": credentials}
    assert endpoint["tlsConfig"] == {"insecureSkipVerify": True}
    assert "bearerTokenFile" not in endpoint
    without = (*on("serviceMonitor"), SECURE, f"{at}.bearerTokenFile=")
    assert "needs bearerTokenFile or tokenSecret" in helm("template", *(f"--set={value}" for value in without)).stderr


def test_plain_metrics_need_nothing_of_a_service_monitor(render: Render) -> None:
    (endpoint,) = only(render(*on("serviceMonitor")), "ServiceMonitor")["spec"]["endpoints"]
    assert not endpoint.keys() & {"scheme", "bearerTokenFile", "authorization", "tlsConfig"}


def test_rights_for_secured_metrics_are_there_only_with_them(rendered: list[Object], render: Render) -> None:
    reader = "operator.metrics.readers[0]"
    objects = render(SECURE, f"{reader}.namespace=monitoring", f"{reader}.name=prometheus")

    def reviewed(objects: list[Object]) -> list[str]:
        roles = {role["metadata"]["name"]: role for role in of_kind(objects, "ClusterRole")}
        rules = roles["patio-operator"]["rules"]
        return [name for rule in rules for name in rule["resources"] if name.endswith("reviews")]

    def bound(objects: list[Object]) -> list[Object]:
        bindings = {binding["metadata"]["name"]: binding for binding in of_kind(objects, "ClusterRoleBinding")}
        return list(bindings.get("patio-metrics-reader", {}).get("subjects", []))

    assert (reviewed(rendered), reviewed(objects)) == ([], ["tokenreviews", "subjectaccessreviews"])
    roles = {role["metadata"]["name"]: role for role in of_kind(objects, "ClusterRole")}
    assert roles["patio-metrics-reader"]["rules"] == [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]
    assert bound(objects) == [{"kind": "ServiceAccount", "name": "prometheus", "namespace": "monitoring"}]
    assert bound(render(SECURE)) == []
    assert not [manifest for manifest in rendered if manifest["metadata"]["name"] == "patio-metrics-reader"]


def rules_of(objects: list[Object]) -> list[Object]:
    return [rule for group in only(objects, "PrometheusRule")["spec"]["groups"] for rule in group["rules"]]


def test_rules_are_the_plain_file_by_default(render: Render) -> None:
    plain = yaml.safe_load(rules.plain())
    assert only(render(*on("rules")), "PrometheusRule")["spec"]["groups"] == plain["groups"]
    assert (CHART / "rules/patio.rules.yaml").read_text() == rules.plain()


def test_promtool_accepts_the_rules_of_the_chart(render: Render, tmp_path: Path) -> None:
    # By --set fractions are strings, and numbers of a file are floats: both have to end as numbers in the expressions.
    changed = [
        f"monitoring.rules.thresholds.{threshold.name}="
        f"{threshold.allowed[0] if threshold.allowed else threshold.default * 2:g}"
        for threshold in THRESHOLDS
    ]
    spec = only(render(*on("rules"), *changed), "PrometheusRule")["spec"]
    assert "${" not in json.dumps(spec)
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(spec))
    done = subprocess.run(
        [ensure_unpacked(PROMTOOL), "check", "rules", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


def test_threshold_without_a_value_is_rejected(helm: Helm) -> None:
    done = helm(
        "template", *(f"--set={setting}" for setting in (*on("rules"), "monitoring.rules.thresholds.queueSeconds=null"))
    )
    assert done.returncode != 0
    assert "monitoring.rules.thresholds has no queueSeconds" in done.stderr


def test_threshold_is_in_the_expression_and_in_the_texts(render: Render) -> None:
    made = rules_of(render(*on("rules"), "monitoring.rules.thresholds.queueSeconds=45"))
    (rule,) = [rule for rule in made if rule["alert"] == "PatioQueueTimeHigh"]
    assert rule["expr"].endswith("> 45")
    assert "more than 45 s" in rule["annotations"]["description"]


def test_alerts_can_be_disabled_and_labelled(helm: Helm, render: Render) -> None:
    at = "monitoring.rules"
    made = rules_of(
        render(*on("rules"), f"{at}.disabled[0]=PatioModelGone", f"{at}.extraLabels.team=ml", f"{at}.labels.release=x")
    )
    assert {alert.name for alert in ALERTS} - {rule["alert"] for rule in made} == {"PatioModelGone"}
    assert {rule["labels"]["team"] for rule in made} == {"ml"}
    assert {rule["labels"]["severity"] for rule in made} == {"critical", "warning"}
    values = (*on("rules"), f"{at}.disabled[0]=PatioModelGon")
    assert "there is no such alert" in helm("template", *(f"--set={value}" for value in values)).stderr


def test_group_without_alerts_is_left_out(render: Render) -> None:
    names = [rule["alert"] for rule in yaml.safe_load(rules.plain())["groups"][2]["rules"]]
    disabled = [f"monitoring.rules.disabled[{number}]={name}" for number, name in enumerate(names)]
    groups = only(render(*on("rules"), *disabled), "PrometheusRule")["spec"]["groups"]
    assert [group["name"] for group in groups] == ["patio-engines", "patio-adapters"]


def test_links_of_alerts_follow_the_values(render: Render) -> None:
    at = "monitoring.rules"
    made = rules_of(
        render(
            *on("rules"),
            f"{at}.dashboardUrl=https://grafana.example.com/",
            f"{at}.runbookUrl=https://docs.example.com/\\{{page\\}}/#\\{{alert\\}}",
        )
    )
    annotations = {rule["alert"]: rule["annotations"] for rule in made}["PatioEngineDown"]
    assert annotations["dashboard_url"].startswith(
        "https://grafana.example.com/d/patio-engine?var-namespace={{ $labels"
    )
    assert annotations["runbook_url"] == "https://docs.example.com/engines/#patioenginedown"


def test_thresholds_of_the_chart_are_those_of_the_alerts() -> None:
    text = (CHART / "values.yaml").read_text()
    values = yaml.safe_load(text)["monitoring"]["rules"]["thresholds"]
    assert values == {threshold.name: threshold.default for threshold in THRESHOLDS}
    comment = " ".join(line.strip().removeprefix("# ") for line in text.splitlines())
    assert [threshold.name for threshold in THRESHOLDS if f"{threshold.meaning} {threshold.name}:" not in comment] == []
    schema = json.loads((CHART / "values.schema.json").read_text())
    known = schema["properties"]["monitoring"]["properties"]["rules"]["properties"]["thresholds"]["properties"]
    assert {name: node["description"] for name, node in known.items()} == {
        threshold.name: threshold.meaning for threshold in THRESHOLDS
    }
    for threshold in THRESHOLDS:
        if threshold.allowed:
            assert {float(value) for value in known[threshold.name]["enum"]} == set(threshold.allowed)


def test_schema_describes_every_value_for_monitoring() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def undescribed(node: Object, path: str) -> list[str]:
        if "$ref" in node:
            node = schema["definitions"][node["$ref"].rsplit("/", 1)[1]] | node
        found = [] if node.get("description") else [path]
        return found + [
            undescribed_path
            for name, inner in node.get("properties", {}).items()
            for undescribed_path in undescribed(inner, f"{path}.{name}")
        ]

    assert undescribed(schema["properties"]["monitoring"], "monitoring") == []


def test_dashboards_are_config_maps_that_grafana_finds(render: Render) -> None:
    at = "monitoring.dashboards"
    objects = render(f"{at}.enabled=true", f"{at}.folder=LLM engines", f"{at}.namespace=grafana", f"{at}.labels.a=b")
    maps = of_kind(objects, "ConfigMap")
    found = {}
    for config_map in maps:
        assert config_map["metadata"]["namespace"] == "grafana"
        assert config_map["metadata"]["labels"].items() >= {"grafana_dashboard": "1", "a": "b"}.items()
        assert config_map["metadata"]["annotations"] == {"grafana_folder": "LLM engines"}
        ((name, text),) = config_map["data"].items()
        found[name.removesuffix(".json")] = json.loads(text)["uid"]
    assert found == {dashboard.uid: dashboard.uid for dashboard in DASHBOARDS}
    assert not of_kind(objects, "GrafanaDashboard")


def test_grafana_operator_reads_the_same_config_maps(render: Render) -> None:
    objects = render(*on("dashboards.grafanaOperator"))
    texts = {config_map["metadata"]["name"]: config_map["data"] for config_map in of_kind(objects, "ConfigMap")}
    made = of_kind(objects, "GrafanaDashboard")
    assert len(made) == len(DASHBOARDS)
    for dashboard in made:
        reference = dashboard["spec"]["configMapRef"]
        assert reference["key"] in texts[reference["name"]]
        assert dashboard["spec"]["instanceSelector"] == {"matchLabels": {"dashboards": "grafana"}}
        assert dashboard["spec"]["folder"] == "Patio"
