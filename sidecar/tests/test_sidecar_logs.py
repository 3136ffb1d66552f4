"""A fact is a line, whatever words are in it."""

from __future__ import annotations

import json
import logging

import pytest

from patio.logs import configure


@pytest.mark.parametrize("as_json", [False, True])
def test_an_engines_words_never_make_a_second_line(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        configure("INFO", as_json)
        logging.getLogger("patio.test").info("adapter not loaded message=%s", "first\r\n2026 CRITICAL second")
        try:
            raise ValueError("broken")
        except ValueError:
            logging.getLogger("patio.test").exception("sidecar failed")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    lines = capsys.readouterr().err.splitlines()
    assert "first" in lines[0]
    assert "second" in lines[0]
    if as_json:
        assert json.loads(lines[0])["message"] == "adapter not loaded message=first\r\n2026 CRITICAL second"
        assert "ValueError: broken" in json.loads(lines[1])["exception"]
    else:
        assert lines[-1] == "ValueError: broken"
