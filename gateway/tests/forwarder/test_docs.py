"""The page on the forwarder has every field and option, with its default."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from patio_gateway.forwarder.__main__ import parser
from patio_gateway.forwarder.config import Config, Stream, Sync, read_config

PAGE = (Path(__file__).parents[3] / "docs/tasks/forwarder.md").read_text()


def rows(heading: str) -> dict[str, list[str]]:
    """Return the rows of the table below a text: what is in their first column, and the others."""
    table = PAGE.partition(heading)[2].partition("|---|")[2].partition("\n\n")[0]
    cells = [re.split(r" \|(?: |$)", line.removeprefix("| ")) for line in table.splitlines()[1:]]
    return {first.strip("`"): others for first, *others in cells}


def shown(value: object) -> str:
    """Return how the page has a default."""
    if value is None or value == ():
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def test_page_has_every_field_with_its_default() -> None:
    found = {name: cells[:2] for name, cells in rows("## Fields of the config").items()}
    whole, sync, stream = Config(), Sync().model_dump(), Stream().model_dump()
    expected = {}
    for name, value in sync.items():
        values = dict.fromkeys([value, stream.get(name, value)])
        text = "`null`" if name == "batch_route" else ", ".join(shown(each) for each in values)
        expected[name] = ["both" if name in stream else "`sync`", text]
    expected |= {name: ["the whole", shown(getattr(whole, name))] for name in ("max_concurrency", "name")}
    assert found == expected


def test_page_has_every_option_with_its_default() -> None:
    defaults = {
        action.option_strings[-1]: "none" if not action.default else str(action.default)
        for action in parser()._actions
        if action.dest != "help"
    }
    found = {name: cells[0] for name, cells in rows("## Start it").items()}
    assert found == defaults | {"--config": "required", "--host": "all addresses"}


def test_config_of_the_page_is_read() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert yaml.safe_load(text)
    assert len(read_config(text.encode(), "page", [], {}).forwardings) == 2
