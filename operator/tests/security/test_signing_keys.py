"""The operator's signing key, its proofs, and the hook that injection gives to an engine."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from patio.access.authorizer import Authorizer, Hook
from patio.access.openness import CLOSED, HOOK
from patio.access.proof import Request, RequestRejection
from patio.access.settings import AccessSettings
from patio.routes.access import add_access
from patio_api import labels
from patio_operator.injection import CallerKeys, Injection, PodRejection, Runtime, inject
from patio_operator.injection.authentication import drain_seconds
from patio_operator.security.auth import ProofAuth
from patio_operator.security.proofs import proof
from patio_operator.security.signing_key_rotation import decide
from patio_operator.security.signing_keys import SigningKey, decode, encode, is_due, new_key, successor
from patio_operator.settings import Settings, SettingsError
from patio_protocol.adapters import UnloadRequest
from patio_protocol.authentication import MAX_ENDORSEMENTS, ProofClaims
from patio_protocol.client import SidecarClient
from patio_protocol.credentials import TOKEN_FILE
from patio_protocol.errors import RejectedError
from patio_testing.operator.builders import NOW
from patio_testing.operator.pod_builders import SIDECAR, VLLM, container, env, pod, profile

UID = "6d1f4c1e-8a55-4b38-9f0e-2f6f3c1b7d10"
AGE = timedelta(days=30)
ACCESS = CallerKeys(("pUbLiC", "other"), "a-word")
TARGET = "/v1/unload_lora_adapter"
UNSUPPORTED = "-----BEGIN PRIVATE KEY-----\nMA4CAQAwBQYDKgMEBAIEAA==\n-----END PRIVATE KEY-----\n"
"""A private key of a kind that nobody knows."""


def rotated(key: SigningKey, times: int) -> SigningKey:
    for _ in range(times):
        key = successor(key, NOW)
    return key


def sidecar_gate(key: SigningKey) -> Authorizer:
    """The gate of a sidecar that was admitted under this key, in its own code."""
    return Authorizer(AccessSettings(keys=(key.public,), pod_uid=UID), lambda: NOW.timestamp())


# --- keys


def test_secret_gives_back_the_key_and_a_broken_one_nothing() -> None:
    key = rotated(new_key(NOW), 2)
    data = encode(key)
    again = decode(data)
    assert again == key
    assert again is not None
    assert again.public == key.public
    for name in data:
        assert decode({key: value for key, value in data.items() if key != name}) is None
        assert decode({**data, name: "%"}) is None
    for name in ("signing.key", "made"):
        assert decode({**data, name: "bm90IHJpZ2h0"}) is None


def test_what_is_odd_in_the_secret_is_left_out_or_no_key() -> None:
    data = encode(rotated(new_key(NOW), 2))
    unsupported = base64.b64encode(UNSUPPORTED.encode()).decode()
    assert decode({**data, "signing.key": unsupported}) is None
    odd = "\u00fcber " + "x" * 1025 + " a.b.c"
    again = decode({**data, "endorsements": base64.b64encode(odd.encode()).decode()})
    assert again is not None
    assert again.endorsements == ("a.b.c",)
    tokens = base64.b64encode(b"a.b.c " * 100_000).decode()
    again = decode({**data, "endorsements": tokens})
    assert again is not None
    assert len(again.endorsements) == MAX_ENDORSEMENTS


def test_private_key_is_in_no_repr() -> None:
    assert "private" not in repr(new_key(NOW))
    assert "a-word" not in repr(ACCESS)


def test_rotation_drops_old_private_key_and_bounds_the_chain() -> None:
    first = new_key(NOW)
    second = successor(first, NOW)
    assert encode(first)["signing.key"] not in encode(second).values()
    assert len(rotated(first, MAX_ENDORSEMENTS + 3).endorsements) == MAX_ENDORSEMENTS


def secret(key: SigningKey, **annotations: str) -> dict[str, Any]:
    return {"metadata": {"name": "s", "resourceVersion": "7", "annotations": annotations}, "data": encode(key)}


def test_missing_key_is_made_and_kept_until_its_age() -> None:
    made = decide(None, AGE, NOW)
    assert made.data is not None
    assert made.value.endorsements == ()
    kept = decide(secret(made.value), AGE, NOW + AGE - timedelta(seconds=1))
    assert (kept.value.public, kept.data) == (made.value.public, None)


@pytest.mark.parametrize(("annotations", "later"), [({}, AGE), ({labels.ROTATE: ""}, timedelta())])
def test_key_of_age_and_one_to_rotate_get_a_successor(annotations: dict[str, str], later: timedelta) -> None:
    key = new_key(NOW)
    decision = decide(secret(key, **annotations), AGE, NOW + later)
    assert decision.data is not None
    assert decision.annotations == {labels.ROTATE: None}
    assert (decision.value.public != key.public, len(decision.value.endorsements)) == (True, 1)
    assert not is_due(decision.value, AGE, NOW + later)
    assert key.public[:8] in decision.message


def test_unreadable_key_is_recreated() -> None:
    decision = decide({"metadata": {"name": "s"}, "data": {"signing.key": "bm8="}}, AGE, NOW)
    assert decision.data is not None
    assert "unreadable" in decision.message


@pytest.mark.parametrize("value", ["0", "-1", "x", "4000", ""])
def test_age_of_a_key_is_a_number_of_days(value: str) -> None:
    with pytest.raises(SettingsError, match="PATIO_SIGNING_KEY_DAYS"):
        Settings.from_environment({"PATIO_NAMESPACE": "p", "POD_NAME": "n", "PATIO_SIGNING_KEY_DAYS": value})
    settings = Settings.from_environment({"PATIO_NAMESPACE": "p", "POD_NAME": "n", "PATIO_SIGNING_KEY_DAYS": "7"})
    assert settings.signing_key_age == timedelta(days=7)


# --- proofs, as the sidecar's own code sees them


def test_sidecar_takes_what_the_operator_signs() -> None:
    key = new_key(NOW)
    token = proof(key, UID, "POST", TARGET, b"{}", NOW.timestamp(), "j" * 16)
    claims = sidecar_gate(key).admit(Request("POST", TARGET), CLOSED, [f"Patio-Proof {token}"], ())
    assert isinstance(claims, ProofClaims)
    stranger = sidecar_gate(new_key(NOW)).admit(Request("POST", TARGET), CLOSED, [f"Patio-Proof {token}"], ())
    assert isinstance(stranger, RequestRejection)


def sidecar_http(gate: Authorizer, denials: list[str]) -> httpx.AsyncClient:
    """A sidecar's guard before one route, called from another address."""
    app = FastAPI()
    add_access(app, gate, denials.append)

    @app.post(TARGET)
    async def unload() -> None: ...

    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app, client=("10.1.2.3", 5)), base_url="http://sidecar")


async def test_calls_are_signed_and_endorsed_after_missed_rotations() -> None:
    old, denials = new_key(NOW), list[str]()
    current = rotated(old, 3)
    auth = ProofAuth(UID, lambda: current, nothing_new, lambda: NOW.timestamp())
    async with sidecar_http(sidecar_gate(old), denials) as http:
        for _ in range(2):
            response = await http.post(TARGET, params={"a": "b c/%ü"}, json={"lora_name": "a"}, auth=auth)
            assert response.status_code == 200, response.text
    assert denials == ["UnknownKey"], "asked for endorsements once"


async def test_replica_that_was_overtaken_reads_the_key_again() -> None:
    old, denials = new_key(NOW), list[str]()
    current, newest = old, rotated(old, 1)

    async def look_up() -> None:
        nonlocal current
        current = newest

    auth = ProofAuth(UID, lambda: current, look_up, lambda: NOW.timestamp())
    async with sidecar_http(sidecar_gate(newest), denials) as http:
        assert (await http.post(TARGET, auth=auth)).status_code == 200
    assert denials == ["UnknownKey"]


async def nothing_new() -> None:
    """Another replica has made no key."""


async def test_denial_that_endorsements_do_not_mend_is_not_repeated() -> None:
    key, stranger, denials = new_key(NOW), new_key(NOW), list[str]()
    async with sidecar_http(sidecar_gate(key), denials) as http:
        for auth in (
            ProofAuth("another-pod", lambda: key, nothing_new, lambda: NOW.timestamp()),
            ProofAuth(UID, lambda: stranger, nothing_new, lambda: NOW.timestamp()),
        ):
            assert (await http.post(TARGET, auth=auth)).status_code == 401
    assert denials == ["ProofForAnotherPod", "UnknownKey"]


async def test_typed_client_signs_with_what_it_is_given() -> None:
    key, denials = new_key(NOW), list[str]()
    async with sidecar_http(sidecar_gate(key), denials) as http:
        client = SidecarClient(
            "http://sidecar", http, ProofAuth(UID, lambda: key, nothing_new, lambda: NOW.timestamp())
        )
        with pytest.raises(RejectedError) as refused:  # the route above answers with nothing
            await client.unload(UnloadRequest(lora_name="a"))
        assert (refused.value.code, denials) == ("UnreadableAnswer", [])


async def test_what_the_documentation_signs_is_taken() -> None:
    (code,) = re.findall(
        r"```python\n(.*?)```", (Path(__file__).parents[3] / "docs/concepts/access.md").read_text(), re.S
    )
    names: dict[str, Any] = {}
    exec(code, names)
    key, denials = new_key(NOW), list[str]()
    gate = Authorizer(AccessSettings(keys=(key.public,), pod_uid=UID), time.time)
    async with sidecar_http(gate, denials) as http:
        response = await http.post(TARGET, json={"lora_name": "a"}, auth=names["Signed"](key.private, UID))
    assert (response.status_code, denials) == (200, [])


# --- what injection gives


def injected(before: dict[str, Any], *, access: CallerKeys = ACCESS, **spec: Any) -> Injection:
    result = inject(before, (Runtime(profile(**spec)),), (), access)
    assert isinstance(result, Injection), result
    return result


def hook(of: dict[str, Any]) -> Any:
    return (container(of, "vllm").get("lifecycle") or {}).get("preStop")


def test_sidecar_gets_the_keys_and_the_identity_of_its_pod() -> None:
    after = injected(pod()).pod
    variables = env(after, "patio")
    assert (variables["PATIO_OPERATOR_KEYS"], variables["POD_UID"]) == ("pUbLiC,other", "metadata.uid")
    assert "PATIO_OPERATOR_KEYS" not in env(after, "vllm")


def test_engine_hook_may_drain_by_the_authorizer_of_its_sidecar() -> None:
    after = injected(pod(terminationGracePeriodSeconds=60)).pod
    call = hook(after)["httpGet"]
    assert (call["path"], call["port"]) == ("/v1/drain?timeout=50", 9091)
    digest = env(after, "patio")["PATIO_DRAIN_PROOF_SHA256"]
    assert digest == hashlib.sha256(b"a-word").hexdigest()
    gate = Authorizer(AccessSettings(drain_proof_sha256=digest), lambda: 0.0)
    (header,) = call["httpHeaders"]
    assert header["name"] == "Authorization"
    assert gate.admit(Request("GET", call["path"]), HOOK, [header["value"]], ()) == Hook()


TOKEN_MOUNT = {"name": "patio-sidecar-token", "mountPath": "/var/run/secrets/patio.dev/sidecar", "readOnly": True}
TOKEN = {"serviceAccountToken": {"audience": "patio.dev/sidecar", "expirationSeconds": 3600, "path": "token"}}
"""As the API server gives it back, which adds nothing to it."""
ACCOUNT = {"serviceAccountName": "default"}


def volumes(of: dict[str, Any]) -> list[Any]:
    return [volume for volume in of["spec"]["volumes"] if volume["name"] == "patio-sidecar-token"]


def test_sidecar_alone_is_given_a_token_of_its_pod() -> None:
    helper = {"name": "helper", "image": "helper:1"}
    before = pod(VLLM, helper, automountServiceAccountToken=False, **ACCOUNT)
    after = injected(before, initContainers=[SIDECAR], containers=[{"name": "monitor", "image": "monitor:1"}])
    assert volumes(after.pod) == [{"name": "patio-sidecar-token", "projected": {"sources": [TOKEN]}}]
    assert after.pod["spec"]["automountServiceAccountToken"] is False
    assert TOKEN_MOUNT in container(after.pod, "patio")["volumeMounts"]
    assert TOKEN_FILE == "/var/run/secrets/patio.dev/sidecar/token"
    for name in ("vllm", "helper", "monitor"):
        assert TOKEN_MOUNT["name"] not in str(container(after.pod, name))


def test_inject_containers_are_not_given_the_token() -> None:
    runtime = Runtime(profile(), inject_containers=("vllm",))
    result = inject(pod(**ACCOUNT), (runtime,), (), ACCESS)
    assert isinstance(result, Injection)
    assert TOKEN_MOUNT["name"] not in str(container(result.pod, "vllm"))


def test_token_that_the_api_server_completed_stays() -> None:
    once = injected(pod(**ACCOUNT)).pod
    volumes(once)[0]["projected"]["defaultMode"] = 420
    assert injected(once).pod == once


def test_volume_of_the_tokens_name_is_a_conflict() -> None:
    taken = [{"name": "patio-sidecar-token", "emptyDir": {}}]
    result = inject(pod(volumes=taken, **ACCOUNT), (Runtime(profile()),), (), ACCESS)
    assert isinstance(result, PodRejection)
    assert "'patio-sidecar-token'" in result.message
    assert "rename it" in result.message


def test_token_that_the_pods_owner_arranged_stays() -> None:
    mount = {"name": "own", "mountPath": "/var/run/secrets/patio.dev/sidecar/"}
    after = injected(pod(**ACCOUNT), initContainers=[SIDECAR | {"volumeMounts": [mount]}], volumes=[{"name": "own"}])
    assert container(after.pod, "patio")["volumeMounts"] == [mount]
    assert volumes(after.pod) == []


def test_pod_of_no_service_account_gets_no_token() -> None:
    after = injected(pod()).pod
    assert volumes(after) == []
    assert TOKEN_MOUNT not in container(after, "patio")["volumeMounts"]


def test_second_admission_keeps_proof_and_keys() -> None:
    once = injected(pod()).pod
    assert injected(once, access=CallerKeys(("newer",), "another-word")).pod == once


@pytest.mark.parametrize(
    ("grace", "seconds"), [(86400, 3600), (3600, 3590), (60, 50), (30, 23), (12, 9), (5, 3), (3, 1), (2, 0), (0, -2)]
)
def test_drain_leaves_the_engine_time_to_end(grace: int, seconds: int) -> None:
    assert drain_seconds(grace) == seconds


def test_pod_without_a_grace_period_of_its_own_has_the_default() -> None:
    assert hook(injected(pod()).pod)["httpGet"]["path"] == "/v1/drain?timeout=23"


def test_hook_of_the_engines_own_stays_and_is_warned_about() -> None:
    own = {"exec": {"command": ["sleep", "5"]}}
    result = injected(pod(VLLM | {"lifecycle": {"preStop": own}}))
    assert hook(result.pod) == own
    assert "PATIO_DRAIN_PROOF_SHA256" not in env(result.pod, "patio")
    assert any(
        "its own preStop hook" in warning and "http://localhost:9091/v1/drain" in warning for warning in result.warnings
    )


def test_what_else_an_engine_does_at_its_start_is_kept() -> None:
    start = {"exec": {"command": ["true"]}}
    after = injected(pod(VLLM | {"lifecycle": {"postStart": start}})).pod
    assert container(after, "vllm")["lifecycle"]["postStart"] == start
    assert hook(after) is not None


def test_hook_that_could_not_work_is_left_out_with_a_warning() -> None:
    short = injected(pod(terminationGracePeriodSeconds=2))
    assert hook(short.pod) is None
    assert any("terminationGracePeriodSeconds" in warning for warning in short.warnings)
    ordinary = {key: value for key, value in SIDECAR.items() if key not in ("restartPolicy", "volumeMounts")}
    beside = injected(pod(), containers=[ordinary])
    assert hook(beside.pod) is None
    assert any("init container with restartPolicy: Always" in warning for warning in beside.warnings)


def test_container_not_recognised_as_engine_gets_no_hook() -> None:
    after = injected(pod({"name": "web", "image": "nginx"})).pod
    assert "lifecycle" not in container(after, "web")
    override = {"name": "patio", "env": [{"name": "INFERENCE_ENGINE", "value": "vllm"}]}
    result = inject(pod({"name": "web", "image": "nginx"}), (Runtime(profile(), (override,)),), (), ACCESS)
    assert isinstance(result, Injection)
    assert "preStop" in container(result.pod, "web")["lifecycle"]
