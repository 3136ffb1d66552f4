"""Tries a profile: creates the trial pod by a dry run, which stores nothing, and reads what the API server says.

The shell around `injection.trial`, used by the webhook before a profile is stored and by the reconciler for one that
was stored without having been tried.
"""

from __future__ import annotations

from patio_operator.api.profile import ClusterEngineRuntimeProfile
from patio_operator.cluster.api import ApiError, Cluster, Object
from patio_operator.cluster.kinds import POD
from patio_operator.injection import trial
from patio_operator.injection.trial import Path, Problem, Verdict

MOST_QUESTIONS = 100
"""Dry runs to find the place of an error that the API server gives without one: a few milliseconds each."""


async def try_profile(cluster: Cluster, namespace: str, profile: ClusterEngineRuntimeProfile) -> Verdict:
    """Say what is wrong with a profile.

    Args:
        cluster: the API server.
        namespace: where the trial pod would be: the operator's own.
        profile: tried as it is.

    """
    verdict = await _asked(cluster, namespace, trial.trial_pod(profile))
    if [one.path for one in verdict.problems] == ["spec"]:
        path = await _located(cluster, namespace, profile)
        verdict = Verdict((Problem(trial.written(path), verdict.problems[0].message),))
    problems = (*verdict.problems, *trial.own_problems(profile))
    if not problems and not verdict.untried:
        problems = trial.problems_beside_an_engine(profile)
    return Verdict(problems, verdict.untried)


async def _located(cluster: Cluster, namespace: str, profile: ClusterEngineRuntimeProfile) -> Path:
    """Go down to the smallest part that the API server cannot read."""
    path: Path = ()
    questions = 0
    while True:
        for inner, pod in trial.narrowed(profile, path):
            questions += 1
            if questions > MOST_QUESTIONS:
                return path
            verdict = await _asked(cluster, namespace, pod)
            if [one.path for one in verdict.problems] == ["spec"]:
                path = inner
                break
        else:
            return path


async def _asked(cluster: Cluster, namespace: str, pod: Object) -> Verdict:
    try:
        await cluster.try_create(POD, pod, namespace, strictly=True)
    except ApiError as error:
        return trial.problems_in(error.status, error.message, error.causes)
    return Verdict()
