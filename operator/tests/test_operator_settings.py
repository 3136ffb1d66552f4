"""The operator's settings: what stops its start, and in which words."""

from __future__ import annotations

import pytest

from patio_operator.settings import Settings, SettingsError

NEEDED = {"PATIO_NAMESPACE": "patio-system", "POD_NAME": "patio-operator-0"}


def test_what_is_needed_is_enough() -> None:
    settings = Settings.from_environment(NEEDED)
    assert (settings.namespace, settings.pod_name, settings.groups) == ("patio-system", "patio-operator-0", "auto")


@pytest.mark.parametrize("name", NEEDED)
def test_without_its_namespace_or_its_name_it_does_not_start(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is not set"):
        Settings.from_environment({key: value for key, value in NEEDED.items() if key != name})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PATIO_GROUPS", "both"),
        ("PATIO_LOG_LEVEL", "LOUD"),
        ("PATIO_CERTIFICATE_HOURS", "long"),
        ("PATIO_CERTIFICATE_RENEW_HOURS", "0"),
        ("PATIO_CERTIFICATE_RENEW_HOURS", "5000"),
        ("PATIO_CERTIFICATE_RENEW_HOURS", "nan"),
        ("PATIO_LINGER_SECONDS", "-1"),
        ("PATIO_LINGER_SECONDS", "inf"),
        ("PATIO_WEBHOOK_PORT", "70000"),
        ("PATIO_METRICS_PORT", "0"),
    ],
)
def test_malformed_value_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name} is"):
        Settings.from_environment(NEEDED | {name: value})


@pytest.mark.parametrize("mode", ["auto", "manage", "observe"])
def test_mode_of_groups_can_be_set(mode: str) -> None:
    assert Settings.from_environment(NEEDED | {"PATIO_GROUPS": mode}).groups == mode


def test_namespaces_of_upstreams_controller_can_be_set() -> None:
    assert Settings.from_environment(NEEDED).upstream_namespaces == ("rbgs-system",)
    variables = NEEDED | {"PATIO_UPSTREAM_NAMESPACES": "one, two"}
    assert Settings.from_environment(variables).upstream_namespaces == ("one", "two")
    assert Settings.from_environment(NEEDED | {"PATIO_UPSTREAM_NAMESPACES": ""}).upstream_namespaces == ()


def test_metrics_have_no_port_of_their_own_unless_it_is_set() -> None:
    assert Settings.from_environment(NEEDED).metrics_port == 0
    assert Settings.from_environment(NEEDED | {"PATIO_METRICS_PORT": "8443"}).metrics_port == 8443


@pytest.mark.parametrize("port", ["8080", "9443"])
def test_port_that_another_server_has_is_named(port: str) -> None:
    with pytest.raises(SettingsError, match="give a port that no other of PATIO_WEBHOOK_PORT"):
        Settings.from_environment(NEEDED | {"PATIO_METRICS_PORT": port})
