"""Plans of downloads: what is fetched, from where on, and how much room it takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patio.downloads.downloads import LONGEST_ASKED_PAUSE, LONGEST_PAUSE, pause
from patio.downloads.errors import DownloadError
from patio.downloads.layout import contained, layout_of, local_folder
from patio.downloads.planner import (
    Fetch,
    Listing,
    OnDisk,
    RemoteFile,
    Selection,
    plan,
    revision_of,
    select,
    space_needed,
)
from patio_protocol.downloads import DownloadReason

WEIGHTS = RemoteFile("adapter_model.safetensors", 1000, "e1")
CONFIG = RemoteFile("adapter_config.json", 10, "e2")
PICKLE = RemoteFile("adapter_model.bin", 1000, "e3")


def listing(*files: RemoteFile, revision: str | None = None) -> Listing:
    return Listing(files, revision)


def test_pickles_beside_safetensors_are_skipped_and_named() -> None:
    selection = select(listing(WEIGHTS, CONFIG, PICKLE), all_files=False)
    assert selection.files == (WEIGHTS, CONFIG)
    assert [skipped.name for skipped in selection.skipped] == ["adapter_model.bin"]
    assert "run code" in selection.skipped[0].why


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ((), DownloadReason.NOT_FOUND),
        ((PICKLE, CONFIG), DownloadReason.REJECTED),
        ((RemoteFile("a.png", 1),), DownloadReason.REJECTED),
        ((RemoteFile("a.json", -1),), DownloadReason.REJECTED),
        ((WEIGHTS, RemoteFile("../x.bin", 1)), DownloadReason.REJECTED),
    ],
)
def test_source_with_nothing_to_take_is_permanent_error(files: tuple[RemoteFile, ...], reason: DownloadReason) -> None:
    with pytest.raises(DownloadError) as raised:
        select(listing(*files), all_files=False)
    assert (raised.value.reason, raised.value.retryable) == (reason, False)


def test_nothing_but_pickles_names_them_and_the_remedy() -> None:
    with pytest.raises(DownloadError, match=r"adapter_model\.bin.*PATIO_DOWNLOAD_FILES=all"):
        select(listing(PICKLE, CONFIG), all_files=False)
    assert select(listing(PICKLE, CONFIG), all_files=True).files == (PICKLE, CONFIG)


def test_folder_differs_by_content_and_by_selection() -> None:
    revision = revision_of(listing(WEIGHTS, CONFIG), False)
    assert revision == revision_of(listing(CONFIG, WEIGHTS), False)
    others = {
        revision_of(listing(WEIGHTS), False),
        revision_of(listing(WEIGHTS, RemoteFile("adapter_config.json", 10, "other")), False),
        revision_of(listing(WEIGHTS, RemoteFile("adapter_config.json", 11, "e2")), False),
        revision_of(listing(WEIGHTS, CONFIG), True),
    }
    assert len(others | {revision}) == 5
    assert revision_of(listing(WEIGHTS, revision="a" * 40), False) == "a" * 40


def test_what_is_whole_is_skipped_and_what_was_begun_goes_on() -> None:
    disk = OnDisk(whole={CONFIG.name: 10}, begun={WEIGHTS.name: 400})
    fetches = plan(Selection((WEIGHTS, CONFIG), ()), disk)
    assert fetches == (Fetch(WEIGHTS, 400),)
    assert space_needed(fetches) == 600


def test_begun_file_too_long_restarts_full_one_asks_last_byte() -> None:
    assert plan(Selection((WEIGHTS,), ()), OnDisk(begun={WEIGHTS.name: 1001})) == (Fetch(WEIGHTS, 0),)
    assert plan(Selection((WEIGHTS,), ()), OnDisk(begun={WEIGHTS.name: 1000})) == (Fetch(WEIGHTS, 999),)


names = st.sampled_from([f"{letter}.json" for letter in "abcdef"])
sizes = st.integers(0, 50)


@given(st.dictionaries(names, sizes), st.dictionaries(names, sizes), st.dictionaries(names, sizes))
def test_every_file_is_fetched_once_space_is_what_is_missing(
    remote: dict[str, int], whole: dict[str, int], begun: dict[str, int]
) -> None:
    selection = Selection(tuple(RemoteFile(name, size) for name, size in remote.items()), ())
    fetches = plan(selection, OnDisk(whole, begun))
    assert len({fetch.file.name for fetch in fetches}) == len(fetches)
    assert {fetch.file.name for fetch in fetches} == {name for name, size in remote.items() if whole.get(name) != size}
    for fetch in fetches:
        assert 0 <= fetch.offset <= begun.get(fetch.file.name, 0)
        assert fetch.offset < fetch.file.size or fetch.file.size == 0
    assert 0 <= space_needed(fetches) <= selection.size
    remaining = [fetch.file.size - fetch.offset for fetch in fetches]
    assert remaining == sorted(remaining, reverse=True)


def test_pauses_grow_and_a_source_may_ask_for_more() -> None:
    pauses = [pause(failures, None, 0.0) for failures in range(1, 12)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.5, LONGEST_PAUSE)
    assert pause(1, 7.0, 0.0) == 7.0
    assert pause(1, 86400.0, 0.0) == LONGEST_ASKED_PAUSE


def test_output_dir_lies_below_a_root(tmp_path: Path) -> None:
    root, other, outside = (tmp_path / name for name in ("root", "other", "outside"))
    for folder in (root, other, outside):
        folder.mkdir()
    (root / "out").symlink_to(outside)
    (root / "in").symlink_to(other)
    roots = (root, other)
    assert contained(f"{root}/a/b", roots) == f"{root}/a/b"
    assert contained(f"{other}/", roots) == str(other)
    assert contained(f"{root}/in/x", roots) == f"{root}/in/x"
    for path in (f"{root}/../outside", str(outside), f"{root}/out/x", f"{root}/out", f"{root}x", "root", f"/{root}"):
        with pytest.raises(DownloadError, match="PATIO_DOWNLOAD_ROOTS"):
            contained(path, roots)
    for path in (f"{root}/../outside", str(outside), f"{root}x", "root", f"/{root}"):
        with pytest.raises(DownloadError, match="PATIO_DOWNLOAD_ROOTS"):
            layout_of("key", path, root, roots)
    assert layout_of("key", None, root, roots).folder("r") == root / "key" / "r"
    assert layout_of("key", f"{other}/m", root, roots).folder("r") == other / "m" / ".patio" / "r"


def test_folder_of_a_volume_below_a_root_is_used_in_place(tmp_path: Path) -> None:
    root, volume = tmp_path / "root", tmp_path / "volume"
    (volume / "models" / "sql").mkdir(parents=True)
    roots = (root, volume)
    assert local_folder("models/sql", roots) == f"{volume}/models/sql"
    assert local_folder(f"{volume}/models", roots) == f"{volume}/models"
    with pytest.raises(DownloadError) as missing:
        local_folder("models/none", roots)
    assert missing.value.reason is DownloadReason.NOT_FOUND
    with pytest.raises(DownloadError) as raised:
        local_folder("/etc", roots)
    assert raised.value.reason is DownloadReason.INVALID
