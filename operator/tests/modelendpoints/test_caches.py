"""What the cache keeps of endpoints and profiles, and who claims which name."""

from __future__ import annotations

from typing import Any

from patio_api.profile import ClusterEngineRuntimeProfile
from patio_operator.modelendpoints.caches import ClaimIndex, decode_endpoint, sidecar_container
from patio_operator.modelendpoints.planner.snapshot import Claim

from .builders import CREATED, NOW


def body(**spec: Any) -> dict[str, Any]:
    metadata = {"name": "qwen", "namespace": "team", "uid": "u", "generation": 3, "creationTimestamp": CREATED}
    return {"metadata": metadata, "spec": {"model": {"uri": "a/b"}} | spec}


def test_status_of_an_endpoint_is_no_change() -> None:
    assert decode_endpoint(body() | {"status": {"queued": 3}}) == decode_endpoint(body())
    edited = body()
    edited["metadata"]["generation"] = 4
    assert decode_endpoint(edited) != decode_endpoint(body())


def test_endpoint_that_cannot_be_read_claims_no_name() -> None:
    assert decode_endpoint(body(engine="other")).claim.names == ()
    assert decode_endpoint(body()).claim.names == ("qwen",)


def test_claims_are_found_by_name_and_forgotten() -> None:
    index = ClaimIndex()
    first, second = Claim("a/x", ("chat", "x"), NOW), Claim("b/y", ("chat",), NOW)
    assert index.replace(None, first) == set()
    assert index.replace(None, second) == {("a", "x")}
    assert index.rivals("a/x", ("chat", "x")) == (second,)
    assert index.replace(first, Claim("a/x", ("x",), NOW)) == {("b", "y")}
    assert index.rivals("b/y", ("chat",)) == ()


def profile(*containers: dict[str, Any]) -> ClusterEngineRuntimeProfile:
    return ClusterEngineRuntimeProfile.model_validate(
        {"metadata": {"name": "patio"}, "spec": {"initContainers": list(containers)}}
    )


def test_sidecar_of_a_profile_is_found_by_its_port() -> None:
    sidecar = {"name": "runtime", "ports": [{"name": "patio", "containerPort": 9091}]}
    assert sidecar_container(profile({"name": "other"}, sidecar)) == "runtime"
    assert sidecar_container(profile({"name": "alone"})) == "alone"
    assert sidecar_container(profile({"name": "a"}, {"name": "b"})) == ""
