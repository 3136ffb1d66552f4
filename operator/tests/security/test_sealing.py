"""Sidecars that prove which pod they are in, and credentials that they alone can read: both ends against each other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patio.credentials.sealing import SealedError, Sealing
from patio_operator.security.sealing import sealed, token_of
from patio_operator.security.token_rules import objection, review_of
from patio_protocol.adapters import LoadRequest
from patio_protocol.credentials import HandshakeAnswer, HandshakeRequest, order_digest
from patio_protocol.sealed_boxes import new_key
from patio_protocol.sources import SourceConfig
from patio_testing.operator.builders import review_status

UID = "uid-pod-0"
SECRET = "hf_do_not_show_me"
VALUES = {"hf_token": SECRET}
ORDER = LoadRequest(lora_name="sql", source="hf://org/repo", owner="me", revision="1", wait=0, credentials_revision="7")


def sidecar(uid: str = UID, token: str = "a-token") -> tuple[Sealing, str]:
    """A sidecar that proved itself once, and its key."""
    sealing = Sealing(uid, lambda: token)
    own_key = new_key()
    answer = sealing.answer(HandshakeRequest(key=own_key.public))
    assert answer is not None
    assert token_of(answer, own_key, uid) == token
    return sealing, answer.key


def code_of(sealing: Sealing, order: LoadRequest) -> str:
    with pytest.raises(SealedError) as caught:
        sealing.opened(order)
    assert SECRET not in str(caught.value) + repr(caught.value)
    return caught.value.code


# --- credentials in orders


def test_sealed_order_is_opened_into_its_config() -> None:
    sealing, key = sidecar()
    order = ORDER.model_copy(update={"config": SourceConfig({"endpoint": "https://hub.example.com"})})
    sent = sealed(order, {**VALUES, "endpoint": "https://other.example.com"}, UID, key)
    assert SECRET not in sent.model_dump_json() + repr(sent)
    opened = sealing.opened(
        LoadRequest.model_validate_json(sent.model_dump_json(exclude_none=True, exclude_unset=True))
    )
    assert dict(opened.config or {}) == {"hf_token": SECRET, "endpoint": "https://hub.example.com"}
    assert opened.sealed_credentials is None
    assert SECRET not in repr(opened)


def test_order_without_sealed_credentials_stays_as_it_is() -> None:
    sealing, _ = sidecar()
    assert sealing.opened(ORDER) is ORDER


CHANGES: dict[str, Any] = {
    "lora_name": "code",
    "source": "s3://somebody-elses/bucket",
    "config": SourceConfig({"hf_endpoint": "https://evil.example.com"}),
    "output_dir": "/models/other",
    "owner": "LoraAdapter/other/sql",
    "revision": "2",
    "credentials_revision": "8",
    "prepare": True,
    "max_workers": 1,
}


@pytest.mark.parametrize("changed", CHANGES)
def test_credentials_moved_to_another_order_are_not_opened(changed: str) -> None:
    sealing, key = sidecar()
    sent = sealed(ORDER, VALUES, UID, key)
    moved = ORDER.model_copy(update={changed: CHANGES[changed], "sealed_credentials": sent.sealed_credentials})
    assert code_of(sealing, moved) == "SealedInvalid"


def test_credentials_for_another_pod_or_start_are_not_opened() -> None:
    sealing, key = sidecar()
    assert code_of(sealing, sealed(ORDER, VALUES, "uid-other", key)) == "SealedInvalid"
    restarted, _ = sidecar()
    assert code_of(restarted, sealed(ORDER, VALUES, UID, key)) == "SealedForAnother"
    unused = Sealing(UID, lambda: "a-token")
    assert code_of(unused, sealed(ORDER, VALUES, UID, key)) == "SealedForAnother"


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_tampered_credentials_are_not_opened(data: st.DataObject) -> None:
    sealing, key = sidecar()
    text = sealed(ORDER, VALUES, UID, key).sealed_credentials or ""
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.one_of(st.text(max_size=3), st.sampled_from("ABCDabcd0129-_.")))
    tampered = text[:at] + other + text[at + 1 :]
    if tampered == text:
        return
    assert code_of(sealing, ORDER.model_copy(update={"sealed_credentials": tampered})) in (
        "SealedInvalid",
        "SealedForAnother",
    )


@pytest.mark.parametrize(
    "config",
    [
        {"hf_token": f"{SECRET}\nX-Other: 1"},
        {"access_key": SECRET},
        {"password": SECRET},
        {"hf_token": SECRET * 4000},
    ],
)
def test_credentials_that_no_order_can_have_are_rejected_unseen(config: dict[str, str]) -> None:
    sealing, key = sidecar()
    assert code_of(sealing, sealed(ORDER, config, UID, key)) == "SealedInvalid"


@given(
    st.builds(
        LoadRequest,
        lora_name=st.from_regex(r"[a-z][a-z0-9]{0,20}", fullmatch=True),
        source=st.just("s3://bucket/folder"),
        wait=st.floats(0, 600) | st.integers(0, 600),
        owner=st.none() | st.text(max_size=20).filter(lambda text: text.isprintable()),
        prepare=st.booleans(),
        max_workers=st.integers(1, 32),
    )
)
def test_orders_digest_survives_the_wire(order: LoadRequest) -> None:
    sent = order.model_dump_json(exclude_none=True, exclude_unset=True)
    assert order_digest(LoadRequest.model_validate_json(sent)) == order_digest(order)


# --- the handshake


def test_proof_is_for_one_handshake_and_one_pod() -> None:
    sealing = Sealing(UID, lambda: "a-token")
    own_key, other = new_key(), new_key()
    answer = sealing.answer(HandshakeRequest(key=own_key.public))
    assert answer is not None
    assert "a-token" not in answer.model_dump_json()
    assert token_of(answer, own_key, UID) == "a-token"
    assert token_of(answer, other, UID) is None, "replayed to another handshake"
    assert token_of(answer, own_key, "uid-other") is None
    strangers = new_key()
    assert token_of(answer.model_copy(update={"key": strangers.public}), own_key, UID) is None, "with a key of another"


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_tampered_proof_is_none(data: st.DataObject) -> None:
    own_key = new_key()
    answer = Sealing(UID, lambda: "a-token").answer(HandshakeRequest(key=own_key.public))
    assert answer is not None
    at = data.draw(st.integers(0, len(answer.proof) - 1))
    tampered = answer.proof[:at] + data.draw(st.text(max_size=2)) + answer.proof[at + 1 :]
    if tampered != answer.proof:
        assert token_of(answer.model_copy(update={"proof": tampered}), own_key, UID) is None


@pytest.mark.parametrize("text", ["", "short", "A" * 43, "A" * 42 + "!", "\u00e9" * 43, "_" * 43])
def test_handshake_with_no_usable_key_comes_to_nothing(text: str) -> None:
    assert Sealing(UID, lambda: "t").answer(HandshakeRequest(key=text)) is None
    assert token_of(HandshakeAnswer(key=text, proof="x" * 100), new_key(), UID) is None


# --- what the API server says


def judged(status: Any) -> str | None:
    return objection({"status": status}, "team", UID)


def test_token_of_this_pod_and_audience_is_no_objection() -> None:
    assert judged(review_status("team", UID)) is None
    assert review_of("a-token")["spec"] == {"token": "a-token", "audiences": ["patio.dev/sidecar"]}


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (review_status("team", "uid-other"), "another pod"),
        (review_status("other", UID), "service account of namespace team"),
        (review_status("team", UID, audiences=["https://kubernetes.default.svc"]), "audience"),
        (review_status("team", UID, audiences=None), "audience"),
        ({"authenticated": False, "error": "token has expired"}, "token has expired"),
        (review_status("team", UID, authenticated="true"), "rejects its token"),
        (review_status("team", UID, user={"username": "system:serviceaccount:team:default"}), "not bound"),
        (review_status("team", UID, user={"username": "system:serviceaccount:team-b:default"}), "namespace team"),
        ({}, "rejects its token"),
        (None, "rejects its token"),
        ([], "rejects its token"),
    ],
)
def test_any_other_token_is_an_objection(status: Any, message: str) -> None:
    assert message in (judged(status) or "")


def test_pod_uid_in_two_values_is_an_objection() -> None:
    status = review_status("team", UID)
    status["user"]["extra"]["authentication.kubernetes.io/pod-uid"] = [UID, "uid-other"]
    assert judged(status) is not None
