"""The operator's settings: one immutable object, made from the environment that the chart sets.

A missing or malformed variable stops the start with one line (`SettingsError`); nothing here reads anything later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
Groups = Literal["auto", "manage", "observe", "off"]
GROUPS: tuple[Groups, ...] = ("auto", "manage", "observe", "off")


class SettingsError(ValueError):
    """A setting is missing or malformed; the message names the variable and what it takes."""


@dataclass(frozen=True)
class Settings:
    """The operator's settings. Ports are TCP ports on all addresses of the pod."""

    namespace: str
    """Where the operator runs, and where its webhook's Secret and Service and its Lease are."""
    pod_name: str
    """Name of this replica, which no other one has."""
    groups: Groups = "auto"
    """Who realises RoleBasedGroups. manage: Patio. observe: upstream's controller. auto: upstream's controller if it
    runs, otherwise Patio. off: Patio does not, and does not watch groups."""
    upstream_namespaces: tuple[str, ...] = ("rbgs-system",)
    """Where upstream's controller may be. Users who may write there decide who realises groups."""
    lease: str = "patio-operator"
    service_name: str = "patio-webhook"
    webhook_configuration: str = "patio"
    webhook_secret: str = "patio-webhook-tls"  # noqa: S105 - the name of a Secret, not one
    certificate_folder: str = ""
    """Where cert-manager's certificate is mounted; empty: the operator makes its own."""
    certificate_hours: float = 8760
    """How long a serving certificate lasts."""
    certificate_renew_hours: float = 2880
    """Age at which a serving certificate is replaced."""
    linger_seconds: float = 0
    """How long the operator answers admissions after SIGTERM, until the Service sends this replica no more of them."""
    signing_secret: str = "patio-signing-key"  # noqa: S105 - the name of a Secret, not one
    signing_key_age: timedelta = timedelta(days=30)
    """Age at which the key that signs calls to sidecars is replaced."""
    secret_namespaces: tuple[str, ...] = ()
    """Where LoraAdapters may name Secrets; `*`: everywhere."""
    ask_loopback: bool = False
    """Whether the operator also calls sidecars at loopback addresses. No pod has one: for tests and benchmarks."""
    watch_namespaces: tuple[str, ...] = ()
    """The only namespaces that the operator works in; empty: all."""
    webhook_port: int = 9443
    health_port: int = 8080
    """Of probes, and of the metrics unless they have a port of their own."""
    metrics_port: int = 0
    """Where the metrics are served by HTTPS to whom the API server lets read them; 0: at the health port, to
    everyone."""
    log_level: str = "INFO"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read the PATIO_… variables.

        Raises:
            SettingsError: PATIO_NAMESPACE or POD_NAME is missing, or a value is not what its variable takes.

        """
        namespace = environment.get("PATIO_NAMESPACE", "")
        if not namespace:
            raise SettingsError("PATIO_NAMESPACE is not set: give the namespace the operator runs in.")
        pod_name = environment.get("POD_NAME", "")
        if not pod_name:
            raise SettingsError("POD_NAME is not set: give this replica a name that no other one has.")
        text = environment.get("PATIO_GROUPS", cls.groups)
        groups = next((mode for mode in GROUPS if mode == text), None)
        if groups is None:
            raise SettingsError(f"PATIO_GROUPS is {text!r}: give one of {', '.join(GROUPS)}.")
        hours = _number(environment, "PATIO_CERTIFICATE_HOURS", cls.certificate_hours)
        renew_hours = _number(environment, "PATIO_CERTIFICATE_RENEW_HOURS", cls.certificate_renew_hours)
        if not 0 < renew_hours <= hours / 2:
            raise SettingsError(
                f"PATIO_CERTIFICATE_RENEW_HOURS is {renew_hours:g}: give more than 0 and at most half of "
                f"PATIO_CERTIFICATE_HOURS, which is {hours:g}."
            )
        ports = {
            name: _port(environment, name, default)
            for name, default in (
                ("PATIO_WEBHOOK_PORT", cls.webhook_port),
                ("PATIO_HEALTH_PORT", cls.health_port),
                ("PATIO_METRICS_PORT", cls.metrics_port),
            )
        }
        for name, port in ports.items():
            if list(ports.values()).count(port) > 1:
                raise SettingsError(f"{name} is {port}: give a port that no other of {', '.join(ports)} has.")
        log_level = environment.get("PATIO_LOG_LEVEL", cls.log_level).upper()
        if log_level not in LOG_LEVELS:
            raise SettingsError(f"PATIO_LOG_LEVEL is {log_level!r}: give one of {', '.join(LOG_LEVELS)}.")
        return cls(
            namespace=namespace,
            pod_name=pod_name,
            groups=groups,
            upstream_namespaces=_names(environment, "PATIO_UPSTREAM_NAMESPACES", cls.upstream_namespaces),
            lease=environment.get("PATIO_LEASE", cls.lease),
            service_name=environment.get("PATIO_SERVICE_NAME", cls.service_name),
            webhook_configuration=environment.get("PATIO_WEBHOOK_CONFIGURATION", cls.webhook_configuration),
            webhook_secret=environment.get("PATIO_WEBHOOK_SECRET", cls.webhook_secret),
            certificate_folder=environment.get("PATIO_CERTIFICATE_FOLDER", cls.certificate_folder),
            certificate_hours=hours,
            certificate_renew_hours=renew_hours,
            linger_seconds=_number(environment, "PATIO_LINGER_SECONDS", cls.linger_seconds),
            signing_secret=environment.get("PATIO_SIGNING_SECRET", cls.signing_secret),
            signing_key_age=_days(environment, "PATIO_SIGNING_KEY_DAYS", cls.signing_key_age),
            secret_namespaces=_names(environment, "PATIO_SECRET_NAMESPACES", ()),
            ask_loopback=environment.get("PATIO_ASK_LOOPBACK") == "true",
            watch_namespaces=_names(environment, "PATIO_WATCH_NAMESPACES", ()),
            webhook_port=ports["PATIO_WEBHOOK_PORT"],
            health_port=ports["PATIO_HEALTH_PORT"],
            metrics_port=ports["PATIO_METRICS_PORT"],
            log_level=log_level,
        )


def _names(environment: Mapping[str, str], name: str, default: tuple[str, ...]) -> tuple[str, ...]:
    text = environment.get(name)
    return default if text is None else tuple(text.replace(",", " ").split())


def _number(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name)
    if text is None:
        return default
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise SettingsError(f"{name} is {text!r}: give a number that is not negative.")
    return number


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
