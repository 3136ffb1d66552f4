"""Modules that are imported at their first use, so that an import of the package costs less than 50 ms.

A program that only has it in an import needs none of them; a server that is made imports what its start will need
(`server.NEEDED`). Where one is used, a block for type checkers imports the same name as usual, so that types and
import contracts hold.
"""

from __future__ import annotations

import sys
from typing import Any


class Deferred:
    """Stands for a module until an attribute of it is read."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        __import__(self._name)
        return getattr(sys.modules[self._name], attribute)
