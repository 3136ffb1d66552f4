"""Secrets with odd content: a clear condition of the LoraAdapters that name them, and of nothing else."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patio_api.loraadapter import LoraAdapter
from patio_kube.client import NotFoundError
from patio_kube.resources import Resource
from patio_operator.loraadapters.planner.credentials import (
    MOST_CHARACTERS,
    Credentials,
    InvalidSecretError,
    decode,
)
from patio_operator.loraadapters.planner.plan import Condition
from patio_operator.loraadapters.secret_reader import READ_AT_ONCE, SecretReader, _checked
from patio_testing.operator.builders import lora_adapter
from patio_testing.operator.waiting import until

HF = {"uri": "hf://org/repo", "secretRef": {"name": "keys"}}
S3 = {"uri": "s3://bucket/sql", "endpoint": "https://s3.example.com", "secretRef": {"name": "keys"}}
VALUE = "do-not-show-me"


def body(**data: bytes | str | None) -> dict[str, Any]:
    encoded = {
        key: base64.b64encode(value).decode() if isinstance(value, bytes) else value for key, value in data.items()
    }
    return {"metadata": {"uid": "u", "resourceVersion": "1"}, "data": encoded}


def verdict(source: dict[str, Any], secret: dict[str, Any]) -> Credentials | Condition:
    adapter: LoraAdapter = lora_adapter(source=source)
    return _checked(adapter, "keys", secret)


def test_foreign_keys_are_never_looked_at() -> None:
    others: dict[str, Any] = {f"other-{number}": b"\xff\xfe" for number in range(5000)}
    others["line\nbreak"] = "%%% not base64"
    others["big"] = b"x" * 1_000_000
    assert verdict(HF, body(HF_AUTH_TOKEN=b" hf_good\n", **others)) == Credentials("u.1")
    assert list(decode(body(HF_AUTH_TOKEN=b"t", **others)["data"])) == ["HF_AUTH_TOKEN"]


@pytest.mark.parametrize(
    ("source", "data", "message"),
    [
        (HF, {"HF_AUTH_TOKEN": VALUE.encode() + b"\xff"}, "HF_AUTH_TOKEN is not UTF-8 text"),
        (HF, {"HF_AUTH_TOKEN": b"\xfe\xff" + VALUE.encode("utf-16-be")}, "HF_AUTH_TOKEN is not UTF-8 text"),
        (HF, {"HF_AUTH_TOKEN": f"%{VALUE}"}, "HF_AUTH_TOKEN"),
        (HF, {"HF_AUTH_TOKEN": f"{VALUE}\nX-Other: 1".encode()}, "HF_AUTH_TOKEN has a space, a line break"),
        (HF, {"HF_AUTH_TOKEN": f"{VALUE} two".encode()}, "HF_AUTH_TOKEN has a space"),
        (HF, {"HF_AUTH_TOKEN": f"{VALUE}\u00fc".encode()}, "a character that is not ASCII"),
        (HF, {"HF_AUTH_TOKEN": VALUE.encode() * 80_000}, f"HF_AUTH_TOKEN is longer than {MOST_CHARACTERS} characters"),
        (HF, {"HF_AUTH_TOKEN": VALUE.encode() * 2000}, f"HF_AUTH_TOKEN is longer than {MOST_CHARACTERS} characters"),
        (S3, {"ACCESS_KEY": b"a b", "SECRET_KEY": VALUE.encode()}, "ACCESS_KEY has a space"),
        (S3, {"ACCESS_KEY": b"a", "SECRET_KEY": f"{VALUE}\x00".encode()}, "SECRET_KEY has a space, a line break"),
        (
            S3,
            {"ACCESS_KEY": b"a", "SECRET_KEY": b"b", "ENDPOINT": VALUE.encode() + b"\xff"},
            "ENDPOINT is not UTF-8 text",
        ),
        (HF, {}, "no HF_AUTH_TOKEN"),
    ],
)
def test_value_that_cannot_be_sent_is_reported_without_it(
    source: dict[str, Any], data: dict[str, Any], message: str
) -> None:
    found = verdict(source, body(**data))
    assert isinstance(found, Condition)
    assert found.reason == "SecretIncomplete"
    assert message in found.message
    assert VALUE not in found.message
    assert len(found.message) < 200


@pytest.mark.parametrize("data", [None, {}, {"HF_AUTH_TOKEN": None}, [], "text", {"HF_AUTH_TOKEN": {"a": 1}}])
def test_secret_without_data_has_no_values(data: Any) -> None:
    assert decode(data) == {}


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["HF_AUTH_TOKEN", "ACCESS_KEY", "SECRET_KEY", "SESSION_TOKEN", "ENDPOINT", "other"]),
        st.binary(max_size=60) | st.text(max_size=60) | st.none(),
    )
)
def test_any_content_is_a_checked(data: dict[str, bytes | str | None]) -> None:
    for source in (HF, S3):
        found = verdict(source, body(**data))
        assert isinstance(found, Credentials | Condition)
        try:
            values = decode(body(**data)["data"])
        except InvalidSecretError:
            assert isinstance(found, Condition)
            continue
        if isinstance(found, Condition):
            assert not [value for value in values.values() if len(value.strip()) > 12 and value in found.message]


class SlowCluster:
    """Answers to reads of Secrets when it is told to."""

    def __init__(self) -> None:
        self.in_progress = self.most = self.reads = 0
        self.released = asyncio.Event()

    async def get(self, kind: Resource, name: str, namespace: str) -> dict[str, Any]:
        self.in_progress += 1
        self.reads += 1
        self.most = max(self.most, self.in_progress)
        await self.released.wait()
        self.in_progress -= 1
        if name == "keys-3":
            raise NotFoundError(404, "gone")
        return body(HF_AUTH_TOKEN=b"hf_good")

    async def pages(self, *_: object) -> AsyncIterator[tuple[list[dict[str, Any]], str]]:
        metadata = {"namespace": "team", "uid": "u", "resourceVersion": "1"}
        yield [{"metadata": {**metadata, "name": f"keys-{number}"}} for number in range(30)], "1"

    async def watch(self, *_: object) -> AsyncIterator[dict[str, Any]]:
        await asyncio.Event().wait()
        yield {}


NO_SECRET = Condition("SecretNotFound", "Secret keys does not exist in namespace team.")


async def test_secrets_of_one_pass_are_read_some_at_once() -> None:
    cluster = SlowCluster()
    reader = SecretReader(cluster, ["team"], lambda *_: None)  # type: ignore[arg-type]
    watches = [asyncio.create_task(watch) for watch in reader.watches()]
    adapters = [
        lora_adapter(f"a-{number}", source=HF | {"secretRef": {"name": f"keys-{number}"}}) for number in range(30)
    ]
    unknown = lora_adapter("x", source=HF)
    await until("a verdict", lambda: reader._judged(unknown, "keys") == NO_SECRET)
    reading = asyncio.create_task(reader.credentials(adapters))
    await until("several are read", lambda: cluster.in_progress == READ_AT_ONCE)
    cluster.released.set()
    found = await reading
    assert cluster.most == READ_AT_ONCE
    missing = found.pop("a-3")
    assert isinstance(missing, Condition)
    assert missing.reason == "SecretNotFound"
    assert list(found.values()) == [Credentials("u.1")] * 29
    reads = cluster.reads
    await reader.credentials([adapter for adapter in adapters if adapter.metadata.name != "a-3"])
    assert cluster.reads == reads, "what did not change is not read again"
    for watch in watches:
        watch.cancel()
    await asyncio.gather(*watches, return_exceptions=True)
