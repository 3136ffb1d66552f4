"""Makes servers: of a backend's name, or of a YAML file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Mapping

from inference_server import configuration
from inference_server.backends import CustomServer, backend_class
from inference_server.server import InferenceServer

MAX_FILE = 1024 * 1024
"""Bytes of a configuration file."""


def create_server(backend: str, model: str, **kwargs: Any) -> InferenceServer:
    """Return a server of a backend, not started.

    Raises:
        ValueError: there is no such backend.
    """
    return backend_class(backend)(model=model, **kwargs)


def load_server_config(config_file: str | Path) -> dict[str, Any]:
    """Return the content of a YAML file.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: PyYAML is not installed.
        ValueError: the file is not YAML, no mapping, or larger than 1 MiB.
    """
    path = Path(config_file)
    if not path.is_file():
        raise FileNotFoundError("Configuration file not found: %s" % path)
    try:
        import yaml
    except ImportError as error:
        raise ImportError("PyYAML is needed to read %s: pip install pyyaml" % path) from error
    with path.open("rb") as file:
        text = file.read(MAX_FILE + 1)
    if len(text) > MAX_FILE:
        raise ValueError("%s is larger than 1 MiB" % path)
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError("%s is not YAML: %s" % (path, error)) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError("%s must be a mapping of keys to values" % path)
    return content


def server_from_config(content: Mapping[str, Any]) -> InferenceServer:
    """Return the server that a configuration describes, not started.

    Raises:
        ValueError: a key is missing or wrong, or there is no such backend.
    """
    settings = configuration.settings_from(content)
    if settings.launch_command:
        server: InferenceServer = CustomServer(
            settings.model, settings.launch_command, backend=settings.backend, **settings.arguments
        )
    else:
        server = create_server(settings.backend, settings.model, **settings.arguments)
    for warning in settings.warnings:
        logging.getLogger(type(server).__name__).warning("%s", warning)
    return server


def start_server_from_config(config_file: str | Path, overrides: Mapping[str, Any] | None = None) -> InferenceServer:
    """Start the server that a YAML file describes, and return it when it serves.

    Mappings in `overrides` are merged into the file's, one level deep; other values replace the file's.
    """
    server = server_from_config(configuration.merged(load_server_config(config_file), overrides))
    server.start()
    return server
