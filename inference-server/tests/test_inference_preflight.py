"""What a server can say of its start before it: the facts of this machine."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import fake_programs
import pytest

from inference_server import Cause, CustomServer, InferenceServer, SGLangServer, VLLMServer
from inference_server.checks import CheckReport
from inference_server.preflight import gpus_in_use, hub_cache, is_path, profiler_items

Make = Callable[..., CustomServer]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with a Python that has both engines."""
    folder = fake_programs.install(tmp_path / "bin")
    monkeypatch.setenv("PATH", fake_programs.path_with(folder))
    return folder


def levels(report: CheckReport) -> dict[str, str]:
    return {item.subject: item.level for item in report.items}


def test_good_configuration_passes_and_starts_nothing(programs: Path, tmp_path: Path) -> None:
    server = VLLMServer(
        "org/model",
        port=0,
        output_dir=tmp_path / "logs",
        env_vars={"HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "hf_secret"},
        config={"api_server_args": {"disable-log-requests": True, "api-key": "my-secret"}},
    )
    report = server.check()
    assert report.passed, report
    assert report.command[-2:] == ("--api-key", "***")
    assert "--disable-log-requests" not in " ".join(report.command)
    assert report.environment["HF_TOKEN"] == "***"
    assert levels(report)["options"] == "warning"
    assert any("0.32.0" in item.message for item in report.items)
    assert any(f"will be downloaded to {tmp_path}/hf/hub" in item.message for item in report.items)
    assert server.state == "new"
    assert server.process is None


def test_each_problem_is_found_with_its_cause(programs: Path, tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("", 0))
        holder.listen()
        server = SGLangServer(
            "./missing-model",
            port=holder.getsockname()[1],
            output_dir=tmp_path,
            profile={"enabled": True, "tool": "nsys", "binary_path": "/no/nsys"},
            config={"server_args": ["--contxt-length", "8"]},
        )
        causes = {item.cause for item in server.check().problems}
    assert causes == {Cause.UNKNOWN_OPTION, Cause.PORT_IN_USE, Cause.MODEL_NOT_FOUND, Cause.PROFILER}


def test_interpreter_without_the_engine_is_a_problem(tmp_path: Path) -> None:
    server = VLLMServer("m", port=0, output_dir=tmp_path, config={"binary_path": "/no/python"})
    assert [item.cause for item in server.check().problems] == [Cause.NOT_FOUND]


def test_command_of_ones_own_is_checked_without_a_model(make_server: Make) -> None:
    report = make_server().check()
    assert report.passed
    assert set(levels(report)) == {"program", "port", "disk"}
    assert not make_server(command=["no-such-program"]).check().passed


def test_backend_of_ones_own_has_a_check_too(tmp_path: Path) -> None:
    class Mine(InferenceServer):
        def get_backend_name(self) -> str:
            return "mine"

        def get_binary_path(self) -> str:
            return "sh"

        def get_launch_command(self) -> list[str]:
            return [self.binary_path, "-c", "true"]

        def get_health_endpoint(self) -> str:
            return f"{self.server_url}/health"

        def list_endpoints(self) -> dict[str, str]:
            return {}

    assert Mine("m", port=0, output_dir=tmp_path).check().passed


def test_cached_model_is_found_without_network(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "hub/models--org--model/snapshots/abc").mkdir(parents=True)
    variables = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    for model, passed in (("org/model", True), ("org/other", False)):
        server = VLLMServer(model, port=0, output_dir=tmp_path, env_vars=variables)
        assert server.check().passed is passed


@pytest.mark.parametrize(
    ("variables", "path"),
    [
        ({"HOME": "/h"}, "/h/.cache/huggingface/hub"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({"HF_HOME": "/f"}, "/f/hub"),
        ({"HF_HOME": "/f", "HF_HUB_CACHE": "/c"}, "/c"),
    ],
)
def test_cache_of_the_hub_is_where_its_client_has_it(variables: dict[str, str], path: str) -> None:
    assert hub_cache(variables) == path


def test_paths_are_told_from_names_on_the_hub() -> None:
    assert [is_path(name) for name in ("/m", "./m", "~/m", "a/b/c", "org/model", "gpt2")] == [True] * 4 + [False] * 2


def test_gpus_are_those_that_nvidia_smi_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\ncase "$1" in *index*) echo "0, GPU-a, 12"; echo "1, GPU-b, 0" ;; esac\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", fake_programs.path_with(tmp_path))
    assert gpus_in_use() == {"0": 12, "1": 0}


def test_wrong_profile_is_a_problem_and_none_is_none(tmp_path: Path) -> None:
    assert profiler_items(None, str(tmp_path), {}) == []
    (item,) = profiler_items({"enabled": True, "tool": "gprof"}, str(tmp_path), {})
    assert item.cause is Cause.PROFILER
    (item,) = profiler_items({"enabled": True, "tool": "pytorch"}, str(tmp_path), {})
    assert item.level == "ok"
