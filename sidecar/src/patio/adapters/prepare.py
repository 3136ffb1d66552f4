"""What is fetched ahead of the order that will want it loaded: what to do about it, and how it stands. Pure.

A part of `plan`: the engine has no say in it, and nothing here ever changes what is loaded or wanted. Also says when
a fetch, ahead or not, has to wait for credentials.
"""

from __future__ import annotations

from patio.adapters.desired import Wanted
from patio.adapters.progress import PATIENCE, current
from patio.adapters.situation import Prepare, Situation, Wait
from patio_protocol.adapters import PreparedReport, PreparedState
from patio_protocol.downloads import DownloadReason


def credentials_awaited(wanted: Wanted, at_hand: bool) -> str | None:
    """Return why nothing can be fetched before another order, in words; None: there is no such reason."""
    origin = wanted.origin
    if origin is None or at_hand:
        return None
    if origin.expects:
        return f"The credentials for {origin.uri} come with a later order; nothing is fetched before."
    if not origin.secrets:
        return None
    return (
        f"The credentials for {origin.uri} ({', '.join(origin.secrets)}) came with an order and are never stored; the "
        f"sidecar was restarted since. {_remedy(wanted)}"
    )


def will_come(wanted: Wanted) -> bool:
    """Whether somebody is there who orders again with the credentials."""
    return wanted.owner is not None or (wanted.origin is not None and wanted.origin.expects)


def plan_ahead(situation: Situation, ahead: Wanted) -> tuple[PreparedReport, Prepare | Wait | None]:
    """Return how something stands that is fetched ahead, and what is to be done about it."""
    assert ahead.origin is not None
    progress = current(situation.prepare_progress.get(ahead.name), ahead, 0)
    busy, fault = situation.preparing.get(ahead.name), progress.fault

    def report(state: PreparedState, reason: str, message: str, *, retryable: bool = True) -> PreparedReport:
        return PreparedReport(
            revision=ahead.revision,
            state=state,
            reason=reason,
            message=message,
            retryable=retryable,
            credentials_revision=ahead.credentials_revision,
        )

    if ahead.path and ahead.name in situation.unseen:
        return report(PreparedState.PENDING, "Queued", f"Its files were in {ahead.path} and are looked for."), None
    if ahead.path:
        return report(PreparedState.PREPARED, "Prepared", f"Its files are in {ahead.path}."), None
    failed = fault is not None and (fault.permanent or progress.failures >= PATIENCE)
    if fault is not None and failed:
        shown = report(PreparedState.FAILED, str(fault.reason), fault.message, retryable=not fault.permanent)
    elif busy is not None:
        shown = report(PreparedState.DOWNLOADING, "Downloading", busy.reason)
    elif fault is not None:
        shown = report(PreparedState.PENDING, str(fault.reason), fault.message)
    else:
        shown = report(PreparedState.PENDING, "Queued", f"Its files are fetched from {ahead.origin.uri}.")
    if busy is not None:
        return shown, None
    words = credentials_awaited(ahead, ahead.name in situation.prepare_credentials)
    if words is not None:
        state = PreparedState.PENDING if will_come(ahead) else PreparedState.FAILED
        return report(state, DownloadReason.CREDENTIALS_MISSING, words), None
    if situation.now < progress.not_before:
        return shown, Wait(ahead.name, progress.not_before, shown.message)
    return shown, Prepare(ahead, f"Its files are fetched from {ahead.origin.uri}, ahead of their use.")


def _remedy(wanted: Wanted) -> str:
    if wanted.owner is not None:
        return f"{wanted.owner} has to order it again with them."
    return "Order it again with them, or give them by variables."
