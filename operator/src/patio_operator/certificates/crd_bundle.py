"""Keeps right how the API server finds the conversion webhook: the CA and the namespace in the RoleBasedGroups' CRD.

Called by `rotation` on every pass. The CRD comes from a file that has neither. A CRD that names another conversion
webhook, as upstream's does, is never touched.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Mapping
from typing import Any

from patio_api.crd import CONVERSION_PATH
from patio_api.rolebasedgroup import RoleBasedGroup
from patio_kube.client import KubeClient, NotFoundError, Object
from patio_kube.resources import CUSTOM_RESOURCE_DEFINITION

log = logging.getLogger(__name__)

NAME = f"{RoleBasedGroup.plural}.{RoleBasedGroup.group}"


async def correct(client: KubeClient, service: str, namespace: str, ca: bytes) -> None:
    """Make one pass."""
    try:
        body = await client.get(CUSTOM_RESOURCE_DEFINITION, NAME)
    except NotFoundError:
        log.error("CustomResourceDefinition %s does not exist. Apply the chart's CRDs.", NAME)
        return
    patch = correction(body, service, namespace, ca)
    if patch:
        await client.json_patch(CUSTOM_RESOURCE_DEFINITION, NAME, None, patch)
        log.info("conversion webhook written to CustomResourceDefinition %s", NAME)


def correction(body: Mapping[str, Any], service: str, namespace: str, ca: bytes) -> list[Object]:
    """Return the JSON patch that makes a CRD's conversion right; empty when it is, or is not ours."""
    config = ((body["spec"].get("conversion") or {}).get("webhook") or {}).get("clientConfig") or {}
    reference = config.get("service") or {}
    if (reference.get("name"), reference.get("path")) != (service, CONVERSION_PATH):
        return []
    where = "/spec/conversion/webhook/clientConfig"
    encoded = base64.b64encode(ca).decode()
    changes: list[Object] = []
    if config.get("caBundle") != encoded:
        changes.append({"op": "add", "path": f"{where}/caBundle", "value": encoded})
    if reference.get("namespace") != namespace:
        changes.append({"op": "add", "path": f"{where}/service/namespace", "value": namespace})
    if not changes:
        return []
    unchanged = {"op": "replace", "path": "/metadata/resourceVersion", "value": body["metadata"]["resourceVersion"]}
    return [unchanged, *changes]
