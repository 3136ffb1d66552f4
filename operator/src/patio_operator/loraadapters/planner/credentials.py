"""What a LoraAdapter's Secret gives its downloads, without the planner ever seeing a value. Pure.

`secret_reader` reads the Secret; the planner is given the version of the credentials (`Credentials`), or why there are
none (`Condition`). Just before an order is sent, `dispatcher` seals the values in it (`security.sealing`). Nothing here
is logged, and no value becomes part of a plan, of the key of a rejection, of a status or of an event.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass

from patio_api.loraadapter import LoraAdapter
from patio_operator.loraadapters.planner.plan import Condition
from patio_protocol.adapters import LoadRequest
from patio_protocol.sources import SECRET_KEYS, SourceConfig, read_config

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


MOST_CHARACTERS = 8192
"""Of a value. Keys that are not ours may have as much as a Secret can hold; they are never looked at."""
_SENDABLE = re.compile(r"[\x21-\x7e]+")
"""What requests to sources can have in their headers."""


class InvalidSecretError(Exception):
    """A value of a Secret is none that a source can be given. The message names the key, never the value."""


@dataclass(frozen=True)
class Credentials:
    """The Secret is there and complete."""

    revision: str
    """Opaque; another one when the values may have changed. At most 128 characters."""


def decode(data: object) -> dict[str, str]:
    """Return the values of our keys in a Secret's data, which is base64.

    Raises:
        InvalidSecretError: one of them is no text.

    """
    values: dict[str, str] = {}
    for key in CONFIG_KEYS:
        text = data.get(key) if isinstance(data, Mapping) else None
        if not isinstance(text, str):
            continue
        if len(text) > MOST_CHARACTERS * 4:
            raise InvalidSecretError(f"{key} is longer than {MOST_CHARACTERS} characters")
        try:
            values[key] = base64.b64decode(text).decode()
        except (binascii.Error, ValueError):
            raise InvalidSecretError(f"{key} is not UTF-8 text") from None
    return values


def check(request: LoadRequest, values: Mapping[str, str]) -> None:
    """See that the sidecar will take an order with a Secret's values, and that the source can be sent them.

    Raises:
        InvalidSecretError: it would not, or cannot.

    """
    for name in CONFIG_KEYS:
        value = values.get(name, "").strip()
        if len(value) > MOST_CHARACTERS:
            raise InvalidSecretError(f"{name} is longer than {MOST_CHARACTERS} characters")
        if value and not _SENDABLE.fullmatch(value):
            raise InvalidSecretError(f"{name} has a space, a line break or a character that is not ASCII")
    try:
        read_config(with_secret(request, values).config)
    except ValueError as error:  # its words name keys, never values
        names = {key: name for name, key in CONFIG_KEYS.items() if key in SECRET_KEYS}
        message = re.sub("|".join(names), lambda found: names[found.group()], str(error).removeprefix("config: "))
        raise InvalidSecretError(message) from None


def judge(adapter: LoraAdapter, values: Mapping[str, str], revision: str) -> Credentials | Condition:
    """Say whether a Secret has what the LoraAdapter's source needs.

    Args:
        adapter: one with a secretRef.
        values: the Secret's data, decoded; values of keys that are not ours do not matter.
        revision: what `Credentials.revision` shall be.

    """
    source = adapter.spec.source
    present = {key for key in CONFIG_KEYS if values.get(key, "").strip()}
    name = source.secret_ref.name if source.secret_ref else ""
    if source.is_too_open(source.endpoint or ("" if source.is_repository else values.get("ENDPOINT", "").strip())):
        where = "source.endpoint" if source.endpoint else f"ENDPOINT of Secret {name}"
        message = (
            f"Patio does not send credentials without TLS. Use https:// in {where}, or set source.allowPlainHTTP: true."
        )
        return Condition("InsecureEndpoint", message)
    if ("ACCESS_KEY" in present) != ("SECRET_KEY" in present):
        message = f"Secret {name} has only one of ACCESS_KEY and SECRET_KEY. Add the other one."
    elif source.is_repository and "HF_AUTH_TOKEN" not in present:
        message = f"Secret {name} has no HF_AUTH_TOKEN, which a Hugging Face source needs."
    elif not source.is_repository and "ACCESS_KEY" not in present:
        message = f"Secret {name} has no ACCESS_KEY and SECRET_KEY, which a bucket needs."
    else:
        return Credentials(revision)
    return Condition("SecretIncomplete", message)


def with_secret(request: LoadRequest, values: Mapping[str, str]) -> LoadRequest:
    """Return the order that a sidecar makes of this one and a Secret's values, to be judged and never sent.

    What the order says already wins.

    Args:
        request: an order for a source.
        values: the Secret's data, decoded.

    """
    return request.model_copy(update={"config": SourceConfig(config_of(values) | dict(request.config or {}))})


def config_of(values: Mapping[str, str]) -> dict[str, str]:
    """Return what a Secret's values are in an order's `config`."""
    return {key: values[name].strip() for name, key in CONFIG_KEYS.items() if values.get(name, "").strip()}
