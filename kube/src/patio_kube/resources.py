"""The kinds of objects that Patio reads or writes, and where the API server keeps them. Data only."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Resource:
    """A resource of the API server. `group` is empty for the core group."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """As manifests write it: `apps/v1`, or `v1` for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version


POD = Resource("", "v1", "Pod", "pods")
SERVICE = Resource("", "v1", "Service", "services")
CONFIG_MAP = Resource("", "v1", "ConfigMap", "configmaps")
SECRET = Resource("", "v1", "Secret", "secrets")
EVENT = Resource("", "v1", "Event", "events")
TOKEN_REVIEW = Resource("authentication.k8s.io", "v1", "TokenReview", "tokenreviews", namespaced=False)
SUBJECT_ACCESS_REVIEW = Resource(
    "authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews", namespaced=False
)
LEASE = Resource("coordination.k8s.io", "v1", "Lease", "leases")
ENDPOINT_SLICE = Resource("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
CONTROLLER_REVISION = Resource("apps", "v1", "ControllerRevision", "controllerrevisions")
STATEFUL_SET = Resource("apps", "v1", "StatefulSet", "statefulsets")
DEPLOYMENT = Resource("apps", "v1", "Deployment", "deployments")
DAEMON_SET = Resource("apps", "v1", "DaemonSet", "daemonsets")
MUTATING_WEBHOOK_CONFIGURATION = Resource(
    "admissionregistration.k8s.io",
    "v1",
    "MutatingWebhookConfiguration",
    "mutatingwebhookconfigurations",
    namespaced=False,
)
VALIDATING_WEBHOOK_CONFIGURATION = Resource(
    "admissionregistration.k8s.io",
    "v1",
    "ValidatingWebhookConfiguration",
    "validatingwebhookconfigurations",
    namespaced=False,
)
CUSTOM_RESOURCE_DEFINITION = Resource(
    "apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False
)
PROFILE = Resource(
    "workloads.x-k8s.io",
    "v1alpha2",
    "ClusterEngineRuntimeProfile",
    "clusterengineruntimeprofiles",
    namespaced=False,
)
ROLE_BASED_GROUP = Resource("workloads.x-k8s.io", "v1alpha2", "RoleBasedGroup", "rolebasedgroups")
OLD_PROFILE = replace(PROFILE, version="v1alpha1")
OLD_ROLE_BASED_GROUP = replace(ROLE_BASED_GROUP, version="v1alpha1")
"""Where upstream's CRDs are 0.6 or older, this version is all that is served."""
LORA_ADAPTER = Resource("patio.dev", "v1alpha1", "LoraAdapter", "loraadapters")
MODEL_ENDPOINT = Resource("patio.dev", "v1alpha1", "ModelEndpoint", "modelendpoints")
DEMAND_REPORT = Resource("patio.dev", "v1alpha1", "DemandReport", "demandreports")

BY_KIND = {
    (kind.api_version, kind.kind): kind
    for kind in (
        POD,
        SERVICE,
        CONFIG_MAP,
        SECRET,
        STATEFUL_SET,
        CONTROLLER_REVISION,
        ENDPOINT_SLICE,
        PROFILE,
        ROLE_BASED_GROUP,
        LORA_ADAPTER,
        MODEL_ENDPOINT,
        DEMAND_REPORT,
    )
}
"""Finds the kind of an object by its `apiVersion` and `kind`."""
