"""Credentials: asked for, told as missing, repeated when they changed, and never part of a plan."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from patio_api.loraadapter import LoraAdapter
from patio_operator.loraadapters.planner.credentials import Credentials, InvalidSecretError, check, judge, with_secret
from patio_operator.loraadapters.planner.plan import Condition, InstanceState, Load, Order, Plan, Rejection
from patio_operator.loraadapters.planner.planner import plan
from patio_operator.loraadapters.planner.selection import load_request, source_revision
from patio_operator.loraadapters.planner.snapshot import Snapshot
from patio_operator.loraadapters.planner.status import recorded, status
from patio_protocol.adapters import AdapterReport, AdapterState, LoadRequest, PreparedReport, PreparedState
from patio_protocol.sources import read_config
from patio_testing.operator.builders import NOW, lora_adapter, pod, report, seen

SOURCE = {"uri": "s3://bucket/sql", "endpoint": "https://s3.example.com", "secretRef": {"name": "keys"}}
NOT_FOUND = Condition("SecretNotFound", "Secret keys does not exist.")


def adapter(**source: Any) -> LoraAdapter:
    return lora_adapter(source=SOURCE | source)


def planned(found: Credentials | Condition | None, *reports: AdapterReport, of: LoraAdapter | None = None) -> Plan:
    credentials = {} if found is None else {"sql": found}
    return plan(
        Snapshot(
            [pod(serving=["sql"] if reports else [])],
            {"uid-pod-0": seen(*reports)},
            [of or adapter()],
            NOW,
            credentials=credentials,
        )
    )


def orders(decided: Plan) -> list[Load]:
    return [action for action in decided.actions if isinstance(action, Load)]


def reported(state: AdapterState, reason: str = "", credentials: str | None = None) -> AdapterReport:
    current = report(load_request(adapter()), state, reason=reason)
    return current.model_copy(update={"credentials_revision": credentials})


def test_order_names_its_secret_and_has_none_of_its_values() -> None:
    (order,) = orders(planned(Credentials("7")))
    assert order.secret == "keys"
    assert order.request.credentials_revision == "7"
    assert dict(order.request.config or {}) == {"endpoint": "https://s3.example.com"}


def test_plain_order_has_only_what_an_older_sidecar_understands() -> None:
    (order,) = orders(planned(None, of=lora_adapter()))
    assert order.request.model_fields_set == {"lora_name", "lora_path", "owner", "revision", "wait"}
    assert order.secret is None


@pytest.mark.parametrize(("found", "reason"), [(NOT_FOUND, "SecretNotFound"), (None, "SecretNotRead")])
def test_missing_secret_orders_nothing_and_status_says_why(found: Condition | None, reason: str) -> None:
    for of in (adapter(), adapter().model_copy(update={"spec": lora_adapter(source=SOURCE, replicas=1).spec})):
        decided = planned(found, of=of)
        assert orders(decided) == []
        (ready, progressing, _) = status(of, decided.placements["sql"], recorded({}), NOW)["conditions"]
        assert (ready["status"], ready["reason"]) == ("False", reason)
        assert progressing["status"] == "False"


KEYS = {"ACCESS_KEY": "key", "SECRET_KEY": "s3cr3t"}


@pytest.mark.parametrize(
    ("source", "values", "field"),
    [
        ({"endpoint": "http://minio:9000"}, {}, "source.endpoint"),
        ({"endpoint": None}, {"ENDPOINT": " HTTP://minio:9000 "}, "ENDPOINT of Secret keys"),
        ({"uri": "hf://org/sql", "endpoint": "http://hub"}, {"HF_AUTH_TOKEN": "hf"}, "source.endpoint"),
    ],
)
def test_stored_endpoint_without_tls_is_sent_no_credentials(
    source: dict[str, Any], values: dict[str, str], field: str
) -> None:
    of = adapter(**source)
    found = judge(of, KEYS | values, "7")
    assert isinstance(found, Condition)
    assert field in found.message
    decided = planned(found, of=of)
    assert orders(decided) == []
    (ready, _, degraded) = status(of, decided.placements["sql"], recorded({}), NOW)["conditions"]
    assert (ready["status"], ready["reason"]) == ("False", "InsecureEndpoint")
    assert (degraded["status"], degraded["reason"]) == ("True", "InsecureEndpoint")
    assert "source.allowPlainHTTP" in degraded["message"]
    allowed = adapter(**source, allowPlainHTTP=True)
    assert judge(allowed, KEYS | values, "7") == Credentials("7")


def test_endpoint_without_tls_in_the_pod_is_sent_credentials() -> None:
    assert judge(adapter(endpoint="http://127.0.0.1:9000"), KEYS, "7") == Credentials("7")
    assert judge(adapter(), KEYS | {"ENDPOINT": "http://minio"}, "7") == Credentials("7"), "the spec's endpoint wins"


def test_secret_that_was_not_read_yet_is_nobodys_fault() -> None:
    pending = reported(AdapterState.PENDING, "CredentialsMissing", credentials="7")
    for decided in (planned(None), planned(None, pending)):
        conditions = status(adapter(), decided.placements["sql"], recorded({}), NOW)["conditions"]
        assert conditions[0]["reason"] == "SecretNotRead"
        assert [condition["status"] for condition in conditions] == ["False", "False", "False"]


def test_what_is_loaded_stays_loaded_though_the_secret_is_gone() -> None:
    decided = planned(NOT_FOUND, reported(AdapterState.LOADED, credentials="7"))
    assert decided.actions == ()
    assert [instance.state for instance in decided.placements["sql"].instances] == [InstanceState.LOADED]


def test_sidecar_that_waits_for_credentials_gets_them() -> None:
    waiting = reported(AdapterState.PENDING, "CredentialsMissing", credentials="7")
    (order,) = orders(planned(Credentials("7"), waiting))
    assert order.reason == "the sidecar has no credentials for the adapter"
    (instances,) = planned(NOT_FOUND, waiting).placements["sql"].instances
    assert (instances.state, instances.reason, instances.message) == (
        InstanceState.PENDING,
        *(NOT_FOUND.reason, NOT_FOUND.message),
    )


def test_changed_credentials_repeat_the_order_unless_loaded() -> None:
    assert len(orders(planned(Credentials("8"), reported(AdapterState.FAILED, credentials="7")))) == 1
    assert orders(planned(Credentials("8"), reported(AdapterState.LOADED, credentials="7"))) == []
    assert orders(planned(Credentials("8"), reported(AdapterState.FAILED, credentials="8"))) == []


def test_what_is_fetched_ahead_gets_changed_credentials_as_well() -> None:
    of = adapter(uri="s3://bucket/new")
    for state, credentials, again in (
        (PreparedState.PREPARED, "7", False),
        (PreparedState.DOWNLOADING, "8", False),
        (PreparedState.FAILED, "7", True),
    ):
        prepared = PreparedReport(
            revision=source_revision(of), state=state, reason="x", credentials_revision=credentials
        )
        old = reported(AdapterState.LOADED, credentials="7").model_copy(update={"prepared": prepared})
        prepare_flags = [order.request.prepare for order in orders(planned(Credentials("8"), old, of=of))]
        assert (True in prepare_flags) == again


def test_values_are_put_in_just_before_an_order_is_sent() -> None:
    request = load_request(adapter())
    sent = with_secret(request, {"ACCESS_KEY": " key ", "SECRET_KEY": "s3cr3t", "ENDPOINT": "https://other", "X": "y"})
    assert dict(sent.config or {}) == {
        "access_key": "key",
        "secret_key": "s3cr3t",
        "endpoint": "https://s3.example.com",
    }
    assert "s3cr3t" not in repr(sent)
    LoadRequest.model_validate(sent.model_dump(exclude_unset=True))


@pytest.mark.parametrize(
    ("uri", "values", "message"),
    [
        ("s3://bucket/x", {"ACCESS_KEY": "a", "SECRET_KEY": "b"}, None),
        ("s3://bucket/x", {"ACCESS_KEY": "a"}, "only one of ACCESS_KEY and SECRET_KEY"),
        ("s3://bucket/x", {"HF_AUTH_TOKEN": "a"}, "no ACCESS_KEY and SECRET_KEY"),
        ("org/repo", {"HF_AUTH_TOKEN": "a"}, None),
        ("org/repo", {"HF_AUTH_TOKEN": " "}, "no HF_AUTH_TOKEN"),
    ],
)
def test_secret_must_have_what_its_source_needs(uri: str, values: dict[str, str], message: str | None) -> None:
    source = {"uri": uri, "secretRef": {"name": "keys"}}
    found = judge(lora_adapter(source=source), values, "7")
    if message is None:
        assert found == Credentials("7")
    else:
        assert isinstance(found, Condition)
        assert found.reason == "SecretIncomplete"
        assert message in found.message


UNPROVEN = Rejection("Recreate the pod.", True, NOW + timedelta(seconds=9), "SidecarUnproven")


def order_key(of: LoraAdapter, number: int = 0) -> tuple[str, Order]:
    """The order for a pod, as a plan without refusals has it."""
    decided = plan(
        Snapshot(
            [pod(f"pod-{number}")], {f"uid-pod-{number}": seen()}, [of], NOW, credentials={"sql": Credentials("7")}
        )
    )
    (order,) = orders(decided)
    return f"uid-pod-{number}", order.request


@pytest.mark.parametrize("reason", ["SidecarUnproven", "TokenReviewForbidden", "TokenNotReviewed"])
def test_sidecar_that_proved_nothing_is_reported_with_the_remedy(reason: str) -> None:
    of = adapter()
    rejections = {order_key(of): Rejection("Recreate the pod.", True, UNPROVEN.until, reason)}
    decided = plan(
        Snapshot(
            [pod()], {"uid-pod-0": seen()}, [of], NOW, credentials={"sql": Credentials("7")}, rejections=rejections
        )
    )
    assert orders(decided) == []
    assert decided.requeue_at == UNPROVEN.until
    shown = status(of, decided.placements["sql"], recorded({}), NOW)
    (ready, progressing, degraded) = shown["conditions"]
    assert (ready["status"], ready["reason"], progressing["status"]) == ("False", reason, "False")
    assert (degraded["status"], degraded["reason"]) == ("True", reason)
    assert "Recreate the pod." in ready["message"]
    assert [instance["state"] for instance in shown["instances"]] == ["Pending"]


def test_admitted_pod_tells_why_credentials_do_not_come() -> None:
    of = adapter()
    waiting = reported(AdapterState.PENDING, "CredentialsMissing")
    (order,) = orders(planned(Credentials("7"), waiting))
    credentials, rejections = {"sql": Credentials("7")}, {("uid-pod-0", order.request): UNPROVEN}
    decided = plan(
        Snapshot(
            [pod(serving=["sql"])],
            {"uid-pod-0": seen(waiting)},
            [of],
            NOW,
            credentials=credentials,
            rejections=rejections,
        )
    )
    assert orders(decided) == []
    (instances,) = decided.placements["sql"].instances
    assert (instances.state, instances.reason) == (InstanceState.PENDING, "SidecarUnproven")


def test_other_pods_are_chosen_in_place_of_unproven_ones() -> None:
    of = lora_adapter(source=SOURCE, replicas=1)
    rejections = {order_key(of, number): UNPROVEN for number in range(6)}
    pods = [pod(f"pod-{number}") for number in range(7)]
    views = {f"uid-pod-{number}": seen() for number in range(7)}
    decided = plan(Snapshot(pods, views, [of], NOW, credentials={"sql": Credentials("7")}, rejections=rejections))
    assert [order.pod.name for order in orders(decided)] == ["pod-6"], "none of them counts as a try"


def test_region_and_addressing_reach_the_sidecar() -> None:
    config = {"region": "eu-west-1", "addressingStyle": "virtual", "allowPlainHTTP": True}
    request = load_request(lora_adapter(source={"uri": "s3://bucket/sql", **config}))
    options = {"region": "eu-west-1", "addressing_style": "virtual", "allow_plain_http": "true"}
    assert read_config(request.config) == options


def test_secret_may_name_region_and_addressing() -> None:
    request = load_request(lora_adapter(source=SOURCE))
    values = {"ACCESS_KEY": "key", "SECRET_KEY": "s", "REGION": "eu-west-1", "ADDRESSING_STYLE": "virtual"}
    config = read_config(with_secret(request, values).config)
    assert (config["region"], config["addressing_style"]) == ("eu-west-1", "virtual")


@pytest.mark.parametrize("change", [{"region": "eu-west-1"}, {"addressingStyle": "path"}, {"allowPlainHTTP": True}])
def test_changed_access_to_a_bucket_changes_the_revision(change: dict[str, object]) -> None:
    before, after = (lora_adapter(source=source) for source in (SOURCE, {**SOURCE, **change}))
    assert source_revision(before) != source_revision(after)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ACCESS_KEY": "k" * 8193}, "ACCESS_KEY is longer than 8192 characters"),
        ({"SECRET_KEY": "two words"}, "SECRET_KEY has a space"),
        ({"SECRET_KEY": "line\nbreak"}, "SECRET_KEY has a space, a line break"),
        ({"ENDPOINT": "https://user:secret@s3.example.com"}, "the endpoint is not a URL like"),
    ],
)
def test_value_that_no_sidecar_takes_is_named_and_not_shown(values: dict[str, str], message: str) -> None:
    private = lora_adapter(source={"uri": "s3://bucket/sql", "secretRef": {"name": "keys"}})
    with pytest.raises(InvalidSecretError) as found:
        check(load_request(private), KEYS | values)
    assert message in str(found.value)
    assert not any(value in str(found.value) for value in values.values())
