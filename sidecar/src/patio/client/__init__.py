"""`patio.client`: the typed async client of the sidecar's API.

    async with httpx.AsyncClient() as http:
        sidecar = SidecarClient("http://10.0.0.7:9091", http)
        report = await sidecar.load(LoadRequest(lora_name="sql", lora_path="/adapters/sql"))

Models come from `patio.api.protocol`. Everything raised is a `SidecarError`: `Unreachable` (nobody answered; try
again) or `Refused` (the sidecar said no, and says whether a retry can help).
"""

from patio.client.errors import Refused, SidecarError, Unreachable
from patio.client.sidecar import SidecarClient

__all__ = ["Refused", "SidecarClient", "SidecarError", "Unreachable"]
