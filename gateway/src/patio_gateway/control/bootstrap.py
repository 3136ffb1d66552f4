"""What Envoy starts with: the listener, the one route, and the files that tell it the rest. Pure.

Nothing here depends on a model, a pod or a key, so that a control that starts again with the same settings writes the
same text. The program (`program.py`) names a cluster, and the one route goes to it. Which pods of the cluster may
answer follows from what the program leaves in the metadata `envoy.lb`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from patio_gateway.control.metrics import loggers, upstream_logger
from patio_gateway.control.replies import local_reply_config
from patio_gateway.snapshot import Address

_EXTENSIONS = "type.googleapis.com/envoy.extensions"

SET_HERE = (
    "x-patio-client",
    "x-patio-admitted",
    "x-patio-limit",
    "x-patio-tokens",
    "x-patio-charge",
    "x-patio-answer",
    "x-patio-cluster",
    "x-patio-affinity",
    "x-patio-denied",
    "x-patio-held",
    "x-envoy-original-url",
)
"""Headers that a request from outside loses: what follows trusts them."""

LOG_FIELDS = {
    "time": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ_WITHOUT_QUERY(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "code": "%RESPONSE_CODE%",
    "model": "%DYNAMIC_METADATA(patio:request:model)%",
    "endpoint": "%DYNAMIC_METADATA(patio:request:endpoint)%",
    "client": "%DYNAMIC_METADATA(patio:request:client)%",
    "pod": "%UPSTREAM_METADATA(patio:pod)%",
    "tokens_in": "%DYNAMIC_METADATA(patio:usage:input)%",
    "tokens_out": "%DYNAMIC_METADATA(patio:usage:output)%",
    "reason": "%DYNAMIC_METADATA(patio:request:reason)%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "milliseconds": "%DURATION%",
    "first_byte_milliseconds": "%RESPONSE_DURATION%",
    "bytes_in": "%BYTES_RECEIVED%",
    "bytes_out": "%BYTES_SENT%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "trace": "%REQ(TRACEPARENT)%",
}
"""Fields of a line of the access log. Neither a key nor a body nor a query is in it."""


@dataclass(frozen=True)
class Listening:
    """What a person sets of Envoy."""

    listen: Address = ("127.0.0.1", 8080)
    folder: str = "/run/patio-gateway"
    """Where the files are that Envoy watches, and its and the front's sockets."""
    metrics: Address | None = None
    """Where Prometheus reads `/metrics` (Envoy's) and `/front/metrics` (the front's); None: nowhere."""
    access_log: str = "-"
    """The file of the access log; `-` is Envoy's standard output."""
    most_body: int = 32 * 1024 * 1024
    """Bytes of a request's body that are read to find its model; a longer one is answered 413."""
    most_connections: int = 20_000
    """Connections of clients at a time."""
    most_heap: int = 2 * 1024**3
    """Bytes of Envoy's memory above which it answers new requests 503: bodies are held until a pod has them."""
    most_silent_seconds: int = 3600
    """How long no byte may come or go before Envoy ends a request: generations may be silent for long."""
    most_own_groups: int = 40
    """ModelEndpoints that have clusters of their own; where there are more, they share some."""

    @property
    def front_socket(self) -> str:
        """Where the front listens."""
        return f"{self.folder}/front.sock"

    @property
    def admin_socket(self) -> str:
        """Where Envoy's administration listens."""
        return f"{self.folder}/admin.sock"


def watched(folder: str, name: str) -> dict[str, Any]:
    """Return the source of a resource that Envoy reads again whenever the file is replaced."""
    return {"path_config_source": {"path": f"{folder}/{name}"}, "resource_api_version": "V3"}


def bootstrap(listening: Listening) -> dict[str, Any]:
    """Return the file that Envoy is started with."""
    return {
        "node": {"id": "patio-gateway", "cluster": "patio-gateway"},
        "admin": {"address": {"pipe": {"path": listening.admin_socket, "mode": 0o600}}},
        "dynamic_resources": {"cds_config": watched(listening.folder, "clusters.json")},
        "static_resources": {
            "listeners": [
                _listener("requests", listening.listen, _connection_manager(listening)),
                *([_listener("metrics", listening.metrics, _metrics())] if listening.metrics else []),
            ],
            "clusters": [
                _on_socket("front", listening.front_socket),
                _on_socket("admin", listening.admin_socket),
                {"name": "none", "type": "STATIC"},
            ],
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": (
                            f"{_EXTENSIONS}.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
                        ),
                        "max_active_downstream_connections": listening.most_connections,
                    },
                },
                {
                    "name": "envoy.resource_monitors.fixed_heap",
                    "typed_config": {
                        "@type": f"{_EXTENSIONS}.resource_monitors.fixed_heap.v3.FixedHeapConfig",
                        "max_heap_size_bytes": listening.most_heap,
                    },
                },
            ],
            "actions": [
                {
                    "name": "envoy.overload_actions.stop_accepting_requests",
                    "triggers": [{"name": "envoy.resource_monitors.fixed_heap", "threshold": {"value": 0.95}}],
                },
                {
                    "name": "envoy.overload_actions.shrink_heap",
                    "triggers": [{"name": "envoy.resource_monitors.fixed_heap", "threshold": {"value": 0.8}}],
                },
            ],
        },
        "layered_runtime": {"layers": [{"name": "static", "static_layer": {}}]},
    }


def _listener(name: str, address: Address, connection_manager: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "address": {"socket_address": {"address": address[0], "port_value": address[1]}},
        "per_connection_buffer_limit_bytes": 1024 * 1024,
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": connection_manager}]}
        ],
    }


def _metrics() -> dict[str, Any]:
    """Return what answers Prometheus: of Envoy's administration and of the front one path each, and no other."""
    routes = [
        {"match": {"path": "/metrics"}, "route": {"cluster": "admin", "prefix_rewrite": "/stats/prometheus"}},
        {
            "match": {"path": "/front/metrics"},
            "route": {"cluster": "front", "prefix_rewrite": "/metrics"},
            # The header by which the front knows that a request came from a client.
            "request_headers_to_remove": ["x-patio-admitted"],
        },
    ]
    return {
        "@type": f"{_EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "metrics",
        "request_headers_timeout": "10s",
        "route_config": {"virtual_hosts": [{"name": "metrics", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_EXTENSIONS}.filters.http.router.v3.Router"},
            }
        ],
    }


def _connection_manager(listening: Listening) -> dict[str, Any]:
    return {
        "@type": f"{_EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "requests",
        "use_remote_address": True,
        "preserve_external_request_id": True,
        "normalize_path": True,
        "merge_slashes": True,
        "server_header_transformation": "PASS_THROUGH",
        "stream_idle_timeout": f"{listening.most_silent_seconds}s",
        "request_headers_timeout": "10s",
        "request_timeout": "300s",
        "common_http_protocol_options": {"idle_timeout": "900s", "headers_with_underscores_action": "REJECT_REQUEST"},
        "drain_timeout": "5s",
        "early_header_mutation_extensions": [
            {
                "name": "envoy.http.early_header_mutation.header_mutation",
                "typed_config": {
                    "@type": f"{_EXTENSIONS}.http.early_header_mutation.header_mutation.v3.HeaderMutation",
                    "mutations": [{"remove": name} for name in SET_HERE],
                },
            }
        ],
        "access_log": [_access_log(listening.access_log), *loggers()],
        "local_reply_config": local_reply_config(),
        "route_config": _routes(listening),
        "http_filters": [
            _watched_filter(listening.folder, "program", "program.json", "http.lua.v3.Lua"),
            _watched_filter(listening.folder, "limits", "limits.json", "http.local_ratelimit.v3.LocalRateLimit"),
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": f"{_EXTENSIONS}.filters.http.router.v3.Router",
                    "suppress_envoy_headers": True,
                    "upstream_log": [upstream_logger()],
                    "upstream_log_options": {"flush_upstream_log_on_upstream_stream": True},
                },
            },
        ],
    }


def _access_log(path: str) -> dict[str, Any]:
    log_format = {
        "json_format": LOG_FIELDS,
        "formatters": [
            {
                "name": "envoy.formatter.req_without_query",
                "typed_config": {"@type": f"{_EXTENSIONS}.formatter.req_without_query.v3.ReqWithoutQuery"},
            }
        ],
    }
    if path == "-":
        kind: dict[str, Any] = {"@type": f"{_EXTENSIONS}.access_loggers.stream.v3.StdoutAccessLog"}
        name = "envoy.access_loggers.stdout"
    else:
        kind = {"@type": f"{_EXTENSIONS}.access_loggers.file.v3.FileAccessLog", "path": path}
        name = "envoy.access_loggers.file"
    return {"name": name, "typed_config": {**kind, "log_format": log_format}}


def _watched_filter(folder: str, name: str, file: str, of: str) -> dict[str, Any]:
    return {
        "name": name,
        "config_discovery": {
            "config_source": watched(folder, file),
            "type_urls": [f"{_EXTENSIONS}.filters.{of}"],
        },
    }


def _routes(listening: Listening) -> dict[str, Any]:
    route = {
        "cluster_header": "x-patio-cluster",
        "cluster_not_found_response_code": "SERVICE_UNAVAILABLE",
        "timeout": "0s",
        "hash_policy": [{"header": {"header_name": "x-patio-affinity"}}],
        "retry_policy": {
            # Each of them is before the first byte of an answer.
            "retry_on": "connect-failure,refused-stream,reset,retriable-status-codes",
            "retriable_status_codes": [503],
            "num_retries": 1,
            "retry_host_predicate": [
                {
                    "name": "envoy.retry_host_predicates.previous_hosts",
                    "typed_config": {
                        "@type": f"{_EXTENSIONS}.retry.host.previous_hosts.v3.PreviousHostsPredicate",
                    },
                }
            ],
            # A pod is drawn again while it is one that was tried: of two pods, one in 2**20 retries meets the same.
            "host_selection_retry_max_attempts": 20,
            "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
        },
        "internal_redirect_policy": {
            "max_internal_redirects": 10,
            "redirect_response_codes": [307],
        },
    }
    return {
        "name": "requests",
        "virtual_hosts": [
            {
                "name": "requests",
                "domains": ["*"],
                "request_body_buffer_limit": listening.most_body,
                # How the front says that its answer is the last word, so that Envoy does not ask it again.
                "response_headers_to_remove": ["x-envoy-ratelimited", "x-patio-answer"],
                "response_headers_to_add": [
                    _response_header("x-patio-pod", "%UPSTREAM_METADATA(patio:pod)%"),
                    # From the program to itself: it takes it away again.
                    _response_header("x-patio-answer", "%REQ(X-PATIO-ANSWER)%"),
                    # Where the front answers for a model without a worker, the second takes the place of the first.
                    _response_header(
                        "x-patio-reason", "%DYNAMIC_METADATA(patio:request:reason)%", "OVERWRITE_IF_EXISTS_OR_ADD"
                    ),
                    _response_header(
                        "x-patio-reason", "%UPSTREAM_METADATA(patio:reason)%", "OVERWRITE_IF_EXISTS_OR_ADD"
                    ),
                ],
                "routes": [
                    {
                        "match": {"prefix": "/", "headers": [{"name": "x-patio-cluster", "present_match": True}]},
                        "route": route,
                    },
                    # Where a request is until the program has named a cluster, and where it stays if the program fails.
                    # It is no direct response, since those have no limit of a body.
                    {"match": {"prefix": "/"}, "route": {"cluster": "none"}},
                ],
            }
        ],
    }


def _response_header(name: str, value: str, action: str = "ADD_IF_ABSENT") -> dict[str, Any]:
    return {"header": {"key": name, "value": value}, "append_action": action}


def _on_socket(name: str, socket: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": circuit_breakers(),
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": socket}}}}]}],
        },
    }


def circuit_breakers() -> dict[str, Any]:
    """Return bounds that never refuse: Envoy's own (1,024) are below what a fleet serves."""
    most = 1_000_000
    return {
        "thresholds": [
            {"max_connections": most, "max_pending_requests": most, "max_requests": most, "max_retries": most}
        ]
    }
