"""The models read what the API server gives, and write what it takes."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from patio_api.loraadapter import InstanceState, LoraAdapter
from patio_api.profile import ClusterEngineRuntimeProfile
from patio_protocol.adapters import AdapterState
from patio_testing.upstream_samples import as_written, sample_id

METADATA = {
    "name": "sql",
    "namespace": "team",
    "uid": "u",
    "generation": 2,
    "managedFields": [{"manager": "kubectl"}],
    "selfLink": "/x",
}


def lora_adapter(**spec: Any) -> LoraAdapter:
    spec = {"source": {"uri": "file:///adapters/sql"}, "selector": {"matchLabels": {"app": "x"}}} | spec
    return LoraAdapter.model_validate(
        {"apiVersion": "patio.dev/v1alpha1", "kind": "LoraAdapter", "metadata": METADATA, "spec": spec}
    )


def test_metadata_may_have_fields_that_are_not_read() -> None:
    assert lora_adapter().metadata.generation == 2


def test_adapter_has_the_name_of_its_object_unless_it_names_one() -> None:
    assert lora_adapter().adapter_name == "sql"
    assert lora_adapter(adapterName="SQL.v2").adapter_name == "SQL.v2"


def test_adapters_path_is_taken_literally() -> None:
    assert lora_adapter(source={"uri": "file:///a%20b/c"}).spec.source.path == "/a%20b/c"


def test_adapter_owns_what_it_loads_under_its_full_name() -> None:
    assert lora_adapter().owner == "LoraAdapter/team/sql"


def test_every_state_that_a_sidecar_reports_can_be_in_a_status() -> None:
    assert {state.value for state in AdapterState} | {"Unknown"} == set(get_args(InstanceState))


def test_status_is_written_as_it_was_read() -> None:
    status = {
        "observedGeneration": 2,
        "adapterName": "sql",
        "desiredReplicas": 1,
        "readyReplicas": 0,
        "updatedReplicas": 0,
        "loadingReplicas": 0,
        "failedReplicas": 1,
        "selector": "lora.patio.dev/sql=loaded",
        "conditions": [
            {
                "type": "Ready",
                "status": "False",
                "observedGeneration": 2,
                "lastTransitionTime": "2026-11-21T12:00:00Z",
                "reason": "Failed",
                "message": "m",
            }
        ],
        "instances": [
            {
                "pod": "p",
                "node": "n",
                "state": "Failed",
                "reason": "EngineRejected",
                "message": "no such file",
                "attempts": 1,
                "since": "2026-11-21T12:00:00Z",
            }
        ],
    }
    read = LoraAdapter.model_validate({"metadata": METADATA, "spec": lora_adapter().spec.to_api(), "status": status})
    assert read.status.to_api() == status


def test_what_is_unset_is_not_written() -> None:
    assert lora_adapter().spec.to_api() == {
        "source": {"uri": "file:///adapters/sql"},
        "selector": {"matchLabels": {"app": "x"}},
        "pinned": False,
        "maxUnavailable": 1,
        "service": False,
    }


@pytest.mark.parametrize("written", as_written("ClusterEngineRuntimeProfile"), ids=sample_id)
def test_upstreams_profiles_can_be_read(written: tuple[str, dict[str, Any]]) -> None:
    _, sample = written
    profile = ClusterEngineRuntimeProfile.model_validate(sample)
    assert list(profile.spec.containers) == sample["spec"]["containers"]
