"""The tables of the program: each name leads to one endpoint, and any name is safe in it."""

from __future__ import annotations

import re
import string

from hypothesis import given
from hypothesis import strategies as st

from patio_gateway.control.groups import groups_of
from patio_gateway.control.program import program
from patio_gateway.snapshot import Client, Model, Snapshot

HOSTILE = ['"', "\\", "]]", "\n", "\0", "--", '"]=1}os.exit()--', "ü", "\ud800", "%s"]
NAMES = st.text(min_size=1, max_size=20) | st.sampled_from(HOSTILE)


def text_of(snapshot: Snapshot) -> str:
    return program(snapshot, groups_of(snapshot.models, 10))


def table(text: str, name: str) -> dict[bytes, int]:
    """Read one table of names and numbers, by the grammar that the program is written in."""
    (body,) = re.findall(rf"^local {name} = \{{(.*?)\}}$", text, re.MULTILINE | re.DOTALL)
    entry = re.compile(r'\["((?:[^"\\\n]|\\\d{3})*)"\]=(\d+)(?:,\n|$)')
    found, at = {}, 0
    while at < len(body):
        match = entry.match(body, at)
        assert match, body[at : at + 50]
        plain = re.sub(rb"\\(\d{3})", lambda number: bytes([int(number[1])]), match[1].encode())
        found[plain] = int(match[2])
        at = match.end()
    return found


@given(st.lists(NAMES, unique=True, min_size=1, max_size=8), st.lists(NAMES, unique=True, max_size=8))
def test_every_name_leads_to_exactly_one_endpoint(names: list[str], adapters: list[str]) -> None:
    half = len(names) // 2
    models = tuple(
        Model(f"a/{number}", tuple(its), adapters=tuple(adapters))
        for number, its in enumerate([names[:half], names[half:]], 1)
        if its
    )
    text = text_of(Snapshot(models=models))
    found = table(text, "NAMES")
    for index, model in enumerate(models, 1):
        assert all(found[name.encode("utf-8", "replace")] == index for name in model.names)
    loras = table(text, "ADAPTERS")
    assert not found.keys() & loras.keys()


@given(NAMES, NAMES)
def test_hostile_names_stay_text(name: str, key: str) -> None:
    snapshot = Snapshot(models=(Model("a/m", (name,)),), clients=(Client(name, key),))
    head = text_of(snapshot).partition("-- Runs in Envoy")[0]
    plain = re.sub(r'"(?:[^"\\\n]|\\\d{3})*"', "", head)
    assert set(plain) <= set(string.ascii_letters + string.digits + "_ \n={}[],.")
