"""By what upstream's controller is recognised, and when its absence is believed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from patio_operator.groups.upstream.detection import ABSENT_SECONDS, Detection, Evidence, detect, signs
from patio_testing.operator.builders import NOW


def named(name: str, **rest: Any) -> dict[str, Any]:
    return {"metadata": {"namespace": "rbgs-system", "name": name}, **rest}


def lease(holder: str, age: timedelta) -> dict[str, Any]:
    renewed = (NOW - age).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return named("rbg-controller", spec={"holderIdentity": holder, "renewTime": renewed})


DEPLOYMENT = named("rbgs-controller-manager", spec={"replicas": 1})
POD = named("rbgs-controller-manager-x", status={"phase": "Running"})
A_SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("seen", "sign"),
    [
        (Evidence(deployments=[DEPLOYMENT]), "Deployment rbgs-system/rbgs-controller-manager"),
        (Evidence(pods=[POD]), "Pod rbgs-system/rbgs-controller-manager-x"),
        (Evidence(leases=[lease("one", A_SECOND)]), "Lease rbgs-system/rbg-controller"),
        (Evidence(webhooks=named("x")), "ValidatingWebhookConfiguration rbgs-validating-webhook-configuration"),
    ],
)
def test_any_one_sign_is_enough(seen: Evidence, sign: str) -> None:
    assert signs(seen, NOW) == (sign,)


@pytest.mark.parametrize(
    "seen",
    [
        Evidence(),
        Evidence(deployments=[named("rbgs-controller-manager", spec={"replicas": 0})]),
        Evidence(pods=[named("done", status={"phase": "Succeeded"})]),
        Evidence(leases=[lease("one", timedelta(minutes=2))]),
        Evidence(leases=[lease("", A_SECOND)]),
        Evidence(leases=[named("rbg-controller")]),
        Evidence(leases=[lease("from the future", timedelta(days=-3650))]),
        Evidence(leases=[named("rbg-controller", spec={"holderIdentity": "one", "renewTime": "soon"})]),
    ],
)
def test_what_is_left_of_a_controller_is_no_sign(seen: Evidence) -> None:
    assert signs(seen, NOW) == ()


def test_upstream_counts_as_present_at_once_and_absent_later() -> None:
    managing = detect(None, (), 0.0)
    assert not managing.observing
    present = detect(managing, ("Deployment a/b",), 5.0)
    assert present.observing
    assert "Deployment a/b" in present.reason
    missing = detect(present, (), 10.0)
    assert missing.observing
    assert detect(missing, (), 10.0 + ABSENT_SECONDS - 1).observing
    assert not detect(missing, (), 10.0 + ABSENT_SECONDS).observing


def test_absence_that_ended_is_timed_from_its_next_start() -> None:
    missing = detect(Detection(True, "there"), (), 0.0)
    back = detect(missing, ("Deployment a/b",), ABSENT_SECONDS - 1)
    assert detect(back, (), ABSENT_SECONDS + 1).observing
