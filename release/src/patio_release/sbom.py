"""Lists of what an image has (SPDX, CycloneDX), without what differs each time they are written. Pure.

syft and uv write the time, and a random name, into each list. The time of the commit and a name made of the image's
digest take their place, so that the same image has the same list.
"""

import json
import uuid
from collections.abc import Mapping
from typing import Any

from patio_release.oci_layout import moment

_NAMES = uuid.UUID("6f0d7f7e-6f5c-5d0e-9a55-2f1f2b7f6d39")
"""The namespace of names that are made of digests (RFC 9562, version 5)."""


def settled_spdx(text: str, subject: str, created: int) -> str:
    """Return an SPDX document of a subject, such as `operator@sha256:...`, with a time and a name that stay."""
    document: dict[str, Any] = json.loads(text)
    document["creationInfo"]["created"] = moment(created)
    document["documentNamespace"] = f"https://patio.dev/spdx/{uuid.uuid5(_NAMES, subject)}"
    return _written(document)


def settled_cyclonedx(text: str, subject: str, created: int) -> str:
    """Return a CycloneDX document of a subject with a time and a serial number that do not change."""
    document: dict[str, Any] = json.loads(text)
    document["serialNumber"] = f"urn:uuid:{uuid.uuid5(_NAMES, subject)}"
    document.setdefault("metadata", {})["timestamp"] = moment(created)
    return _written(document)


def python_packages(cyclonedx: Mapping[str, Any]) -> dict[str, str]:
    """Return the Python packages that a CycloneDX document lists, and their versions."""
    return {
        component["name"].lower().replace("_", "-"): component["version"]
        for component in cyclonedx.get("components", ())
        if str(component.get("purl", "")).startswith("pkg:pypi/")
    }


def _written(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
