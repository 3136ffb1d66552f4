"""Bodies of others are read up to a bound."""

from __future__ import annotations

import httpx
import pytest

from patio_gateway.bounded_body import TooLongError, read_body


@pytest.mark.parametrize(("length", "fits"), [(0, True), (10, True), (11, False)])
async def test_body_is_read_up_to_its_bound(length: int, fits: bool) -> None:
    response = httpx.Response(200, content=b"x" * length)
    if fits:
        assert await read_body(response, 10) == b"x" * length
    else:
        with pytest.raises(TooLongError, match="longer than 10 bytes"):
            await read_body(response, 10)
