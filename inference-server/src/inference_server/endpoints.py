"""The URLs of an engine: what it serves by its kind and arguments, and by its own OpenAPI document. Pure."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

PATHS: Mapping[str, Mapping[str, str]] = {
    "vllm": {
        "health": "/health",
        "completions": "/v1/completions",
        "chat_completions": "/v1/chat/completions",
        "embeddings": "/v1/embeddings",
        "models": "/v1/models",
        "metrics": "/metrics",
    },
    "sglang": {
        "health": "/health",
        "completions": "/v1/completions",
        "chat_completions": "/v1/chat/completions",
        "models": "/v1/models",
    },
}

MAX_ROUTES = 1000
"""Of an OpenAPI document that is read."""


def endpoints_of(engine: str, url: str, words: Sequence[str] = ()) -> dict[str, str]:
    """Return the URLs of an engine by name. SGLang serves metrics only if it was told to."""
    paths = dict(PATHS[engine])
    if engine == "sglang" and "--enable-metrics" in words:
        paths["metrics"] = "/metrics"
    return {name: url + path for name, path in paths.items()}


def served_endpoints(url: str, openapi: Any) -> dict[str, str]:
    """Return the URLs in an OpenAPI document, by a name made of the path; an empty answer if it is none."""
    paths = openapi.get("paths") if isinstance(openapi, dict) else None
    if not isinstance(paths, dict):
        return {}
    found: dict[str, str] = {}
    for path in list(paths)[:MAX_ROUTES]:
        if isinstance(path, str) and path.startswith("/") and "{" not in path:
            name = path.strip("/").replace("v1/", "", 1).replace("/", "_").replace("-", "_") or "root"
            found[name] = url + path
    return found
