"""In which group of clusters a ModelEndpoint is."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patio_gateway.control.groups import (
    LOAD_BOUNDS,
    SHARDS,
    groups_of,
    most_own_groups,
)
from patio_gateway.snapshot import Model, Routing

NAMES = st.lists(st.tuples(st.text(min_size=1), st.floats(1, 100)), unique_by=lambda named: named[0], max_size=30)


def models_of(named: list[tuple[str, float]]) -> list[Model]:
    return [Model(name, (name,), routing=Routing(load_bound=bound)) for name, bound in named]


@given(NAMES)
def test_own_groups_are_of_one_endpoint_each(named: list[tuple[str, float]]) -> None:
    groups = groups_of(models_of(named), most_own=30)
    assert len({group.name for group in groups.values()}) == len(named)
    # The name becomes a header, a file and a part of Envoy's statistics.
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,100}", group.name) for group in groups.values())


@given(NAMES)
def test_number_of_shared_groups_does_not_grow(named: list[tuple[str, float]]) -> None:
    groups = set(groups_of(models_of(named), most_own=0).values())
    # Envoy opens two inotify instances for each, and 128 is all that Linux gives a user.
    assert len(groups) <= len(LOAD_BOUNDS) * SHARDS
    assert len(LOAD_BOUNDS) * SHARDS * 2 + 3 < 128


@pytest.mark.parametrize(("bound", "percent"), [(1.25, 125), (1.0, 110), (1.3, 125), (1.4, 150), (1.8, 200), (99, 200)])
def test_shared_groups_have_the_nearest_bound(bound: float, percent: int) -> None:
    model = Model("a/m", ("m",), routing=Routing(load_bound=bound))
    assert groups_of([model], most_own=0)["a/m"].bound == percent
    assert groups_of([model], most_own=1)["a/m"].bound == min(round(bound * 100), 1000)


@pytest.mark.parametrize(("instances", "most"), [(0, 0), (48, 0), (128, 40), (8192, 4072)])
def test_kernels_limit_says_how_many_have_their_own(instances: int, most: int) -> None:
    assert most_own_groups(instances) == most


def test_models_spread_over_all_shared_groups() -> None:
    groups = groups_of([Model(f"team/model-{number}", ("m",)) for number in range(400)], most_own=40)
    names = [group.name for group in groups.values()]
    assert len(set(names)) == SHARDS
    assert max(names.count(name) for name in names) < 2 * 400 / SHARDS
