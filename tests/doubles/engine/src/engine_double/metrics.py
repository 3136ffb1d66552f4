"""`/metrics`: the engine's recorded text as the template, with this process's numbers in it.

Every family, help line, label and bucket bound is the recorded one. What the double counts is live, everything else
that would count or measure is zero, and gauges of the surroundings (memory, configuration) stay as recorded. The
tables below say which sample shows which number; `vllm` and `sglang` fill in the gauges. Pure: a state in, text out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from engine_double import recorded
from engine_double.settings import EngineKind
from engine_double.stats import Observations, Stats

HISTOGRAMS: Mapping[str, str] = {
    "time_to_first_token_seconds": "time_to_first_token",
    "inter_token_latency_seconds": "inter_token_latency",
    "e2e_request_latency_seconds": "e2e_request_latency",
    "request_time_per_output_token_seconds": "request_time_per_output_token",
    "request_queue_time_seconds": "queue_time",
    "queue_time_seconds": "queue_time",
    "request_prefill_time_seconds": "prefill_time",
    "request_decode_time_seconds": "decode_time",
    "request_prompt_tokens": "prompt_tokens",
    "request_generation_tokens": "generation_tokens",
    "prompt_tokens_histogram": "prompt_tokens",
    "generation_tokens_histogram": "generation_tokens",
}
"""Family without the engine's prefix -> what `Stats.histograms` calls it. The engines agree on most names."""

ENVIRONMENT = ("python_", "process_", "sglang:process_")
"""Families about the process, left as recorded."""

VLLM_FILE = "vllm/metrics-0.32.0.txt"
SGLANG_FILE = "sglang/metrics_busy.txt"
SGLANG_IDLE_FILE = "sglang/metrics_idle.txt"

_SAMPLE = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Line:
    """One line of a template: a comment, or a sample with its labels."""

    family: str
    kind: str
    """`counter`, `gauge`, `histogram` or `summary`."""
    text: str
    name: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    value: str = ""

    @property
    def is_comment(self) -> bool:
        """Whether it is a HELP or TYPE line."""
        return not self.name


@dataclass(frozen=True)
class Snapshot:
    """What the numbers of one answer are made of."""

    model: str
    started_at: float
    stats: Stats
    gauges: Mapping[str, float]
    """Sample name -> value."""
    max_lora: int | None = None
    """vLLM with LoRA: the label of `vllm:lora_requests_info`."""


def render(kind: EngineKind, snapshot: Snapshot) -> str:
    """The text of `GET /metrics`."""
    if kind is EngineKind.VLLM:
        template = template_of(VLLM_FILE)
    else:
        template = template_of(SGLANG_FILE)
        if not snapshot.stats.finished:
            # SGLang 0.5.23 prints some families only after traffic.
            idle_families = {line.family for line in template_of(SGLANG_IDLE_FILE)}
            template = tuple(
                line
                for line in template
                if line.family in idle_families and ("is_streaming", "true") not in line.labels
            )
    return "".join(text + "\n" for text in _lines(template, snapshot))


@cache
def template_of(file: str) -> tuple[Line, ...]:
    """A recorded text, taken apart."""
    family, kind = "", ""
    lines = []
    for text in recorded.text(file).splitlines():
        if text.startswith("#"):
            _, keyword, family, rest = [*text.split(" ", 3), ""][:4]
            kind = rest if keyword == "TYPE" else ""
            lines.append(Line(family, kind, text))
        elif match := _SAMPLE.match(text):
            labels = tuple(_LABEL.findall(match["labels"] or ""))
            lines.append(Line(family, kind, text, match["name"], labels, match["value"]))
    return tuple(lines)


def _lines(template: tuple[Line, ...], snapshot: Snapshot) -> Iterator[str]:
    for line in template:
        labels = dict(line.labels)
        if line.is_comment:
            yield line.text
            if line.text.startswith("# TYPE"):
                yield from _made_up(line.family, snapshot)
        elif "handler" in labels or line.family == "vllm:lora_requests_info":
            continue  # one series for each combination seen by the recorded server: `_made_up` prints ours
        else:
            if "model_name" in labels:
                labels["model_name"] = snapshot.model
            yield _sample(line.name, labels, _value(line, labels, snapshot))


def _made_up(family: str, snapshot: Snapshot) -> Iterator[str]:
    """Series whose labels depend on what happened."""
    if family == "vllm:lora_requests_info" and snapshot.max_lora is not None:
        for adapters, at in snapshot.stats.lora_info.items():
            # vLLM 0.32 names every adapter with requests in both labels, whether they run or wait.
            yield _sample(
                family,
                {
                    "max_lora": str(snapshot.max_lora),
                    "running_lora_adapters": adapters,
                    "waiting_lora_adapters": adapters,
                },
                repr(at),
            )
    elif family == "http_requests_total":
        for (handler, method, status), count in snapshot.stats.http.items():
            yield _sample(family, {"handler": handler, "method": method, "status": status}, str(float(count)))


def _value(line: Line, labels: Mapping[str, str], snapshot: Snapshot) -> str:
    stats = snapshot.stats
    if line.name in stats.fixed:
        return repr(float(stats.fixed[line.name]))
    if line.name in snapshot.gauges:
        return repr(float(snapshot.gauges[line.name]))
    if line.family.startswith(ENVIRONMENT):
        return line.value
    if line.family.endswith("_created"):
        return repr(snapshot.started_at)
    if line.kind in ("histogram", "summary"):
        return _histogram_value(line, labels, stats)
    if line.kind == "counter":
        return str(float(_counter_value(line.name, labels, stats)))
    return line.value


def _histogram_value(line: Line, labels: Mapping[str, str], stats: Stats) -> str:
    family = line.family.partition(":")[2] or line.family
    # SGLang splits its numbers by streaming; the double keeps them together in the series that says "false".
    observed = stats.histograms.get(HISTOGRAMS.get(family, ""), None)
    if observed is None or labels.get("is_streaming") == "true":
        observed = Observations()
    if line.name.endswith("_sum"):
        return repr(float(observed.total))
    if line.name.endswith("_bucket"):
        return str(float(observed.below(float(labels["le"]))))
    return str(float(len(observed.values)))


def _counter_value(name: str, labels: Mapping[str, str], stats: Stats) -> float:
    if labels.get("is_streaming") == "true":
        return 0
    match name:
        case "vllm:prompt_tokens_total" | "sglang:prompt_tokens_total":
            return stats.prompt_tokens
        case "vllm:generation_tokens_total" | "sglang:generation_tokens_total":
            return stats.generation_tokens
        case "vllm:request_success_total":
            return stats.finished[labels["finished_reason"]]
        case "sglang:num_requests_total":
            return stats.finished.total()
        case "sglang:realtime_tokens_total":
            return {"decode": stats.generation_tokens, "prefill_compute": stats.prompt_tokens}.get(labels["mode"], 0)
    return 0


def _sample(name: str, labels: Mapping[str, str], value: str) -> str:
    if not labels:
        return f"{name} {value}"
    inside = ",".join(f'{key}="{text}"' for key, text in labels.items())
    return f"{name}{{{inside}}} {value}"
