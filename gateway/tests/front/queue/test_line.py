"""Who goes on next: clients take turns, priority first, and what came back before all."""

from __future__ import annotations

from patio_gateway.front.queue.line import Line, Ticket


def ticket(number: int, client: str = "", priority: int = 0, not_before: float | None = None) -> Ticket:
    return Ticket(number, since=0.0, deadline=300.0, client=client, priority=priority, not_before=not_before)


def taken(line: Line, now: float = 0.0) -> list[int]:
    numbers = []
    while (each := line.take(now)) is not None:
        numbers.append(each.number)
    return numbers


def line_of(*tickets: Ticket) -> Line:
    line = Line()
    for each in tickets:
        line.add(each)
    return line


def test_requests_of_a_client_keep_their_order() -> None:
    assert taken(line_of(*(ticket(number, "a") for number in range(5)))) == [0, 1, 2, 3, 4]


def test_clients_take_turns_whatever_they_sent() -> None:
    line = line_of(*(ticket(number, "a") for number in range(4)), ticket(10, "b"), ticket(11, "b"), ticket(20, "c"))
    assert taken(line) == [0, 10, 20, 1, 11, 2, 3]


def test_greater_priority_goes_first() -> None:
    line = line_of(ticket(0, "a"), ticket(1, "b", priority=5), ticket(2, "a"), ticket(3, "c", priority=5))
    assert taken(line) == [1, 3, 0, 2]


def test_request_that_came_back_goes_before_all_others() -> None:
    line = line_of(ticket(0, "a", priority=9), ticket(1, "b", not_before=1.0))
    assert taken(line, now=1.0) == [1, 0]


def test_request_that_came_back_does_not_hold_up_others() -> None:
    line = line_of(ticket(0, "a"), ticket(1, "b", not_before=1.0))
    assert taken(line, now=0.5) == [0]
    assert line.next_time() == 1.0
    assert taken(line, now=1.0) == [1]


def test_removed_ticket_is_not_taken() -> None:
    line = line_of(ticket(0, "a"), ticket(1, "b"), ticket(2, "b", not_before=0.0))
    assert line.remove(1) is not None
    assert line.remove(2) is not None
    assert line.remove(2) is None
    assert taken(line) == [0]


def test_empty_line_has_no_next_time() -> None:
    assert Line().next_time() is None
    assert line_of(ticket(0)).next_time() == float("-inf")
