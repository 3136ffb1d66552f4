"""Which part of a cluster is served, and by which pod: what the command line and the pod's variables say. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from patio_api.endpoint_labels import GATEWAY_KEYS
from patio_api.object_names import is_object_name

KEYS_LABEL = f"{GATEWAY_KEYS}=true"
"""Label selector of the Secrets with keys."""


class NoClusterError(Exception):
    """It is not known where the API server is. The text says why."""


@dataclass(frozen=True)
class Cluster:
    """What is served."""

    namespace: str
    """Of the gateway itself."""
    pod: str
    """Name of its pod."""
    namespaces: tuple[str, ...] = ()
    """Whose models are served; none: all."""
    closed: bool = True
    """Whether requests need a key."""


def cluster_of(namespaces: str | None, keys_from_secrets: bool, is_open: bool, variables: Mapping[str, str]) -> Cluster:
    """Return what is served.

    Args:
        namespaces: with commas between them; None: all.
        keys_from_secrets: whether keys are in Secrets.
        is_open: whether no request needs a key.
        variables: of the process.

    Raises:
        ValueError: something is missing or wrong. The text says what to do.

    """
    if not keys_from_secrets and not is_open:
        raise ValueError("--kubernetes needs --keys-from-secrets, or --open if no request needs a key.")
    names = () if namespaces is None else tuple(dict.fromkeys(namespaces.split(",")))
    if not all(map(is_object_name, names)):
        raise ValueError(f"--namespaces {namespaces}: expected names with commas between them.")
    for variable in ("POD_NAME", "POD_NAMESPACE"):
        if not is_object_name(variables.get(variable)):
            raise ValueError(f"--kubernetes needs the variable {variable}, the pod's own: set it by a fieldRef.")
    return Cluster(variables["POD_NAMESPACE"], variables["POD_NAME"], names, closed=not is_open)
