"""What a LoraAdapter's Secret gives its downloads, without the planner ever seeing a value. Pure.

The shell looks a Secret up and tells the planner which version of the credentials there is (`Credentials`), or why
there is none (`Missing`). Just before an order is sent, it puts the values in (`with_secret`). Nothing here is logged,
and no value becomes part of a plan, a refusal's key, a status or an event.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from patio.api.protocol import LoadRequest
from patio_operator.api.loraadapter import LoraAdapter

CONFIG_KEYS: Mapping[str, str] = {
    "HF_AUTH_TOKEN": "hf_token",
    "ACCESS_KEY": "access_key",
    "SECRET_KEY": "secret_key",
    "SESSION_TOKEN": "session_token",
    "ENDPOINT": "endpoint",
    "REGION": "region",
    "ADDRESSING_STYLE": "addressing_style",
}
"""Key of the Secret, named as the sidecar's variables are, to key of an order's `config`."""


@dataclass(frozen=True)
class Credentials:
    """The Secret is there and complete."""

    revision: str
    """Opaque; another one when the values may have changed. At most 128 characters."""


@dataclass(frozen=True)
class Missing:
    """There are no credentials to be had."""

    reason: str
    """`SecretNotFound`, `SecretIncomplete` or `SecretForbidden`."""
    message: str
    """A sentence that names the Secret and the remedy."""


def judge(adapter: LoraAdapter, values: Mapping[str, str], revision: str) -> Credentials | Missing:
    """Say whether a Secret has what the LoraAdapter's source needs.

    Args:
        adapter: one with a secretRef.
        values: the Secret's data, decoded; values of keys that are not ours do not matter.
        revision: what `Credentials.revision` shall be.

    """
    present = {key for key in CONFIG_KEYS if values.get(key, "").strip()}
    name = adapter.spec.source.secret_ref.name if adapter.spec.source.secret_ref else ""
    if ("ACCESS_KEY" in present) != ("SECRET_KEY" in present):
        words = f"Secret {name} has only one of ACCESS_KEY and SECRET_KEY; they belong together."
    elif adapter.spec.source.is_repository and "HF_AUTH_TOKEN" not in present:
        words = f"Secret {name} has no HF_AUTH_TOKEN, which a Hugging Face source needs."
    elif not adapter.spec.source.is_repository and "ACCESS_KEY" not in present:
        words = f"Secret {name} has no ACCESS_KEY and SECRET_KEY, which a bucket needs."
    else:
        return Credentials(revision)
    return Missing("SecretIncomplete", words)


def with_secret(request: LoadRequest, values: Mapping[str, str]) -> LoadRequest:
    """Return an order with a Secret's values in its config; what the order says already wins.

    Args:
        request: an order for a source.
        values: the Secret's data, decoded.

    """
    said = json.loads(request.config) if request.config else {}
    given = {key: values[name].strip() for name, key in CONFIG_KEYS.items() if values.get(name, "").strip()}
    return request.model_copy(update={"config": json.dumps(given | said)})
