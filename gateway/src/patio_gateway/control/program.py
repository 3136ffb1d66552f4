"""Writes the program that Envoy runs for each request: `program.lua`, below the tables of names, keys and rights. Pure.

Where clients have keys, `answers.lua` follows, which counts the tokens of answers.

The tables change when a model, an adapter or a key is declared or deleted, not when a pod comes or goes.
Keys are in the text: the caller writes it to a file of mode 0600, and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.resources import files

from patio_gateway.control.groups import Group
from patio_gateway.rights import OPEN, may_use
from patio_gateway.snapshot import Client, Model, Snapshot

FRONT_SEGMENTS = (
    "models",
    "files",
    "batches",
    "batch-completions",
    "async-tasks",
    "sync-tasks",
    "streaming-tasks",
    "model-endpoints",
    "model-endpoints-schema.json",
    "model-endpoints-api",
    "model-bundles",
    "llm",
    "batch-jobs",
    "docker-image-batch-jobs",
    "docker-image-batch-job-bundles",
    "triggers",
    "fine_tuning",
)
"""What follows `/v1/` or `/v2/` in paths that the front answers, whatever their bodies have."""

PRIVATE_SEGMENTS = ("load_lora_adapter", "unload_lora_adapter")
"""What follows `/v1/` in paths of engines that change them: the sidecar alone calls those."""

PLAIN_SEGMENTS = (
    "tokenize",
    "detokenize",
    "rerank",
    "score",
    "classify",
    "pooling",
    "generative_scoring",
    "generate",
)
"""Paths of engines outside of `/v1` that clients may call. All others stay within the pod."""

V2_PATHS = ("/v2/rerank", "/v2/embed")
"""Paths below `/v2` that engines have themselves. All others reach the engine below `/v1`."""

_HEADER = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,100}")


def program(snapshot: Snapshot, groups: Mapping[str, Group]) -> str:
    """Return the Lua text for what is known, and for the group of each endpoint by its name."""
    endpoints = [_endpoint(model, groups[model.endpoint]) for model in snapshot.models]
    names = {name: index for index, model in enumerate(snapshot.models, 1) for name in model.names}
    adapters = {
        name: index for index, model in enumerate(snapshot.models, 1) for name in model.adapters if name not in names
    }
    keys = {client.key: index for index, client in enumerate(snapshot.clients, 1) if client.key}
    clients = [_client(client) for client in snapshot.clients]
    tables = {
        "CLOSED": _boolean(snapshot.closed),
        "PUBLIC": _boolean(any(model.public for model in snapshot.models)),
        "NAMES": _numbers(names),
        "ADAPTERS": _numbers(adapters),
        "ENDPOINTS": _list(endpoints),
        "KEYS": _numbers(keys),
        "CLIENTS": _list(clients),
        "ALLOWED": _keyed({client.name: _rights(client, snapshot.models) for client in snapshot.clients}),
        "OPEN": _set(OPEN),
        "FRONT": _set(FRONT_SEGMENTS),
        "PRIVATE": _set(PRIVATE_SEGMENTS),
        "PLAIN": _set(PLAIN_SEGMENTS),
        "V2": _set(V2_PATHS),
    }
    head = "".join(f"local {name} = {value}\n" for name, value in tables.items())
    parts = ("program.lua", "answers.lua") if snapshot.clients else ("program.lua",)
    return head + "".join(files("patio_gateway.control").joinpath(part).read_text(encoding="utf-8") for part in parts)


def _endpoint(model: Model, group: Group) -> str:
    session = model.routing.session_header.lower()
    fields = {
        "id": _text(model.endpoint),
        "affinity": _text(group.affinity),
        "least": _text(group.least_request),
        "prefix": _boolean(model.routing.prefix_aware),
        "public": _boolean(model.public),
    }
    if _HEADER.fullmatch(session):
        fields["session"] = _text(session)
    return _table(fields)


def _client(client: Client) -> str:
    fields = {"name": _text(client.name), "limited": _boolean(client.requests_per_minute is not None)}
    if client.tokens_per_minute is not None:
        fields["tokens"] = str(client.tokens_per_minute)
    return _table(fields)


def _rights(client: Client, models: Iterable[Model]) -> str:
    if "*" in client.endpoints:
        return "{all=true}"
    allowed = [index for index, model in enumerate(models, 1) if may_use(client, model.endpoint)]
    return "{" + ",".join(f"[{index}]=true" for index in allowed) + "}"


def _text(value: str) -> str:
    """Return a Lua string of any text: every byte that is not plain as its number."""
    return (
        '"'
        + "".join(
            chr(octet) if 32 <= octet < 127 and octet not in b'"\\' else f"\\{octet:03}"
            for octet in value.encode("utf-8", "replace")
        )
        + '"'
    )


def _boolean(value: bool) -> str:
    return "true" if value else "false"


def _numbers(values: Mapping[str, int]) -> str:
    return _keyed({name: str(number) for name, number in values.items()})


def _keyed(values: Mapping[str, str]) -> str:
    return "{" + ",\n".join(f"[{_text(name)}]={value}" for name, value in values.items()) + "}"


def _set(values: Iterable[str]) -> str:
    return _keyed(dict.fromkeys(values, "true"))


def _table(fields: Mapping[str, str]) -> str:
    return "{" + ",".join(f"{name}={value}" for name, value in fields.items()) + "}"


def _list(items: Iterable[str]) -> str:
    return "{" + ",\n".join(items) + "}"
