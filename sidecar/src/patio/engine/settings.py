"""Where the engine listens, how it is known to be the engine, and the keys that it wants.

`patio.settings` calls it. Whatever could not be sent, or would end a poll of the engine in an error of a library, is
rejected here. A message never has a key in it.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from pathlib import Path

import httpx

from patio.engine.address import EngineAddress, read_address
from patio.engine.clients import EngineTls, tls_context
from patio.variables import SettingsError

VARIABLES = {
    "ENGINE_CA_FILE": "PEM file of CAs for an engine behind TLS; default SSL_CERT_FILE, SSL_CERT_DIR, public CAs",
    "ENGINE_TLS_SERVER_NAME": "host name in the certificate of an engine behind TLS; default the URL's host",
    "ENGINE_TLS_VERIFY": "false: do not check the certificate of an engine in this pod; default true",
    "SSL_CERT_FILE": "used if ENGINE_CA_FILE is not set",
    "SSL_CERT_DIR": "used if neither ENGINE_CA_FILE nor SSL_CERT_FILE is set",
}
LONGEST_KEY = 8192
_KEY = re.compile(r"[\x20-\x7e]+")
_SERVER_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*")
DEFAULT_ENDPOINT = "http://localhost:8000"


def read_key(name: str, env: Mapping[str, str]) -> str | None:
    """Return a key that is sent in a header; raise `SettingsError`, without the key, for one that cannot be."""
    key = env.get(name)
    if key is None:
        return None
    if not _KEY.fullmatch(key) or len(key) > LONGEST_KEY:
        raise SettingsError(
            f"{name}: the key cannot be sent in a header: it must be one line of at most {LONGEST_KEY} ASCII "
            "characters, without control characters"
        )
    return key


def read_endpoint(name: str, value: str) -> EngineAddress:
    """Return where the engine listens; raise `SettingsError`."""
    try:
        address = read_address(value)
        httpx.URL(address.base_url)
    except (ValueError, httpx.InvalidURL):
        raise SettingsError(
            f"{name}: not a base URL like {DEFAULT_ENDPOINT}, nor a socket like unix:///run/vllm.sock"
        ) from None
    return address


def read_tls(env: Mapping[str, str], address: EngineAddress, pod_ip: str) -> EngineTls:
    """Return how an engine behind TLS is known; raise `SettingsError`. Reads the CAs, to see that they can be read."""
    verify = env.get("ENGINE_TLS_VERIFY", "true").lower()
    if verify not in ("true", "false"):
        raise SettingsError("ENGINE_TLS_VERIFY: the value is neither true nor false")
    name = env.get("ENGINE_TLS_SERVER_NAME")
    if name is not None and not _SERVER_NAME.fullmatch(name):
        raise SettingsError("ENGINE_TLS_SERVER_NAME: not a host name")
    ca_name = next(
        (variable for variable in ("ENGINE_CA_FILE", "SSL_CERT_FILE", "SSL_CERT_DIR") if variable in env), None
    )
    own_variables = [variable for variable in VARIABLES if variable.startswith("ENGINE_") and variable in env]
    if not address.tls:
        if own_variables:
            raise SettingsError(
                f"{', '.join(own_variables)}: the engine's URL {address.shown} has no TLS; correct the URL"
            )
        return EngineTls()
    if verify == "false":
        others = [variable for variable in own_variables if variable != "ENGINE_TLS_VERIFY"]
        if others:
            raise SettingsError(
                f"ENGINE_TLS_VERIFY=false and {', '.join(others)} contradict each other: unset one of them"
            )
        if not address.is_loopback and address.host != pod_ip:
            raise SettingsError(
                f"ENGINE_TLS_VERIFY=false: {address.host} is not this pod, so anyone could receive the engine's keys; "
                "set ENGINE_CA_FILE"
            )
        return EngineTls(verify=False)
    path = None if ca_name is None else Path(env[ca_name])
    folder = ca_name == "SSL_CERT_DIR"
    tls = EngineTls(None if folder else path, path if folder else None, server_name=name)
    if ca_name is not None:
        try:
            tls_context(tls)
        except (ssl.SSLError, ValueError):
            raise SettingsError(f"{ca_name}: {path}: the file has no certificates in PEM") from None
        except OSError as error:
            raise SettingsError(f"{ca_name}: {path}: {error.strerror}") from None
    return tls
