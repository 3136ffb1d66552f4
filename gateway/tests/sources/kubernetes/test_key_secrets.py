"""Keys of clients from Secrets: who has one, what a fault leaves, and that no key is told."""

from __future__ import annotations

from typing import Any

import pytest

from patio_api.endpoint_labels import GATEWAY_KEYS
from patio_gateway.snapshot import Client
from patio_gateway.sources import keys
from patio_gateway.sources.kubernetes import key_secrets
from patio_gateway.sources.kubernetes.key_secrets import KeySecret, clients_of, decode_key_secret
from patio_testing.model_objects import LATER, key_secret

FIRST, SECOND, THIRD = (f"sk-{number}-0123456789" for number in range(3))


def entry(name: str, key: str) -> str:
    return f"- {{name: {name}, key: {key}}}\n"


def decoded(*args: Any, **fields: Any) -> KeySecret:
    found = decode_key_secret(key_secret(*args, **fields))
    assert found is not None
    return found


def test_every_entry_of_a_secret_is_a_list_of_clients() -> None:
    secret = decoded("a", entry("x", FIRST), f"- {{name: y, key: {SECOND}, endpoints: [team/*], priority: 3}}")
    assert secret.clients == (Client("x", FIRST), Client("y", SECOND, endpoints=("team/*",), priority=3))
    assert not secret.problem


def test_secret_without_the_label_has_no_keys() -> None:
    for labels in ({}, {GATEWAY_KEYS: "false"}):
        assert decode_key_secret(key_secret("a", entry("x", FIRST), labels=labels)) is None


def test_secret_without_data_has_no_clients() -> None:
    secret = decode_key_secret(key_secret("a") | {"data": None})
    assert secret is not None
    assert (secret.clients, secret.problem) == ((), "")


@pytest.mark.parametrize("text", [f"- {{name: x, key: '{FIRST} y'}}", "[", f"key: {FIRST}"])
def test_fault_of_a_secret_names_the_entry_and_no_key(text: str) -> None:
    secret = decoded("a", text)
    assert secret.clients == ()
    assert secret.problem.startswith("Secret a, entry keys-0.yaml")
    assert FIRST not in secret.problem


def test_entry_that_is_no_base64_is_a_fault() -> None:
    secret = decode_key_secret(key_secret("a") | {"data": {"keys": "%%"}})
    assert secret is not None
    assert "no base64" in secret.problem


def test_clients_of_all_secrets_have_keys() -> None:
    secrets = [decoded("b", entry("y", SECOND)), decoded("a", entry("x", FIRST))]
    assert [client.name for client in clients_of(secrets).clients] == ["x", "y"]
    assert clients_of(secrets[:1]).clients == (Client("y", SECOND),)


def test_name_or_key_that_two_secrets_have_is_the_older_ones() -> None:
    older = decoded("z", entry("x", FIRST))
    younger = decoded("a", entry("x", SECOND) + entry("y", FIRST) + entry("z", THIRD), created=LATER)
    for secrets in ([older, younger], [younger, older]):
        found = clients_of(secrets)
        assert found.clients == (Client("x", FIRST), Client("z", THIRD))
        assert [problem.rsplit(" ", 1)[1] for problem in found.problems] == ["name.", "key."]
        assert not any(key in problem for problem in found.problems for key in (FIRST, SECOND, THIRD))


def test_broken_secret_keeps_its_clients_and_stops_no_other() -> None:
    before = clients_of([decoded("a", entry("x", FIRST)), decoded("b", entry("y", SECOND))])
    broken = [decoded("a", "["), decoded("b", entry("y", THIRD))]
    after = clients_of(broken, before.readable)
    assert after.clients == (Client("x", FIRST), Client("y", THIRD))
    assert "1 clients of before are kept" in after.problems[0]
    assert clients_of(broken, after.readable).clients == after.clients
    assert clients_of(broken).clients == (Client("y", THIRD),)


def test_secret_that_was_made_again_has_nothing_of_before() -> None:
    before = clients_of([decoded("a", entry("x", FIRST))])
    assert clients_of([decoded("a", "[", uid="another")], before.readable).clients == ()


def test_clients_past_the_limit_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_secrets, "MOST_KEYS", 2)
    assert keys.MOST_KEYS == 10_000
    found = clients_of([decoded("a", entry("x", FIRST) + entry("y", SECOND) + entry("z", THIRD))])
    assert [client.name for client in found.clients] == ["x", "y"]
    assert "z is left out: there are 2 others" in found.problems[0]
