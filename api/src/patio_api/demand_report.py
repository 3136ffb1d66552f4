"""DemandReport: what one replica of the gateway knows of the demand for every ModelEndpoint.

Each replica writes the report of its own name in the gateway's namespace, as a whole and over and over; the operator
adds the fresh ones up (`modelendpoints.demand`). A kind of its own, so that the right to write it is a right to
nothing else, no tenant can write one, and the operator finds the demand again after it restarted (decision 0043).
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from patio_api.meta import Int32, Model, ObjectMeta

MAX_ENDPOINTS = 2_000
"""ModelEndpoints in a report: some 300 KB, of the 1.5 MB that the API server stores of an object."""
_LABEL = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"


class EndpointDemand(Model):
    """The demand for one ModelEndpoint at one replica of the gateway."""

    endpoint: Annotated[str, Field(max_length=127, pattern=f"^{_LABEL}/{_LABEL}$")]
    """The ModelEndpoint, as `namespace/name`."""
    in_flight: Annotated[Int32, Field(ge=0)] = 0
    """Requests that a worker is answering."""
    held: Annotated[Int32, Field(ge=0)] = 0
    """Requests that the gateway holds until a worker is ready."""
    last_activity: datetime | None = None
    """When the replica last received or finished a request for it. Absent: none since the replica started."""


class DemandReportSpec(Model):
    """Who reports, when, and what."""

    gateway: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the gateway's pod that reports. The report has the same name."""
    reported_at: datetime
    """When the replica last looked at its numbers. The operator leaves out a report that is too old."""
    endpoints: Annotated[
        tuple[EndpointDemand, ...],
        Field(
            max_length=MAX_ENDPOINTS,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["endpoint"]},
        ),
    ] = ()
    """One entry per ModelEndpoint that has demand, or had some since the replica started; at most 2,000, those with the
    most demand first. A ModelEndpoint that is not listed has no demand at this replica."""


class DemandReport(Model):
    """What one replica of the gateway reports of the demand for ModelEndpoints. Written by the gateway only."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "self.metadata.name == self.spec.gateway",
                    "message": "a DemandReport has the name of the gateway's pod that writes it: set metadata.name to "
                    "spec.gateway",
                    "fieldPath": ".spec.gateway",
                }
            ]
        }
    )

    group: ClassVar[str] = "patio.dev"
    version: ClassVar[str] = "v1alpha1"
    kind: ClassVar[str] = "DemandReport"
    plural: ClassVar[str] = "demandreports"

    metadata: ObjectMeta
    """Standard object metadata."""
    spec: DemandReportSpec
    """Who reports, when, and what."""
