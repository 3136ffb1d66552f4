"""Looks at adapters' folders: what is seen, and that a file system which hangs holds up nobody else."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine_double import running_double
from patio.adapters import fingerprints
from patio.adapters.fingerprints import Fingerprints, FolderContents, FolderUnresponsiveError, read_folder
from patio_protocol.adapters import AdapterState, UnloadRequest
from patio_testing.deadline import DEADLINE
from patio_testing.sidecar.builders import StartSidecar, adapter_files, eventually, load_request

Hung = threading.Event


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hung]:
    """Have looks at folders below a `hung` one wait, as on a volume whose server is gone."""
    released = threading.Event()
    fingerprint_of = fingerprints.fingerprint

    def fingerprint(folder: str) -> fingerprints.Fingerprint:
        if Path(folder).name.startswith("hung"):
            released.wait(60)
        return fingerprint_of(folder)

    monkeypatch.setattr("patio.adapters.fingerprints.fingerprint", fingerprint)
    yield released
    released.set()


def base_model(folder: Path, name: object) -> str:
    path = adapter_files(folder)
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": name}))
    return path


@pytest.mark.parametrize(
    ("configured", "expected"), [("org/model", "org/model"), (7, ""), ("", ""), ("a\nb", ""), ("a" * 2000, "")]
)
def test_base_model_of_an_adapter_is_read(tmp_path: Path, configured: object, expected: str) -> None:
    assert read_folder(base_model(tmp_path / "a", configured)).base_model == expected


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "[" * 100_000, '{"base_model_name_or_path": "x"' + " " * 2_000_000 + "}"]
)
def test_odd_configuration_names_no_base_model(tmp_path: Path, text: str) -> None:
    path = adapter_files(tmp_path / "a")
    (tmp_path / "a/adapter_config.json").write_text(text)
    contents = read_folder(path)
    assert contents.fingerprint
    assert contents.base_model == ""


def test_configuration_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "adapter_config.json")
    assert read_folder(str(tmp_path)).base_model == ""


def test_file_is_distinguished_from_a_missing_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert read_folder(str(tmp_path / "file")) == FolderContents(is_file=True)
    assert read_folder(str(tmp_path / "nowhere")) == FolderContents()
    assert read_folder(str(tmp_path / "file" / "below")) == FolderContents()
    assert read_folder("/a\x00b") == FolderContents()


async def test_one_read_at_a_time_waits_in_a_hung_folder(
    hung: Hung, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patio.adapters.fingerprints.READ_SECONDS", 0.05)
    folder_fingerprints, folder = Fingerprints(), str(tmp_path / "hung")
    before = set(threading.enumerate())
    for _ in range(3):
        with pytest.raises(FolderUnresponsiveError):
            await folder_fingerprints.attempt("a", folder)
    assert len(set(threading.enumerate()) - before) == 1
    hung.set()

    async def answers() -> bool:
        try:
            return await folder_fingerprints.attempt("a", folder) == FolderContents()
        except FolderUnresponsiveError:
            return False

    await eventually(answers, "the folder is looked at again")


async def test_hung_folders_have_a_limit_and_others_go_on(
    hung: Hung, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patio.adapters.fingerprints.READ_SECONDS", 0.05)
    monkeypatch.setattr("patio.adapters.fingerprints.MOST_UNRESPONSIVE", 4)
    folder_fingerprints = Fingerprints()
    before = set(threading.enumerate())
    folders = [str(tmp_path / f"hung{number}") for number in range(12)]
    await asyncio.gather(
        *(folder_fingerprints.attempt(folder, folder) for folder in folders[:4]), return_exceptions=True
    )
    healthy = adapter_files(tmp_path / "healthy")
    assert await folder_fingerprints.attempt("healthy", healthy) == FolderContents(), (
        "nobody can look, and the engine may try"
    )
    assert await folder_fingerprints.attempt("another", folders[5]) == FolderContents()
    assert len(set(threading.enumerate()) - before) == 4


async def test_folder_that_could_not_be_read_has_not_changed(
    hung: Hung, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patio.adapters.fingerprints.MOST_UNRESPONSIVE", 0)
    folder_fingerprints, healthy = Fingerprints(), adapter_files(tmp_path / "healthy")
    await folder_fingerprints.attempt("healthy", healthy)
    monkeypatch.setattr("patio.adapters.fingerprints.MOST_UNRESPONSIVE", 16)
    for _ in range(3):
        await folder_fingerprints.compare({"healthy": healthy})
    assert folder_fingerprints.changed == frozenset()
    (tmp_path / "healthy/adapter_model.safetensors").write_bytes(b"other")
    for _ in range(2):
        await folder_fingerprints.compare({"healthy": healthy})
    assert folder_fingerprints.changed == {"healthy"}


async def test_many_folders_are_read_in_turn(tmp_path: Path) -> None:
    folder_fingerprints = Fingerprints()
    folders = {
        f"a{number}": adapter_files(tmp_path / f"a{number}") for number in range(fingerprints.FOLDERS_A_ROUND + 10)
    }
    for name, folder in folders.items():
        await folder_fingerprints.attempt(name, folder)
        (Path(folder) / "adapter_model.safetensors").write_bytes(b"other")
    for _ in range(4):
        await folder_fingerprints.compare(folders)
    assert folder_fingerprints.changed == folders.keys()


async def test_adapters_on_a_hung_volume_delay_no_other(
    hung: Hung, sidecar: StartSidecar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patio.adapters.fingerprints.READ_SECONDS", 0.3)
    path = adapter_files(tmp_path / "healthy")
    async with running_double() as double, sidecar(double) as client:
        for number in range(40):
            await client.load(load_request(f"hung{number}", str(tmp_path / f"hung{number}"), wait=0))
        assert (await client.load(load_request("healthy", path))).state is AdapterState.LOADED
        assert double.adapters == {"healthy": path}, "the engine is not asked to hang"

        async def is_reported() -> bool:
            hung_report = {report.lora_name: report for report in (await client.adapters()).adapters}["hung0"]
            return hung_report.reason == "FolderUnresponsive" and str(tmp_path / "hung0") in hung_report.message

        await eventually(is_reported, "the report says which file system does not answer")
        await double.crash()
        await double.start()

        async def is_ready_again() -> bool:
            return (await client.ready()).ready and double.adapters == {"healthy": path}

        await eventually(is_ready_again, "the pod is ready again")
        assert (await client.unload(UnloadRequest(lora_name="hung0"))).unloaded


def test_hung_thread_does_not_hold_the_end_of_a_process_up() -> None:
    import subprocess
    import sys

    program = (
        "import asyncio, time\n"
        "from patio.threads import in_thread\n"
        "async def main():\n"
        "    await asyncio.wait([in_thread(lambda: time.sleep(600), 'hung')], timeout=0.1)\n"
        "asyncio.run(main())\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=DEADLINE).returncode == 0
