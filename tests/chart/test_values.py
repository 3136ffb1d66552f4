"""Values that a platform team sets: each gets where it belongs, and what is the chart's own cannot be replaced."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from e2e_cluster.binaries import ensure_binaries

from .chart_objects import (
    CHART,
    NAMESPACE,
    Helm,
    Object,
    Render,
    container_of,
    images,
    of_kind,
    only,
    pod_of,
    sidecar_of,
)

pytestmark = pytest.mark.api  # helm is one of the cluster's binaries


def properties(node: Object, path: str = "") -> Iterator[tuple[str, Object]]:
    """Every named value of a schema, and those of its definitions."""
    for name, inner in node.get("properties", {}).items():
        yield f"{path}.{name}".lstrip("."), inner
        yield from properties(inner, f"{path}.{name}")
    for inner in (node.get("items"), *node.get("anyOf", ()), *node.get("definitions", {}).values()):
        if inner is not None:
            yield from properties(inner, path)


def test_every_value_of_the_schema_has_a_description() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def description(node: Object) -> str | None:
        """Its own, or that of its definition."""
        definition = schema["definitions"].get(node.get("$ref", "").rpartition("/")[2], {})
        found: str | None = node.get("description") or definition.get("description")
        return found

    assert [path for path, node in properties(schema) if not description(node)] == []


def test_every_value_of_the_schema_is_in_the_file() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def missing(node: Object, listed: object, path: str) -> list[str]:
        if not isinstance(listed, dict):
            return [path]
        return [
            missing_path
            for name, inner in node.get("properties", {}).items()
            if name not in ("enabled", "type", "rollingUpdate") or path
            for missing_path in (
                [f"{path}.{name}"] if name not in listed else missing(inner, listed[name], f"{path}.{name}")
            )
            if inner.get("properties") or name not in listed
        ]

    left_out = {".webhook.certManager.issuerRef", ".operator.strategy"}
    assert [
        missing_path for missing_path in missing(schema, values, "") if missing_path.rpartition(".")[0] not in left_out
    ] == []


def test_service_account_is_as_given(render: Render) -> None:
    objects = render(
        "serviceAccount.name=robot",
        "serviceAccount.annotations.role=aws",
        "serviceAccount.labels.team=a",
        "serviceAccount.automount=false",
        "adapters.secrets.namespaces[0]=team-a",
        "groups.mode=manage",
        "watchNamespaces[0]=team-a",
    )
    account = only(objects, "ServiceAccount")
    assert account["metadata"]["name"] == pod_of(objects)["spec"]["serviceAccountName"] == "robot"
    assert account["metadata"]["annotations"] == {"role": "aws"}
    assert account["metadata"]["labels"]["team"] == "a"
    assert account["automountServiceAccountToken"] is pod_of(objects)["spec"]["automountServiceAccountToken"] is False
    bindings = [*of_kind(objects, "ClusterRoleBinding"), *of_kind(objects, "RoleBinding")]
    assert len(bindings) == 5
    for binding in bindings:
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "robot", "namespace": NAMESPACE}]
    (condition,) = only(objects, "ValidatingAdmissionPolicy")["spec"]["matchConditions"]
    assert f"system:serviceaccount:{NAMESPACE}:robot" in condition["expression"]
    assert not of_kind(render("serviceAccount.create=false"), "ServiceAccount")


def test_roles_can_be_left_out_or_not_aggregated(render: Render) -> None:
    kinds = {body["kind"] for body in render("rbac.create=false")}
    assert not {"ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"} & kinds
    aggregated = "rbac.authorization.k8s.io/aggregate-to-"
    for values, expected in (((), {"view", "edit", "admin"}), (("rbac.aggregate=false",), set[str]())):
        labels = [key for role in of_kind(render(*values), "ClusterRole") for key in role["metadata"]["labels"]]
        assert {key.removeprefix(aggregated) for key in labels if key.startswith(aggregated)} == expected


@pytest.mark.parametrize(
    ("repository", "image"),
    [
        ("ghcr.io/patio/operator", "r.example:5000/mirror/patio/operator:v1"),
        ("patio/operator", "r.example:5000/mirror/patio/operator:v1"),
        ("operator", "r.example:5000/mirror/operator:v1"),
        ("localhost/operator", "r.example:5000/mirror/operator:v1"),
        ("here:5000/operator", "r.example:5000/mirror/operator:v1"),
    ],
)
def test_global_registry_counts_for_both_images(render: Render, repository: str, image: str) -> None:
    registry = "global.imageRegistry=r.example:5000/mirror"
    objects = render(
        registry, f"operator.image.repository={repository}", "operator.image.tag=v1", "sidecar.image.tag=v2"
    )
    assert images(objects) == {image, "r.example:5000/mirror/patio/sidecar:v2"}


def test_pull_secrets_come_from_both_places_once(render: Render) -> None:
    objects = render(
        "global.imagePullSecrets[0]=a",
        "global.imagePullSecrets[1].name=b",
        "imagePullSecrets[0].name=b",
        "imagePullSecrets[1].name=c",
    )
    assert pod_of(objects)["spec"]["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}, {"name": "c"}]


def test_another_chart_can_depend_on_this_one(tmp_path: Path) -> None:
    parent = tmp_path / "platform"
    shutil.copytree(CHART, parent / "charts" / "patio")
    (parent / "Chart.yaml").write_text(
        "{apiVersion: v2, name: platform, version: 0.1.0, dependencies: [{name: patio, version: '*', condition: "
        "patio.enabled}]}"
    )
    values = {
        "patio": {"enabled": True, "operator": {"replicas": 3}},
        "global": {"imageRegistry": "r.example", "of-another-chart": 1},
    }
    (parent / "values.yaml").write_text(yaml.safe_dump(values))
    done = subprocess.run(
        [ensure_binaries(["helm"]).helm, "template", "platform", parent], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    objects = [document for document in yaml.safe_load_all(done.stdout) if document]
    assert only(objects, "Deployment")["spec"]["replicas"] == 3
    assert {image.partition("/")[0] for image in images(objects)} == {"r.example"}


def test_common_labels_and_annotations_are_everywhere(render: Render) -> None:
    plain = render("webhook.certManager.enabled=true", "groups.mode=observe")
    objects = render(
        "webhook.certManager.enabled=true",
        "groups.mode=observe",
        "commonLabels.team=a",
        "commonAnnotations.cost=b",
        "operator.podLabels.pool=c",
        "operator.deploymentAnnotations.cost=own",
        "webhook.annotations.weight=light",
    )
    assert len(objects) == len(plain) >= 20
    for body in objects:
        metadata = body["metadata"]
        assert metadata["labels"]["team"] == "a", body
        assert metadata["annotations"]["cost"] == ("own" if body["kind"] == "Deployment" else "b"), body
        if body["kind"].endswith("WebhookConfiguration"):
            assert metadata["annotations"].keys() == {"cost", "weight", "cert-manager.io/inject-ca-from"}
    assert pod_of(objects)["metadata"]["labels"].items() >= {"team": "a", "pool": "c"}.items()
    assert "annotations" not in pod_of(objects)["metadata"], "a changed annotation would restart the operator"
    for before, after in zip(plain, objects, strict=True):
        assert before.get("spec", {}).get("selector") == after.get("spec", {}).get("selector")


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (("commonLabels.app\\.kubernetes\\.io/name=x",), "commonLabels: the chart sets the label"),
        (("operator.podLabels.patio\\.dev/profile=patio",), "operator.podLabels: the chart sets the label"),
        (("serviceAccount.labels.lora\\.patio\\.dev/x=y",), "serviceAccount.labels"),
        (("commonAnnotations.helm\\.sh/hook=test",), "commonAnnotations: Helm or the chart sets"),
        (("webhook.annotations.cert-manager\\.io/inject-ca-from=x",), "webhook.annotations: Helm or the chart sets"),
        (("operator.extraEnv[0].name=PATIO_LEASE",), "the chart sets PATIO_LEASE itself"),
        (("operator.extraEnv[0].name=POD_NAME",), "the chart sets POD_NAME itself"),
        (("operator.extraVolumes[0].name=tmp",), "the chart has a volume tmp"),
        (("operator.extraContainers[0].name=operator",), "choose another one"),
        (("sidecar.env[0].name=PATIO_DOWNLOAD_LIMIT",), "use sidecar.downloadLimit"),
        (("sidecar.env[0].name=POD_IP",), "POD_IP is set by the chart or by the operator"),
        (("sidecar.extraArgs[0]=--access-control=off",), "access control is access.enforced"),
        (("sidecar.extraArgs[0]=--port=1",), "the port is 9091"),
        (("sidecar.downloadVolume.hostPath=/a", "sidecar.downloadVolume.sizeLimit=1Gi"), "give only one of"),
        (
            ("operator.podDisruptionBudget.minAvailable=1", "operator.podDisruptionBudget.maxUnavailable=1"),
            "give only one of minAvailable and maxUnavailable",
        ),
        (("operator.healthPort=9443",), "operator.healthPort, webhook.securePort: give each another port"),
        (("operator.metrics.secure=true", "operator.metrics.port=8080"), "operator.metrics.port, webhook.securePort"),
    ],
)
def test_names_of_the_chart_cannot_be_replaced(helm: Helm, values: tuple[str, ...], complaint: str) -> None:
    done = helm("template", *(f"--set={value}" for value in values))
    assert done.returncode != 0
    assert complaint in done.stderr


@pytest.mark.parametrize(
    "path",
    [
        *("global", "crds", "operator", "monitoring", "serviceAccount.name", "operator.image.repository"),
        *("operator.livenessProbe", "sidecar.extraArgs", "access.enforced", "webhook.excludedNamespaces"),
        *("webhook.objectSelector", "networkPolicy.egress", "monitoring.rules.runbookUrl", "operator.metrics"),
    ],
)
def test_value_without_a_default_is_rejected_with_a_message(helm: Helm, path: str) -> None:
    """Null takes a default away. `helm upgrade --reuse-values` takes an older chart's values, which lack new ones."""
    done = helm("template", f"--set={path}=null")
    assert done.returncode != 0
    assert f"{path} has no value: leave it out for the default" in done.stderr
    assert "--reset-then-reuse-values" in done.stderr


def test_missing_section_is_no_error_of_a_template(helm: Helm) -> None:
    """Of the sections that a chart before this one did not have, `--reuse-values` takes none."""

    def sections(values: Object, path: str = "") -> Iterator[str]:
        for name, inner in values.items():
            if isinstance(inner, dict):
                yield f"{path}{name}"
                yield from sections(inner, f"{path}{name}.")

    wrong: dict[str, str] = {}
    for section in sections(yaml.safe_load((CHART / "values.yaml").read_text())):
        done = helm(
            "template",
            "--set=operator.metrics.secure=true,monitoring.serviceMonitor.enabled=true",
            "--set=monitoring.podMonitor.enabled=true,monitoring.rules.enabled=true",
            *(f"--set=monitoring.{kind}.renderMode=always" for kind in ("serviceMonitor", "podMonitor", "rules")),
            f"--set={section}=null",
        )
        if done.returncode != 0 and "leave it out for the default" not in done.stderr:
            wrong[section] = done.stderr
    assert wrong == {}


def test_large_user_of_a_values_file_stays_an_integer(helm: Helm, tmp_path: Path) -> None:
    """A namespace of OpenShift has such users. By --set they are integers, and in a file floats."""
    context = {"runAsUser": 1000660000, "runAsGroup": 1000660000}
    values = {"operator": {"securityContext": context}, "webhook": {"certManager": {"enabled": True}}}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    done = helm("template", f"--values={tmp_path / 'values.yaml'}")
    assert done.returncode == 0, done.stderr
    found = pod_of([document for document in yaml.safe_load_all(done.stdout) if document])["spec"]["securityContext"]
    assert (found["runAsUser"], found["runAsGroup"], found["fsGroup"]) == (1000660000, 1000660000, 1000660000)
    assert "e+09" not in done.stdout


def test_labels_and_annotations_can_be_null(render: Render) -> None:
    paths = ("commonLabels", "commonAnnotations", "operator.podLabels", "operator.podAnnotations")
    assert render(*(f"{path}=null" for path in paths)) == render()


def test_pods_of_the_operator_are_as_given(render: Render) -> None:
    objects = render(
        "operator.strategy.type=Recreate",
        "operator.revisionHistoryLimit=0",
        "operator.hostUsers=false",
        "operator.dnsPolicy=Default",
        "operator.dnsConfig.nameservers[0]=10.0.0.1",
        "operator.runtimeClassName=gvisor",
        "operator.schedulerName=mine",
        "operator.topologySpreadConstraints[0].topologyKey=zone",
        "operator.topologySpreadConstraints[1].labelSelector.matchLabels.app=x",
        "operator.livenessProbe.failureThreshold=9",
        "operator.extraEnv[0].name=HTTPS_PROXY",
        "operator.extraEnv[0].value=http://proxy",
        "operator.extraVolumes[0].name=ca",
        "operator.extraVolumes[0].configMap.name=ca",
        "operator.extraVolumeMounts[0].name=ca",
        "operator.extraVolumeMounts[0].mountPath=/ca",
        "operator.extraContainers[0].name=proxy",
        "operator.extraContainers[0].image=proxy",
    )
    deployment = only(objects, "Deployment")["spec"]
    assert (deployment["strategy"], deployment["revisionHistoryLimit"]) == ({"type": "Recreate"}, 0)
    spec = pod_of(objects)["spec"]
    assert (spec["hostUsers"], spec["dnsPolicy"], spec["dnsConfig"]) == (
        False,
        "Default",
        {"nameservers": ["10.0.0.1"]},
    )
    assert (spec["runtimeClassName"], spec["schedulerName"]) == ("gvisor", "mine")
    own, other = spec["topologySpreadConstraints"]
    assert own == {"topologyKey": "zone", "labelSelector": {"matchLabels": deployment["selector"]["matchLabels"]}}
    assert other == {"labelSelector": {"matchLabels": {"app": "x"}}}
    container = container_of(objects)
    assert container["livenessProbe"]["failureThreshold"] == 9
    assert container["livenessProbe"]["periodSeconds"] == 10, "the rest stays"
    assert container["env"][-1] == {"name": "HTTPS_PROXY", "value": "http://proxy"}
    assert container["volumeMounts"][-1] == {"name": "ca", "mountPath": "/ca"}
    assert spec["volumes"][-1] == {"name": "ca", "configMap": {"name": "ca"}}
    assert [container["name"] for container in spec["containers"]] == ["operator", "proxy"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((), {"maxUnavailable": 1}),
        (("maxUnavailable=50%",), {"maxUnavailable": "50%"}),
        (("maxUnavailable=0",), {"maxUnavailable": 0}),
        (("minAvailable=0",), {"minAvailable": 0}),
        (("maxUnavailable=null", "minAvailable=1"), {"minAvailable": 1}),
        (
            ("minAvailable=2", "unhealthyPodEvictionPolicy=AlwaysAllow"),
            {"minAvailable": 2, "unhealthyPodEvictionPolicy": "AlwaysAllow"},
        ),
        (("enabled=false",), None),
    ],
)
def test_disruption_budget_is_as_given(render: Render, values: tuple[str, ...], expected: Object | None) -> None:
    found = of_kind(render(*(f"operator.podDisruptionBudget.{value}" for value in values)), "PodDisruptionBudget")
    specs = [{key: value for key, value in budget["spec"].items() if key != "selector"} for budget in found]
    assert specs == ([] if expected is None else [expected])


def test_disruption_budget_can_be_a_switch(helm: Helm) -> None:
    for switch, count in (("true", 1), ("false", 0)):
        done = helm("template", f"--set=operator.podDisruptionBudget={switch}")
        assert done.stdout.count("kind: PodDisruptionBudget") == count


def test_sidecar_gets_flags_and_variables(render: Render) -> None:
    sidecar = sidecar_of(
        render("sidecar.extraArgs[0]=--log-level=DEBUG", "access.enforced=false", "sidecar.env[0].name=HF_ENDPOINT")
    )
    assert sidecar["args"] == ["--access-control=off", "--log-level=DEBUG"]
    assert [variable["name"] for variable in sidecar["env"]] == ["PATIO_DOWNLOAD_LIMIT", "HF_ENDPOINT"]
    assert [
        variable["name"] for variable in sidecar_of(render("sidecar.downloadLimit=", "sidecar.env[0].name=A"))["env"]
    ] == ["A"]
    assert "env" not in sidecar_of(render("sidecar.downloadLimit="))


@pytest.mark.parametrize(
    ("value", "volume"),
    [
        ("sizeLimit=25Gi", {"emptyDir": {"sizeLimit": "25Gi"}}),
        ("persistentVolumeClaim=adapters", {"persistentVolumeClaim": {"claimName": "adapters"}}),
        ("hostPath=/var/cache/patio", {"hostPath": {"path": "/var/cache/patio", "type": "Directory"}}),
    ],
)
def test_downloads_are_in_the_given_volume(render: Render, value: str, volume: Object) -> None:
    profile = only(render(f"sidecar.downloadVolume.{value}"), "ClusterEngineRuntimeProfile")
    assert profile["spec"]["volumes"][1] == {"name": "patio-adapters", **volume}


def test_conditions_on_pods_add_to_those_of_the_chart(render: Render) -> None:
    plain = only(render(), "MutatingWebhookConfiguration")["webhooks"]
    objects = render(
        "webhook.objectSelector.matchLabels.tier=gpu",
        "webhook.objectSelector.matchExpressions[0].key=skip",
        "webhook.objectSelector.matchExpressions[0].operator=DoesNotExist",
        "webhook.namespaceSelector.matchLabels.patio=enabled",
        "webhook.namespaceSelector.matchExpressions[0].key=env",
        "webhook.namespaceSelector.matchExpressions[0].operator=In",
        "webhook.namespaceSelector.matchExpressions[0].values[0]=prod",
    )
    for before, after in zip(plain, only(objects, "MutatingWebhookConfiguration")["webhooks"], strict=True):
        assert after["objectSelector"] == {
            "matchLabels": {"tier": "gpu"},
            "matchExpressions": [
                *before["objectSelector"]["matchExpressions"],
                {"key": "skip", "operator": "DoesNotExist"},
            ],
        }
        assert after["namespaceSelector"] == {
            "matchLabels": {"patio": "enabled"},
            "matchExpressions": [
                *before["namespaceSelector"]["matchExpressions"],
                {"key": "env", "operator": "In", "values": ["prod"]},
            ],
        }


def test_more_objects_can_be_templates(helm: Helm, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '{{ .Chart.Name }}-text'}\n"
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Namespace }}-object"}}
    file.write_text(yaml.safe_dump({"extraObjects": [text, config_map]}))
    done = helm("template", "--values", str(file))
    assert done.returncode == 0, done.stderr
    found = of_kind([document for document in yaml.safe_load_all(done.stdout) if document], "ConfigMap")
    assert [service["metadata"]["name"] for service in found] == ["patio-text", f"{NAMESPACE}-object"]


def test_network_policy_lets_in_the_api_server_and_named_peers(render: Render) -> None:
    assert not of_kind(render(), "NetworkPolicy")
    objects = render("networkPolicy.enabled=true")
    policy = only(objects, "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    assert policy["ingress"] == [{"ports": [{"port": "webhook", "protocol": "TCP"}]}]
    assert policy["podSelector"]["matchLabels"].items() <= pod_of(objects)["metadata"]["labels"].items()
    named = only(
        render(
            "networkPolicy.enabled=true",
            "networkPolicy.webhookCIDRs[0]=10.0.0.0/28",
            "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.name=monitoring",
            "networkPolicy.extraIngress[0].ports[0].port=9000",
        ),
        "NetworkPolicy",
    )["spec"]["ingress"]
    assert named[0]["from"] == [{"ipBlock": {"cidr": "10.0.0.0/28"}}]
    assert named[1]["from"] == [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]
    assert [port["port"] for port in named[1]["ports"]] == ["http"]
    assert named[2] == {"ports": [{"port": 9000}]}


def test_network_policy_lets_out_what_the_operator_needs(render: Render) -> None:
    policy = only(
        render(
            "networkPolicy.enabled=true",
            "networkPolicy.egress.enabled=true",
            "networkPolicy.egress.apiServerCIDRs[0]=10.0.0.1/32",
            "networkPolicy.egress.extra[0].ports[0].port=3128",
        ),
        "NetworkPolicy",
    )["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    names, api_server, sidecars, extra = policy["egress"]
    assert {(port["port"], port["protocol"]) for port in names["ports"]} == {(53, "UDP"), (53, "TCP")}
    assert [port["port"] for port in api_server["ports"]] == [443, 6443]
    assert api_server["to"] == [{"ipBlock": {"cidr": "10.0.0.1/32"}}]
    assert sidecars["to"] == [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"patio.dev/injected": "true"}}}]
    assert extra == {"ports": [{"port": 3128}]}
