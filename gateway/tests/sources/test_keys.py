"""The file of keys: who has one, and a sentence for each fault, without a key in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from patio_gateway.snapshot import Client
from patio_gateway.sources.keys import MOST_BYTES, KeyFileError, parse_keys, read_key_file

KEY = "sk-0123456789"
GOOD = f"- {{name: team-a, key: {KEY}, endpoints: ['a/*'], requestsPerMinute: 60, priority: 2}}\n"


def written(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "keys.yaml"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_file_of_keys_is_read(tmp_path: Path) -> None:
    assert read_key_file(written(tmp_path, GOOD + "- {name: b, key: sk-9876543210}\n")) == (
        Client("team-a", KEY, endpoints=("a/*",), requests_per_minute=60, priority=2),
        Client("b", "sk-9876543210"),
    )


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(KeyFileError, match="chmod 600"):
        read_key_file(written(tmp_path, GOOD, mode))


def test_file_that_is_none_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path, Path("/dev/zero")):
        with pytest.raises(KeyFileError):
            read_key_file(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the whole"),
        ("{", "not YAML"),
        ("[" * 5000, "not YAML"),
        ("name: a", "the whole"),
        (f"- {{key: {KEY}}}", "name"),
        ("- {name: a}", "key"),
        ("- {name: a, key: short}", "key"),
        (f"- {{name: a, key: 'has space {KEY}'}}", "key"),
        (f"- {{name: a, key: 'colon:{KEY}'}}", "key"),
        (f"- {{name: 'a\\nb', key: {KEY}}}", "name"),
        (f"- {{name: a, key: {KEY}, requestsPerMinute: 0}}", "requestsPerMinute"),
        (f"- {{name: a, key: {KEY}, more: 1}}", "more"),
        (f"{GOOD}- {{name: team-a, key: {KEY}0}}", "same name"),
        (f"{GOOD}- {{name: b, key: {KEY}}}", "same key"),
        (f"- {{name: a, key: {KEY}, endpoints: [{'x,' * 1001}]}}", "endpoints"),
    ],
)
def test_fault_is_told_without_the_key(text: str, words: str) -> None:
    with pytest.raises(KeyFileError, match=words) as caught:
        parse_keys(text.encode(), "keys.yaml")
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_file_past_its_limit_is_refused(tmp_path: Path) -> None:
    assert read_key_file(written(tmp_path, GOOD + "#" * (MOST_BYTES - len(GOOD))))
    with pytest.raises(KeyFileError, match="longer"):
        read_key_file(written(tmp_path, GOOD + "#" * (MOST_BYTES - len(GOOD) + 1)))
