"""An hour of a small fleet's metrics, as OpenMetrics with times: what `promtool tsdb` makes a database of.

The engines' series come from the recordings of a real vLLM and of SGLang, through the sidecar's own rewriting. Those of
sidecars and operator are made from the reference of the metrics, with values that their labels can have. Counters grow
all the time, so every rate has a value.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path

import metrics_reference
from prometheus_client.parser import text_string_to_metric_families

from patio.metrics.derived import Sample
from patio.metrics.rewrite import compile_rules, rewrite
from patio_protocol.engines import EngineKind

STEP = 30
LENGTH = 3600
RECORDINGS = next(metrics_reference.ROOT.glob("tests/**/engine_double/recordings"))
ENGINES = {EngineKind.VLLM: "vllm/metrics-0.32.0.txt", EngineKind.SGLANG: "sglang/metrics_busy.txt"}

VALUES: Mapping[str, tuple[str, ...]] = {
    "adapter": ("sql-expert", "translator"),
    "call": ("list", "load"),
    "certificate": ("serving", "ca"),
    "code": ("UnknownKey",),
    "inference_engine_version": ("0.32.0",),
    "kind": ("group",),
    "object_name": ("sql-expert",),
    "object_namespace": ("team-0",),
    "model_name": ("tiny",),
    "operation": ("load", "reload", "restore", "unload"),
    "outcome": ("ok", "error", "permanent", "allowed"),
    "ready": ("True", "False"),
    "reason": ("timeout",),
    "resource": ("pods",),
    "rolled_out": ("True", "False"),
    "required": ("false",),
    "revision": ("0123456789ab",),
    "router": ("http://router:30000",),
    "source": ("s3",),
    "state": ("Loaded", "Failed", "Pending", "Downloading", "Loading", "Unloading"),
    "verb": ("get", "patch"),
    "version": ("0.1.0",),
    "webhook": ("pods", "conversion"),
}
VALUES_OF: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "patio_operator_sidecars": {"state": ("reachable", "unreachable", "rejecting", "unknown")},
    "patio_operator_sidecar_calls_total": {"code": ("200", "none")},
    "patio_operator_api_requests_total": {"code": ("200", "409")},
    "patio_operator_profile_rolled_out": {"reason": ("UpToDate",)},
    "patio:download_disk_bytes": {"kind": ("used", "held", "free", "limit")},
    "patio:operator_contact_timestamp_seconds": {"kind": ("signed_call", "long_poll")},
    "patio:downloads": {"state": ("Queued", "Running", "Waiting")},
    "patio:drains_total": {"outcome": ("drained", "requests")},
    "patio:waiting_for": {"reason": ("engine", "adapter", "drain")},
}
"""Of families whose labels have other values than those of the same name elsewhere."""
BOUNDS = ("0.01", "0.1", "1.0", "10.0", "+Inf")

Series = tuple[str, Mapping[str, str], float, bool]
"""Name, labels, value at the end, and whether it is a counter."""


def history(start: int) -> Iterator[str]:
    """Yield the lines."""
    everything = [*_pods(), *_operators()]
    for name, labels, value, grows in everything:
        # JSON escapes what OpenMetrics does, in the same way.
        text = f"{name}{{{','.join(f'{label}={json.dumps(value)}' for label, value in labels.items())}}}"
        for second in range(0, LENGTH + 1, STEP):
            now = value * (second + STEP) / LENGTH if grows else value
            yield f"{text} {now!r} {start + second}\n"
    yield "# EOF\n"


def _pods() -> Iterator[Series]:
    for number, (engine, file) in enumerate(ENGINES.items()):
        target = {
            "job": "patio-sidecar",
            "namespace": f"team-{number}",
            "pod": f"{engine}-0",
            "rbg_workloads_x_k8s_io_group_name": "chat",
            "rbg_workloads_x_k8s_io_role_name": "worker",
        }
        for name, labels, value, grows in (*_engine(engine, RECORDINGS / file), *_own("patio:", str(engine))):
            yield name, {**target, **labels}, value, grows


def _operators() -> Iterator[Series]:
    for name, labels, value, grows in (*_own("patio_operator_", ""), *_own("process_", "")):
        yield name, {"namespace": "patio-system", "pod": "patio-operator-0", **labels}, value, grows


def _engine(engine: EngineKind, recording: Path) -> Iterator[Series]:
    supplied = {"model_context_tokens": [Sample(((b"model_name", b"tiny"),), 512.0)]}
    text = rewrite(recording.read_bytes(), compile_rules(engine, ("patio",)), supplied=supplied).text
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            base = metrics_reference.PART.sub("", sample.name)
            if base in metrics_reference.metrics() or sample.name in metrics_reference.metrics():
                kind = metrics_reference.kind_of(sample.name)
                yield sample.name, sample.labels, sample.value, kind == "counter"


def _own(prefix: str, engine: str) -> Iterator[Series]:
    for name, metric in metrics_reference.metrics().items():
        if metric.is_of_the_engine or not name.startswith(prefix):
            continue
        values_of = {**VALUES, **VALUES_OF.get(name, {})}
        for values in product(*(values_of.get(label, (engine,)) for label in metric.labels)):
            labels = dict(zip(metric.labels, values, strict=True))
            if metric.kind != "histogram":
                yield name, labels, 60.0 if metric.kind == "counter" else 1.0, metric.kind == "counter"
                continue
            for index, bound in enumerate(BOUNDS):
                yield f"{name}_bucket", {**labels, "le": bound}, 20.0 * (index + 1), True
            yield f"{name}_sum", labels, 50.0, True
            yield f"{name}_count", labels, 20.0 * len(BOUNDS), True
