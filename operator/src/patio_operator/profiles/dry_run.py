"""Dry-runs a profile: creates the trial pod by a dry run, which stores nothing, and reads the API server's answer.

The shell around `validation`, used by the webhook before a profile is stored and by the reconciler for one that was
stored without a dry run.
"""

from __future__ import annotations

from patio_api.invalid_field import InvalidField
from patio_api.profile import ClusterEngineRuntimeProfile
from patio_kube.client import ApiError, KubeClient, Object
from patio_kube.resources import POD
from patio_operator.profiles import validation
from patio_operator.profiles.validation import DryRunResult, Path

MOST_QUESTIONS = 100
"""Dry runs to find the place of an error that the API server gives without one: a few milliseconds each."""


async def dry_run_profile(client: KubeClient, namespace: str, profile: ClusterEngineRuntimeProfile) -> DryRunResult:
    """Say what is wrong with a profile.

    Args:
        client: the API server.
        namespace: where the trial pod would be: the operator's own.
        profile: tried as it is.

    """
    result = await _dry_run(client, namespace, validation.trial_pod(profile))
    if [problem.path for problem in result.problems] == ["spec"]:
        path = await _located(client, namespace, profile)
        result = DryRunResult((InvalidField(validation.written(path), result.problems[0].message),))
    problems = (*result.problems, *validation.own_checks(profile))
    if not problems and not result.not_possible:
        problems = validation.injection_checks(profile)
    return DryRunResult(problems, result.not_possible)


async def _located(client: KubeClient, namespace: str, profile: ClusterEngineRuntimeProfile) -> Path:
    """Go down to the smallest part that the API server cannot read."""
    path: Path = ()
    questions = 0
    while True:
        for inner, pod in validation.narrowed(profile, path):
            questions += 1
            if questions > MOST_QUESTIONS:
                return path
            result = await _dry_run(client, namespace, pod)
            if [problem.path for problem in result.problems] == ["spec"]:
                path = inner
                break
        else:
            return path


async def _dry_run(client: KubeClient, namespace: str, pod: Object) -> DryRunResult:
    try:
        await client.try_create(POD, pod, namespace, strictly=True)
    except ApiError as error:
        return validation.read_rejection(error.status, error.message, error.causes)
    return DryRunResult()
