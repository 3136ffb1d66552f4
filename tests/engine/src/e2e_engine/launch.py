"""How the real engine is started: one command line and one set of variables, on this machine or in a pod.

Pure. `environment` and `model` say where things are on the machine; in a pod they are mounted at ENVIRONMENT_MOUNT and
MODEL_MOUNT, and whatever image has `python3` in version 3.11 and libnuma can run them.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from e2e_engine import model

PORT = 8000
ENVIRONMENT_MOUNT = PurePath("/opt/vllm")
MODEL_MOUNT = PurePath("/models")
SCRATCH_MOUNT = PurePath("/scratch")
"""The one place that vLLM writes to."""

MODEL = MODEL_MOUNT / "model"
ADAPTERS = MODEL_MOUNT / "adapters"

MAX_MODEL_LEN = 512
"""As when the answers that tests compare with were recorded; the model can do more."""

STARTUP_SECONDS = 300
"""More than a cold start needs on a busy machine of two cores (30 to 90 seconds)."""


def options(max_model_len: int = MAX_MODEL_LEN) -> list[str]:
    """What it is told beside the model, its name, and where to listen."""
    return [
        *("--enable-lora", "--max-loras", "2", "--max-cpu-loras", "8", "--max-lora-rank", "16"),
        *("--max-model-len", str(max_model_len), "--enforce-eager", "--dtype", "bfloat16"),
        "--disable-uvicorn-access-log",
    ]


def arguments(model_directory: PurePath, *, host: str = "0.0.0.0", port: int = PORT) -> list[str]:
    """What follows the interpreter."""
    return [
        *("-m", "vllm.entrypoints.cli.main", "serve", str(model_directory)),
        *("--served-model-name", model.NAME, "--host", host, "--port", str(port)),
        *options(),
    ]


def variables(environment: PurePath, scratch: PurePath) -> dict[str, str]:
    """Its environment variables; nothing else of the machine is needed."""
    return {
        "PYTHONPATH": str(environment),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(scratch),
        "XDG_CACHE_HOME": str(scratch / "cache"),
        "TMPDIR": str(scratch),
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        # By default each engine binds its threads to the first cores: two replicas on one node would share one.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }


def container(image: str, *, name: str = "vllm") -> dict[str, Any]:
    """The container of a pod."""
    health = {"httpGet": {"path": "/health", "port": PORT}, "periodSeconds": 1}
    mounts = {"vllm": ENVIRONMENT_MOUNT, "models": MODEL_MOUNT}
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", *arguments(MODEL)],
        "env": [{"name": key, "value": value} for key, value in variables(ENVIRONMENT_MOUNT, SCRATCH_MOUNT).items()],
        "ports": [{"name": "http", "containerPort": PORT}],
        "startupProbe": {**health, "failureThreshold": STARTUP_SECONDS},
        "readinessProbe": health,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [
            *({"name": key, "mountPath": str(place), "readOnly": True} for key, place in mounts.items()),
            {"name": "scratch", "mountPath": str(SCRATCH_MOUNT)},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }


def volumes(environment: PurePath, models: PurePath) -> list[dict[str, Any]]:
    """The volumes of a pod, for these two directories on its node."""
    return [
        {"name": "vllm", "hostPath": {"path": str(environment), "type": "Directory"}},
        {"name": "models", "hostPath": {"path": str(models), "type": "Directory"}},
        {"name": "scratch", "emptyDir": {}},
        # The default of 64 MB is too small for the queues between vLLM's processes.
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "512Mi"}},
    ]
