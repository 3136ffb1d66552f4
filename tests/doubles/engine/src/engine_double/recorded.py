"""The recordings as data: recorded texts to serve, recorded exchanges to compare with.

Three formats, as they came: `vllm/api-0.32.0.md` (one server, curl arguments and answers),
`vllm/api-0.32.0-more.jsonl` (two servers, one exchange a line) and `sglang/api.md` (Markdown in sections, one server
each or shared). Pure but for reading package data.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib import resources

_TRUNCATED = re.compile(r"(?:\.\.\. )?\[\d+ bytes in all\]$")
_TIMING = re.compile(r"^\[(\d{3})\] [\d.]+s$", re.M)
_STATUS_AND_BODY = re.compile(r"^(?P<status>\d{3})(?P<type> )(?=\{)", re.M)
_HTTP = re.compile(r"^HTTP (?P<status>\d{3})  content-type: (?P<type>.*?)  time:", re.M)


@dataclass(frozen=True)
class Exchange:
    """One recorded request with its answer."""

    section: str
    title: str
    method: str
    path: str
    """With its query."""
    status: int
    content_type: str | None
    answer: str
    body: str | None = None
    headers: tuple[tuple[str, str], ...] = field(default=())
    truncated: bool = False
    """Only the beginning of the answer was kept."""
    type_recorded: bool = True

    @property
    def name(self) -> str:
        """Section and title, as tests call it."""
        return f"{self.section}: {self.title}"


def text(file: str) -> str:
    """A recorded text, as it came."""
    return (resources.files("engine_double") / "recordings" / file).read_text()


def vllm_exchanges() -> Iterator[Exchange]:
    """`api-0.32.0.md`, in order; remarks between the exchanges are left out."""
    for block in re.split(r"^--- ", text("vllm/api-0.32.0.md"), flags=re.M)[1:]:
        command, _, rest = block.partition("\n")
        timing = _TIMING.search(rest)
        assert timing is not None, block
        command_line, separator, data = command.partition(" -d ")
        arguments, *headers = command_line.split(" -H ")
        method, url = "GET", ""
        for argument in arguments.split():
            if argument.startswith("-X"):
                method = argument.removeprefix("-X")
            elif argument.startswith("localhost"):
                url = argument
        path = "/" + url.partition("/")[2]
        yield Exchange(
            section="vllm",
            title=f"{method} {path} {data}".strip(),
            method=method,
            path=path,
            status=int(timing[1]),
            content_type=None,
            answer=rest[: timing.start()].removesuffix("\n"),
            body=data if separator else None,
            headers=tuple(_header(header) for header in headers),
            truncated="-o /dev/null" in arguments,
            type_recorded=False,
        )


def more_vllm_exchanges() -> Iterator[Exchange]:
    """`api-0.32.0-more.jsonl`, in order; the section is the server: `lora` or `plain`."""
    for line in text("vllm/api-0.32.0-more.jsonl").splitlines():
        recorded = json.loads(line)
        body = recorded["body"]
        yield Exchange(
            section=recorded["server"],
            title=recorded["title"],
            method=recorded["method"],
            path=recorded["path"],
            status=recorded["status"],
            content_type=recorded["content_type"],
            answer=recorded["answer"],
            body=body if body is None or isinstance(body, str) else json.dumps(body),
            headers=tuple(recorded["headers"].items()),
            truncated=recorded["path"] == "/metrics",
        )


def sglang_exchanges() -> Iterator[Exchange]:
    """`api.md`, in order; the section is the server or part (`A0`, `B`, ...), a repeated title gets a number."""
    section = ""
    occurrences: Counter[str] = Counter()
    for heading, body in _headings(text("sglang/api.md")):
        if heading.startswith("## "):
            section = heading.removeprefix("## ").partition(".")[0]
        elif "$ curl" in body:
            exchange = _sglang_exchange(section, heading.removeprefix("### "), body)
            occurrences[exchange.name] += 1
            count = occurrences[exchange.name]
            yield exchange if count == 1 else replace(exchange, title=f"{exchange.title} #{count}")


def _headings(document: str) -> Iterator[tuple[str, str]]:
    """Each heading with the text under it; lines inside code blocks are no headings."""
    heading, lines, in_code = "", list[str](), False
    for line in document.splitlines():
        if line.startswith("```"):
            in_code = not in_code
        if not in_code and line.startswith(("## ", "### ")):
            yield heading, "\n".join(lines)
            heading, lines = line, []
        else:
            lines.append(line)
    yield heading, "\n".join(lines)


def _sglang_exchange(section: str, title: str, body: str) -> Exchange:
    command = re.search(r"^\$ (curl .*)$", body, re.M)
    http = _HTTP.search(body) or _STATUS_AND_BODY.search(body)
    assert command is not None, title
    assert http is not None, title
    method, path, data, headers, truncated = "GET", "", None, list[tuple[str, str]](), False
    arguments = iter(shlex.split(command[1])[1:])
    for argument in arguments:
        if argument == "-X":
            method = next(arguments)
        elif argument == "-H":
            headers.append(_header(next(arguments)))
        elif argument == "-d":
            data = next(arguments)
        elif argument in ("-o", "-D"):
            next(arguments)
            truncated = True
        elif argument.startswith("http://"):
            path = "/" + argument.split("/", 3)[3]
    answer = body[http.end() :].partition("```\n")[2].rpartition("\n```")[0].partition("\n```\n")[0]
    if data is not None and not any(name.lower() == "content-type" for name, _ in headers):
        headers.append(("Content-Type", "application/x-www-form-urlencoded"))
    return Exchange(
        section=section,
        title=title,
        method=method,
        path=path,
        status=int(http["status"]),
        content_type=None if http["type"] == "-" else http["type"],
        answer="" if answer == "(empty body)" else answer,
        body=data,
        headers=tuple(headers),
        truncated=truncated or _TRUNCATED.search(answer) is not None,
    )


def _header(text: str) -> tuple[str, str]:
    name, _, value = text.partition(":")
    return name.strip(), value.strip()
