"""What is staged: downloaded ahead of the order that will have it loaded. Pure.

A part of `planner`: what to do about an order in the STAGED slot, and how it stands. The engine has no say in it, and
nothing here changes what is loaded. Also says when a fetch, staged or not, has to wait for credentials.
"""

from __future__ import annotations

from patio.adapters.desired import AdapterSpec, Slot
from patio.adapters.plan import Fetch
from patio.adapters.progress import PATIENCE
from patio.adapters.snapshot import AdapterSnapshot
from patio_protocol.adapters import PreparedReport, PreparedState
from patio_protocol.downloads import DownloadReason


def credentials_awaited(spec: AdapterSpec, at_hand: bool) -> str | None:
    """Return why nothing can be fetched before another order, in words; None: there is no such reason."""
    origin = spec.origin
    if origin is None or at_hand:
        return None
    if origin.expects:
        return f"The credentials for {origin.uri} come with a later order. The sidecar fetches nothing before."
    if not origin.secrets:
        return None
    return (
        f"The credentials for {origin.uri} ({', '.join(origin.secrets)}) came with an order and are never stored. The "
        f"sidecar has restarted since. {_remedy(spec)}"
    )


def will_come(spec: AdapterSpec) -> bool:
    """Whether the owner will order again with the credentials."""
    return spec.owner is not None or (spec.origin is not None and spec.origin.expects)


def plan_staged(snapshot: AdapterSnapshot, spec: AdapterSpec) -> tuple[PreparedReport, Fetch | float | None]:
    """Return how a staged order stands, and what to do about it, or when to plan it again."""
    assert spec.origin is not None
    key = (spec.name, Slot.STAGED)
    progress = snapshot.progress_of(spec, Slot.STAGED)
    running, rejection = snapshot.running.get(key), progress.rejection

    def report(state: PreparedState, reason: str, message: str, *, retryable: bool = True) -> PreparedReport:
        return PreparedReport(
            revision=spec.revision,
            state=state,
            reason=reason,
            message=message,
            retryable=retryable,
            credentials_revision=spec.credentials_revision,
        )

    if spec.path and key in snapshot.unverified:
        return report(
            PreparedState.PENDING,
            "Queued",
            f"The files were in {spec.path}. The sidecar checks whether they are still there.",
        ), None
    if spec.path:
        return report(PreparedState.PREPARED, "Prepared", f"The files are in {spec.path}."), None
    failed = rejection is not None and (not rejection.retryable or progress.failures >= PATIENCE)
    if rejection is not None and failed:
        shown = report(PreparedState.FAILED, str(rejection.reason), rejection.message, retryable=rejection.retryable)
    elif running is not None:
        shown = report(PreparedState.DOWNLOADING, "Downloading", running.reason)
    elif rejection is not None:
        shown = report(PreparedState.PENDING, str(rejection.reason), rejection.message)
    else:
        shown = report(PreparedState.PENDING, "Queued", f"The sidecar fetches the files from {spec.origin.uri}.")
    if running is not None:
        return shown, None
    message = credentials_awaited(spec, key in snapshot.credentials)
    if message is not None:
        state = PreparedState.PENDING if will_come(spec) else PreparedState.FAILED
        return report(state, DownloadReason.CREDENTIALS_MISSING, message), None
    if snapshot.now < progress.not_before:
        return shown, progress.not_before
    return shown, Fetch(spec, f"The sidecar fetches the files from {spec.origin.uri} before the switch.", Slot.STAGED)


def _remedy(spec: AdapterSpec) -> str:
    if spec.owner is not None:
        return f"{spec.owner} must order the adapter again with them."
    return "Order the adapter again with them, or set them as variables of the sidecar."
