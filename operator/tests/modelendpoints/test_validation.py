"""What the schema cannot say of a ModelEndpoint, each with what to do."""

from __future__ import annotations

from typing import Any

import pytest

from patio_operator.modelendpoints.validation import problems

from .builders import SPLIT, endpoint


@pytest.mark.parametrize(
    ("spec", "path", "words"),
    [
        ({"model": {"uri": "https://x/y"}}, "spec.model.uri", "is a web address"),
        ({"model": {"uri": "hf://a/b/folder"}}, "spec.model.uri", "a whole repository"),
        ({"model": {"uri": "pvc://qwen"}}, "spec.cache", "persistentVolumeClaim"),
        ({"model": {"uri": "s3://bucket/x"}, "engineRuntimes": []}, "spec.engineRuntimes", "the sidecar downloads"),
        ({"model": {"uri": "a/b", "aliases": ["x", "x"]}}, "spec.model.aliases", "given twice"),
        ({"workers": {"min": 3, "max": 2}}, "spec.workers.min", "must not be greater"),
        ({"routing": {"fallbacks": ["qwen"]}}, "spec.routing.fallbacks", "its own fallback"),
        ({"engineRuntimes": [{"profileName": "No Name"}]}, "spec.engineRuntimes[0].profileName", "correct it"),
        ({"roles": [{"type": "prefill"}]}, "spec.roles", "one role of type server"),
        (SPLIT | {"engine": "vllm"}, "spec.engine", "sglang only"),
        (SPLIT | {"router": None}, "spec.router", "router.image"),
        ({"roles": [{"type": "server", "args": ["--served_model_name=x"]}]}, "spec.roles[0].args", "model.name"),
        ({"roles": [{"type": "server", "env": [{"value": "x"}]}]}, "spec.roles[0].env[0]", "needs a name"),
        (
            {"roles": [{"type": "server", "template": {"metadata": {"labels": {"patio.dev/endpoint": "x"}}}}]},
            "spec.roles[0].template.metadata.labels",
            "is Patio's",
        ),
        (
            {"roles": [{"type": "server", "template": {"spec": {"containers": [{"name": "engine", "args": []}]}}}]},
            "spec.roles[0].template.spec.containers",
            "set roles[].args instead",
        ),
    ],
)
def test_problem_is_found_with_its_field(spec: dict[str, Any], path: str, words: str) -> None:
    found = problems(endpoint(**spec))
    assert [problem.path for problem in found] == [path]
    assert words in found[0].message


@pytest.mark.parametrize(
    "spec",
    [
        {},
        SPLIT,
        {"model": {"uri": "s3://bucket/x"}, "source": {"secretRef": {"name": "s"}}},
        {"roles": [{"type": "server", "args": ["--max-model-len=4096"], "nodesPerWorker": 2}]},
        {"roles": [{"type": "server", "template": {"spec": {"nodeSelector": {"gpu": "a100"}}}}]},
    ],
)
def test_what_is_right_has_no_problem(spec: dict[str, Any]) -> None:
    assert problems(endpoint(**spec)) == ()
