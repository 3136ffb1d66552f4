"""Which part of a cluster is served, by the command line and the pod's variables."""

from __future__ import annotations

import pytest

from patio_gateway.sources.kubernetes.options import Cluster, cluster_of

OWN = {"POD_NAME": "gateway-0", "POD_NAMESPACE": "patio-system"}


def test_whole_cluster_is_served_without_namespaces() -> None:
    assert cluster_of(None, True, False, OWN) == Cluster("patio-system", "gateway-0")


def test_namespaces_are_served_once_each() -> None:
    found = cluster_of("b,a,b", False, True, OWN)
    assert found == Cluster("patio-system", "gateway-0", ("b", "a"), closed=False)


@pytest.mark.parametrize("namespaces", ["", ",", "a,", "a, b", "A", "x" * 254])
def test_namespaces_that_are_no_names_are_told(namespaces: str) -> None:
    with pytest.raises(ValueError, match="--namespaces"):
        cluster_of(namespaces, True, False, OWN)


def test_choice_about_keys_is_asked_for() -> None:
    with pytest.raises(ValueError, match="--keys-from-secrets, or --open"):
        cluster_of(None, False, False, OWN)


@pytest.mark.parametrize("variable", OWN)
@pytest.mark.parametrize("value", [None, "", "Not A Name"])
def test_variable_that_is_missing_is_named(variable: str, value: str | None) -> None:
    variables = {name: text for name, text in (OWN | {variable: value}).items() if text is not None}
    with pytest.raises(ValueError, match=f"the variable {variable}, "):
        cluster_of(None, True, False, variables)
