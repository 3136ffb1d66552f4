"""The program behind the chart's hook, on an API server in memory."""

from __future__ import annotations

import copy
from typing import Any

from aiohttp import web

from patio_api.crd import DEFINITIONS, VERSION
from patio_operator.crd_upgrade import upgrade
from patio_operator.crd_upgrade.upgrade import Outcome
from patio_testing.operator.memory_api import MemoryApi, Object, connected, serving

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
NEW = [definition.to_api() for definition in DEFINITIONS]
ESTABLISHED = {"conditions": [{"type": "Established", "status": "True"}], "storedVersions": []}


class Api(MemoryApi):
    """An API server that serves a CRD as soon as it is applied, and whose operator writes at the same moment."""

    def __init__(self) -> None:
        super().__init__()
        self.conflicts = 0
        self.managers: set[str] = set()

    def _answered(self, request: web.Request, body: Any) -> tuple[int, Object]:
        if request.method == "PATCH":
            self.managers.add(request.query["fieldManager"])
            if self.conflicts:
                self.conflicts -= 1
                return 409, {"message": "the object has been modified"}
            body = body | {"status": ESTABLISHED}
        return super()._answered(request, body)


def older(crd: Object, version: str = "0.0.1") -> Object:
    stored = copy.deepcopy(crd)
    stored["metadata"]["annotations"] = {VERSION: version}
    return stored | {"status": ESTABLISHED}


async def run(api: MemoryApi) -> tuple[Outcome, list[str]]:
    messages: list[str] = []
    async with serving(api) as address, connected(address) as client:
        outcome = await upgrade.upgrade(client, NEW, "patio-system", messages.append, pause=0)
    return outcome, messages


def versions(api: MemoryApi) -> list[str]:
    return [crd["metadata"]["annotations"][VERSION] for crd in api.objects.values()]


async def test_older_and_missing_crds_are_applied_by_own_manager() -> None:
    api = Api()
    for crd in NEW[:2]:
        api.put(CRDS, older(crd))
    outcome, messages = await run(api)
    assert outcome is Outcome.DONE
    assert [line.split(":")[0] for line in messages] == [f"applied {crd['metadata']['name']}" for crd in NEW]
    assert versions(api) == [NEW[0]["metadata"]["annotations"][VERSION]] * 3
    assert api.managers == {upgrade.FIELD_MANAGER}


async def test_no_crd_is_changed_if_one_is_rejected() -> None:
    api = Api()
    api.put(CRDS, older(NEW[0]))
    api.put(CRDS, older(NEW[1], "99.0.0"))
    outcome, messages = await run(api)
    assert outcome is Outcome.REJECTED
    assert messages[0].startswith(f"rejected: {NEW[1]['metadata']['name']}: it has version 99.0.0")
    assert messages[-1] == "No CRD was changed."
    assert versions(api) == ["0.0.1", "99.0.0"]


async def test_upstreams_crds_are_left_and_others_are_applied() -> None:
    api = Api()
    foreign = older(NEW[2])
    foreign["metadata"]["annotations"] = {"controller-gen.kubebuilder.io/version": "v0.16.5"}
    api.put(CRDS, foreign)
    outcome, messages = await run(api)
    assert outcome is Outcome.DONE
    assert messages[2].startswith(f"left {NEW[2]['metadata']['name']}: it is not Patio's")
    assert VERSION not in api.objects[f"{CRDS}/{NEW[2]['metadata']['name']}"]["metadata"]["annotations"]


async def test_crd_that_changes_meanwhile_is_read_again() -> None:
    api = Api()
    api.conflicts = upgrade.ATTEMPTS - 1
    outcome, _ = await run(api)
    assert outcome is Outcome.DONE
    api.conflicts = upgrade.ATTEMPTS
    outcome, messages = await run(api)
    assert outcome is Outcome.FAILED
    assert messages == ["failed: the object has been modified"]


async def test_crd_that_is_never_served_fails(monkeypatch: Any) -> None:
    monkeypatch.setattr(upgrade, "SERVED_SECONDS", 0.05)
    outcome, messages = await run(MemoryApi())
    assert outcome is Outcome.FAILED
    assert "is not served" in messages[-1]


async def test_error_of_the_api_server_is_reported() -> None:
    api = Api()
    api.refused[f"{CRDS}/{NEW[0]['metadata']['name']}"] = 403
    outcome, messages = await run(api)
    assert outcome is Outcome.FAILED
    assert "is refused" in messages[0]
