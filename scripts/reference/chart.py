"""The pages of the chart: its values, from values.yaml and its schema, and the rights, from the templates with RBAC.

Both are read as text, since what explains a value or a rule is the comment above it, which a YAML parser drops. The
comments are also the descriptions in the schema, and the table of the chart's README.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.reference.markdown import code, page, plain, table

VALUES = """\
These are the values of the chart `charts/patio`, with their defaults. The chart rejects a name that is not here.
Give values by `--set` or in a file: [Install](../tasks/install.md)."""

README = """\
Patio operates LLM engine pods on Kubernetes: a sidecar that is injected, LoRA adapters as resources, one vocabulary of
metrics for vLLM and SGLang, drain, and RoleBasedGroups. This chart installs the operator with its admission webhook,
the CRDs, and a default profile with the sidecar. One installation serves the whole cluster.

## Install

Kubernetes 1.29 or newer and Helm 3 are needed.

```sh
helm install patio oci://ghcr.io/patio/charts/patio --version 0.1.0 --namespace patio-system --create-namespace --wait
```

Then put the label `patio.dev/profile: patio` on the pod template of an engine. Its pods get the sidecar.

## Upgrade and uninstall

`helm upgrade` also upgrades the CRDs, by a Job before everything else (`crds.upgrade`). `docs/tasks/upgrade.md` in the
repository says what the Job rejects, and in which order Patio is uninstalled.

## Values

The chart rejects a name that is not here."""

RIGHTS = """\
The chart gives the operator and its hooks these rights, and says why for each. There is no wildcard. A verb with a
condition is there only in an installation that meets the condition. Conditions are values of the chart: [Helm
values](helm-values.md). With `rbac.create=false` the chart makes none of these roles, and you give the rights
yourself."""

RBAC = ("rbac.yaml", "crd-upgrade.yaml", "installation-check.yaml")
"""The templates with roles: those of the operator and of people, and those of hooks."""

CONDITIONS = {
    # Without it there are no roles at all: the page says once what that means.
    ".Values.rbac.create": "",
    "$old": "`crds.upgrade` is true",
    'and .Values.crds.upgrade .Values.rbac.create (lookup "v1" "Service" "default" "kubernetes")': "",
    'ne (dig "metadata" "annotations" "patio.dev/version" "" $crd) $.Chart.AppVersion': "",
    'lookup "rbac.authorization.k8s.io/v1" "ClusterRole" "" "patio-crd-upgrade"': "",
    'and .Values.rbac.create (lookup "v1" "Service" "default" "kubernetes")': "",
    "$manage": "`groups.mode` is `manage` or `auto`",
    "$observe": "`groups.mode` is `observe`",
    "$delete": "`groups.mode` is `manage` or `auto`, or it is `observe` and `groups.handOver` is true",
    "$roll": "`profile.rollWorkloads` is true",
    "$confined": "`watchNamespaces` is set",
    'eq (include "patio.mode" .) "auto"': "`groups.mode` is `auto`",
    "not .Values.webhook.certManager.enabled": "`webhook.certManager.enabled` is false",
    "or .Values.adapters.secrets.namespaces .Values.operator.metrics.secure": (
        "`adapters.secrets.namespaces` is set, or `operator.metrics.secure` is true"
    ),
    ".Values.operator.metrics.secure": "`operator.metrics.secure` is true",
    'ne . "*"': "the list does not have `*`",
    "or $confined (not $manage)": "`watchNamespaces` is set, or `groups.mode` is `observe` or `off`",
}
"""What the conditions of the template mean for who reads the page. A condition that is not here is an error."""

NEGATED = {
    "$manage": "`groups.mode` is `observe` or `off`",
}


@dataclass
class Rule:
    """One rule of the template."""

    why: str
    conditions: tuple[str, ...]
    groups: str = ""
    resources: str = ""
    names: str = ""
    verbs: str = ""


@dataclass
class Role:
    """One Role or ClusterRole of the template."""

    kind: str
    why: str = ""
    name: str = ""
    namespace: str = ""
    rules: list[Rule] = field(default_factory=list)


def write_values(chart: Path) -> str:
    """Return the page of the values."""
    return page("Helm values", VALUES, _values_table(chart))


def write_readme(chart: Path) -> str:
    """Return the README of the chart."""
    return page("Patio", README, _values_table(chart))


def write_schema(chart: Path) -> str:
    """Return the schema of the values with the comments of values.yaml as descriptions.

    What a value may be is written by people, and so are the descriptions below `definitions`, which several values
    share. Values that are not in values.yaml keep the description that they have.
    """
    schema = json.loads((chart / "values.schema.json").read_text())
    for path, _, comment in _values((chart / "values.yaml").read_text()):
        _describe(schema, path.split("."), comment)
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _describe(node: dict[str, Any], path: list[str], comment: str) -> None:
    """Set the description of a value, unless a definition has it."""
    first, *rest = path
    if "$ref" in node or first not in node.get("properties", {}):
        return
    if rest:
        _describe(node["properties"][first], rest, comment)
    elif comment:
        inner = {name: what for name, what in node["properties"][first].items() if name != "description"}
        node["properties"][first] = {"description": comment, **inner}


def _values_table(chart: Path) -> str:
    schema = json.loads((chart / "values.schema.json").read_text())
    rows = [
        (code(path), _type(schema, path), code(default) if default else "", plain(comment or _described(schema, path)))
        for path, default, comment in _values((chart / "values.yaml").read_text())
    ]
    return table(("value", "type", "default", "meaning"), rows)


def _values(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield path, default and comment of every value that has a comment or no values below it."""
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        stripped = line.strip()
        if stripped.startswith("#"):
            comment.append(stripped.lstrip("# "))
            continue
        found = re.fullmatch(r"( *)([\w]+):(?: (.*))?", line)
        if found is None:
            comment = []
            continue
        indent, name, value = len(found[1]), found[2], found[3] or ""
        path = [*((at, key) for at, key in path if at < indent), (indent, name)]
        is_parent = not value and number + 1 < len(lines) and re.match(rf" {{{indent + 1},}}\S", lines[number + 1])
        if comment or not is_parent:
            yield ".".join(key for _, key in path), "" if value in ('""', "[]", "{}") else value, " ".join(comment)
        comment = []


def _node(schema: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """Return what the schema says of a value: nothing, if it is part of something free."""
    node: Mapping[str, Any] = schema
    for name in path.split("."):
        node = _resolved(schema, node)
        if name not in node.get("properties", {}):
            return {}
        node = node["properties"][name]
    return _resolved(schema, node)


def _described(schema: Mapping[str, Any], path: str) -> str:
    return str(_node(schema, path).get("description", ""))


def _type(schema: Mapping[str, Any], path: str) -> str:
    node = _node(schema, path)
    if "enum" in node:
        # A number may also be given as a string: it is one value all the same.
        return ", ".join(
            dict.fromkeys(code(str(value)) for value in node["enum"] if value is not False and value != "")
        )
    kind = node.get("type", "")
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def _resolved(schema: Mapping[str, Any], node: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in node:
        node = schema["definitions"][node["$ref"].rsplit("/", 1)[1]]
    return node


def write_rights(templates: Iterable[Path]) -> str:
    """Return the page of the rights."""
    parts = []
    for role in (role for template in templates for role in _roles(template.read_text())):
        where = f" in the namespace `{role.namespace}`" if role.namespace else ""
        title = f"## {role.kind} {role.name}{where}".replace("`", "")
        rows = [
            (
                rule.groups or "core",
                rule.resources + (f", only {rule.names}" if rule.names else ""),
                rule.verbs,
                rule.why + "".join(f" *If {condition}.*" for condition in rule.conditions),
            )
            for rule in role.rules
        ]
        parts.append("\n\n".join([title, *([role.why] if role.why else [])]))
        parts.append(table(("group", "resource", "verbs", "why, and when"), rows))
    return page("Rights of the operator", RIGHTS, *parts)


def _roles(text: str) -> list[Role]:
    found: list[Role] = []
    conditions: list[str] = []
    comment: list[str] = []
    rule_comment = ""
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("{{-"):
            _enter(stripped, conditions)
            comment = [] if not stripped.startswith("{{- if") else comment
        elif stripped == "---":
            comment = []
        elif stripped.startswith("# "):
            comment.append(stripped[2:])
        elif stripped.startswith("kind: ") and not line.startswith(" "):
            kind = " or ".join(re.findall(r"[A-Z]\w+", stripped.removeprefix("kind: ")))
            if "Binding" in kind:
                found.append(Role("Binding"))
            else:
                found.append(Role(kind, plain(_inline(" ".join(comment)))))
            comment = []
        elif line.startswith("  name: ") and found and not found[-1].name:
            found[-1].name = re.sub(r"\{\{.*", "", stripped.removeprefix("name: "))
        elif line.startswith("  namespace: ") and found:
            found[-1].namespace = _namespace(stripped.removeprefix("namespace: "))
        elif stripped.startswith("- apiGroups: ") and found:
            rule_comment = plain(_inline(" ".join(comment))) if comment else rule_comment
            own = tuple(condition for condition in conditions if condition)
            found[-1].rules.append(Rule(rule_comment, own, _list(stripped.removeprefix("- apiGroups: "))))
            comment = []
        elif stripped.startswith("- nonResourceURLs: ") and found:
            urls = _list(stripped.removeprefix("- nonResourceURLs: "))
            own = tuple(condition for condition in conditions if condition)
            found[-1].rules.append(Rule(plain(_inline(" ".join(comment))), own, "-", f"URL {urls}"))
            comment = []
        elif found and found[-1].rules and (match := re.match(r"(resources|verbs|resourceNames): (.*)", stripped)):
            attribute = {"resources": "resources", "verbs": "verbs", "resourceNames": "names"}[match[1]]
            setattr(found[-1].rules[-1], attribute, _list(match[2]))
        elif stripped == "rules:":
            rule_comment = ""
            comment = []
    return [role for role in found if role.rules]


def _enter(statement: str, conditions: list[str]) -> None:
    """Follow the template's blocks: `conditions` has what holds here, in words."""
    inner = statement.strip("{}- ").strip()
    if inner.startswith("if "):
        condition = inner.removeprefix("if ")
        conditions.append(_meaning(condition))
    elif inner == "else":
        before = next(key for key, meaning in CONDITIONS.items() if meaning == conditions[-1])
        conditions[-1] = NEGATED[before]
    elif inner.startswith(("range ", "with ")):
        conditions.append("")
    elif inner == "end":
        conditions.pop()


def _meaning(condition: str) -> str:
    if condition not in CONDITIONS:
        raise KeyError(f"rbac.yaml has the condition {condition!r}: say in scripts/reference/chart.py what it means")
    return CONDITIONS[condition]


def _list(text: str) -> str:
    """Return a flow list as words, with what stands in a condition marked as such."""
    text = text.strip().removeprefix("[").removesuffix("]")
    ternary = re.fullmatch(r"\{\{ ternary \"(.*)\" \"(.*)\" \$(\w+) \}\}", text)
    if ternary:
        text = f"{ternary[2]}{{{{ if ${ternary[3]} }}}}, {_only_more(ternary[1], ternary[2])}{{{{ end }}}}"
    parts = []
    for piece, condition in _pieces(text):
        items = ", ".join(word.strip().strip('"') for word in piece.split(",") if word.strip().strip('"'))
        if items:
            shown = ", ".join(code(word) for word in items.split(", "))
            parts.append(f"{shown} (if {condition})" if condition else shown)
    return "; ".join(parts) if any("(if" in part for part in parts) else ", ".join(parts)


def _only_more(longer: str, shorter: str) -> str:
    return ", ".join(word for word in longer.split(", ") if word not in shorter.split(", "))


def _pieces(text: str) -> Iterator[tuple[str, str]]:
    for match in re.finditer(r"\{\{ if (.*?) \}\}(.*?)\{\{ end \}\}|([^{]+)", text):
        if match[3]:
            yield match[3], ""
        else:
            yield match[2], _meaning(match[1])


def _inline(text: str) -> str:
    """Return a comment without the template's conditions: both sides of a choice are told."""
    text = re.sub(r"\{\{ if .*? \}\}(.*?)\{\{ else \}\}(.*?)\{\{ end \}\}", r"\1 (or: \2)", text)
    return re.sub(r"\{\{ if .*? \}\}(.*?)\{\{ end \}\}", r"\1", text)


def _namespace(text: str) -> str:
    return {
        "{{ .Release.Namespace }}": "of the operator",
        "{{ . }}": "of adapters.secrets.namespaces",
        "{{ $namespace }}": "of test.namespace",
    }.get(text, text)
