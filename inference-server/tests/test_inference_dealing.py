"""Ports and GPUs are dealt so that no two servers have the same, or it is said why not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_server.dealing import DealingError, Dealt, Wanted, deal, gpus_needed, listed_gpus, own_gpus, part_of

PORTS = (10000, 19999)


def everything_is_free(port: int) -> bool:
    return True


@pytest.mark.parametrize(
    ("engine", "text", "count"),
    [
        ("vllm", "", 1),
        ("vllm", "--tensor-parallel-size 4", 4),
        ("vllm", "--tensor_parallel_size=4 -pp 2", 8),
        ("vllm", "-tp 2 -dp 3", 6),
        ("vllm", "--tensor-parallel-size many", 1),
        ("vllm", "--tensor-parallel-size 99999999", 1),
        ("sglang", "--tp 4", 4),
        ("sglang", "--tp-size 4 --dp-size 2", 8),
        ("sglang", "--tp-size 4 --dp-size 2 --enable-dp-attention", 4),
        ("mine", "--tensor-parallel-size 4", 1),
    ],
)
def test_gpus_are_counted_from_the_arguments(engine: str, text: str, count: int) -> None:
    assert gpus_needed(engine, text.split()) == count


@pytest.mark.parametrize(
    ("value", "names"), [(None, None), ("", ()), ("-1", ()), ("0,1", ("0", "1")), (" 0, GPU-ab ,", ("0", "GPU-ab"))]
)
def test_visible_gpus_are_listed(value: str | None, names: tuple[str, ...] | None) -> None:
    assert listed_gpus(value) == names


def test_own_gpus_are_those_of_any_of_the_variables() -> None:
    assert own_gpus({"HIP_VISIBLE_DEVICES": "3"}) == ("3",)
    assert own_gpus({"PATH": "3"}) is None


def test_each_server_has_gpus_and_a_port_of_its_own() -> None:
    wanted = [Wanted("a", gpus=2), Wanted("b", gpus=1), Wanted("c", gpus=1, port=10001)]
    assert deal(wanted, ["0", "1", "2", "3"], PORTS, everything_is_free, 0) == (
        Dealt(10000, ("0", "1")),
        Dealt(10002, ("2",)),
        Dealt(10001, ("3",)),
    )


def test_gpus_that_a_server_names_are_not_dealt_to_others() -> None:
    wanted = [Wanted("a"), Wanted("b", own_gpus=("0",)), Wanted("c")]
    assert [each.gpus for each in deal(wanted, ["0", "1", "2"], PORTS, everything_is_free, 0)] == [("1",), (), ("2",)]


def test_too_few_gpus_are_an_error_with_the_numbers() -> None:
    wanted = [Wanted("a", gpus=2), Wanted("b", gpus=2)]
    with pytest.raises(DealingError, match=r"2 servers need 4 GPUs \(a: 2, b: 2\), and 3 of the machine's 3"):
        deal(wanted, ["0", "1", "2"], PORTS, everything_is_free, 0)


def test_machine_without_gpus_deals_none() -> None:
    assert deal([Wanted("a", gpus=8), Wanted("b")], [], PORTS, everything_is_free, 7)[0].gpus == ()


def test_busy_ports_are_passed_over() -> None:
    dealt = deal([Wanted("a"), Wanted("b")], [], PORTS, lambda port: port % 10 == 9, 5)
    assert [each.port for each in dealt] == [10009, 10019]


def test_same_port_twice_is_an_error() -> None:
    with pytest.raises(DealingError, match="two servers want port 10001"):
        deal([Wanted("a", port=10001), Wanted("b", port=10001)], [], PORTS, everything_is_free, 0)


def test_no_port_left_is_an_error_that_names_the_server() -> None:
    with pytest.raises(DealingError, match=r"no port between 10000 and 10001 is left for c"):
        deal([Wanted("a"), Wanted("b"), Wanted("c")], [], (10000, 10001), everything_is_free, 0)


@given(
    st.lists(st.tuples(st.integers(1, 4), st.sampled_from([1, 50])), min_size=1, max_size=8),
    st.integers(0, 1 << 16),
    st.sets(st.integers(10000, 10500)),
)
def test_dealt_ports_and_gpus_never_meet(sizes: list[tuple[int, int]], start: int, busy: set[int]) -> None:
    wanted = [Wanted(str(index), gpus=gpus, port_distance=away_from) for index, (gpus, away_from) in enumerate(sizes)]
    gpus = [str(number) for number in range(32)]
    dealt = deal(wanted, gpus, PORTS, lambda port: port not in busy, start)
    shares = [gpu for each in dealt for gpu in each.gpus]
    assert len(shares) == len(set(shares)) == sum(each.gpus for each in wanted)
    spans = sorted((each.port, each.port + want.port_distance) for each, want in zip(dealt, wanted, strict=True))
    assert all(first[1] <= second[0] for first, second in zip(spans, spans[1:], strict=False))
    assert all(PORTS[0] <= each.port <= PORTS[1] and each.port not in busy for each in dealt)


@given(st.integers(1, 64), st.integers(64, 30000))
def test_parts_of_workers_do_not_meet(count: int, size: int) -> None:
    parts = [part_of((10000, 10000 + size - 1), index, count) for index in range(count)]
    assert all(low <= high for low, high in parts)
    assert all(first[1] < second[0] for first, second in zip(parts, parts[1:], strict=False))
    assert parts[0][0] == 10000
    assert parts[-1][1] <= 10000 + size - 1
