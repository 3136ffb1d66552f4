"""What every custom resource shares: the base model, metadata and conditions.

Objects come from the API server, which has already checked them against the generated schema, so decoding
is lenient: unknown fields are ignored. What Kubernetes itself defines and we only pass through (pod
templates, containers) stays a plain mapping. The docstring under a field becomes its description in the CRD
(`kubectl explain`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AliasGenerator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class Model(BaseModel):
    """A part of a custom resource: snake_case here, camelCase on the wire."""

    model_config = ConfigDict(
        alias_generator=AliasGenerator(alias=to_camel),
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
    )

    def to_api(self) -> dict[str, Any]:
        """Return the object as the API server wants it: camelCase, JSON values, nothing that is unset."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


Int32 = Annotated[int, Field(json_schema_extra={"format": "int32"})]
Int64 = Annotated[int, Field(json_schema_extra={"format": "int64"})]
LabelMap = dict[str, str]

Opaque = Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]
"""An object whose fields belong to another API and are kept unchanged."""


class ObjectMeta(Model):
    """The part of metadata that the operator reads."""

    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: LabelMap = Field(default_factory=dict)
    annotations: LabelMap = Field(default_factory=dict)
    finalizers: tuple[str, ...] = ()


class Condition(Model):
    """One aspect of the object's state (metav1.Condition)."""

    type: Annotated[str, Field(max_length=316)]
    """Name of the condition in CamelCase."""
    status: Literal["True", "False", "Unknown"]
    """Whether the condition holds."""
    observed_generation: Annotated[Int64 | None, Field(ge=0)] = None
    """The metadata.generation that the condition was computed from. Older than the object's: the condition
    is stale."""
    last_transition_time: datetime
    """When the status of the condition last changed."""
    reason: Annotated[str, Field(min_length=1, max_length=1024)]
    """Why it last changed, in one CamelCase word."""
    message: Annotated[str, Field(max_length=32768)]
    """Why it last changed, in a sentence that names the object, the cause and the remedy."""


Conditions = Annotated[
    tuple[Condition, ...],
    Field(json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
]
