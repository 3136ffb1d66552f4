"""A real vLLM as a server of this machine, for what needs no cluster: launch it, wait for it, kill it, launch it again.

Beside `launch`, which says how it is started. `inference_server` starts it, so that no process of it outlives the
tests, however they end. Its port stays the same over restarts, as in a pod.
"""

from __future__ import annotations

import contextlib
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from e2e_cluster.packages import Package, ensure_packages
from e2e_engine import environment, launch, model
from inference_server import VLLMServer

HOST = "127.0.0.1"
LIBNUMA = Package("libnuma1", f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}/libnuma.so.1")
"""vLLM's CPU worker is linked against it; in a pod it comes with the image."""


class LocalVllm(VLLMServer):
    """One vLLM on loopback, with the variables that it needs and no others."""

    def __init__(
        self,
        installed: Path,
        models: Path,
        scratch: Path,
        *,
        port: int = 0,
        max_model_len: int = launch.MAX_MODEL_LEN,
        profile: Mapping[str, Any] | None = None,
    ) -> None:
        """`installed`: of `environment.install`; `models`: of `model.write`; `scratch`: where it may write."""
        options = ["--served-model-name", model.NAME, "--host", HOST, *launch.options(max_model_len)]
        super().__init__(
            str(models / "model"),
            output_dir=scratch / "server",
            port=port,
            startup_timeout=launch.STARTUP_SECONDS,
            env_mode="clean",
            env_vars={"PATH": os.defpath, **launch.variables(installed, scratch)},
            config={"binary_path": sys.executable, "api_server_args": options},
            debug_mode=True,
            profile=profile,
        )
        self.url = f"http://{HOST}:{self.port}"

    def get_launch_command(self) -> list[str]:
        """Return the command of a pod."""
        serve = ["-m", "vllm.entrypoints.cli.main", "serve", self.model]
        return [self.binary_path, *serve, *self.get_launch_arguments(), "--port", str(self.port)]


@contextlib.contextmanager
def running_vllm(
    models: Path, scratch: Path, report: Callable[[str], None], *, max_model_len: int = launch.MAX_MODEL_LEN
) -> Iterator[LocalVllm]:
    """A vLLM that is ready, and gone afterwards. Installs what is missing."""
    ensure_packages([LIBNUMA], report)
    with LocalVllm(environment.install(report), models, scratch, max_model_len=max_model_len) as server:
        yield server
