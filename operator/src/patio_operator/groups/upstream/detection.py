"""By what upstream's controller is recognised, and when its absence is believed. Pure; used by `detector`.

Any one sign is enough: two controllers that realise the same groups delete each other's pods, while no harm comes to
groups that no controller realises for a while. A sign is only what no user of a namespace can make: the cluster's
webhook configuration, and objects in the namespaces that the chart names, or that the CRD names which upstream
installed. CRDs alone are no sign, since they survive an uninstall. For the same reason its absence has to last before
Patio takes groups over: a reinstallation is no absence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

LEASE = "rbg-controller"
DEPLOYMENT = "rbgs-controller-manager"
WEBHOOKS = "rbgs-validating-webhook-configuration"
CRD = "rolebasedgroups.workloads.x-k8s.io"
POD_LABELS = "control-plane=rbgs-controller"

LEASE_FRESH = timedelta(seconds=60)
"""A Lease survives its controller. A running one renews it every few seconds; the rest is for clocks that differ, in
either direction."""
ABSENT_SECONDS = 30.0
"""How long there must be no sign of a controller that was there."""

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Evidence:
    """What there is of the objects by which upstream's controller is known, in the namespaces where it may be."""

    deployments: Iterable[Object] = ()
    pods: Iterable[Object] = ()
    leases: Iterable[Object] = ()
    webhooks: Object | None = None


@dataclass(frozen=True)
class Detection:
    """Whether upstream's controller is taken to be there, and why: for a log line."""

    observing: bool
    reason: str
    absent_since: float | None = None
    """Since when there was no sign of it (seconds, monotonic), while its absence is not believed yet."""


def home_of(crd: Object, own: str) -> str | None:
    """Return the namespace of the controller that converts RoleBasedGroups, by their CRD; None when that is Patio.

    Args:
        crd: the CustomResourceDefinition.
        own: name of Patio's own webhook Service.

    """
    conversion = (crd.get("spec") or {}).get("conversion") or {}
    service = ((conversion.get("webhook") or {}).get("clientConfig") or {}).get("service") or {}
    return service.get("namespace") if service.get("name") not in (None, own) else None


def signs(seen: Evidence, now: datetime) -> tuple[str, ...]:
    """Name what says that upstream's controller runs, the surest first."""
    return (
        *(
            f"Deployment {_name(deployment)}"
            for deployment in seen.deployments
            if deployment["spec"].get("replicas", 1) > 0
        ),
        *(f"Pod {_name(pod)}" for pod in seen.pods if _lives(pod)),
        *(f"Lease {_name(lease)}" for lease in seen.leases if _is_renewed(lease, now)),
        *((f"ValidatingWebhookConfiguration {WEBHOOKS}",) if seen.webhooks is not None else ()),
    )


def detect(before: Detection | None, found: tuple[str, ...], now: float) -> Detection:
    """Judge what was found, `now` being monotonic seconds."""
    if found:
        return Detection(True, f"upstream's controller runs ({found[0]})")
    if before is None or not before.observing:
        return Detection(False, "upstream's controller was not found")
    since = before.absent_since if before.absent_since is not None else now
    if now - since < ABSENT_SECONDS:
        return Detection(True, before.reason, since)
    return Detection(False, f"upstream's controller was not found for {ABSENT_SECONDS:.0f} s")


def _name(body: Object) -> str:
    metadata = body["metadata"]
    return f"{metadata.get('namespace', '')}/{metadata['name']}"


def _lives(pod: Object) -> bool:
    phase = (pod.get("status") or {}).get("phase")
    return not pod["metadata"].get("deletionTimestamp") and phase not in ("Succeeded", "Failed")


def _is_renewed(lease: Object, now: datetime) -> bool:
    spec = lease.get("spec") or {}
    if not spec.get("holderIdentity"):
        return False
    try:
        return abs(now - datetime.fromisoformat(spec.get("renewTime") or "")) < LEASE_FRESH
    except (ValueError, TypeError):
        return False
