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
"""Where the sidecar listens unless told otherwise."""

REQUIRED_ADAPTERS_VARIABLE = "PATIO_REQUIRED_ADAPTERS"
"""Variable that the admission webhook sets on the sidecar: a JSON list of `LoadRequest`. Adapters named in it
are wanted from the first second of the pod, and the pod is not ready before each of them is settled."""

AdapterName = Annotated[
    str, StringConstraints(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")
]
"""The name of an adapter in requests. Engines accept anything (vLLM 0.32 even `x/../y`); we do not."""

ABSOLUTE_PATH = r"^/[^\x00]*$"


def _is_absolute(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("a path has to be absolute, as the engine sees the adapter's folder: /adapters/sql")
    if "\x00" in path:
        raise ValueError("a path has no NUL character")
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
    """Where one adapter stands on one pod."""

    PENDING = "Pending"
    """Wanted; the engine is out of reach, or a retry is waiting for its time."""
    DOWNLOADING = "Downloading"
    LOADING = "Loading"
    LOADED = "Loaded"
    """Read back from the engine's own list, under the wanted path."""
    UNLOADING = "Unloading"
    FAILED = "Failed"
    """The engine refused it for good; only a changed adapter or a new order tries again."""


class PreparedState(StrEnum):
    """Where the files stand that were asked for ahead of their use."""

    PENDING = "Pending"
    """Waiting for credentials, or a retry for its time."""
    DOWNLOADING = "Downloading"
    PREPARED = "Prepared"
    """On this pod's disk, and held there."""
    FAILED = "Failed"
    """The source can not be had; only another order, or much time, tries again."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Answer(BaseModel):
    """Answers may gain fields: an older client must be able to read a newer sidecar, so unknown ones are skipped."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class LoadRequest(_Model):
    """`POST /v1/load_lora_adapter`: from now on this pod should have this adapter.

    Its files are given by exactly one of `lora_path`, which engine and sidecar see, and `source`, which is fetched.
    """

    lora_name: AdapterName
    lora_path: AdapterPath | None = Field(default=None, description="The adapter's folder, as the engine sees it.")
    source: SourceUri | None = Field(
        default=None, description="hf:// s3:// obs:// pvc:// file:// or a bare Hugging Face `org/repo`."
    )
    output_dir: OutputDir | None = Field(
        default=None, description="Where a source's files shall be seen; under an allowed root. Not needed."
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
        description="Credentials that belong into `config`, sealed for this sidecar's key and for this order alone; "
        "see /v1/credentials/handshake.",
    )
    max_workers: MaxWorkers = Field(default=8, description="Files of a source fetched at once.")
    async_download: bool = Field(default=False, description="Upstream's word for `wait: 0`.")
    owner: str | None = Field(
        default=None,
        max_length=512,
        description="Who wants it, e.g. `LoraAdapter/team-a/sql-expert`. Absent: by hand; owners never remove it.",
    )
    revision: str | None = Field(
        default=None,
        max_length=128,
        description="Opaque to the sidecar and reported back. A changed revision loads again, even from the same path, "
        "and asks a source again.",
    )
    prepare: bool = Field(
        default=False,
        description="Fetch the files of this `source` and keep them ready; what is loaded and wanted under the name "
        "stays as it is. The same order without `prepare` then switches at once. An unload, or a `prepare` of "
        "something else, drops them.",
    )
    expects_credentials: bool = Field(
        default=False,
        description="The credentials for this `source` come with a later order; until then nothing is fetched.",
    )
    credentials_revision: str | None = Field(
        default=None,
        max_length=128,
        description="Opaque to the sidecar and reported back: which state of a Secret the credentials are.",
    )
    wait: float = Field(
        default=60.0,
        ge=0,
        le=600,
        description="Seconds to wait for the outcome; with a `source`, 600 unless it is given. 0 answers at once with "
        "202 and the state so far.",
    )

    @model_validator(mode="after")
    def _one_of_path_and_source(self) -> Self:
        if (self.lora_path is None) == (self.source is None):
            raise ValueError("exactly one of lora_path and source must be given")
        if self.source is None and (self.output_dir is not None or self.config is not None):
            raise ValueError("output_dir and config belong to a source")
        if self.source is None and (self.prepare or self.expects_credentials or self.credentials_revision is not None):
            raise ValueError("prepare, expects_credentials and credentials_revision belong to a source")
        if self.sealed_credentials is not None and (self.source is None or self.expects_credentials):
            raise ValueError("sealed_credentials belong to a source, and to an order that expects no others")
        if self.prepare and self.used_in_place:
            raise ValueError("a file:// source is used where it is: there is nothing to prepare")
        if self.expects_credentials and any(key in SECRET_KEYS for key in read_config(self.config)):
            raise ValueError("expects_credentials says that config has none yet, and it has some")
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
    """`POST /v1/unload_lora_adapter`: from now on this pod should not have this adapter."""

    lora_name: AdapterName
    owner: str | None = Field(
        default=None,
        max_length=512,
        description="When given, the adapter is only unloaded if this owner wants it.",
    )
    wait: float = Field(default=60.0, ge=0, le=600)


class PreparedReport(_Answer):
    """Files that were asked for ahead of their use, as the sidecar sees them now."""

    revision: str | None = None
    state: PreparedState
    reason: str = Field(description="CamelCase and stable: why it is in this state.")
    message: str = Field(default="", description="A sentence; for faults, the source's own words.")
    retryable: bool = Field(default=True, description="False once the source refused it for good.")
    credentials_revision: str | None = Field(default=None, description="That of the order to prepare.")


class AdapterReport(_Answer):
    """One adapter, wanted or present, as the sidecar sees it now."""

    lora_name: str
    lora_path: str | None = Field(description="Absent while a source is being fetched.")
    source: str | None = Field(default=None, description="Where its files were, or are being, fetched from.")
    owner: str | None = None
    revision: str | None = None
    required: bool = Field(default=False, description="The pod is not ready before this adapter is settled.")
    state: AdapterState
    reason: str = Field(description="CamelCase and stable: why it is in this state.")
    message: str = Field(default="", description="A sentence; for faults, the engine's own words.")
    retryable: bool = Field(default=True, description="False once the engine refused it for good.")
    model: str | None = Field(
        default=None,
        description="What requests must put in `model`: the name for vLLM, `<base>:<name>` for SGLang, where the bare "
        "name is answered by the base model. Absent until the engine has named its base model.",
    )
    attempts: int = Field(default=0, ge=0, description="Load calls made since it was wanted in this revision.")
    since: float = Field(description="Unix seconds of the last change of state.")
    held_revision: str | None = Field(
        default=None,
        description="Revision of the weights that the engine answers from under this name now. Absent: none, or not "
        "known.",
    )
    prepared: PreparedReport | None = Field(default=None, description="What an order with `prepare` asked for.")
    credentials_revision: str | None = Field(default=None, description="That of the last order.")


class UnloadAnswer(_Answer):
    """What an unload came to."""

    lora_name: str
    unloaded: bool = Field(description="False when the wait was over before the engine let go of it; it goes on.")
    message: str = ""


class AdapterCapacity(_Answer):
    """How many adapters an engine was started for; what it does not tell is absent."""

    batch: int | None = Field(
        default=None,
        description="Adapters that fit in one batch: vLLM's --max-loras (told once there was LoRA traffic), SGLang's "
        "--max-loras-per-batch. More can be loaded; they take turns.",
    )
    loaded: int | None = Field(
        default=None,
        description="Adapters that can be loaded at once: SGLang's --max-loaded-loras, above which it evicts.",
    )


class AdapterList(_Answer):
    """`GET /v1/lora_adapters`: every adapter wanted or present."""

    revision: str = Field(description="Changes with every change of the answer; give it back to long-poll.")
    engine: str = Field(description="`vllm` or `sglang`.")
    engine_ready: bool
    base_models: tuple[str, ...] = Field(default=(), description="Names the engine serves its base model under.")
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
    """`GET /`: what this sidecar is and what it stands beside."""

    name: str = "patio"
    version: str
    pod: str
    engine: str
    engine_endpoint: str
    engine_ready: bool
    access_control_enforced: bool = Field(
        default=False, description="Calls from outside the pod that change something need the operator's signature."
    )


class Readiness(_Answer):
    """`GET /ready`: 200 when `ready`, 503 otherwise, with every reason for waiting."""

    ready: bool
    waiting_for: tuple[str, ...] = ()
