"""Reads the file of keys that a person gives with `--key-file`.

    - name: team-a
      key: sk-...
      endpoints: ["*"]
      requestsPerMinute: 60

Only its owner may read it. A fault is told in one sentence, which never has a key in it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from patio_gateway.snapshot import Client
from patio_gateway.yaml_text import NotYamlError, read_yaml

MOST_BYTES = 1024 * 1024
MOST_KEYS = 10_000


class KeyFileError(Exception):
    """The file of keys cannot be read. The text says what to do."""


_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._@-]{0,126}[A-Za-z0-9])?$")]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, hide_input_in_errors=True)

    name: _Name
    key: Annotated[str, Field(pattern=r"^[!-9;-~]{8,256}$")]
    endpoints: Annotated[tuple[Annotated[str, Field(max_length=320)], ...], Field(max_length=1000)] = ("*",)
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    priority: int = 0


_ENTRIES = TypeAdapter(Annotated[list[_Entry], Field(max_length=MOST_KEYS)])


def read_key_file(path: Path) -> tuple[Client, ...]:
    """Return who has a key.

    Raises:
        KeyFileError: it is not there, others may read it, it is too long, or it is no list of keys.

    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise KeyFileError(f"{path} is not a regular file.")
            if status.st_mode & 0o077:
                raise KeyFileError(f"Others may read {path}, which has keys: chmod 600 {path}")
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}.") from error
    if len(data) > MOST_BYTES:
        raise KeyFileError(f"{path} is longer than {MOST_BYTES} bytes.")
    return parse_keys(data, str(path))


def parse_keys(data: bytes, source: str) -> tuple[Client, ...]:
    """Return who has a key by this text; raise `KeyFileError`, which names `source`."""
    try:
        found = read_yaml(data)
    except NotYamlError:
        raise KeyFileError(f"{source} is not YAML.") from None
    try:
        entries = _ENTRIES.validate_python(found)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise KeyFileError(f"{source} is not a list of keys: {where or 'the whole'}: {first['msg']}.") from None
    for field in ("name", "key"):
        values = [getattr(entry, field) for entry in entries]
        if len(set(values)) < len(values):
            raise KeyFileError(f"{source} has the same {field} twice.")
    return tuple(Client(**entry.model_dump()) for entry in entries)
