"""The model's and the adapters' files, without an engine."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from pathlib import Path

import pytest

from e2e_engine import model, weights
from engine_double.adapters import Finding, inspect


def test_every_machine_writes_the_same_bytes() -> None:
    digests = {
        "model": hashlib.sha256(model.model_files()["model.safetensors"]).hexdigest()[:16],
        **{
            name: hashlib.sha256(model.adapter_files(seed)["adapter_model.safetensors"]).hexdigest()[:16]
            for name, seed in model.ADAPTERS.items()
        },
    }
    assert digests == EXPECTED, "raise model.REVISION when this is meant"


EXPECTED = {"model": "361fed2357f9e0c8", "lora-a": "ac45c0eefb052047", "lora-b": "bd46ebde962a0172"}


def test_safetensors_file_has_its_header_and_nothing_left_over() -> None:
    tensors = {"a": weights.ones(2, 3), "b": weights.normal(random.Random(1), 4, deviation=1.0)}
    file = weights.safetensors(tensors)
    (length,) = struct.unpack("<Q", file[:8])
    header = json.loads(file[8 : 8 + length])
    assert header["a"] == {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
    assert header["b"]["data_offsets"] == [24, 40]
    assert len(file) == 8 + length + 40
    assert length % 8 == 0


def test_good_adapters_are_found_good_and_bad_ones_bad(tmp_path: Path) -> None:
    made = model.write(tmp_path / "made")
    for name in model.ADAPTERS:
        seen = inspect(str(made / "adapters" / name))
        assert (seen.finding, seen.rank, seen.dora) == (Finding.GOOD, model.RANK, False)
    bad = {name: inspect(str(made / "adapters/bad" / name)) for name in model.BAD_ADAPTERS}
    assert bad["rank-32"].rank == 32
    assert bad["dora"].dora
    assert bad["no-weights"].finding is Finding.NO_WEIGHTS
    assert bad["truncated"].finding is Finding.BROKEN_WEIGHTS
    assert bad["broken-config"].finding is Finding.BROKEN_CONFIG


def test_every_user_can_read_what_was_written(tmp_path: Path) -> None:
    made = model.write(tmp_path / "made")
    for path in (made, *made.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    made = model.write(tmp_path / "made")
    (made / "mine").touch()
    assert model.write(tmp_path / "made") == made
    assert (made / "mine").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_vocabulary_has_no_word_twice() -> None:
    words = model.vocabulary()
    assert len(set(words)) == len(words) == model.VOCABULARY


def test_there_is_no_other_bad_adapter() -> None:
    with pytest.raises(KeyError):
        model.bad_adapter_files("unheard-of")
