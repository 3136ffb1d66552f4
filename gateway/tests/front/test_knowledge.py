"""What a request needs of a snapshot, by name."""

from __future__ import annotations

from patio_gateway.front.knowledge import Index
from patio_gateway.snapshot import Model, QueueLimits, Snapshot, Worker

WORKERS = (
    Worker("m-0", ("127.0.0.1", 1), frozenset({"sql", "undeclared"})),
    Worker("m-1", ("127.0.0.1", 2)),
)
MODEL = Model("a/m", ("m", "chat"), adapters=("sql", "law"), workers=WORKERS, queue=QueueLimits(per_worker=8))


def test_names_aliases_and_adapters_are_found() -> None:
    index = Index(Snapshot(models=(MODEL,)))
    assert index.find("chat") == (MODEL, None)
    assert index.find("law") == (MODEL, "law")
    assert index.find("undeclared") is None
    assert index.find("") is None


def test_model_takes_precedence_over_an_adapter_of_its_name() -> None:
    other = Model("b/sql", ("sql",))
    assert Index(Snapshot(models=(MODEL, other))).find("sql") == (other, None)


def test_ready_places_have_what_their_workers_take() -> None:
    index = Index(Snapshot(models=(MODEL,)))
    assert index.ready == {("a/m", None): 16, ("a/m", "sql"): 8}
    assert index.places == {("a/m", None), ("a/m", "sql"), ("a/m", "law")}
