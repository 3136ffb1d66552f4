"""What is decided about a CRD: forward only, never over upstream's, and the conversion stays."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patio_api.crd import DEFINITIONS, VERSION
from patio_operator.crd_upgrade import planner
from patio_operator.crd_upgrade.planner import Apply, Reject, Skip, decide, order

NEW = {definition.model.kind: definition.to_api() for definition in DEFINITIONS}
VERSIONS = ["0.9.0", "0.10.0-alpha", "0.10.0-alpha.1", "0.10.0-rc.1", "0.10.0-rc.2", "0.10.0rc10", "0.10.0", "1.0.0"]

Object = dict[str, Any]


def new(kind: str = "RoleBasedGroup", version: str = "0.2.0") -> Object:
    """A CRD of this version."""
    crd: Object = copy.deepcopy(NEW[kind])
    crd["metadata"]["annotations"] = {VERSION: version}
    return crd


def stored(crd: Object, *versions: str, **metadata: Any) -> Object:
    """A CRD as it is in the cluster."""
    names = [version["name"] for version in crd["spec"]["versions"]]
    body = copy.deepcopy(crd)
    body["metadata"] |= {"resourceVersion": "7", **metadata}
    body["status"] = {"storedVersions": list(versions) or names[:1]}
    return body


def running() -> Object:
    """The RoleBasedGroups' CRD of an older version, as a running operator keeps it."""
    crd = stored(new(version="0.1.0"))
    crd["spec"]["conversion"]["webhook"]["clientConfig"] |= {"caBundle": "Q0E="}
    crd["spec"]["conversion"]["webhook"]["clientConfig"]["service"]["namespace"] = "elsewhere"
    return crd


@pytest.mark.parametrize("kind", NEW)
def test_missing_crd_is_applied_for_the_operators_namespace(kind: str) -> None:
    decision = decide(None, new(kind), "llm")
    assert isinstance(decision, Apply)
    assert "resourceVersion" not in decision.body["metadata"]
    service = decision.body["spec"]["conversion"].get("webhook", {}).get("clientConfig", {}).get("service")
    assert service is None or service["namespace"] == "llm"


def test_older_crd_is_applied_if_unchanged_since_it_was_read() -> None:
    decision = decide(running(), new(), "llm")
    assert isinstance(decision, Apply)
    assert decision.body["metadata"]["resourceVersion"] == "7"
    assert decision.body["metadata"]["annotations"] == {VERSION: "0.2.0"}
    assert decision.body["spec"]["versions"] == new()["spec"]["versions"]
    assert "0.1.0" in decision.reason


def test_conversion_stays_as_the_operator_keeps_it() -> None:
    decision = decide(running(), new(), "llm")
    assert isinstance(decision, Apply)
    assert decision.body["spec"]["conversion"] == running()["spec"]["conversion"]


def test_conversion_that_is_new_is_applied() -> None:
    current = running()
    current["spec"]["conversion"] = {"strategy": "None"}
    decision = decide(current, new(), "llm")
    assert isinstance(decision, Apply)
    client = decision.body["spec"]["conversion"]["webhook"]["clientConfig"]
    assert client["service"]["namespace"] == "llm"


def test_arguments_are_not_changed() -> None:
    current, desired = running(), new()
    decide(current, desired, "llm")
    assert (current, desired) == (running(), new())


def test_crd_without_a_version_is_applied() -> None:
    current = running()
    del current["metadata"]["annotations"]
    assert isinstance(decide(current, new(), "llm"), Apply)


def converted_by_upstream(crd: Object) -> None:
    crd["spec"]["conversion"]["webhook"]["clientConfig"]["service"] = {
        "name": "rbgs-webhook",
        "namespace": "rbgs-system",
    }


def generated_by_upstream(crd: Object) -> None:
    crd["metadata"]["annotations"] = {planner.GENERATED_BY_OTHERS: "v0.16.5"}


def without_a_sign(crd: Object) -> None:
    del crd["metadata"]["annotations"]
    del crd["spec"]["names"]["categories"]


@pytest.mark.parametrize("change", [converted_by_upstream, generated_by_upstream, without_a_sign])
def test_upstreams_crds_are_left(change: Any) -> None:
    current = running()
    change(current)
    decision = decide(current, new(), "llm")
    assert isinstance(decision, Skip)
    assert "not Patio's" in decision.reason


def test_newer_crd_is_rejected() -> None:
    decision = decide(stored(new(version="0.3.0")), new(version="0.2.0"), "llm")
    assert isinstance(decision, Reject)
    assert "newer than 0.2.0" in decision.reason
    assert "crds.upgrade=false" in decision.reason


def test_same_version_is_applied_again() -> None:
    assert isinstance(decide(stored(new()), new(), "llm"), Apply)


def test_unreadable_version_is_rejected() -> None:
    current = stored(new(version="latest"))
    decision = decide(current, new(), "llm")
    assert isinstance(decision, Reject)
    assert "'latest'" in decision.reason


def test_version_of_stored_objects_is_not_dropped() -> None:
    current = stored(running(), "v1alpha0", "v1alpha2")
    decision = decide(current, new(), "llm")
    assert isinstance(decision, Reject)
    assert "v1alpha0" in decision.reason
    assert "v1alpha2," not in decision.reason


def test_crd_that_is_being_deleted_is_rejected() -> None:
    current = stored(running(), deletionTimestamp="2026-01-01T00:00:00Z")
    assert isinstance(decide(current, new(), "llm"), Reject)


def test_versions_are_in_the_order_of_their_releases() -> None:
    orders = [order(version) for version in VERSIONS]
    assert None not in orders
    assert sorted(orders, key=lambda position: (position is None, position)) == orders
    assert order("1.0.0+build.5") == order("v1.0.0") == order("1.0.0")


@pytest.mark.parametrize(
    "text", ["", "1", "1.2", "1.2.3.4.5/6", "latest", "1.2.x", "9" * 10 + ".0.0", "1.0.0-" + "a" * 101]
)
def test_text_that_is_no_version_has_no_order(text: str) -> None:
    assert order(text) is None


@given(st.text(max_size=40), st.text(max_size=40))
def test_two_orders_can_always_be_compared(suffix: str, other: str) -> None:
    first, second = order(f"1.2.3-{suffix}"), order(f"1.2.3{other}")
    if first is not None and second is not None:
        assert (first < second) + (second < first) + (first == second) == 1


@st.composite
def any_crds(draw: st.DrawFn) -> Object:
    """A CRD of one of our names, as it may be in a cluster: what the API server allows, or does not check."""
    crd = stored(new(draw(st.sampled_from(sorted(NEW)))))
    nothing: st.SearchStrategy[Any] = st.none()
    known = st.sampled_from([VERSION, planner.GENERATED_BY_OTHERS, "other.example.com/a"])
    crd["metadata"]["annotations"] = draw(nothing | st.dictionaries(known, st.sampled_from(VERSIONS) | st.text()))
    crd["metadata"]["deletionTimestamp"] = draw(st.sampled_from([None, "2026-01-01T00:00:00Z"]))
    crd["spec"]["names"]["categories"] = draw(nothing | st.lists(st.sampled_from(["all", "patio"])))
    names = st.sampled_from(["patio-webhook", "rbgs-webhook-service"])
    service = st.fixed_dictionaries({"name": names, "namespace": st.just("elsewhere")})
    client = st.fixed_dictionaries({}, optional={"service": nothing | service, "url": st.just("https://x.example")})
    webhook = st.fixed_dictionaries({"clientConfig": nothing | client})
    strategy = st.sampled_from(["None", "Webhook"])
    conversion = st.fixed_dictionaries({"strategy": strategy}, optional={"webhook": nothing | webhook})
    crd["spec"]["conversion"] = draw(nothing | conversion)
    versions = st.lists(st.sampled_from(["v1alpha1", "v1alpha2", "v1beta1"]))
    status = st.fixed_dictionaries({}, optional={"storedVersions": nothing | versions})
    crd["status"] = draw(nothing | status)
    if draw(st.booleans()):
        del crd["status"], crd["spec"]["conversion"]
    return crd


@given(any_crds(), st.sampled_from(VERSIONS))
def test_no_crd_is_replaced_that_is_not_ours_older_and_safe(current: Object, version: str) -> None:
    (kind,) = [kind for kind, crd in NEW.items() if crd["metadata"]["name"] == current["metadata"]["name"]]
    before = copy.deepcopy(current)
    decision = decide(current, new(kind, version), "llm")
    assert current == before
    assert decision.reason
    if not isinstance(decision, Apply):
        return
    annotations = current["metadata"]["annotations"] or {}
    assert planner.GENERATED_BY_OTHERS not in annotations
    assert VERSION in annotations or "patio" in current["spec"]["names"]["categories"]
    assert not current["metadata"]["deletionTimestamp"]
    if VERSION in annotations:
        stored_order, applied = order(annotations[VERSION]), order(version)
        assert stored_order is not None
        assert applied is not None
        assert stored_order <= applied
    kept = {version["name"] for version in decision.body["spec"]["versions"]}
    assert set((current.get("status") or {}).get("storedVersions") or []) <= kept
    conversion = current["spec"].get("conversion") or {}
    if conversion.get("strategy", "None") != "None":
        assert decision.body["spec"]["conversion"] == conversion
    assert "status" not in decision.body
    assert decision.body["metadata"]["resourceVersion"] == "7"
