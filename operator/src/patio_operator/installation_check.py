"""Checks an installation from inside the cluster: `python -m patio_operator.installation_check`, run by `helm test`.

It creates two objects by a dry run, which stores nothing: a pod that asks for a profile, and a LoraAdapter. The API
server calls the webhook about both, so the answers show that the webhook is reached and trusted, that the profile is
there, and that the CRDs are. It prints one line for each, with the outcome and what to do. It never changes anything.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from patio_api import labels
from patio_api.bounded_json import read_object
from patio_kube.client import ApiError, KubeClient, NotFoundError, Object, RetryableApiError
from patio_kube.resources import LORA_ADAPTER, POD

NAME = "patio-installation-check"
DEADLINE_SECONDS = 60.0
"""How long an operator may take that is still starting."""
PAUSE_SECONDS = 2.0


@dataclass(frozen=True)
class Outcome:
    """What one check found."""

    passed: bool
    message: str
    """A sentence: what works, or what does not and what to do."""
    retryable: bool = False
    """Whether it may pass later."""


def pod_asking(profile: str) -> Object:
    """Return a pod that asks for a profile, which the restricted Pod Security Standard allows."""
    context = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    engine = {
        "name": "engine",
        "image": "vllm/vllm-openai",
        "command": ["vllm", "serve", "/models/base", "--enable-lora"],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
        "securityContext": context,
    }
    metadata = {"name": NAME, "labels": {labels.PROFILE: profile}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [engine]}}


def adapter() -> Object:
    """Return a LoraAdapter that selects no pod."""
    return {
        "apiVersion": LORA_ADAPTER.api_version,
        "kind": LORA_ADAPTER.kind,
        "metadata": {"name": NAME},
        "spec": {
            "source": {"uri": f"file:///models/{NAME}"},
            "selector": {"matchLabels": {"app.kubernetes.io/name": NAME}},
        },
    }


def judge_pod(pod: Any, profile: str) -> Outcome:
    """Say whether the API server's answer is a pod with the profile's containers."""
    metadata = pod.get("metadata") or {}
    revisions = read_object((metadata.get("annotations") or {}).get(labels.INJECTED))
    if (metadata.get("labels") or {}).get(labels.INJECTED) != "true" or profile not in revisions:
        return Outcome(
            False,
            f"a pod with the label {labels.PROFILE}={profile} was not injected: the API server does not call the "
            "operator about pods of this namespace, or got no answer (webhook.failurePolicy=Ignore). Look at "
            "mutatingwebhookconfiguration/patio and at the operator's log",
            retryable=True,
        )
    spec = pod.get("spec") or {}
    added = [container["name"] for part in ("initContainers", "containers") for container in spec.get(part) or []]
    added = [name for name in added if name != "engine"]
    return Outcome(True, f"a pod with the label {labels.PROFILE}={profile} gets: {', '.join(added) or 'no container'}")


def judge_error(what: str, error: ApiError) -> Outcome:
    """Say what an error of the API server means for a check."""
    message = error.message.strip()
    if isinstance(error, RetryableApiError):
        if "failed calling webhook" in message:
            message += ". Look at the operator's pods, and at what may block the API server's way to them"
        return Outcome(False, f"{what} could not be created yet: {message}", retryable=True)
    if isinstance(error, NotFoundError):
        return Outcome(False, f"{what} could not be created. Check that the namespace and the CRDs exist. {message}")
    return Outcome(False, f"{what} was rejected: {message}")


async def check_pod(client: KubeClient, namespace: str, profile: str) -> Outcome:
    """Create a pod that asks for a profile, by a dry run."""
    try:
        return judge_pod(await client.try_create(POD, pod_asking(profile), namespace), profile)
    except ApiError as error:
        return judge_error("a pod", error)


async def check_adapter(client: KubeClient, namespace: str) -> Outcome:
    """Create a LoraAdapter, by a dry run."""
    try:
        await client.try_create(LORA_ADAPTER, adapter(), namespace, strictly=True)
    except ApiError as error:
        return judge_error("a LoraAdapter", error)
    return Outcome(True, "a LoraAdapter is accepted")


async def until_passed(
    check: Callable[[], Awaitable[Outcome]],
    seconds: float,
    pause: float = PAUSE_SECONDS,
    now: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Repeat a check that may pass later, for so many seconds; return what it found last."""
    end = now() + seconds
    while True:
        outcome = await check()
        if outcome.passed or not outcome.retryable or now() + pause > end:
            return outcome
        await asyncio.sleep(pause)


async def run(client: KubeClient, namespace: str, profile: str, seconds: float, report: Callable[[str], None]) -> bool:
    """Make all checks and report each outcome; return whether all passed."""
    outcomes = []
    for check in (lambda: check_pod(client, namespace, profile), lambda: check_adapter(client, namespace)):
        outcome = await until_passed(check, seconds)
        report(f"{'ok' if outcome.passed else 'FAILED'}: in the namespace {namespace}, {outcome.message}")
        outcomes.append(outcome)
    return all(outcome.passed for outcome in outcomes)


async def _main(options: argparse.Namespace) -> int:
    client = await KubeClient.connect(labels.FIELD_MANAGER)
    try:
        passed = await run(client, options.namespace, options.profile, options.seconds, print)
    finally:
        await client.close()
    return 0 if passed else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, and return the exit code: 0 if all checks passed, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m patio_operator.installation_check", description=__doc__)
    parser.add_argument("--namespace", default="default", help="namespace of the dry run (%(default)s)")
    parser.add_argument("--profile", default="patio", help="profile that the pod asks for (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=DEADLINE_SECONDS, help="how long to wait for an operator that is starting"
    )
    return asyncio.run(_main(parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
