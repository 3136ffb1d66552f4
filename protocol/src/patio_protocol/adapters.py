"""Models of the adapter routes and the probes of a sidecar, shared by its routes, `client` and the operator.

Pure data: pydantic models and the rules on names that both ends check. Nothing here does I/O. Field names on
the wire are those of upstream Patio and of vLLM (`lora_name`, `lora_path`), so that callers of either can stay.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema, model_validator

from patio_protocol.sources import (
    SECRET_KEYS,
    MaxWorkers,
    OutputDir,
    SourceConfig,
    SourceKind,
    SourceUri,
    parse_source,
    read_config,
)

SIDECAR_PORT = 9091
"""Where the sidecar listens by default."""

REQUIRED_ADAPTERS_VARIABLE = "PATIO_REQUIRED_ADAPTERS"
"""Variable that the admission webhook sets on the sidecar: a JSON list of `LoadRequest`. Adapters named in it
are wanted from the first second of the pod, and the pod is not ready before each of them is settled."""

LONGEST_ADAPTER_NAME = 253
ADAPTER_NAME = r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"
AdapterName = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_ADAPTER_NAME, pattern=ADAPTER_NAME)]
"""The name of an adapter in requests. Engines accept anything (vLLM 0.32 even `x/../y`); we do not."""

ABSOLUTE_PATH = r"^/[^\x00]*$"


def _is_absolute(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("the path must be absolute, as the engine sees the adapter's folder: /adapters/sql")
    if "\x00" in path:
        raise ValueError("the path must not have a NUL character")
    return path


AdapterPath = Annotated[
    str,
    StringConstraints(min_length=1, max_length=4096),
    AfterValidator(_is_absolute),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 4096, "pattern": ABSOLUTE_PATH}),
]
"""An absolute path, the same in the sidecar and in the engine."""

MAX_SEALED = 128 * 1024
"""Characters of what is sealed in an order: a whole `config`, and what sealing adds."""

MOST_ON_DISK = 100
"""Sources that a list names in `on_disk`."""


class AdapterState(StrEnum):
    """State of one adapter on one pod."""

    PENDING = "Pending"
    """Desired, but the engine cannot be reached, or a retry waits for its time."""
    DOWNLOADING = "Downloading"
    LOADING = "Loading"
    LOADED = "Loaded"
    """Read back from the engine's own list, with the desired path."""
    UNLOADING = "Unloading"
    FAILED = "Failed"
    """The engine rejected it permanently; only a changed adapter or a new order causes a retry."""


class PreparedState(StrEnum):
    """State of staged files."""

    PENDING = "Pending"
    """Waits for credentials, or for the time of a retry."""
    DOWNLOADING = "Downloading"
    PREPARED = "Prepared"
    """On this pod's disk, and held there."""
    FAILED = "Failed"
    """The source cannot be fetched; only another order, or a long pause, causes a retry."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Answer(BaseModel):
    """Answers may gain fields: an older client must be able to read a newer sidecar, so unknown ones are skipped."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class LoadRequest(_Model):
    """`POST /v1/load_lora_adapter`: load this adapter, and keep it loaded.

    Exactly one of `lora_path` (engine and sidecar see the folder) and `source` (the sidecar fetches it) is given.
    """

    lora_name: AdapterName
    lora_path: AdapterPath | None = Field(default=None, description="The adapter's folder, as the engine sees it.")
    source: SourceUri | None = Field(
        default=None, description="hf:// s3:// obs:// pvc:// file:// or a bare Hugging Face `org/repo`."
    )
    output_dir: OutputDir | None = Field(
        default=None,
        description="Folder in which the files of a source appear; below an allowed root. Default: a folder of "
        "Patio's own.",
    )
    config: SourceConfig | None = Field(
        default=None,
        repr=False,
        description="A JSON object in a string, as for `/v1/download_model`. Credentials are kept in memory only.",
    )
    sealed_credentials: str | None = Field(
        default=None,
        max_length=MAX_SEALED,
        repr=False,
        description="Credentials for `config`, sealed for this sidecar's key and for this order only; "
        "see /v1/credentials/handshake.",
    )
    max_workers: MaxWorkers = Field(default=8, description="Files of a source fetched at once.")
    async_download: bool = Field(default=False, description="The same as `wait: 0`, as upstream names it.")
    owner: str | None = Field(
        default=None,
        max_length=512,
        description="Owner of the adapter, e.g. `LoraAdapter/team-a/sql-expert`. Absent: loaded manually; "
        "owners never unload it.",
    )
    revision: str | None = Field(
        default=None,
        max_length=128,
        description="Opaque to the sidecar, which reports it back. When it changes, the sidecar loads the adapter "
        "again, even from the same path, and fetches a source again.",
    )
    prepare: bool = Field(
        default=False,
        description="Only fetch the files of this `source`, and keep them. What is loaded under the name does not "
        "change. The same order without `prepare` then switches without a download. An unload, or a `prepare` of "
        "another source, removes the files.",
    )
    expects_credentials: bool = Field(
        default=False,
        description="The credentials for this `source` come with a later order; until then nothing is fetched.",
    )
    credentials_revision: str | None = Field(
        default=None,
        max_length=128,
        description="Opaque to the sidecar, which reports it back: the version of the Secret that the "
        "credentials are from.",
    )
    wait: float = Field(
        default=60.0,
        ge=0,
        le=600,
        description="Seconds to wait for the outcome; the default is 600 for a `source`. With 0 the answer comes at "
        "once: 202 and the current state.",
    )

    @model_validator(mode="after")
    def _one_of_path_and_source(self) -> Self:
        if (self.lora_path is None) == (self.source is None):
            raise ValueError("exactly one of lora_path and source must be given")
        if self.source is None and (self.output_dir is not None or self.config is not None):
            raise ValueError("output_dir and config need a source")
        if self.source is None and (self.prepare or self.expects_credentials or self.credentials_revision is not None):
            raise ValueError("prepare, expects_credentials and credentials_revision need a source")
        if self.sealed_credentials is not None and (self.source is None or self.expects_credentials):
            raise ValueError("sealed_credentials need a source, and exclude expects_credentials")
        if self.prepare and self.used_in_place:
            raise ValueError("a file:// source is used in place: there is nothing to prepare")
        if self.expects_credentials and any(key in SECRET_KEYS for key in read_config(self.config)):
            raise ValueError("expects_credentials is set, but config has credentials already")
        return self

    @property
    def used_in_place(self) -> bool:
        """Whether the files are given by a path, in whichever of the two ways, and nothing has to be fetched."""
        if self.source is None:
            return True
        return self.output_dir is None and parse_source(self.source).kind is SourceKind.FILE

    @property
    def patience(self) -> float:
        """Seconds that the caller waits for the outcome."""
        if self.async_download:
            return 0.0
        return 600.0 if self.source is not None and "wait" not in self.model_fields_set else self.wait


class UnloadRequest(_Model):
    """`POST /v1/unload_lora_adapter`: unload this adapter, and do not load it again."""

    lora_name: AdapterName
    owner: str | None = Field(
        default=None,
        max_length=512,
        description="When given, the sidecar unloads the adapter only if this owner loaded it.",
    )
    wait: float = Field(default=60.0, ge=0, le=600)


class PreparedReport(_Answer):
    """Staged files of an adapter, as the sidecar sees them now."""

    revision: str | None = None
    state: PreparedState
    reason: str = Field(description="Reason of the state: CamelCase and stable.")
    message: str = Field(default="", description="A sentence; of an error, the source's message.")
    retryable: bool = Field(default=True, description="False when the source rejected the request permanently.")
    credentials_revision: str | None = Field(default=None, description="The value in the order to prepare.")


class AdapterReport(_Answer):
    """One adapter, desired or loaded, as the sidecar sees it now."""

    lora_name: str
    lora_path: str | None = Field(description="Absent while the sidecar fetches a source.")
    source: str | None = Field(default=None, description="The source that the files come from.")
    owner: str | None = None
    revision: str | None = None
    required: bool = Field(
        default=False, description="The pod is not ready before this adapter is loaded or has failed."
    )
    state: AdapterState
    reason: str = Field(description="Reason of the state: CamelCase and stable.")
    message: str = Field(default="", description="A sentence; of an error, the engine's message.")
    retryable: bool = Field(default=True, description="False when the engine rejected the adapter permanently.")
    model: str | None = Field(
        default=None,
        description="What requests must put in `model`: the name for vLLM, `<base>:<name>` for SGLang, where the base "
        "model answers to the bare name. Absent until the engine has reported its base model.",
    )
    attempts: int = Field(default=0, ge=0, description="Load calls made for this revision.")
    since: float = Field(description="Unix seconds of the last change of state.")
    held_revision: str | None = Field(
        default=None,
        description="Revision of the weights that the engine serves under this name now. Absent: none, or unknown.",
    )
    prepared: PreparedReport | None = Field(
        default=None, description="The files that an order with `prepare` asked for."
    )
    credentials_revision: str | None = Field(default=None, description="The value in the last order.")


class UnloadAnswer(_Answer):
    """The outcome of an unload."""

    lora_name: str
    unloaded: bool = Field(
        description="False when the engine had not unloaded the adapter at the end of the wait; the sidecar continues."
    )
    message: str = ""


class AdapterCapacity(_Answer):
    """Limits that the engine was started with; a limit that it does not report is absent."""

    batch: int | None = Field(
        default=None,
        description="Adapters that fit in one batch: vLLM's --max-loras (known after the first LoRA request), SGLang's "
        "--max-loras-per-batch. The engine can load more, which then take turns.",
    )
    loaded: int | None = Field(
        default=None,
        description="Adapters that can be loaded at once: SGLang's --max-loaded-loras, above which it evicts.",
    )


class AdapterList(_Answer):
    """`GET /v1/lora_adapters`: every adapter that is desired or loaded."""

    revision: str = Field(description="Changes with every change of the answer; send it in a long-poll.")
    engine: str = Field(description="`vllm` or `sglang`.")
    engine_ready: bool
    base_models: tuple[str, ...] = Field(default=(), description="Names under which the engine serves its base model.")
    adapters: tuple[AdapterReport, ...] = ()
    capacity: AdapterCapacity = AdapterCapacity()
    on_disk: tuple[str, ...] = Field(
        default=(), description="Sources whose files this pod has, sorted; at most 100 of them."
    )


class ErrorDetail(_Answer):
    """Why a call failed."""

    code: str = Field(description="CamelCase and stable, e.g. `EngineRejected`, `InvalidRequest`.")
    message: str
    retryable: bool


class ErrorBody(_Answer):
    """The one shape of every error answer."""

    error: ErrorDetail


class ServerStatus(_Answer):
    """`GET /`: this sidecar and its engine."""

    name: str = "patio"
    version: str
    pod: str
    engine: str
    engine_endpoint: str
    engine_ready: bool
    access_control_enforced: bool = Field(
        default=False,
        description="Whether calls from outside the pod that change something need the operator's signature.",
    )


class Readiness(_Answer):
    """`GET /ready`: 200 when `ready`, 503 otherwise, with each reason."""

    ready: bool
    waiting_for: tuple[str, ...] = ()
