"""Server-sent events are read alike, however their bytes are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patio_gateway.forwarder.events import EventReader, EventTooLongError

LINE = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20)


def read(*chunks: bytes, most: int = 1000) -> list[str]:
    reader = EventReader(most)
    return [event for chunk in chunks for event in reader.feed(chunk)] + reader.finish()


@given(st.lists(st.lists(LINE, min_size=1, max_size=3), max_size=5), st.sampled_from(["\n", "\r", "\r\n"]))
def test_data_of_events_comes_out_with_any_line_end(events: list[list[str]], end: str) -> None:
    text = "".join("".join(f"data: {line}{end}" for line in lines) + end for lines in events)
    assert read(text.encode()) == ["\n".join(lines) for lines in events]


@given(st.binary(max_size=200) | st.text("da: \r\n\ufeffx", max_size=60).map(str.encode), st.data())
def test_cuts_between_bytes_change_nothing(body: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8)))
    chunks = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert read(*chunks) == read(body)
    assert read(*(bytes([byte]) for byte in body)) == read(body)


def test_everything_but_data_is_left_out() -> None:
    body = b'\xef\xbb\xbf: ping\n\nevent: x\nid: 3\ndata:{"a": 1}\nretry: 5\n\nevent: nothing\n\ndata\n\ndata: last'
    assert read(body) == ['{"a": 1}', "", "last"]


def test_event_has_a_greatest_length() -> None:
    assert read(b"data: " + b"x" * 94, most=100) == ["x" * 94]
    for body in (b"data: " + b"x" * 95, b"data: xx\n" * 20, b":" * 101):
        with pytest.raises(EventTooLongError):
            read(body, most=100)
        with pytest.raises(EventTooLongError):
            read(*(bytes([byte]) for byte in body), most=100)


def test_many_short_events_are_no_long_one() -> None:
    assert len(read(b"data: x\n\n" * 1000, most=20)) == 1000
