"""The page of the flags and variables of both programs."""

from __future__ import annotations

from collections.abc import Iterable

from scripts.reference import program
from scripts.reference.markdown import code, page, plain, table

INTRODUCTION = """\
The sidecar reads flags and environment variables. A flag takes precedence over its variable. Two variables for the
same setting must agree. A setting that is misspelled, impossible or contradictory stops the start: the sidecar
prints one line to stderr and exits with code 2. Injection sets the variables that say "set at admission". Set the
others in the profile or in an override: [ClusterEngineRuntimeProfile](../concepts/profile.md).

The chart sets the variables of the operator. Change them through [Helm values](helm-values.md)."""


def write() -> str:
    """Return the page."""
    return page(
        "Settings",
        INTRODUCTION,
        "## Flags of the sidecar\n\n```\npython -m patio.app --engine vllm --engine-base-url http://localhost:8000\n```",
        _table("flag", program.sidecar_flags()),
        "## Variables of the sidecar",
        _table("variable", program.sidecar_variables()),
        "## Variables of the operator",
        _table("variable", program.operator_variables()),
    )


def _table(kind: str, settings: Iterable[program.Setting]) -> str:
    rows = [
        (
            ", ".join(code(name) for name in setting.names),
            setting.default if " " in setting.default else code(setting.default),
            plain(setting.meaning),
        )
        for setting in settings
    ]
    return table((kind, "default", "meaning"), rows)
