"""What the operator is told at start: one immutable object, made from the environment that the chart sets.

A missing or malformed variable stops the start with one line (`SettingsError`); nothing here reads anything later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class SettingsError(ValueError):
    """A setting is missing or malformed; the message names the variable and what it takes."""


@dataclass(frozen=True)
class Settings:
    """The operator's settings. Ports are TCP ports on all addresses of the pod."""

    namespace: str
    """Where the operator runs, and where its webhook's Secret and Service are."""
    pod_name: str
    service_name: str = "patio-webhook"
    webhook_configuration: str = "patio"
    webhook_secret: str = "patio-webhook-tls"  # noqa: S105 - the name of a Secret, not one
    signing_secret: str = "patio-signing-key"  # noqa: S105 - the name of a Secret, not one
    signing_key_age: timedelta = timedelta(days=30)
    """How old the key may be that calls to sidecars are signed with."""
    webhook_port: int = 9443
    health_port: int = 8080
    log_level: str = "INFO"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read the PATIO_… variables.

        Raises:
            SettingsError: PATIO_NAMESPACE is missing, or a value is not what its variable takes.

        """
        namespace = environment.get("PATIO_NAMESPACE", "")
        if not namespace:
            raise SettingsError("PATIO_NAMESPACE is not set: give the namespace the operator runs in.")
        log_level = environment.get("PATIO_LOG_LEVEL", cls.log_level).upper()
        if log_level not in LOG_LEVELS:
            raise SettingsError(f"PATIO_LOG_LEVEL is {log_level!r}: give one of {', '.join(LOG_LEVELS)}.")
        return cls(
            namespace=namespace,
            pod_name=environment.get("POD_NAME", "patio-operator"),
            service_name=environment.get("PATIO_SERVICE_NAME", cls.service_name),
            webhook_configuration=environment.get("PATIO_WEBHOOK_CONFIGURATION", cls.webhook_configuration),
            webhook_secret=environment.get("PATIO_WEBHOOK_SECRET", cls.webhook_secret),
            signing_secret=environment.get("PATIO_SIGNING_SECRET", cls.signing_secret),
            signing_key_age=_days(environment, "PATIO_SIGNING_KEY_DAYS", cls.signing_key_age),
            webhook_port=_port(environment, "PATIO_WEBHOOK_PORT", cls.webhook_port),
            health_port=_port(environment, "PATIO_HEALTH_PORT", cls.health_port),
            log_level=log_level,
        )


def _port(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name)
    if text is None:
        return default
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise SettingsError(f"{name} is {text!r}: give a port from 1 to 65535.")
    return int(text)


def _days(environment: Mapping[str, str], name: str, default: timedelta) -> timedelta:
    text = environment.get(name)
    if text is None:
        return default
    if not text.isdecimal() or not 0 < int(text) <= 3650:
        raise SettingsError(f"{name} is {text!r}: give a number of days from 1 to 3650.")
    return timedelta(days=int(text))
