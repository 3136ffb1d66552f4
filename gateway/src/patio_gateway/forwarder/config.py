"""The forwarder's config file: upstream's fields, read from YAML (or JSON) and `--set` within bounds. Pure.

    forwarder:
      sync: {user_port: 5005, predict_route: /predict, extra_routes: [/v1/completions]}
      stream: {user_port: 5005, predict_route: /stream}
      max_concurrency: 100

A fault is one sentence that names the field. Fields that upstream has but cannot do itself (`use_grpc`, `batch_route`)
are errors here as they are there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from patio_gateway.forwarder.overrides import MOST_OVERRIDES, OverrideError, overridden, parse_override
from patio_gateway.yaml_text import NotYamlError, read_yaml

MOST_BYTES = 1024 * 1024
"""Of the file."""
MOST_ROUTES = 1000
"""In one list."""
MOST_CONCURRENCY = 10_000
ROOT = "forwarder"
RESULTS_VARIABLE = "SERIALIZE_RESULTS_AS_STRING"
"""Upstream's variable; `true` or `false` in it counts for both forwarders, whatever the file has."""

_Model = TypeVar("_Model", bound=BaseModel)


class ConfigError(Exception):
    """The config cannot be used. The text is one sentence that says where and why."""


def _default_if_empty(value: object) -> object:
    """Take a field that a template left empty for one that is absent."""
    return "default" if value is None or value == "" else value


Route = Annotated[str, Field(max_length=512, pattern=r"^/[!\"$->@-~]*$")]
"""A path in ASCII without query and fragment."""
Routes = Annotated[tuple[Route, ...], Field(max_length=MOST_ROUTES)]
Kind = Annotated[Literal["default", "passthrough"], BeforeValidator(_default_if_empty)]


class Forwarding(BaseModel):
    """What both forwarders have: where the engine is, and which paths go there."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    user_port: Annotated[int, Field(ge=1, le=65535)] = 5005
    user_hostname: Literal["localhost", "127.0.0.1", "::1"] = "localhost"
    use_grpc: bool = False
    predict_route: Route
    healthcheck_route: Route = "/readyz"
    batch_route: str | None = None
    model_engine_unwrap: bool = True
    serialize_results_as_string: bool
    forwarder_type: Kind = "default"
    extra_routes: Routes = ()
    routes: Routes = ()

    @field_validator("use_grpc")
    @classmethod
    def _http_alone(cls, value: bool) -> bool:
        if value:
            raise ValueError("gRPC is not supported: the engine has to speak HTTP")
        return value

    @field_validator("batch_route")
    @classmethod
    def _no_batches(cls, value: str | None) -> str | None:
        if value is not None:
            raise ValueError("batch inference is not supported: leave it null")
        return value

    @property
    def more_routes(self) -> tuple[str, ...]:
        """`extra_routes` and `routes`, which mean the same, each once."""
        return tuple(dict.fromkeys((*self.extra_routes, *self.routes)))

    @property
    def is_passthrough(self) -> bool:
        """Whether requests and answers are passed on as they are."""
        return self.forwarder_type == "passthrough"


class Sync(Forwarding):
    """How calls with a single answer are forwarded."""

    predict_route: Route = "/predict"
    serialize_results_as_string: bool = True
    wrap_response: bool = True
    forward_http_status: bool = True
    forward_http_status_in_body: bool = False


class Stream(Forwarding):
    """How calls with a stream of events are forwarded."""

    predict_route: Route = "/stream"
    serialize_results_as_string: bool = False


class Config(BaseModel):
    """The whole of it; at least one of the two forwarders."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: Annotated[str, Field(max_length=256)] | None = None
    sync: Sync | None = None
    stream: Stream | None = None
    max_concurrency: Annotated[int, Field(ge=1, le=MOST_CONCURRENCY)] = 100

    @property
    def forwardings(self) -> tuple[Forwarding, ...]:
        """The forwarders that there are, sync first."""
        return tuple(each for each in (self.sync, self.stream) if each is not None)


def read_config(data: bytes, source: str, options: Sequence[str], variables: Mapping[str, str]) -> Config:
    """Return the config that a file, the options `--set` and the environment make.

    Args:
        data: what the file has; a caller reads at most `MOST_BYTES + 1` bytes.
        source: the file's name, for errors.
        options: the `KEY.PATH=VALUE` of each `--set`, in their order.
        variables: the environment.

    Raises:
        ConfigError: one of them cannot be used.

    """
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{source} is longer than {MOST_BYTES} bytes.")
    try:
        content = read_yaml(data)
    except NotYamlError:
        raise ConfigError(f"{source} is not YAML.") from None
    if content is None:
        content = {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{source}: expected fields, `forwarder:` with `sync:` and `stream:` in it.")
    if len(options) > MOST_OVERRIDES:
        raise ConfigError(f"--set is repeated more than {MOST_OVERRIDES} times.")
    try:
        content = overridden(content, [parse_override(option) for option in options])
    except OverrideError as error:
        raise ConfigError(str(error)) from None
    prefix: tuple[str, ...] = ()
    if set(content) == {ROOT}:
        content, prefix = content[ROOT], (ROOT,)
    config = _validated(Config, content, source, prefix)
    if not config.forwardings:
        raise ConfigError(f"{source}: expected `sync`, `stream` or both in `{ROOT}`.")
    return _with_variable(config, variables.get(RESULTS_VARIABLE))


def _with_variable(config: Config, text: str | None) -> Config:
    if text is None:
        return config
    value = {"true": True, "false": False}.get(text.strip().lower())
    if value is None:
        raise ConfigError(f"The variable {RESULTS_VARIABLE} is neither true nor false.")
    return config.model_copy(
        update={
            name: forwarding.model_copy(update={"serialize_results_as_string": value})
            for name in ("sync", "stream")
            if (forwarding := getattr(config, name)) is not None
        }
    )


def _validated(model: type[_Model], content: object, source: str, prefix: tuple[str, ...]) -> _Model:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
    # A key of the file may be of any length and have any character.
    parts = [str(part)[:64] for part in (*prefix, *first["loc"])]
    where = ".".join(part if part.isprintable() else ascii(part) for part in parts) or "the whole"
    if first["type"] == "extra_forbidden":
        raise ConfigError(f"{source}: {where}: the forwarder has no such field.")
    raise ConfigError(f"{source}: {where}: {first['msg'].removeprefix('Value error, ')}.")
