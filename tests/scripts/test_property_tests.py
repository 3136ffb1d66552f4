"""Property tests try the same examples in every run, whatever else their process tests."""

from __future__ import annotations

import os

import pytest
from hypothesis import find, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from patio_api.labels import ADAPTER_PREFIX


@pytest.mark.skipif(os.environ.get("PATIO_TEST_LONG") == "1", reason="a long search tries other examples on purpose")
def test_examples_do_not_come_from_imported_modules() -> None:
    with pytest.raises(NoSuchExample):
        find(st.text(), lambda text: text == ADAPTER_PREFIX, settings=settings(max_examples=2000))
