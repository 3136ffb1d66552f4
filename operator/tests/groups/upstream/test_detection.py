"""By what upstream's controller is recognised, and when its absence is believed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from patio_operator.upstream.signs import ABSENT_SECONDS, Seen, Verdict, signs, verdict

from builders import NOW


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
        (Seen(deployments=[DEPLOYMENT]), "Deployment rbgs-system/rbgs-controller-manager"),
        (Seen(pods=[POD]), "Pod rbgs-system/rbgs-controller-manager-x"),
        (Seen(leases=[lease("one", A_SECOND)]), "Lease rbgs-system/rbg-controller"),
        (Seen(webhooks=named("x")), "ValidatingWebhookConfiguration rbgs-validating-webhook-configuration"),
    ],
)
def test_any_one_sign_is_enough(seen: Seen, sign: str) -> None:
    assert signs(seen, NOW) == (sign,)


@pytest.mark.parametrize(
    "seen",
    [
        Seen(),
        Seen(deployments=[named("rbgs-controller-manager", spec={"replicas": 0})]),
        Seen(pods=[named("done", status={"phase": "Succeeded"})]),
        Seen(leases=[lease("one", timedelta(minutes=2))]),
        Seen(leases=[lease("", A_SECOND)]),
        Seen(leases=[named("rbg-controller")]),
        Seen(leases=[lease("from the future", timedelta(days=-3650))]),
        Seen(leases=[named("rbg-controller", spec={"holderIdentity": "one", "renewTime": "soon"})]),
    ],
)
def test_what_is_left_of_a_controller_is_no_sign(seen: Seen) -> None:
    assert signs(seen, NOW) == ()


def test_it_is_believed_at_once_that_it_came_and_only_later_that_it_went() -> None:
    managing = verdict(None, (), 0.0)
    assert not managing.observing
    there = verdict(managing, ("Deployment a/b",), 5.0)
    assert there.observing
    assert "Deployment a/b" in there.reason
    missing = verdict(there, (), 10.0)
    assert missing.observing
    assert verdict(missing, (), 10.0 + ABSENT_SECONDS - 1).observing
    assert not verdict(missing, (), 10.0 + ABSENT_SECONDS).observing


def test_an_absence_that_ends_begins_anew() -> None:
    missing = verdict(Verdict(True, "there"), (), 0.0)
    back = verdict(missing, ("Deployment a/b",), ABSENT_SECONDS - 1)
    assert verdict(back, (), ABSENT_SECONDS + 1).observing
