"""Adapters on disk for the double to judge, as small as the judged facts allow.

For tests that need no real engine: a configuration of three fields and 64 bytes of "weights" that follow from a seed,
so that two adapters answer differently. A real engine rejects them; for that there is `e2e_engine.model`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path

from engine_double.adapters import CONFIG, WEIGHTS


def write_adapter(
    directory: Path,
    *,
    seed: str | None = None,
    rank: int = 8,
    dora: bool = False,
    modules: Sequence[str] = ("q_proj", "v_proj"),
    config: str | None = None,
    weights: bool = True,
    truncated: bool = False,
) -> Path:
    """Write one adapter and return its directory.

    Args:
        directory: where; made if it is not there.
        seed: what its answers follow from; by default the directory's name.
        rank: above `--max-lora-rank` it is rejected.
        dora: rejected by both engines.
        modules: SGLang rejects others than `--lora-target-modules`.
        config: text of `adapter_config.json` instead of a good one.
        weights: False leaves the file out.
        truncated: True cuts it in half.
    """
    directory.mkdir(parents=True, exist_ok=True)
    facts = {"r": rank, "use_dora": dora, "target_modules": list(modules)}
    (directory / CONFIG).write_text(json.dumps(facts) if config is None else config)
    if weights:
        data = (directory.name if seed is None else seed).encode().ljust(64, b".")
        header = json.dumps({"w": {"dtype": "U8", "shape": [64], "data_offsets": [0, 64]}}).encode()
        content = struct.pack("<Q", len(header)) + header + (data[:32] if truncated else data)
        (directory / WEIGHTS).write_bytes(content)
    return directory
