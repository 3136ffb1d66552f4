"""From a snapshot to the files that Envoy watches. Pure.

    program.json    which program runs for each request; the program itself is a file beside it
    limits.json     how many requests a minute each client may send
    clusters.json   two clusters for each group of ModelEndpoints
    endpoints-*.json  one for each group: its pods, and which adapters each of them has

A pod that comes or goes, or an adapter that is loaded or unloaded, changes one file of endpoints and nothing else.
The front is in each of those files, as the pod that answers where no other one has what is asked for. So a request
never waits for two files to agree.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from patio_gateway.control.bootstrap import Listening, circuit_breakers, watched
from patio_gateway.control.groups import Group, groups_of
from patio_gateway.control.limits import limits
from patio_gateway.control.program import program
from patio_gateway.snapshot import Model, Snapshot, Worker

_API = "type.googleapis.com/envoy"

CLUSTERS = "clusters.json"
"""The file of clusters."""

BASE = "base"
"""What every worker of a model serves."""

RING = 256
"""Least size of a ring of hashes. Each adapter has one of its own in each of Envoy's threads."""


@dataclass(frozen=True)
class File:
    """A file that Envoy reads."""

    name: str
    text: str
    version: str = ""
    """What Envoy says that it has, once it has taken the text; empty for what it reads through another file."""
    readers: tuple[str, ...] = ()
    """Prefixes of Envoy's statistics of what reads it."""


def serves_adapter(name: str) -> str:
    """Return how a worker says in its metadata that it has an adapter."""
    return f"adapter:{name}"


def resources(snapshot: Snapshot, listening: Listening) -> tuple[File, ...]:
    """Return the files, in the order in which they are to be written."""
    group_by_endpoint = groups_of(snapshot.models, listening.most_own_groups)
    groups: dict[Group, list[Model]] = defaultdict(list)
    for model in snapshot.models:
        groups[group_by_endpoint[model.endpoint]].append(model)
    clusters = [cluster for group in sorted(groups) for cluster in _clusters(group, listening.folder)]
    text = program(snapshot, group_by_endpoint)
    program_file = File(f"program-{hashlib.sha256(text.encode()).hexdigest()[:16]}.lua", text)
    return (
        *(
            _discovery(
                f"endpoints-{group.name}.json",
                [_endpoints(group, models, listening)],
                f"cluster.{group.affinity}",
                f"cluster.{group.least_request}",
            )
            for group, models in sorted(groups.items())
        ),
        _clusters_file(clusters),
        _discovery(
            "limits.json",
            [_extension("limits", limits(snapshot))],
            "extension_config_discovery.http_filter.limits",
        ),
        program_file,
        _discovery(
            "program.json",
            [
                _extension(
                    "program",
                    {
                        "@type": f"{_API}.extensions.filters.http.lua.v3.Lua",
                        "default_source_code": {"filename": f"{listening.folder}/{program_file.name}"},
                    },
                )
            ],
            "extension_config_discovery.http_filter.program",
        ),
    )


def keeping(files: tuple[File, ...], before: Sequence[Mapping[str, Any]]) -> tuple[File, ...]:
    """Return the files with the clusters that Envoy has beside those of now: requests may be on their way to them."""
    (now,) = (file for file in files if file.name == CLUSTERS)
    clusters = {cluster["name"]: dict(cluster) for cluster in (*before, *clusters_in(now.text))}
    kept = _clusters_file(list(clusters.values()))
    return tuple(kept if file is now else file for file in files)


def clusters_in(text: str) -> list[dict[str, Any]]:
    """Return the clusters of a `clusters.json` that this module wrote; none of anything else."""
    try:
        found = json.loads(text)["resources"]
    except (ValueError, KeyError, TypeError):
        return []
    return found if isinstance(found, list) else []


def _clusters_file(clusters: list[dict[str, Any]]) -> File:
    return _discovery(CLUSTERS, clusters, "cluster_manager.cds")


def _discovery(name: str, found: list[dict[str, Any]], *readers: str) -> File:
    version = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]
    text = json.dumps({"version_info": version, "resources": found}, separators=(",", ":"))
    return File(name, text, version, readers)


def _extension(name: str, typed: dict[str, Any]) -> dict[str, Any]:
    return {"@type": f"{_API}.config.core.v3.TypedExtensionConfig", "name": name, "typed_config": typed}


def _clusters(group: Group, folder: str) -> list[dict[str, Any]]:
    shared: dict[str, Any] = {
        "@type": f"{_API}.config.cluster.v3.Cluster",
        "type": "EDS",
        "connect_timeout": "1s",
        "eds_cluster_config": {
            "service_name": group.name,
            "eds_config": watched(folder, f"endpoints-{group.name}.json"),
        },
        "lb_subset_config": {
            "fallback_policy": "DEFAULT_SUBSET",
            "default_subset": {"role": "front"},
            "list_as_any": True,
            "subset_selectors": [{"keys": ["endpoint", "serves"]}],
        },
        "circuit_breakers": circuit_breakers(),
        # A pod that takes no connection gets no request for a moment. What it answers is never held against it.
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 1,
            "enforcing_consecutive_local_origin_failure": 100,
            "enforcing_local_origin_success_rate": 0,
            "enforcing_consecutive_5xx": 0,
            "enforcing_consecutive_gateway_failure": 0,
            "enforcing_success_rate": 0,
            "interval": "1s",
            "base_ejection_time": "2s",
            "max_ejection_time": "10s",
            "max_ejection_percent": 100,
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_API}.extensions.upstreams.http.v3.HttpProtocolOptions",
                # Engines close a connection that was idle for 5 s (uvicorn). Envoy does so before them.
                "common_http_protocol_options": {"idle_timeout": "4s"},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
    }
    # Where all pods were taken out, each of them is tried: that is better than to answer 503 without a try.
    panic = {"healthy_panic_threshold": {"value": 1}}
    return [
        {
            **shared,
            "name": group.affinity,
            "lb_policy": "RING_HASH",
            "ring_hash_lb_config": {"minimum_ring_size": RING, "maximum_ring_size": 8 * RING},
            "common_lb_config": {
                **panic,
                "consistent_hashing_lb_config": {"hash_balance_factor": group.bound},
            },
        },
        {
            **shared,
            "name": group.least_request,
            "lb_policy": "LEAST_REQUEST",
            "common_lb_config": panic,
        },
    ]


def _endpoints(group: Group, models: list[Model], listening: Listening) -> dict[str, Any]:
    front = {
        "endpoint": {"address": {"pipe": {"path": listening.front_socket}}},
        # Why the front has a request of a model: none of its pods serves what is asked for.
        "metadata": {"filter_metadata": {"envoy.lb": {"role": "front"}, "patio": {"reason": "front"}}},
    }
    workers = [_worker(model, worker) for model in models for worker in model.workers]
    return {
        "@type": f"{_API}.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": group.name,
        "endpoints": [{"lb_endpoints": [front, *workers]}],
    }


def _worker(model: Model, worker: Worker) -> dict[str, Any]:
    host, port = worker.address
    return {
        "endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}},
        "metadata": {
            "filter_metadata": {
                "envoy.lb": {
                    "endpoint": model.endpoint,
                    "serves": [BASE, *(serves_adapter(name) for name in sorted(worker.adapters))],
                },
                "patio": {"pod": worker.name},
            }
        },
    }
