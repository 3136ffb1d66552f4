"""Where adapters of every source can be read: what the sidecar is told of the pod's volumes, and the warnings."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patio.settings import read_settings
from patio_operator.injection import Injection, Runtime, inject
from patio_protocol.adapters import LoadRequest
from patio_testing.operator.pod_builders import SIDECAR, VLLM, env, injected, pod, profile

CLAIM = {"name": "models", "persistentVolumeClaim": {"claimName": "models"}}
NODE = {"name": "node", "hostPath": {"path": "/srv/adapters", "type": "Directory"}}
SCRATCH = {"name": "scratch", "emptyDir": {}}
DOWNLOADS = SIDECAR | {
    "volumeMounts": [
        {"name": "patio", "mountPath": "/var/lib/patio"},
        {"name": "downloads", "mountPath": "/var/lib/patio-adapters"},
    ]
}
SHARING = profile(
    initContainers=[DOWNLOADS], volumes=[{"name": "patio", "emptyDir": {}}, {"name": "downloads", "emptyDir": {}}]
)


def engine(*mounts: dict[str, Any]) -> dict[str, Any]:
    return VLLM | {"volumeMounts": list(mounts)}


def required(source: str) -> LoadRequest:
    return LoadRequest(lora_name="sql", source=source, owner="LoraAdapter/team/sql", revision="1", wait=0)


def test_sidecar_knows_every_folder_of_files_that_the_engine_has() -> None:
    mounts = (
        {"name": "models", "mountPath": "/models/"},
        {"name": "node", "mountPath": "/adapters", "subPath": "lora"},
        {"name": "scratch", "mountPath": "/scratch"},
    )
    variables = env(injected(pod(engine(*mounts), volumes=[CLAIM, NODE, SCRATCH])).pod, "patio")
    assert variables["PATIO_DOWNLOAD_ROOTS"] == "/models,/adapters"
    assert [str(root) for root in read_settings([], variables).downloads.other_roots] == ["/models", "/adapters"]
    assert "PATIO_DOWNLOAD_ROOTS" not in env(injected(pod()).pod, "patio")


def test_folder_that_both_get_by_the_profile_counts() -> None:
    sidecar = SIDECAR | {"volumeMounts": [{"name": "node", "mountPath": "/cache"}]}
    own_profile = profile(initContainers=[sidecar], volumes=[NODE])
    assert env(injected(pod(), Runtime(own_profile)).pod, "patio")["PATIO_DOWNLOAD_ROOTS"] == "/cache"


def test_what_the_profile_says_of_folders_stays() -> None:
    sidecar = SIDECAR | {"env": [{"name": "PATIO_DOWNLOAD_ROOTS", "value": "/mine"}]}
    own_profile = profile(initContainers=[sidecar], volumes=[{"name": "patio", "emptyDir": {}}])
    before = pod(engine({"name": "models", "mountPath": "/models"}), volumes=[CLAIM])
    assert env(injected(before, Runtime(own_profile)).pod, "patio")["PATIO_DOWNLOAD_ROOTS"] == "/mine"


@pytest.mark.parametrize("path", ["/a,b", "/a/../b", "/ a ", "/a /", "/ /", "//a", "models"])
def test_folder_that_would_stop_the_sidecar_is_left_out(path: str) -> None:
    variables = env(injected(pod(engine({"name": "models", "mountPath": path}), volumes=[CLAIM])).pod, "patio")
    read_settings([], {name: value for name, value in variables.items() if name.startswith("PATIO_")})


def test_dollars_in_a_path_are_not_expanded() -> None:
    variables = env(injected(pod(engine({"name": "models", "mountPath": "/$(x)"}), volumes=[CLAIM])).pod, "patio")
    assert variables["PATIO_DOWNLOAD_ROOTS"] == "/$$(x)"


def test_folder_of_which_both_see_different_parts_is_left_out() -> None:
    mounts = (
        {"name": "models", "mountPath": "/models"},
        {"name": "node", "mountPath": "/models/lora", "subPathExpr": "$(POD_NAME)"},
    )
    variables = env(injected(pod(engine(*mounts), volumes=[CLAIM, NODE])).pod, "patio")
    assert variables["PATIO_DOWNLOAD_ROOTS"] == "/models"


@pytest.mark.parametrize("source", ["hf://org/sql", "org/sql", "s3://adapters/sql", "obs://adapters/sql"])
def test_downloads_that_the_engine_cannot_see_give_a_warning(source: str) -> None:
    (warning,) = injected(pod(), adapters=(required(source),)).warnings
    assert "'sql'" in warning
    assert "/var/lib/patio-adapters" in warning
    assert "'vllm' and 'patio' do not share" in warning
    assert injected(pod(), Runtime(SHARING), adapters=(required(source),)).warnings == ()


def test_download_folder_that_the_profile_names_takes_precedence() -> None:
    sidecar = DOWNLOADS | {"env": [{"name": "PATIO_DOWNLOAD_ROOT", "value": "/elsewhere/adapters"}]}
    own_profile = profile(initContainers=[sidecar], volumes=SHARING.spec.volumes)
    (warning,) = injected(pod(), Runtime(own_profile), adapters=(required("hf://org/sql"),)).warnings
    assert "/elsewhere/adapters" in warning


def test_two_volumes_at_one_path_are_not_shared() -> None:
    own_profile = profile(
        initContainers=[SIDECAR | {"volumeMounts": [{"name": "downloads", "mountPath": "/var/lib"}]}],
        volumes=[{"name": "downloads", "emptyDir": {}}],
    )
    over = engine({"name": "scratch", "mountPath": "/var/lib/patio-adapters"})
    (warning,) = injected(
        pod(over, volumes=[SCRATCH]), Runtime(own_profile), adapters=(required("hf://org/sql"),)
    ).warnings
    assert "do not share" in warning


@pytest.mark.parametrize("source", ["pvc://lora/sql", "pvc:///models/lora/sql"])
def test_folder_of_a_volume_that_is_not_mounted_gives_a_warning(source: str) -> None:
    (warning,) = injected(pod(), adapters=(required(source),)).warnings
    assert source in warning
    assert "mount the claim" in warning
    target = pod(engine({"name": "models", "mountPath": "/models"}), volumes=[CLAIM])
    assert injected(target, adapters=(required(source),)).warnings == ()


def test_folder_outside_of_the_engine_mounts_gives_a_warning() -> None:
    target = pod(engine({"name": "models", "mountPath": "/models"}), volumes=[CLAIM])
    (warning,) = injected(target, adapters=(required("pvc:///data/sql"),)).warnings
    assert "pvc:///data/sql" in warning


@given(st.lists(st.text(st.sampled_from("/ab.,$() \n"), min_size=1, max_size=8), min_size=1, max_size=3, unique=True))
def test_sidecar_accepts_any_folders_that_injection_sets(paths: list[str]) -> None:
    mounts = [{"name": "models", "mountPath": path} for path in paths]
    result = inject(pod(engine(*mounts), volumes=[CLAIM]), [Runtime(profile())], ())
    if isinstance(result, Injection):
        variables = env(result.pod, "patio")
        as_the_kubelet_expands_it = variables.get("PATIO_DOWNLOAD_ROOTS", "").replace("$$(", "$(")
        found = read_settings([], {"PATIO_DOWNLOAD_ROOTS": as_the_kubelet_expands_it}).downloads.other_roots
        assert {str(root) for root in found} <= {str(PurePosixPath(path)) for path in paths}
