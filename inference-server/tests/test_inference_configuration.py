"""Configurations as values: merging, keys, kinds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_server.configuration import merged, settings_from, variables_from


def test_mappings_are_merged_one_level_deep() -> None:
    content = {"a": 1, "config": {"x": {"y": 1}, "z": 2}}
    assert merged(content, {"a": 2, "config": {"x": {}}}) == {"a": 2, "config": {"x": {}, "z": 2}}
    assert merged(content, None) == content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "'model' is required in configuration file"),
        ({"model": ""}, "'model' is required in configuration file"),
        ({"model": "m", "config": [1]}, "'config' must be a mapping"),
        ({"model": "m", "launch_command": "a b"}, "'launch_command' must be a list"),
    ],
)
def test_wrong_content_is_a_value_error(content: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        settings_from(content)


def test_binary_path_at_the_top_counts_less_than_in_config() -> None:
    assert settings_from({"model": "m", "binary_path": "a"}).arguments["config"] == {"binary_path": "a"}
    both = settings_from({"model": "m", "binary_path": "a", "config": {"binary_path": "b"}})
    assert both.arguments["config"] == {"binary_path": "b"}


def test_defaults_are_those_of_the_class() -> None:
    settings = settings_from({"model": "m"})
    assert settings.backend == "vllm"
    assert settings.arguments == {"config": {}}
    assert settings.launch_command is None


def test_unknown_key_is_reported_with_the_nearest() -> None:
    (warning,) = settings_from({"model": "m", "hartbeat_interval": 1, "ports": [1]}).warnings
    assert "did you mean 'heartbeat_interval'" in warning


@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text()))
def test_variables_are_text(variables: dict[str, Any]) -> None:
    found = variables_from(variables)
    assert set(found) == {name for name, value in variables.items() if value is not None}
    assert all(isinstance(value, str) for value in found.values())
