"""All requests that wait: bounds, deadlines, release, and that none is lost."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from patio_gateway.front.queue.line import Ticket
from patio_gateway.front.queue.queues import Bounds, FullQueue, Place, Queues

BASE: Place = ("a/m", None)
SQL: Place = ("a/m", "sql")


def ticket(number: int, client: str = "", since: float = 0.0, size: int = 0, deadline: float = 300.0) -> Ticket:
    return Ticket(number, since=since, deadline=deadline, client=client, size=size)


def filled(count: int, bounds: Bounds | None = None, place: Place = BASE) -> Queues:
    queues = Queues(bounds or Bounds())
    for number in range(count):
        assert queues.enter(place, ticket(number), most=1000) is None
    return queues


def numbers(tickets: tuple[Ticket, ...]) -> list[int]:
    return [each.number for each in tickets]


def test_queue_takes_its_most_and_refuses_the_next() -> None:
    queues = filled(3)
    assert queues.enter(SQL, ticket(3), most=4) is None
    assert queues.enter(BASE, ticket(4), most=4) is FullQueue.MODEL_FULL
    assert len(queues) == 4


def test_queue_takes_a_request_that_came_back_though_full() -> None:
    queues = filled(3)
    again = Ticket(9, since=0.0, deadline=300.0, not_before=0.0)
    assert queues.enter(BASE, again, most=3) is None


def test_gateway_takes_its_most_requests_and_bytes() -> None:
    queues = filled(2, Bounds(requests=2))
    assert queues.enter(("b/n", None), ticket(2), most=1000) is FullQueue.GATEWAY_FULL
    queues = Queues(Bounds(size=10))
    assert queues.enter(BASE, ticket(0, size=10), most=1000) is None
    assert queues.enter(BASE, ticket(1, size=1), most=1000) is FullQueue.GATEWAY_FULL


def test_client_that_hangs_up_frees_its_place_and_bytes() -> None:
    queues = Queues(Bounds(size=10))
    queues.enter(BASE, ticket(0, size=10), most=1)
    assert queues.leave(0) is not None
    assert queues.leave(0) is None
    assert queues.enter(BASE, ticket(1, size=10), most=1) is None


def test_request_expires_at_its_deadline_and_not_before() -> None:
    queues = Queues(Bounds())
    queues.enter(BASE, ticket(0, deadline=5.0), most=10)
    queues.enter(BASE, ticket(1, deadline=4.0), most=10)
    assert queues.next_time({}) == 4.0
    assert queues.expire(3.9) == ()
    assert numbers(queues.expire(4.0)) == [1]
    assert queues.next_time({}) == 5.0
    assert numbers(queues.expire(60.0)) == [0]
    assert queues.next_time({}) is None


def test_nothing_goes_on_without_a_worker() -> None:
    assert filled(3).release(1.0, {SQL: 32}) == ()


def test_worker_gets_what_it_takes_and_the_rest_later() -> None:
    queues, ready = filled(100), {BASE: 32}
    assert numbers(queues.release(0.0, ready)) == list(range(32))
    assert queues.release(0.0, ready) == ()
    at = queues.next_time(ready)
    assert at is not None
    assert at > 0.0
    assert len(queues.release(0.25, ready)) == 32


def test_two_workers_get_twice_as_much() -> None:
    queues = filled(100)
    assert len(queues.release(0.0, {BASE: 32})) == 32
    assert len(queues.release(0.0, {BASE: 64})) == 32


def test_adapters_of_a_worker_share_what_it_takes() -> None:
    queues = filled(20)
    for number in range(20, 40):
        queues.enter(SQL, ticket(number), most=1000)
    released = numbers(queues.release(0.0, {BASE: 8, SQL: 8}))
    assert len(released) == 8
    assert len([number for number in released if number >= 20]) == 4


def test_adapter_without_a_worker_does_not_hold_up_its_model() -> None:
    queues = filled(2, place=SQL)
    queues.enter(BASE, ticket(5), most=1000)
    assert numbers(queues.release(0.0, {BASE: 8})) == [5]


def test_places_take_turns_over_time() -> None:
    queues = filled(5)
    for number in range(5, 10):
        queues.enter(SQL, ticket(number), most=1000)
    ready, order = {BASE: 1, SQL: 1}, []
    for step in range(4):
        order += numbers(queues.release(step * 0.25, ready))
    assert order == [0, 5, 1, 6]


def test_deleted_model_and_adapter_are_dropped() -> None:
    queues = filled(2)
    queues.enter(SQL, ticket(7), most=1000)
    assert numbers(queues.drop({BASE})) == [7]
    assert numbers(queues.drop(())) == [0, 1]
    assert len(queues) == 0


def test_held_counts_by_endpoint_and_knows_the_oldest() -> None:
    queues = Queues(Bounds())
    queues.enter(BASE, ticket(0, since=4.0), most=10)
    queues.enter(SQL, ticket(1, since=3.0), most=10)
    held = queues.held()["a/m"]
    assert (held.count, held.oldest) == (2, 3.0)


def test_five_hundred_requests_all_go_on() -> None:
    queues, ready, seen, now = filled(500), {BASE: 32}, [], 0.0
    while len(queues):
        seen += numbers(queues.release(now, ready))
        now += 0.05
    assert sorted(seen) == list(range(500))


class Laws(RuleBasedStateMachine):
    """Every ticket that entered leaves exactly once; bounds hold; nothing waits that may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.queues = Queues(Bounds(requests=30, size=1000))
        self.waiting: dict[int, tuple[Place, Ticket]] = {}
        self.next, self.now = 0, 0.0

    @rule(
        place=st.sampled_from([BASE, SQL, ("b/n", None)]),
        client=st.sampled_from("abc"),
        priority=st.integers(0, 2),
        size=st.integers(0, 200),
        wait=st.floats(0, 20),
        again=st.booleans(),
    )
    def enter(self, place: Place, client: str, priority: int, size: int, wait: float, again: bool) -> None:
        made = Ticket(
            self.next, self.now, self.now + wait, client, priority, size, not_before=self.now + 0.05 if again else None
        )
        self.next += 1
        if self.queues.enter(place, made, most=10) is None:
            self.waiting[made.number] = (place, made)

    @rule(index=st.integers(0, 100))
    def leave(self, index: int) -> None:
        if self.waiting:
            number = sorted(self.waiting)[index % len(self.waiting)]
            assert self.queues.leave(number) == self.waiting.pop(number)[1]

    @rule(step=st.floats(0, 10))
    def expire(self, step: float) -> None:
        self.now += step
        for each in self.queues.expire(self.now):
            assert each.deadline <= self.now
            del self.waiting[each.number]
        assert all(each.deadline > self.now for _, each in self.waiting.values())

    @rule(ready=st.dictionaries(st.sampled_from([BASE, SQL, ("b/n", None)]), st.integers(1, 20)))
    def release(self, ready: dict[Place, int]) -> None:
        for each in self.queues.release(self.now, ready):
            place, made = self.waiting.pop(each.number)
            assert made == each
            assert place in ready
            assert each.not_before is None or each.not_before <= self.now
        at = self.queues.next_time(ready)
        # What may go on now has gone on: the next time is later, or is a deadline that has passed.
        deadlines = [made.deadline for _, made in self.waiting.values()]
        assert at is None or at > self.now or min(deadlines) <= self.now

    @rule(known=st.sets(st.sampled_from([BASE, SQL, ("b/n", None)])))
    def drop(self, known: set[Place]) -> None:
        for each in self.queues.drop(known):
            assert self.waiting.pop(each.number)[0] not in known

    @rule()
    def clear(self) -> None:
        assert {each.number for each in self.queues.clear()} == self.waiting.keys()
        self.waiting.clear()

    @invariant()
    def counts_agree(self) -> None:
        assert len(self.queues) == len(self.waiting) <= 30
        assert self.queues.size == sum(made.size for _, made in self.waiting.values()) <= 1000
        assert sum(held.count for held in self.queues.held().values()) == len(self.waiting)
        assert self.queues.endpoints() == {place[0] for place, _ in self.waiting.values()}


TestQueues = Laws.TestCase
TestQueues.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
