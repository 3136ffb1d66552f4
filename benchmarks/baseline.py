"""What the sidecar is measured against: the usual way, parsing metrics into objects and writing those out again.

`transform` does the renames of the sidecar's own tables with prometheus_client's parser and exposition. As a program it
is a plain FastAPI sidecar around that: one fetch, one transform, one answer for each scrape. It has no adapters, no
reconciler, no OpenMetrics and none of the rows that are more than a rename: all of that is in the sidecar's numbers and
not in these.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from typing import Protocol

from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from patio.metrics.mappings import SOURCES, STANDARD
from patio_protocol.engines import EngineKind


class Families(Protocol):
    """What the exposition asks for."""

    def collect(self) -> Iterable[Metric]:
        """Return every family."""


class _Both:
    """The engine's families and the standard ones."""

    def __init__(self, families: list[Metric], engine: EngineKind) -> None:
        self._families = families
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        yield from self._families
        yield from standard(self._families, self._engine)


def standard(families: list[Metric], engine: EngineKind) -> Iterator[Metric]:
    """Return the standard families that are renames."""
    by_name = {family.name: family for family in families}
    for row in STANDARD:
        for source in SOURCES[engine].get(row.name, ()):
            # The parser takes _total off a counter's name, so that is how it must be looked up.
            found = isinstance(source, str) and by_name.get(source.removesuffix("_total"))
            if not isinstance(source, str) or not found or not found.samples:
                continue
            family = Metric(f"patio:{row.name}".removesuffix("_total"), row.help, row.type)
            family.samples = [
                Sample(
                    f"patio:{row.name}" + sample.name.removeprefix(source),
                    {"inference_engine": engine.value, **sample.labels},
                    sample.value,
                )
                for sample in found.samples
            ]
            yield family
            break


def transform(text: bytes, engine: EngineKind) -> bytes:
    """Return the text with the standard families, all of it written anew."""
    return generate_latest(_Both(list(text_string_to_metric_families(text.decode())), engine))


def serve(port: int, url: str, engine: EngineKind) -> None:
    """Serve `/health` and `/metrics` until told to stop."""
    import httpx
    import uvicorn
    from fastapi import FastAPI, Response

    app = FastAPI()
    http = httpx.AsyncClient(trust_env=False, verify=False)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics() -> Response:
        answer = await http.get(url, headers={"accept-encoding": "identity"})
        return Response(transform(answer.content, engine), media_type="text/plain; version=0.0.4; charset=utf-8")

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A sidecar that parses metrics into objects.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--engine", type=EngineKind, required=True)
    arguments = parser.parse_args()
    serve(arguments.port, arguments.url, arguments.engine)
