"""Lists of what an image has, without what differs each time."""

from __future__ import annotations

import json

from patio_release.sbom import python_packages, settled_cyclonedx, settled_spdx

SPDX = {"creationInfo": {"created": "2026-01-01T00:00:00Z", "creators": ["Tool: syft"]}, "documentNamespace": "a-1"}
CYCLONEDX = {"serialNumber": "urn:uuid:1", "metadata": {"timestamp": "2026-01-01T00:00:00Z"}, "components": []}


def test_two_lists_of_one_image_become_the_same() -> None:
    later = {**SPDX, "documentNamespace": "a-2", "creationInfo": {**SPDX["creationInfo"], "created": "2027"}}  # type: ignore[dict-item]
    assert settled_spdx(json.dumps(SPDX), "operator@sha256:1", 0) == settled_spdx(
        json.dumps(later), "operator@sha256:1", 0
    )
    other = {**CYCLONEDX, "serialNumber": "urn:uuid:2", "metadata": {"timestamp": "2027"}}
    assert settled_cyclonedx(json.dumps(CYCLONEDX), "s", 0) == settled_cyclonedx(json.dumps(other), "s", 0)


def test_lists_of_two_images_have_two_names() -> None:
    names = {json.loads(settled_spdx(json.dumps(SPDX), s, 0))["documentNamespace"] for s in ("a", "b")}
    assert len(names) == 2
    serials = {json.loads(settled_cyclonedx(json.dumps(CYCLONEDX), s, 0))["serialNumber"] for s in ("a", "b")}
    assert len(serials) == 2


def test_what_is_listed_stays() -> None:
    assert json.loads(settled_spdx(json.dumps(SPDX), "a", 0))["creationInfo"]["creators"] == ["Tool: syft"]


def test_only_packages_of_python_are_compared_with_the_lock() -> None:
    components = [
        {"name": "Typing_Extensions", "version": "4.0", "purl": "pkg:pypi/typing-extensions@4.0"},
        {"name": "libc6", "version": "2.36", "purl": "pkg:deb/debian/libc6@2.36"},
        {"name": "/etc/x", "type": "file"},
    ]
    assert python_packages({"components": components}) == {"typing-extensions": "4.0"}
