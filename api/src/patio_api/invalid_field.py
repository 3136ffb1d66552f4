"""What is wrong with a field of an object, as validations find it and webhooks answer it. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InvalidField:
    """What is wrong with an object, and where in it."""

    path: str
    """As the API server writes it: `spec.containers[0].image`."""
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"
