"""How the gateway's programs write their logs."""

from __future__ import annotations

import logging


def set_up_logging() -> None:
    """Log to standard error, libraries' requests left out."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
