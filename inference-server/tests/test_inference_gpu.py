"""A server on a machine with GPUs, which are a program `nvidia-smi` that reads a file."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import fake_programs
import pytest
from fake_tree import eventually

from inference_server import CustomServer
from inference_server.gpu import find_reader, read_amd

Make = Callable[..., CustomServer]

NVIDIA_SMI = """#!/bin/sh
cd "$(dirname "$0")"
echo "$1" >> queries
case "$1" in
  --query-gpu*) echo "0, GPU-aa, $(cat level)" ;;
  *) echo "4711, GPU-aa, another" ;;
esac
"""


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "smi"
    folder.mkdir()
    (folder / "nvidia-smi").write_text(NVIDIA_SMI)
    (folder / "nvidia-smi").chmod(0o755)
    (folder / "level").write_text("100")
    monkeypatch.setenv("PATH", fake_programs.path_with(folder))
    return folder


def queries(smi: Path) -> int:
    return (smi / "queries").read_text().count("--query-gpu") if (smi / "queries").exists() else 0


def start(make_server: Make, smi: Path, timeout: float) -> CustomServer:
    server = make_server(gpu_release_timeout=timeout)
    server.start()
    eventually(lambda: queries(smi) == 1, lambda: "the level before the start is read")
    (smi / "level").write_text("70000")
    return server


def test_stop_waits_for_memory_and_reports_who_keeps_it(
    make_server: Make, smi: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = start(make_server, smi, timeout=1.0)
    with caplog.at_level(logging.WARNING):
        report = server.stop()
    assert report is not None
    assert report.gpu_memory is not None
    assert report.gpu_memory.devices == ("0",)
    assert report.gpu_memory.seconds >= 1.0
    assert [(left.device, left.mib, left.holders) for left in report.gpu_memory.leftovers] == [
        ("0", 69900, ((4711, "another"),))
    ]
    assert "GPU 0 has 69900 MiB more in use than before the start; it is used by another (pid 4711)" in caplog.text


def test_stop_ends_when_the_memory_is_back(make_server: Make, smi: Path) -> None:
    (smi / "nvidia-smi").write_text(
        NVIDIA_SMI.replace("--query-gpu*)", '--query-gpu*) [ "$(grep -c gpu= queries)" -gt 3 ] && echo 101 > level;')
    )
    report = start(make_server, smi, timeout=600).stop()
    assert report is not None
    assert report.gpu_memory is not None
    assert report.gpu_memory.leftovers == ()


@pytest.mark.parametrize("text", ["#!/bin/sh\nexit 9\n", "#!/bin/sh\necho NVIDIA-SMI has failed\n"])
def test_driver_that_does_not_answer_delays_nothing(make_server: Make, smi: Path, text: str) -> None:
    (smi / "nvidia-smi").write_text(text)
    server = make_server(gpu_release_timeout=600)
    server.start()
    report = server.stop()
    assert report is not None
    assert report.gpu_memory is None or report.gpu_memory.devices == ()


def test_machine_without_gpu_waits_for_nothing(
    make_server: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("inference_server.gpu.AMD_FILES", str(tmp_path / "none*"))
    assert find_reader() is None
    server = make_server()
    server.start()
    report = server.stop()
    assert report is not None
    assert report.gpu_memory is None


def test_amd_card_is_read_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "card3/device/mem_info_vram_used"
    file.parent.mkdir(parents=True)
    file.write_text("1048576\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("inference_server.gpu.AMD_FILES", str(tmp_path / "card*/device/mem_info_vram_used"))
    assert find_reader() is read_amd
    reading = read_amd()
    assert reading is not None
    assert [(device.index, device.used_mib) for device in reading.devices] == [("card3", 1)]
