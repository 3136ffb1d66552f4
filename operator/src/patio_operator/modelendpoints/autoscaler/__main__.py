"""Shows what the autoscaler decides on a recorded trace: `python -m patio_operator.modelendpoints.autoscaler TRACE`.

It reads two files and prints a table. It talks to no cluster.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import yaml

from patio_operator.modelendpoints.autoscaler.decision import Decision
from patio_operator.modelendpoints.autoscaler.replay import replay
from patio_operator.modelendpoints.autoscaler.spec import ScalingSpec, SpecError, read_spec
from patio_operator.modelendpoints.autoscaler.trace import LONGEST_LINE, Step, TraceError, read_trace

LARGEST_SPEC = 262_144
"""Characters."""
MOST_CHARACTERS = 256 * 1_048_576
"""Of a trace."""

EPILOG = """\
A trace is JSON lines, one for each step:

  {"at": 0, "replicas": 1, "workers": 1, "reports": [{"gateway": "gw-0", "inFlight": 12, "held": 30, "idle": 0}]}

`at` is seconds of Unix time or RFC 3339; `idle` is seconds since the last request. `workers` is their number, or a list
of {"name", "state": Loading | Ready | Draining | Failed, "age", "inFlight", "adapters"}; without it nothing is
removed. `gateways` lists replicas that must report: [{"name": "gw-0"}]. `queue` is {"waiting", "running"}. Each report
and the queue may have an "age" in seconds.

The spec is YAML or JSON: a ModelEndpoint, its spec, or

  workers: {min: 0, max: 8, concurrency: 32, scaleToZeroAfter: 10m, loadingGrace: 30m}
  kind: sync

exit codes: 0 the table was printed, 2 the trace, the spec or the command line cannot be read
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m patio_operator.modelendpoints.autoscaler",
        description="Print what the autoscaler of ModelEndpoints decides at each step of a recorded trace, and why.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("trace", metavar="TRACE", help="file with the trace; - reads standard input")
    parser.add_argument("--spec", metavar="FILE", required=True, help="file with the ModelEndpoint or its workers")
    parser.add_argument(
        "--all", action="store_true", help="print each step, not only those at which the decision changes"
    )
    options = parser.parse_args(argv)
    try:
        spec = _spec(Path(options.spec))
        # Descriptor 0 stays open for those who call this from Python.
        source, closefd = (0, False) if options.trace == "-" else (options.trace, True)
        with open(source, encoding="utf-8", closefd=closefd) as stream:
            _print_table(read_trace(_lines(stream)), spec, every=options.all)
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough, as `head` does. What is left must not fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, UnicodeDecodeError, SpecError, TraceError) as error:
        sys.stdout.flush()
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0


def _spec(path: Path) -> ScalingSpec:
    with path.open(encoding="utf-8") as stream:
        text = stream.read(LARGEST_SPEC + 1)
    if len(text) > LARGEST_SPEC:
        raise SpecError(f"{path}: a spec has at most {LARGEST_SPEC} characters")
    try:
        return read_spec(yaml.safe_load(text))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise SpecError(f"{path}: {error}") from error


def _lines(stream: TextIO) -> Iterator[str]:
    """Yield lines, none longer than one character more than allowed."""
    left = MOST_CHARACTERS
    while line := stream.readline(LONGEST_LINE + 1):
        left -= len(line)
        if left < 0:
            raise TraceError(f"a trace has at most {MOST_CHARACTERS} characters")
        yield line


def _print_table(steps: Iterator[Step], spec: ScalingSpec, *, every: bool) -> None:
    print(f"{'TIME':<20} {'FROM':>4} {'TO':>4} {'DRAIN':>5}  {'REASON':<18} MESSAGE")
    last: tuple[object, ...] | None = None
    for step, decision in replay(steps, spec):
        shown = (step.observations.replicas, decision.replicas, decision.drain, decision.reason)
        if every or shown != last:
            print(_row(step, decision))
        last = shown


def _row(step: Step, decision: Decision) -> str:
    time = f"{step.now:%Y-%m-%dT%H:%M:%SZ}"
    numbers = f"{step.observations.replicas:>4} {decision.replicas:>4} {decision.drain:>5}"
    # Names in a trace are printed as they are, but for what a terminal would obey.
    message = "".join(character if character.isprintable() else "?" for character in decision.message)
    return f"{time:<20} {numbers}  {decision.reason:<18} {message}"


if __name__ == "__main__":
    sys.exit(main())
