"""Tensors from a seed, in the safetensors format, with nothing but the standard library.

The model writer above needs a few hundred thousand reproducible numbers in a file, no more; torch, numpy and peft
would make it depend on the 5 GB environment that only the engine itself needs. Pure: values in, bytes out.
"""

from __future__ import annotations

import json
import random
import struct
from array import array
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Tensor:
    """A dense float32 tensor, row by row."""

    shape: tuple[int, ...]
    data: bytes


def normal(rng: random.Random, *shape: int, deviation: float) -> Tensor:
    """Draw a tensor from a normal distribution around zero."""
    count = 1
    for size in shape:
        count *= size
    return Tensor(shape, _little_endian(array("f", (rng.gauss(0.0, deviation) for _ in range(count)))))


def ones(*shape: int) -> Tensor:
    """A tensor of ones, e.g. for norms."""
    count = 1
    for size in shape:
        count *= size
    return Tensor(shape, _little_endian(array("f", [1.0]) * count))


def safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    """The file: length of the header, header, data. Layout: https://huggingface.co/docs/safetensors."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + len(tensor.data)
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(tensor.data for tensor in tensors.values())


def _little_endian(values: array[float]) -> bytes:
    if struct.pack("=H", 1) != struct.pack("<H", 1):
        values.byteswap()
    return values.tobytes()
