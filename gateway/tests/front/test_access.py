"""The models that a client sees."""

from __future__ import annotations

from dataclasses import replace

from patio_gateway.front.access import visible
from patio_gateway.snapshot import Client, Model, Snapshot

SNAPSHOT = Snapshot(
    models=(Model("a/m", ("m",)), Model("b/n", ("n",)), Model("b/open", ("open",), public=True)),
    clients=(Client("a", "k", endpoints=("a/*",)),),
)


def test_client_sees_what_it_may_use_and_what_is_public() -> None:
    assert [model.endpoint for model in visible(SNAPSHOT, "a")] == ["a/m", "b/open"]
    assert [model.endpoint for model in visible(SNAPSHOT, None)] == ["b/open"]
    assert visible(replace(SNAPSHOT, closed=False), None) == SNAPSHOT.models
