"""The numbers behind `/metrics`: counters and histograms that only this process changes.

Pure bookkeeping; `batch` and the routes report what happened, `metrics` prints it in the engine's own text.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Observations:
    """What a histogram saw. The bucket bounds are the template's, so every value is kept."""

    values: list[float] = field(default_factory=list)

    def add(self, value: float) -> None:
        """Observe one value."""
        self.values.append(value)

    @property
    def total(self) -> float:
        """The sum."""
        return sum(self.values)

    def below(self, bound: float) -> int:
        """How many values are at or under the bound."""
        return sum(1 for value in self.values if value <= bound)


@dataclass
class Stats:
    """Everything counted since the start."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    """Requests by finish reason."""
    http: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Requests by handler, method and class of status, e.g. `("/v1/models", "GET", "2xx")`."""
    histograms: defaultdict[str, Observations] = field(default_factory=lambda: defaultdict(Observations))
    """By what is measured: `time_to_first_token`, `inter_token_latency`, ..."""
    lora_info: dict[str, float] = field(default_factory=dict)
    """Adapters with requests (`a0,a1`) -> when that was seen last. vLLM keeps one series per combination ever seen."""
    fixed: dict[str, float] = field(default_factory=dict)
    """Values that a test demands, by name of the sample; they win over what happened."""

    def request_finished(
        self,
        *,
        prompt_tokens: int,
        tokens: int,
        started: float,
        placed: float,
        first_token: float,
        now: float,
        reason: str,
    ) -> None:
        """Book one request that ended: it came, got its place in the batch, its first token, and its last."""
        self.finished[reason] += 1
        observed: Mapping[str, float] = {
            "e2e_request_latency": now - started,
            "queue_time": placed - started,
            "prefill_time": first_token - placed,
            "decode_time": now - first_token,
            "time_to_first_token": first_token - started,
            "request_time_per_output_token": (now - first_token) / max(1, tokens - 1),
            "prompt_tokens": prompt_tokens,
            "generation_tokens": tokens,
        }
        for name, value in observed.items():
            self.histograms[name].add(value)
