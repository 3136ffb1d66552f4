"""What the program says of itself, as plain values. This is the only module here that imports Patio's packages.

When a module moves, its new name goes here. Everything that a page needs of the code comes through these functions.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
from dataclasses import dataclass, fields
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

import inference_server.command_line
import inference_server.exit_codes
import patio.metrics.self_metrics
import patio_operator.settings
import patio_protocol.errors
from patio.access.metrics import AccessMetrics, Contact
from patio.adapters.metrics import AdapterMetrics
from patio.downloads.inventory import DiskUsage
from patio.downloads.metrics import DownloadMetrics
from patio.drain.metrics import DrainMetrics
from patio.engine.history import EngineHistory
from patio.metrics.buckets import SHARED_BOUNDS
from patio.metrics.engine_life import EngineLifeMetrics
from patio.metrics.mappings import SOURCES, STANDARD, VOCABULARIES, Derived, Source, Supplied
from patio.metrics.readiness import ReadinessMetrics
from patio.metrics.self_metrics import SelfMetrics
from patio.readiness import BlockerKind
from patio.settings import VARIABLES, _parser
from patio.topology.metrics import TopologyMetrics
from patio_operator.settings import Settings as OperatorSettings
from patio_operator.telemetry.metrics import Metrics
from patio_protocol.adapters import AdapterReport, AdapterState
from patio_protocol.engines import EngineKind
from patio_protocol.topology import TopologyReport

ENGINES = tuple(str(kind) for kind in EngineKind)


@dataclass(frozen=True)
class Setting:
    """A flag or a variable."""

    names: tuple[str, ...]
    meaning: str
    default: str = ""


@dataclass(frozen=True)
class Metric:
    """A family."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


@dataclass(frozen=True)
class StandardMetric:
    """A family of the vocabulary, and what it is made from on each engine."""

    name: str
    kind: str
    help: str
    sources: tuple[tuple[str, ...], ...]
    """For each of `ENGINES` the sources, the first that has samples counts."""


def sidecar_flags() -> list[Setting]:
    """Return the flags of the sidecar, in the order of its help."""
    found = []
    for action in _parser()._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        names = tuple(name for name in action.option_strings if not name.startswith("--no-"))
        if isinstance(action, argparse.BooleanOptionalAction):
            names = tuple(f"--[no-]{name.removeprefix('--')}" for name in names)
        default = action.default if isinstance(action.default, str) else ""
        help_text = re.sub(r" ?\(%\(default\)s(: )?", lambda match: " (" if match[1] else "(", action.help or "")
        found.append(Setting(names, help_text.replace(" ()", "").replace("()", ""), default))
    return found


def sidecar_variables() -> list[Setting]:
    """Return the variables of the sidecar."""
    found = []
    for name, meaning in VARIABLES.items():
        text, _, default = meaning.partition("; default")
        found.append(Setting((name,), text, default.strip(" :")))
    return found


@dataclass(frozen=True)
class InferenceCommand:
    """One command of `inference-server`."""

    name: str
    usage: str
    description: str
    options: tuple[Setting, ...]


def inference_commands() -> list[InferenceCommand]:
    """Return the commands of `inference-server`, in the order of its help."""
    found = []
    for name, parser in inference_server.command_line.parsers()[1].items():
        options = tuple(
            Setting(tuple(action.option_strings) or (str(action.metavar),), action.help or "")
            for action in parser._actions
            if not isinstance(action, argparse._HelpAction)
        )
        usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
        found.append(InferenceCommand(name, usage, " ".join((parser.description or "").split()), options))
    return found


def inference_exit_codes() -> list[tuple[int, str, tuple[str, ...]]]:
    """Return each exit code of `inference-server`: its meaning, and the causes that it stands for."""
    codes = inference_server.exit_codes
    return [
        (code, meaning, tuple(cause.value for cause, by in codes.BY_CAUSE.items() if by == code))
        for code, meaning in codes.MEANINGS.items()
    ]


def operator_settings_source() -> str:
    """Return the source of the operator's settings: for a check that no variable is left out."""
    return inspect.getsource(OperatorSettings.from_environment)


def operator_variables() -> list[Setting]:
    """Return the variables of the operator, with what its settings say of each field."""
    source = inspect.getsource(OperatorSettings)
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    documented: dict[str, str] = {}
    before = ""
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            before = node.target.id
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and before:
            documented[before] = str(node.value.value)
    reading = inspect.getsource(OperatorSettings.from_environment)
    variables = _variables_of_fields(reading)
    defaults = {field.name: field.default for field in fields(OperatorSettings)}
    return [
        Setting((variables[name],), documented.get(name, ""), _shown(defaults[name]))
        for name in (field.name for field in fields(OperatorSettings))
    ]


def _variables_of_fields(reading: str) -> dict[str, str]:
    """Return which variable fills which field, read off `from_environment`."""
    locals_: dict[str, str] = {}
    for name, variable in re.findall(
        r"^\s+(\w+) = (?:_\w+\()?(?:environment\.get\(|environment, )\"(\w+)\"", reading, re.M
    ):
        locals_[name] = variable
    for name, _, other in re.findall(r"^\s+(\w+) = next\(\((\w+) for \2 in \w+ if \2 == (\w+)\)", reading, re.M):
        locals_[name] = locals_[other]
    (call,) = re.findall(r"return cls\((.*)\)\s*$", reading, re.S)
    found = {}
    for name, value in re.findall(r"^\s+(\w+)=(.*),$", call, re.M):
        direct = re.search(r"\"([A-Z_]+)\"", value)
        found[name] = direct[1] if direct else locals_[value]
    return found


def _shown(default: object) -> str:
    if isinstance(default, tuple):
        return ",".join(default)
    if isinstance(default, str | int | float) and not isinstance(default, bool):
        return f"{default:g}" if isinstance(default, float) else str(default)
    days = getattr(default, "days", None)
    return str(days) if days is not None else ""


def standard_metrics() -> list[StandardMetric]:
    """Return the vocabulary."""
    return [
        StandardMetric(
            family.name,
            family.type,
            family.help,
            tuple(tuple(_source(source) for source in SOURCES[kind].get(family.name, ())) for kind in EngineKind),
        )
        for family in STANDARD
    ]


def vocabularies() -> dict[str, tuple[str, ...]]:
    """Return the names under each prefix."""
    return dict(VOCABULARIES)


def shared_bounds() -> dict[str, tuple[float, ...]]:
    """Return the bounds of buckets that all engines have, by histogram of the vocabulary."""
    return dict(SHARED_BOUNDS)


def sidecar_metrics() -> list[Metric]:
    """Return the families that the sidecar measures itself."""
    registry = CollectorRegistry()
    report = AdapterReport(lora_name="a", lora_path="/a", state=AdapterState.LOADED, reason="Loaded", since=0.0)
    AdapterMetrics(registry, lambda: (report,))
    SelfMetrics(registry, "1", "vllm", "")
    AccessMetrics(registry, True, Contact)
    DownloadMetrics(registry, tuple, lambda: DiskUsage(0, 0, 0, 0))
    DrainMetrics(registry, lambda: False)
    ReadinessMetrics(registry, BlockerKind, tuple)
    EngineLifeMetrics(registry, "vllm", lambda: EngineHistory(start_seconds=1.0, model_name="m"))
    TopologyMetrics(registry, lambda: TopologyReport(role="client"))
    beside_a_router = CollectorRegistry()
    TopologyMetrics(beside_a_router, lambda: TopologyReport(role="server"))
    return list({family.name: family for family in (*_families(registry), *_families(beside_a_router))}.values())


def operator_metrics() -> list[Metric]:
    """Return the families of the operator."""
    metrics = Metrics()
    of_objects = [family for gauges in metrics.objects for family in gauges.families]
    return _families(metrics.registry) + [
        Metric(family.name, "gauge", family.labels, family.help) for family in of_objects
    ]


def package_folders() -> dict[str, Path]:
    """Return where the packages lie: for checks that read their sources."""
    return {
        "sidecar": Path(patio.metrics.self_metrics.__file__).parents[1],
        "operator": Path(patio_operator.settings.__file__).parent,
        "protocol": Path(patio_protocol.errors.__file__).parent,
    }


def _families(registry: CollectorRegistry) -> list[Metric]:
    found = []
    for collector in registry._collector_to_names:
        found += _of_collector(collector)
    return found


def _of_collector(collector: Collector) -> list[Metric]:
    found = []
    for family in collector.collect():
        labels = getattr(collector, "_labelnames", None)
        if labels is None:
            labels = tuple(getattr(family, "_labelnames", ()))
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found.append(Metric(name, family.type, tuple(labels), family.documentation))
    return found


def _source(source: Source) -> str:
    if isinstance(source, Supplied):
        return source.description
    return f"{source.family} ({source.description})" if isinstance(source, Derived) else source


def reason_like_words() -> set[str]:
    """Return what the packages write like a reason: one CamelCase word as a string of its own."""
    found: set[str] = set()
    for folder in package_folders().values():
        for file in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                value = node.value if isinstance(node, ast.Constant) else None
                if isinstance(value, str) and re.fullmatch(r"([A-Z][a-z]+)+", value):
                    found.add(value)
    return found
