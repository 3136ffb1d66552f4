"""Which LoraAdapters of one name are certain to meet on a pod, and what a new pod is given."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patio_api.labels import GROUP_NAME, ROLE_NAME
from patio_api.loraadapter import LoraAdapter
from patio_operator.loraadapters.planner.conflicts import SelectablePod, conflict_on_a_pod, declared_conflict, rivals
from patio_operator.loraadapters.planner.selection import for_pod, initial_adapters, load_request
from patio_testing.operator.builders import lora_adapter

ROLE = {"selector": None, "roleRef": {"group": "g", "role": "r"}}
OF_ROLE = {GROUP_NAME: "g", ROLE_NAME: "r"}


def of(name: str, *, adapter_name: str = "sql", **spec: Any) -> LoraAdapter:
    return lora_adapter(name, adapterName=adapter_name, **spec)


def select(**labels: str) -> dict[str, Any]:
    return {"selector": {"matchLabels": labels}}


def meet(newer: LoraAdapter, other: LoraAdapter, *pods: SelectablePod) -> str | None:
    others = rivals(newer, [newer, other])
    conflict = declared_conflict(newer, others) or conflict_on_a_pod(newer, others, pods)
    return conflict and conflict.message


@pytest.mark.parametrize(
    ("own", "other", "why"),
    [
        (select(app="a"), select(app="a"), "both select the same pods"),
        (
            select(app="a", tier="b"),
            select(app="a"),
            "LoraAdapter 'old' selects every pod that LoraAdapter 'new' selects",
        ),
        (
            select(app="a"),
            select(app="a", tier="b"),
            "LoraAdapter 'new' selects every pod that LoraAdapter 'old' selects",
        ),
        (ROLE, ROLE, "both select role 'r' of RoleBasedGroup 'g'"),
        (ROLE, {"selector": {"matchLabels": {GROUP_NAME: "g"}}}, "LoraAdapter 'old' selects every pod that"),
        ({"selector": {"matchLabels": OF_ROLE}}, ROLE, "both select the same pods"),
        (ROLE | {"baseModel": "m"}, ROLE, "both select role"),
        (select(app="a") | {"baseModel": "m"}, select(app="a") | {"baseModel": "m"}, "both select the same pods"),
        (select(app="a") | {"replicas": 1}, select(app="a"), "both select the same pods"),
    ],
)
def test_certain_conflict_is_rejected_and_both_are_named(own: Any, other: Any, why: str) -> None:
    message = meet(of("new", **own), of("old", **other))
    assert message is not None
    assert why in message
    assert message.startswith(
        "LoraAdapter 'new' and LoraAdapter 'old' would both serve the name 'sql' on the same pods"
    )
    assert "another spec.adapterName" in message


@pytest.mark.parametrize(
    ("own", "other"),
    [
        (select(app="a"), select(app="b")),
        (select(app="a"), select(tier="b")),
        (ROLE, {"selector": None, "roleRef": {"group": "g", "role": "other"}}),
        (ROLE, select(app="a")),
        (select(app="a") | {"baseModel": "m"}, select(app="a") | {"baseModel": "n"}),
        (select(app="a"), select(app="a", tier="b") | {"adapter_name": "other"}),
        (select(app="a"), select(app="a") | {"metadata": {"deletionTimestamp": "2026-11-21T11:00:00Z"}}),
        (select(app="a") | {"baseModel": "m"}, select(app="a", tier="b")),
    ],
)
def test_what_may_never_meet_is_let_through(own: Any, other: Any) -> None:
    assert meet(of("new", **own), of("old", **other)) is None


def test_pod_that_both_select_is_named() -> None:
    pods = [SelectablePod("b", {"app": "a", "tier": "b"}, None), SelectablePod("a", {"app": "a"}, None)]
    message = meet(of("new", **select(app="a")), of("old", **select(tier="b")), *pods)
    assert message is not None
    assert "both select pod 'b'" in message


@pytest.mark.parametrize(("model", "clashes"), [("m", True), ("n", False), (None, False)])
def test_pod_of_another_base_model_is_nobodys(model: str | None, clashes: bool) -> None:
    pod = SelectablePod("b", {"app": "a", "tier": "b"}, model)
    message = meet(of("new", **select(app="a"), baseModel="m"), of("old", **select(tier="b")), pod)
    assert (message is not None) is clashes


def test_adapter_is_no_rival_of_itself() -> None:
    assert meet(of("one"), of("one")) is None


KEYS = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xy"), min_size=1, max_size=3)


@given(KEYS, KEYS, st.dictionaries(st.sampled_from("abc"), st.sampled_from("xy"), max_size=3))
def test_selections_conflict_if_nested_or_sharing_a_pod(
    own: dict[str, str], other: dict[str, str], labels: dict[str, str]
) -> None:
    new, old = of("new", **select(**own)), of("old", **select(**other))
    one_holds_the_other = own.items() <= other.items() or other.items() <= own.items()
    assert (declared_conflict(new, [old]) is not None) is one_holds_the_other
    in_both = (own.items() | other.items()) <= labels.items()
    assert (conflict_on_a_pod(new, [old], [SelectablePod("pod", labels, None)]) is not None) is in_both


# --- what a new pod is given


def test_new_pod_requires_adapters_of_all_pods_and_none_placed() -> None:
    everywhere, instances = of("everywhere"), of("placed", adapter_name="other", replicas=3)
    elsewhere = of("elsewhere", adapter_name="third", **select(app="b"))
    assert initial_adapters([everywhere, instances, elsewhere], {"app": "vllm"}, (), None) == [load_request(everywhere)]


def test_older_has_the_name_also_where_it_is_placed() -> None:
    older = of("older", replicas=1, metadata={"creationTimestamp": "2026-11-20T10:00:00Z"})
    assert initial_adapters([of("newer"), older], {"app": "vllm"}, (), None) == []


def test_credentials_are_announced_and_never_given() -> None:
    private = of("private", uri="hf://org/sql", source={"uri": "hf://org/sql", "secretRef": {"name": "hf"}})
    (order,) = initial_adapters([private], {"app": "vllm"}, (), None)
    assert order.expects_credentials
    assert order.config is None
    (public,) = initial_adapters([of("public", source={"uri": "hf://org/sql"})], {"app": "vllm"}, (), None)
    assert not public.expects_credentials


@pytest.mark.parametrize(("served", "admitted"), [((), 0), (("qwen",), 1), (("a", "qwen"), 1), (("llama",), 0)])
def test_guarded_adapter_goes_to_pods_known_to_serve_its_model(served: tuple[str, ...], admitted: int) -> None:
    assert len(initial_adapters([of("sql", baseModel="qwen")], {"app": "vllm"}, served, None)) == admitted


@pytest.mark.parametrize(
    ("room", "admitted"), [(None, ["pinned", "old", "new"]), (2, ["pinned", "old"]), (1, ["pinned"]), (0, [])]
)
def test_pod_gets_what_its_engine_has_capacity_for(room: int | None, admitted: list[str]) -> None:
    old = of("old", adapter_name="old", metadata={"creationTimestamp": "2026-11-20T10:00:00Z"})
    adapters = [of("new", adapter_name="new"), of("pinned", adapter_name="pinned", pinned=True), old]
    assert [request.lora_name for request in initial_adapters(adapters, {"app": "vllm"}, (), room)] == admitted


def test_one_name_for_two_base_models_is_each_ones_own() -> None:
    qwen, llama = of("qwen", baseModel="qwen"), of("llama", baseModel="llama")
    for adapter in (qwen, llama):
        (order,) = initial_adapters([qwen, llama], {"app": "vllm"}, (adapter.metadata.name,), None)
        assert order.owner == adapter.owner


@given(st.permutations(["a", "b", "c", "d"]))
def test_order_of_adapters_does_not_matter(order: list[str]) -> None:
    adapters = [of(name, adapter_name="x" if name in "ab" else name) for name in order]
    chosen = {request.owner for request in initial_adapters(adapters, {"app": "vllm"}, (), None)}
    assert chosen == {request.owner for request in for_pod(adapters, {"app": "vllm"}).values()}
    assert len(chosen) == 3
