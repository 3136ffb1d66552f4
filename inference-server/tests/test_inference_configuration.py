"""Configurations as values: merging, keys, kinds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_server.arguments import normalize_server_args
from inference_server.configuration import (
    MOST_SERVERS,
    fleet_settings_from,
    merged,
    settings_from,
    variables_from,
    with_engine_arguments,
    with_value,
)


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
        ({"model": "m", "port": "x"}, "'port' must be a whole number, not 'x'"),
        ({"model": "m", "port": 65536}, "'port' must be a whole number, not 65536"),
        ({"model": "m", "port": 1.5}, "'port' must be a whole number, not 1.5"),
        ({"model": "m", "port": True}, "'port' must be a whole number, not True"),
        ({"model": "m", "startup_timeout": -1}, "'startup_timeout' must be seconds, not -1"),
        ({"model": "m", "startup_timeout": "inf"}, "'startup_timeout' must be seconds, not 'inf'"),
        ({"model": "m", "debug_mode": "yes"}, "'debug_mode' must be true or false, not 'yes'"),
        ({"model": "m", "env_vars": ["A=1"]}, "'env_vars' must be a mapping"),
        ({"model": "m", "env_vars": {"A=": "1"}}, "'A=' in 'env_vars' is not the name of a variable"),
        ({"model": "m", "env_vars": {1: "1"}}, "1 in 'env_vars' is not the name of a variable"),
        ({"model": "m", "profile": "nsys"}, "'profile' must be a mapping"),
        ({"model": "m", "replicas": 2}, "several servers: use fleet_from_config"),
        ({"model": "m", "servers": [{}]}, "several servers: use fleet_from_config"),
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


def test_seconds_as_text_become_numbers() -> None:
    assert settings_from({"model": "m", "startup_timeout": "60", "port": "8001"}).arguments == {
        "config": {},
        "startup_timeout": 60.0,
        "port": "8001",
    }


# Several servers


def test_replicas_are_equal_servers() -> None:
    settings = fleet_settings_from({"model": "m", "replicas": 2, "stagger": 3, "minimum": 1})
    assert settings.contents == ({"model": "m"}, {"model": "m"})
    assert (settings.stagger, settings.minimum) == (3, 1)


def test_servers_share_what_they_do_not_say_themselves() -> None:
    content = {
        "model": "m",
        "env_vars": {"A": "1"},
        "servers": [{"model": "n", "replicas": 2}, {"env_vars": {"B": "2"}}],
    }
    assert fleet_settings_from(content).contents == (
        {"model": "n", "env_vars": {"A": "1"}},
        {"model": "n", "env_vars": {"A": "1"}},
        {"model": "m", "env_vars": {"A": "1", "B": "2"}},
    )


def test_one_server_is_a_fleet_too() -> None:
    assert fleet_settings_from({"model": "m"}).contents == ({"model": "m"},)
    assert fleet_settings_from({"model": "m"}).minimum is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"replicas": 0}, "'replicas' must be a number from 1"),
        ({"replicas": MOST_SERVERS + 1}, "'replicas' must be a number from 1"),
        ({"replicas": "2"}, "'replicas' must be a number from 1"),
        ({"replicas": True}, "'replicas' must be a number from 1"),
        ({"servers": []}, "'servers' must be a list"),
        ({"servers": "ab"}, "'servers' must be a list"),
        ({"servers": ["a"]}, "'servers' must be a list"),
        ({"servers": [{"replicas": MOST_SERVERS}, {}]}, f"more than {MOST_SERVERS} servers"),
        ({"replicas": 2, "minimum": 3}, "'minimum' is 3, of 2 servers"),
        ({"stagger": "soon"}, "'stagger' must be seconds"),
    ],
)
def test_wrong_fleet_is_a_value_error(content: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fleet_settings_from({"model": "m", **content})


# What the command line puts on top


@pytest.mark.parametrize(
    ("key", "text", "content"),
    [
        ("port", "1", {"port": 1}),
        ("debug_mode", "true", {"debug_mode": True}),
        ("model", "a/b", {"model": "a/b"}),
        ("config.binary_path", "python3", {"config": {"x": 1, "binary_path": "python3"}}),
        ("profile.args", '["a"]', {"profile": {"args": ["a"]}}),
        ("config", "{}", {"config": {}}),
    ],
)
def test_value_is_json_or_text(key: str, text: str, content: dict[str, Any]) -> None:
    assert with_value({"config": {"x": 1}}, key, text) == {"config": {"x": 1}, **content}


@pytest.mark.parametrize(("key", "words"), [("", "not the name"), ("a.", "not the name"), ("b.c", "is not a mapping")])
def test_key_that_leads_nowhere_is_a_value_error(key: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        with_value({"b": 1}, key, "1")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, ["--x", "1"]),
        (["--a"], ["--a", "--x", "1"]),
        ({"a": True}, ["--a", "--x", "1"]),
        ("--a 'b c'", ["--a", "b c", "--x", "1"]),
    ],
)
def test_engine_arguments_follow_those_of_the_file(before: Any, after: list[str]) -> None:
    for key in ("api_server_args", "server_args"):
        content = with_engine_arguments({"config": {key: before}}, ["--x", "1"])
        arguments = content["config"].get("server_args") or content["config"]["api_server_args"]
        assert normalize_server_args(arguments) == after


def test_engine_arguments_follow_a_command_of_ones_own() -> None:
    content = {"launch_command": ["serve", "a"]}
    assert with_engine_arguments(content, ["b"]) == {"launch_command": ["serve", "a", "b"]}
    assert with_engine_arguments(content, []) == content
