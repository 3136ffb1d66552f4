"""What nvidia-smi and the amdgpu driver say, and which memory has not come back."""

from __future__ import annotations

import pytest

from inference_server.gpu_memory import (
    TOLERANCE_MIB,
    Device,
    Holder,
    Leftover,
    Reading,
    leftovers,
    parse_amd,
    parse_nvidia,
    used_devices,
)

DEVICES = "0, GPU-aa, 3\n1, GPU-bb, 40000\n2, MIG-cc, [N/A]\nNVIDIA-SMI has failed\n"
HOLDERS = "4711, GPU-bb, /usr/bin/python3, the second\n[N/A], GPU-aa, x\n"


def levels(*used: int, holders: tuple[Holder, ...] = ()) -> Reading:
    return Reading(tuple(Device(str(index), f"GPU-{index}", mib) for index, mib in enumerate(used)), holders)


def test_answer_of_nvidia_smi_is_read() -> None:
    assert parse_nvidia(DEVICES, HOLDERS) == Reading(
        (Device("0", "GPU-aa", 3), Device("1", "GPU-bb", 40000)),
        (Holder(4711, "GPU-bb", "/usr/bin/python3, the second"),),
    )
    assert parse_nvidia("", "\n,,\n") == Reading(())


def test_files_of_amdgpu_are_read() -> None:
    texts = {"card1": "17179869184\n", "card0": "0\n", "card2": "unknown\n"}
    assert parse_amd(texts) == Reading((Device("card0", "card0", 0), Device("card1", "card1", 16384)))


@pytest.mark.parametrize(
    ("visible", "holders", "expected"),
    [
        (None, (), {"GPU-1", "GPU-2"}),
        ("1", (), {"GPU-1"}),
        ("GPU-2,0", (), {"GPU-2"}),
        ("", (), set()),
        ("1", (Holder(7, "GPU-2", "vllm"), Holder(8, "GPU-1", "another")), {"GPU-2"}),
    ],
    ids=["all that rose", "by index", "by UUID", "none visible", "by pid"],
)
def test_used_devices_are_those_of_the_engine(
    visible: str | None, holders: tuple[Holder, ...], expected: set[str]
) -> None:
    before, during = levels(10, 10, 10), levels(10 + TOLERANCE_MIB, 20000, 30000, holders=holders)
    assert used_devices(before, during, [7], visible) == expected


def test_leftover_is_what_a_used_device_has_beyond_its_level() -> None:
    now = levels(5000, 100 + TOLERANCE_MIB, 20000, holders=(Holder(7, "GPU-2", "VLLM::Worker"),))
    found = leftovers(levels(10, 100, 10), now, frozenset({"GPU-1", "GPU-2", "GPU-gone"}))
    assert found == (Leftover("2", 19990, ((7, "VLLM::Worker"),)),)
