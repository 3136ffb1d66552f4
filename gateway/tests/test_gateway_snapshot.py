"""What the gateway knows keeps what it must not tell."""

from __future__ import annotations

from patio_gateway.snapshot import Client, Snapshot


def test_key_of_a_client_is_not_in_its_text() -> None:
    client = Client(name="team-a", key="sk-very-secret")
    assert "sk-very-secret" not in repr(client)
    assert "sk-very-secret" not in str(Snapshot(clients=(client,)))


def test_snapshot_without_anything_said_is_closed() -> None:
    assert Snapshot().closed
