"""Adapters on disk for the double to judge: as small as the judged facts allow."""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest


class AdapterShop:
    """Writes the adapters of the recordings under one root.

    The root is under /tmp whatever TMPDIR says, since vLLM masks such paths in its errors and the recordings show that.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(
        self,
        place: str,
        *,
        seed: str = "",
        rank: int = 8,
        dora: bool = False,
        modules: Sequence[str] = ("q_proj", "v_proj"),
        config: str | None = None,
        weights: bool = True,
        truncated: bool = False,
    ) -> Path:
        directory = self.root / place
        directory.mkdir(parents=True)
        facts = {"r": rank, "use_dora": dora, "target_modules": list(modules)}
        (directory / "adapter_config.json").write_text(json.dumps(facts) if config is None else config)
        if weights:
            data = (seed or place).encode().ljust(64, b".")
            header = json.dumps({"w": {"dtype": "U8", "shape": [64], "data_offsets": [0, 64]}}).encode()
            file = struct.pack("<Q", len(header)) + header + (data[:32] if truncated else data)
            (directory / "adapter_model.safetensors").write_bytes(file)
        return directory

    def write_bad(self, folder: str, names: dict[str, str]) -> None:
        """Every bad adapter of the recordings, under the recording's names for them."""
        self.write(f"{folder}/{names['rank']}", rank=32)
        self.write(f"{folder}/{names['dora']}", dora=True)
        self.write(f"{folder}/{names['weights']}", weights=False)
        self.write(f"{folder}/{names['truncated']}", truncated=True)
        self.write(f"{folder}/{names['config']}", config="{not json")


@pytest.fixture
def shop() -> Iterator[AdapterShop]:
    root = Path(tempfile.mkdtemp(prefix="double-", dir="/tmp"))
    yield AdapterShop(root)
    shutil.rmtree(root)
