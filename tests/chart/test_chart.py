"""The chart, as Helm renders it: what it asks of a cluster, what it refuses, what a profile puts into pods."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e_cluster.binaries import ensure_binaries
from patio_operator.webhooks.loraadapters import LORA_ADAPTERS_PATH
from patio_release.chart import released

from .chart_objects import CHART, NAMESPACE, Helm, Object, images, of_kind, only, variables_of

pytestmark = pytest.mark.api  # helm is one of the cluster's binaries


def operator_rules(objects: list[Object]) -> list[Object]:
    roles = [*of_kind(objects, "ClusterRole"), *of_kind(objects, "Role")]
    return [rule for role in roles if role["metadata"]["name"] == "patio-operator" for rule in role["rules"]]


def cluster_rules(objects: list[Object]) -> list[Object]:
    return [rule for role in of_kind(objects, "ClusterRole") for rule in role["rules"]]


def test_helm_finds_nothing_to_complain_about(helm: Helm) -> None:
    done = helm("lint", "--strict")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("operator.replica=2", "'replica' not allowed"),
        ("operators.replicas=2", "'operators' not allowed"),
        ("operator.replicas=0", "minimum"),
        ("operator.image.name=x", "'name' not allowed"),
        ("operator.logLevel=verbose", "must be one of"),
        ("sidecar.resources.limit.cpu=1", "'limit' not allowed"),
        ("profile.create=sure", "want boolean"),
        ("profile.updateStrategy=Rolling", "must be one of"),
        ("webhook.failurePolicy=fail", "must be one of"),
        ("access.enforced=yes", "want boolean"),
        ("access.keyDays=0", "minimum"),
        ("webhook.timeoutSeconds=31", "maximum"),
        ("webhook.certificate.renewHours=0", "exclusiveMinimum"),
        ("webhook.certManager.issuer.name=x", "'issuer' not allowed"),
        ("groups.mode=upstream", "must be one of"),
        ("operator.image.digest=abc", "does not match pattern"),
        ("sidecar.securityContext.runAsUsr=1", "'runAsUsr' not allowed"),
        ("webhook.securePort=0", "minimum"),
        ("adapters.secrets.namespaces[0]=Team", "does not match pattern"),
        ("monitoring.podMonitor.renderMode=sometimes", "must be one of"),
        ("monitoring.podMonitor.interval=often", "does not match pattern"),
        ("monitoring.rules.thresholds.queueSecond=1", "'queueSecond' not allowed"),
        ("monitoring.rules.thresholds.queueSeconds=-1", "minimum"),
        ("monitoring.rules.thresholds.timeToFirstTokenSeconds=5", "must be one of"),
        ("monitoring.rules.disabled[0]=EngineDown", "does not match pattern"),
        ("monitoring.dashboards.labels=x", "want object"),
        ("operator.extraEnv[0].nam=X", "'nam' not allowed"),
        ("operator.livenessProbe.httpGet.port=1", "'httpGet' not allowed"),
        ("operator.podDisruptionBudget.max=1", "'max' not allowed"),
        ("commonLabels.team=a b", "does not match pattern"),
        ("global.imageRegistry=https://r", "does not match pattern"),
        ("webhook.objectSelector.labels.a=b", "'labels' not allowed"),
        ("sidecar.downloadVolume.hostPath=relative", "does not match pattern"),
        ("serviceAccount.name=", "does not match pattern"),
    ],
)
def test_value_that_is_misspelt_or_out_of_range_is_rejected(helm: Helm, value: str, complaint: str) -> None:
    done = helm("template", "--set", value)
    assert done.returncode != 0
    assert complaint in done.stderr


FREE = {
    "requests",
    "limits",
    "nodeSelector",
    "affinity",
    "dnsConfig",
    "tlsConfig",
    "labels",
    "annotations",
    "matchLabels",
    "extraLabels",
    "global",
} | {f"{whose}{what}" for whose in ("common", "pod", "deployment") for what in ("Labels", "Annotations")}
"""Values below which any name may stand."""


def test_every_value_of_the_file_is_in_the_schema(helm: Helm, tmp_path: Path) -> None:
    def misspelt(values: Object) -> list[Object]:
        found: list[Object] = [values | {"misspelt": 1}]
        for name, value in values.items():
            if isinstance(value, dict) and name not in FREE:
                found += [values | {name: inner} for inner in misspelt(value)]
        return found

    for values in misspelt(yaml.safe_load((CHART / "values.yaml").read_text())):
        file = tmp_path / "values.yaml"
        file.write_text(yaml.safe_dump(values))
        assert "'misspelt' not allowed" in helm("template", "--values", str(file)).stderr, values


def test_cluster_without_native_sidecars_is_rejected(helm: Helm) -> None:
    assert "incompatible with Kubernetes v1.28.0" in helm("template", "--kube-version", "1.28.0").stderr


def test_operator_is_never_given_a_wildcard(rendered: list[Object]) -> None:
    for rule in operator_rules(rendered):
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]], rule


def rights(objects: list[Object]) -> dict[str, set[str]]:
    """What the operator may do in every namespace, by resource; what is limited to names is left out."""
    (role,) = [role for role in of_kind(objects, "ClusterRole") if role["metadata"]["name"] == "patio-operator"]
    found: dict[str, set[str]] = {}
    for rule in role["rules"]:
        for resource in () if "resourceNames" in rule else rule["resources"]:
            found.setdefault(resource, set()).update(rule["verbs"])
    return found


WRITES = {"create", "update", "patch", "delete"}
MADE_OF = ("statefulsets", "controllerrevisions", "endpointslices", "configmaps", "rolebasedgroups", "pods")


@pytest.mark.parametrize("mode", ["observe", "off", "false"])
def test_rights_are_those_of_the_mode(render: Callable[..., list[Object]], mode: str) -> None:
    objects = render(f"groups.mode={mode}", "profile.rollWorkloads=false")
    may = rights(objects)
    for resource in MADE_OF:
        assert not (may.get(resource, set()) & WRITES) - ({"patch"} if resource == "pods" else set()), resource
    assert not {"rolebasedgroups/status", "rolebasedgroups/finalizers"} & may.keys()
    assert may["deployments"] == {"get"}
    assert not [rule for rule in operator_rules(objects) if "rbg-controller" in rule.get("resourceNames", [])]
    (role,) = [role for role in of_kind(objects, "Role") if role["metadata"]["name"] == "patio-operator"]
    assert {"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]} in role["rules"], "profiles are tried"
    assert variables_of(objects)["PATIO_GROUPS"] == ("observe" if mode == "observe" else "off")
    if mode != "observe":
        assert may["rolebasedgroups"] == {"get"}
        assert may["statefulsets"] == {"get"}


def test_rights_to_hand_groups_over_are_asked_for(render: Callable[..., list[Object]]) -> None:
    may = rights(render("groups.mode=observe", "groups.handOver=true"))
    for resource in ("pods", "statefulsets", "controllerrevisions", "endpointslices", "configmaps", "services"):
        assert {"list", "delete"} <= may[resource], resource
    assert "create" not in may["pods"]


def test_workloads_are_patched_only_where_profiles_roll(render: Callable[..., list[Object]]) -> None:
    for resource in ("deployments", "daemonsets"):
        assert rights(render())[resource] == {"get", "patch"}
        assert rights(render("profile.rollWorkloads=false"))[resource] == {"get"}


def test_no_right_is_given_twice(render: Callable[..., list[Object]]) -> None:
    (role,) = [role for role in of_kind(render(), "Role") if role["metadata"]["name"] == "patio-operator"]
    assert not [rule for rule in role["rules"] if "pods" in rule["resources"]], "it may create them everywhere"


CONFINED = ("watchNamespaces[0]=team-a", "watchNamespaces[1]=team-b", "groups.mode=manage")
OF_THE_CLUSTER = {
    "clusterengineruntimeprofiles",
    "clusterengineruntimeprofiles/status",
    "customresourcedefinitions",
    "mutatingwebhookconfigurations",
    "validatingwebhookconfigurations",
}


def test_rights_end_with_the_namespaces_that_are_watched(render: Callable[..., list[Object]]) -> None:
    objects = render(*CONFINED)
    roles = {role["metadata"]["name"]: role for role in of_kind(objects, "ClusterRole")}
    everywhere = only(objects, "ClusterRoleBinding")
    assert everywhere["roleRef"]["name"] == "patio-operator-cluster"
    of_all = {resource for rule in roles["patio-operator-cluster"]["rules"] for resource in rule["resources"]}
    assert of_all == OF_THE_CLUSTER
    inside = {resource for rule in roles["patio-operator"]["rules"] for resource in rule["resources"]}
    assert not inside & OF_THE_CLUSTER
    bound = [binding for binding in of_kind(objects, "RoleBinding") if binding["roleRef"]["name"] == "patio-operator"]
    assert {binding["metadata"]["namespace"] for binding in bound if binding["roleRef"]["kind"] == "ClusterRole"} == {
        "team-a",
        "team-b",
    }
    for webhook in only(objects, "MutatingWebhookConfiguration")["webhooks"]:
        assert webhook["namespaceSelector"]["matchExpressions"][1]["values"] == ["team-a", "team-b"]
    validating = {webhook["name"]: webhook for webhook in only(objects, "ValidatingWebhookConfiguration")["webhooks"]}
    (selected,) = validating["loraadapters.patio.dev"]["namespaceSelector"]["matchExpressions"]
    assert (selected["operator"], selected["values"]) == ("In", ["team-a", "team-b"])
    assert "namespaceSelector" not in validating["profiles.patio.dev"]
    assert variables_of(objects)["PATIO_WATCH_NAMESPACES"] == "team-a,team-b"


def test_confined_and_not_it_has_the_same_rights(render: Callable[..., list[Object]]) -> None:
    def all_rights(*values: str) -> set[tuple[str, str, str]]:
        roles = [role for role in of_kind(render(*values), "ClusterRole") if "operator" in role["metadata"]["name"]]
        return {
            (resource, verb, str(rule.get("resourceNames")))
            for role in roles
            for rule in role["rules"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }

    assert all_rights(*CONFINED) == all_rights("groups.mode=manage")


def test_what_needs_the_whole_cluster_is_rejected_for_namespaces(helm: Helm) -> None:
    assert "groups.mode" in helm("template", "--set", "watchNamespaces[0]=a").stderr
    values = "watchNamespaces[0]=a,groups.mode=off,adapters.secrets.namespaces[0]=*"
    assert "adapters.secrets.namespaces" in helm("template", "--set", values).stderr


def test_viewers_of_the_cluster_see_which_profiles_there_are(rendered: list[Object]) -> None:
    (view,) = [role for role in of_kind(rendered, "ClusterRole") if role["metadata"]["name"] == "patio-view"]
    (rule,) = [rule for rule in view["rules"] if "clusterengineruntimeprofiles" in rule["resources"]]
    assert {"get", "list"} <= set(rule["verbs"])


def test_user_is_the_namespaces_where_it_is_left_out(render: Callable[..., list[Object]]) -> None:
    """As OpenShift's restricted-v2 wants it."""
    nobody = [
        f"{component}.securityContext.{key}=null"
        for component in ("operator", "sidecar")
        for key in ("runAsUser", "runAsGroup")
    ]
    objects = render(*nobody, "webhook.certManager.enabled=true")
    spec = only(objects, "Deployment")["spec"]["template"]["spec"]
    (sidecar,) = only(objects, "ClusterEngineRuntimeProfile")["spec"]["initContainers"]
    for context in (spec["securityContext"], spec["containers"][0]["securityContext"], sidecar["securityContext"]):
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(context)
        assert context["runAsNonRoot"] is True
    assert_restricted(sidecar["securityContext"])
    fixed = only(render("webhook.certManager.enabled=true"), "Deployment")["spec"]["template"]["spec"]
    assert fixed["securityContext"]["fsGroup"] == fixed["securityContext"]["runAsUser"] == 65532


def test_operator_can_be_reached_on_its_node(render: Callable[..., list[Object]]) -> None:
    objects = render("operator.hostNetwork=true", "webhook.securePort=10260", "operator.healthPort=10261")
    spec = only(objects, "Deployment")["spec"]["template"]["spec"]
    assert (spec["hostNetwork"], spec["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")
    ports = {port["name"]: port["containerPort"] for port in spec["containers"][0]["ports"]}
    assert ports == {"http": 10261, "webhook": 10260}
    variables = variables_of(objects)
    assert (variables["PATIO_WEBHOOK_PORT"], variables["PATIO_HEALTH_PORT"]) == ("10260", "10261")


def test_images_can_be_pinned(render: Callable[..., list[Object]]) -> None:
    digest = "sha256:" + "0" * 64
    assert images(render(f"operator.image.digest={digest}", f"sidecar.image.repository=r/x@{digest}")) == {
        f"ghcr.io/patio/operator@{digest}",
        f"r/x@{digest}",
    }


def test_released_chart_names_its_own_images_by_digest(tmp_path: Path) -> None:
    files = {str(path.relative_to(CHART)): path.read_bytes() for path in CHART.rglob("*") if path.is_file()}
    digests = {"operator": f"sha256:{1:064}", "sidecar": f"sha256:{2:064}"}
    for name, content in released(files, "ghcr.io/patio", digests, []).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)

    def rendered_images(*values: str) -> set[str]:
        words = [ensure_binaries(["helm"]).helm, "template", tmp_path, *(f"--set={value}" for value in values)]
        printed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        return images([manifest for manifest in yaml.safe_load_all(printed) if manifest])

    sidecar = f"ghcr.io/patio/sidecar@{digests['sidecar']}"
    assert rendered_images() == {f"ghcr.io/patio/operator@{digests['operator']}", sidecar}
    assert rendered_images("operator.image.tag=v7") == {"ghcr.io/patio/operator:v7", sidecar}
    mirrored = rendered_images("global.imageRegistry=r.example")
    assert mirrored == {f"r.example/patio/{name}@{digest}" for name, digest in digests.items()}


def test_operator_may_only_touch_its_own_secret(rendered: list[Object]) -> None:
    rules = [rule for rule in operator_rules(rendered) if "secrets" in rule["resources"]]
    assert not [rule for rule in cluster_rules(rendered) if "secrets" in rule["resources"]]
    assert [rule["verbs"] for rule in rules if "resourceNames" not in rule] == [["create"]]
    named = [rule["resourceNames"] for rule in rules if "resourceNames" in rule]
    assert named == [["patio-webhook-tls", "patio-signing-key"]]


def test_secrets_are_readable_only_in_the_granted_namespaces(render: Callable[..., list[Object]]) -> None:
    def granted(*values: str) -> dict[str, list[Object]]:
        objects = render(*values)
        roles = [*of_kind(objects, "ClusterRole"), *of_kind(objects, "Role")]
        bindings = [*of_kind(objects, "ClusterRoleBinding"), *of_kind(objects, "RoleBinding")]
        name = "patio-operator-secrets"
        found = {
            role["metadata"].get("namespace", "*"): role["rules"] for role in roles if role["metadata"]["name"] == name
        }
        bound = [binding for binding in bindings if binding["metadata"]["name"] == name]
        assert {binding["metadata"].get("namespace", "*") for binding in bound} == set(found)
        for binding in bound:
            assert binding["roleRef"]["kind"] == ("Role" if "namespace" in binding["metadata"] else "ClusterRole")
            assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "patio-operator", "namespace": NAMESPACE}]
        if values:
            assert variables_of(objects)["PATIO_SECRET_NAMESPACES"] == ",".join(found)
        return found

    rule = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "watch"]}
    assert granted() == {}
    two = ("adapters.secrets.namespaces[0]=team-a", "adapters.secrets.namespaces[1]=team-b")
    assert granted(*two) == {"team-a": [rule], "team-b": [rule]}
    assert granted("adapters.secrets.namespaces[0]=*") == {"*": [rule]}


@pytest.mark.parametrize("namespace", ["team-a", "*"])
def test_tokens_are_reviewed_only_where_secrets_are_read(render: Callable[..., list[Object]], namespace: str) -> None:
    def rules(*values: str) -> list[Object]:
        return [rule for rule in operator_rules(render(*values)) if "tokenreviews" in rule["resources"]]

    assert rules() == []
    granted = {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}
    assert rules(f"adapters.secrets.namespaces[0]={namespace}") == [granted]


def test_operator_may_change_only_its_own_webhook_configuration(rendered: list[Object]) -> None:
    of_webhooks = [rule for rule in operator_rules(rendered) if "admissionregistration.k8s.io" in rule["apiGroups"]]
    (rule,) = [rule for rule in of_webhooks if rule["verbs"] != ["get"]]
    assert rule["resources"] == ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"]
    assert rule["resourceNames"] == ["patio"]
    assert set(rule["verbs"]) <= {"get", "patch"}


def test_operator_creates_pods_in_its_namespace_by_dry_run_only(
    render: Callable[..., list[Object]], helm: Helm
) -> None:
    objects = render()
    policy = only(objects, "ValidatingAdmissionPolicy")["spec"]
    assert "namespaceSelector" not in policy["matchConstraints"], "it holds in all namespaces"
    (elsewhere,) = [validation["expression"] for validation in policy["validations"]]
    assert elsewhere.startswith("request.dryRun || (")
    for part in (f'request.namespace != "{NAMESPACE}"', 'o.kind == "RoleBasedGroup"', "o.controller"):
        assert part in elsewhere, "where it realises groups, it makes the pods of leader-worker roles"
    observing = only(render("groups.mode=observe"), "ValidatingAdmissionPolicy")["spec"]
    assert [validation["expression"] for validation in observing["validations"]] == ["request.dryRun"]
    assert only(objects, "ValidatingAdmissionPolicyBinding")["spec"]["validationActions"] == ["Deny"]
    assert "ValidatingAdmissionPolicy" not in helm("template", "--kube-version", "1.29.0").stdout, "it came with 1.30"


def test_profiles_are_reviewed_except_the_one_of_the_chart(rendered: list[Object]) -> None:
    webhooks = {webhook["name"]: webhook for webhook in only(rendered, "ValidatingWebhookConfiguration")["webhooks"]}
    webhook = webhooks["profiles.patio.dev"]
    assert (webhook["failurePolicy"], webhook["sideEffects"]) == ("Ignore", "None")
    (unless,) = webhook["objectSelector"]["matchExpressions"]
    labels = only(rendered, "ClusterEngineRuntimeProfile")["metadata"]["labels"]
    assert unless["operator"] == "NotIn"
    assert labels[unless["key"]] in unless["values"]
    assert "caBundle" not in webhook["clientConfig"]


def test_lora_adapters_are_compared_unless_the_webhook_is_down(rendered: list[Object]) -> None:
    webhooks = {webhook["name"]: webhook for webhook in only(rendered, "ValidatingWebhookConfiguration")["webhooks"]}
    webhook = webhooks["loraadapters.patio.dev"]
    assert (webhook["failurePolicy"], webhook["sideEffects"]) == ("Ignore", "None")
    assert webhook["clientConfig"]["service"]["path"] == LORA_ADAPTERS_PATH
    (rule,) = webhook["rules"]
    assert rule["resources"] == ["loraadapters"], "neither status nor scale: those are written often"
    assert "caBundle" not in webhook["clientConfig"]


def test_those_who_may_edit_lora_adapters_may_scale_them(rendered: list[Object]) -> None:
    roles = {role["metadata"]["name"]: role["rules"] for role in rendered if role["kind"] == "ClusterRole"}
    for name, verb in (("patio-edit", "update"), ("patio-edit", "patch"), ("patio-view", "get")):
        (rule,) = [rule for rule in roles[name] if "patio.dev" in rule["apiGroups"]]
        assert "loraadapters/scale" in rule["resources"]
        assert verb in rule["verbs"]


def test_operator_cannot_gain_rights_of_others(rendered: list[Object]) -> None:
    for rule in operator_rules(rendered):
        assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"]), rule
        assert not {"roles", "clusterroles", "rolebindings", "serviceaccounts/token", "pods/exec"} & set(
            rule["resources"]
        ), rule
    roles = {role["metadata"]["name"] for role in rendered if role["kind"] in ("ClusterRole", "Role")}
    for kind in ("ClusterRoleBinding", "RoleBinding"):
        assert only(rendered, kind)["roleRef"]["name"] in roles


def test_operator_runs_with_nothing_it_does_not_need(rendered: list[Object]) -> None:
    spec = only(rendered, "Deployment")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert_restricted(container["securityContext"])
    assert container["resources"]["requests"]
    assert container["resources"]["limits"]["memory"]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert not [volume for volume in spec["volumes"] if "hostPath" in volume]


def test_probes_and_service_reach_ports_that_the_container_has(rendered: list[Object]) -> None:
    (container,) = only(rendered, "Deployment")["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": 8080, "webhook": 9443}
    for probe in ("readinessProbe", "livenessProbe", "startupProbe"):
        assert container[probe]["httpGet"]["port"] in ports
    services = {service["metadata"]["name"]: service["spec"]["ports"] for service in of_kind(rendered, "Service")}
    assert [(port["port"], port["targetPort"]) for port in services["patio-webhook"]] == [(443, "webhook")]
    assert [(port["port"], port["targetPort"]) for port in services["patio-operator"]] == [(8080, "http")]


def test_every_selector_finds_the_operators_pods(render: Callable[..., list[Object]]) -> None:
    objects = render("operator.replicas=2")
    deployment = only(objects, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    selectors = [service["spec"]["selector"] for service in of_kind(objects, "Service")]
    selectors += [deployment["spec"]["selector"]["matchLabels"]]
    selectors += [only(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"]]
    assert all(selector.items() <= labels for selector in selectors)


def test_webhook_sees_only_the_creation_of_pods_that_ask_for_it(rendered: list[Object]) -> None:
    webhooks = only(rendered, "MutatingWebhookConfiguration")["webhooks"]
    unless = {"key": "patio.dev/inject", "operator": "NotIn", "values": ["false"]}
    assert {webhook["name"]: webhook["objectSelector"]["matchExpressions"] for webhook in webhooks} == {
        "profile.patio.dev": [{"key": "patio.dev/profile", "operator": "Exists"}, unless],
        "engine-runtimes.patio.dev": [
            {"key": "patio.dev/engine-runtimes", "operator": "In", "values": ["true"]},
            unless,
        ],
        "upstream-sidecar.patio.dev": [unless],
        "upstream-pod.patio.dev": [unless],
    }
    for webhook in webhooks:
        (rule,) = webhook["rules"]
        assert (rule["resources"], rule["operations"]) == (["pods"], ["CREATE"])
        assert webhook["sideEffects"] == "None"
        assert webhook["reinvocationPolicy"] == "IfNeeded"
        has_selector = len(webhook["objectSelector"]["matchExpressions"]) > 1
        assert has_selector != ("matchConditions" in webhook)


def test_only_pods_that_ask_or_have_a_sidecar_wait_for_operator(render: Callable[..., list[Object]]) -> None:
    def policies(*values: str) -> Object:
        webhooks = only(render(*values), "MutatingWebhookConfiguration")["webhooks"]
        return {webhook["name"]: webhook["failurePolicy"] for webhook in webhooks}

    selected = {"profile.patio.dev": "Fail", "engine-runtimes.patio.dev": "Fail"}
    upstream = {"upstream-sidecar.patio.dev": "Fail", "upstream-pod.patio.dev": "Ignore"}
    assert policies() == policies("groups.mode=observe") == selected | upstream
    assert policies("groups.mode=manage") == policies("groups.mode=off") == selected
    assert set(policies("webhook.failurePolicy=Ignore").values()) == {"Ignore"}


def test_operator_may_write_its_own_lease_and_read_upstreams(rendered: list[Object]) -> None:
    def of_leases(kind: str) -> list[tuple[Any, Any]]:
        (role,) = [body for body in of_kind(rendered, kind) if body["metadata"]["name"] == "patio-operator"]
        rules = [rule for rule in role["rules"] if "leases" in rule["resources"]]
        return [(rule.get("resourceNames"), rule["verbs"]) for rule in rules]

    assert of_leases("ClusterRole") == [(["rbg-controller"], ["list"])]
    assert of_leases("Role") == [(None, ["create"]), (["patio-operator"], ["get", "patch"])]
    variables = variables_of(rendered)
    assert (variables["PATIO_LEASE"], variables["PATIO_GROUPS"]) == ("patio-operator", "auto")
    assert variables["PATIO_UPSTREAM_NAMESPACES"] == "rbgs-system"


def test_certificates_come_from_the_operator_or_cert_manager(render: Callable[..., list[Object]]) -> None:
    own = render("webhook.certificate.hours=0.01", "webhook.certificate.renewHours=0.001")
    assert not of_kind(own, "Certificate")
    assert variables_of(own)["PATIO_CERTIFICATE_HOURS"] == "0.01"
    with_cert_manager = render("webhook.certManager.enabled=true")
    assert {certificate["metadata"]["name"] for certificate in of_kind(with_cert_manager, "Certificate")} == {
        "patio-webhook",
        "patio-webhook-ca",
    }
    configuration = only(with_cert_manager, "MutatingWebhookConfiguration")
    assert configuration["metadata"]["annotations"] == {"cert-manager.io/inject-ca-from": f"{NAMESPACE}/patio-webhook"}
    rules = operator_rules(with_cert_manager)
    assert not [rule for rule in rules if "mutatingwebhookconfigurations" in rule["resources"]]
    secrets = [rule["resourceNames"] for rule in rules if "secrets" in rule["resources"] and "resourceNames" in rule]
    assert secrets == [["patio-signing-key"]]
    folder = variables_of(with_cert_manager)["PATIO_CERTIFICATE_FOLDER"]
    (container,) = only(with_cert_manager, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert {"name": "tls", "mountPath": folder, "readOnly": True} in container["volumeMounts"]


def test_cert_manager_can_be_given_an_issuer(render: Callable[..., list[Object]]) -> None:
    objects = render(
        "webhook.certManager.enabled=true",
        "webhook.certManager.issuerRef.name=company",
        "webhook.certManager.issuerRef.kind=ClusterIssuer",
    )
    assert only(objects, "Certificate")["spec"]["issuerRef"] == {"name": "company", "kind": "ClusterIssuer"}
    assert not of_kind(objects, "Issuer")


def test_webhook_never_sees_namespaces_a_cluster_needs_to_start(
    render: Callable[..., list[Object]],
) -> None:
    webhooks = only(render(), "MutatingWebhookConfiguration")["webhooks"]
    excluded = [webhook["namespaceSelector"]["matchExpressions"][0] for webhook in webhooks]
    assert [(expression["key"], expression["operator"], set(expression["values"])) for expression in excluded] == 4 * [
        ("kubernetes.io/metadata.name", "NotIn", {"kube-system", "kube-node-lease", NAMESPACE})
    ]


def test_rendered_objects_can_be_applied_singly_without_hooks(rendered: list[Object]) -> None:
    assert not [body for body in rendered if "helm.sh/hook" in (body["metadata"].get("annotations") or {})]
    names = [(body["kind"], body["metadata"]["name"]) for body in rendered]
    assert len(names) == len(set(names))


def test_ca_bundle_is_left_to_the_operator(rendered: list[Object]) -> None:
    for webhook in only(rendered, "MutatingWebhookConfiguration")["webhooks"]:
        assert "caBundle" not in webhook["clientConfig"]


def test_default_profile_is_native_sidecar_that_gates_readiness(rendered: list[Object]) -> None:
    profile = only(rendered, "ClusterEngineRuntimeProfile")
    assert profile["metadata"]["name"] == "patio"
    assert profile["spec"]["updateStrategy"] == "NoUpdate"
    (sidecar,) = profile["spec"]["initContainers"]
    assert (sidecar["name"], sidecar["restartPolicy"]) == ("patio", "Always")
    assert_restricted(sidecar["securityContext"])
    assert sidecar["readinessProbe"]["httpGet"] == {"path": "/ready", "port": 9091}
    assert sidecar["livenessProbe"]["httpGet"] == {"path": "/health", "port": 9091}
    assert [variable["name"] for variable in sidecar["env"]] == ["PATIO_DOWNLOAD_LIMIT"], "the rest depends on the pod"
    volumes = {volume["name"]: volume for volume in profile["spec"]["volumes"]}
    for mount in sidecar["volumeMounts"]:
        assert "emptyDir" in volumes[mount["name"]]


def test_access_control_is_on_unless_it_is_turned_off(
    rendered: list[Object], render: Callable[..., list[Object]]
) -> None:
    assert "args" not in only(rendered, "ClusterEngineRuntimeProfile")["spec"]["initContainers"][0]
    profile = only(render("access.enforced=false"), "ClusterEngineRuntimeProfile")
    assert profile["spec"]["initContainers"][0]["args"] == ["--access-control=off"]


def test_default_profile_is_valid_by_its_own_schema(rendered: list[Object]) -> None:
    from patio_api.profile import ClusterEngineRuntimeProfile

    ClusterEngineRuntimeProfile.model_validate(only(rendered, "ClusterEngineRuntimeProfile"))


def test_default_profile_can_be_left_out(render: Callable[..., list[Object]]) -> None:
    assert not of_kind(render("profile.create=false"), "ClusterEngineRuntimeProfile")


def test_disruption_budget_exists_only_if_it_leaves_a_replica(render: Callable[..., list[Object]]) -> None:
    assert not of_kind(render("operator.replicas=1"), "PodDisruptionBudget")
    assert only(render("operator.replicas=2"), "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    without = render("operator.replicas=2", "operator.podDisruptionBudget=false")
    assert not of_kind(without, "PodDisruptionBudget")


def test_replicas_prefer_nodes_of_their_own(render: Callable[..., list[Object]]) -> None:
    template = only(render("operator.replicas=2"), "Deployment")["spec"]["template"]
    (preferred,) = template["spec"]["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    term = preferred["podAffinityTerm"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert term["labelSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    overridden = render("operator.affinity.nodeAffinity.mine=1")
    assert only(overridden, "Deployment")["spec"]["template"]["spec"]["affinity"] == {"nodeAffinity": {"mine": 1}}


def test_image_without_a_tag_is_the_charts_version(render: Callable[..., list[Object]]) -> None:
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert images(render()) == {f"ghcr.io/patio/operator:{version}", f"ghcr.io/patio/sidecar:{version}"}
    with_tags = render("operator.image.repository=here/operator", "operator.image.tag=v7", "sidecar.image.tag=v8")
    assert images(with_tags) == {"here/operator:v7", "ghcr.io/patio/sidecar:v8"}


def test_what_is_set_for_the_operators_pods_gets_there(render: Callable[..., list[Object]]) -> None:
    objects = render(
        "operator.podAnnotations.built=today",
        "operator.priorityClassName=high",
        "operator.nodeSelector.pool=system",
        "operator.tolerations[0].key=system",
        "operator.logLevel=DEBUG",
        "access.keyDays=7",
        "imagePullSecrets[0].name=registry",
    )
    template = only(objects, "Deployment")["spec"]["template"]
    spec = template["spec"]
    assert template["metadata"]["annotations"] == {"built": "today"}
    assert (spec["priorityClassName"], spec["nodeSelector"]) == ("high", {"pool": "system"})
    assert (spec["tolerations"], spec["imagePullSecrets"]) == ([{"key": "system"}], [{"name": "registry"}])
    assert {"name": "PATIO_LOG_LEVEL", "value": "DEBUG"} in spec["containers"][0]["env"]
    assert {"name": "PATIO_SIGNING_KEY_DAYS", "value": "7"} in spec["containers"][0]["env"]


def test_every_crd_of_the_chart_comes_before_the_default_profile() -> None:
    names = {path.name for path in (CHART / "crds").glob("*.yaml")}
    assert "workloads.x-k8s.io_clusterengineruntimeprofiles.yaml" in names
    assert "patio.dev_loraadapters.yaml" in names


def assert_restricted(context: Object) -> None:
    """The restricted Pod Security Standard, and a root file system that cannot be written."""
    assert context["runAsNonRoot"] is True
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
