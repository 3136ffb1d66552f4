"""Asks the API server about the tokens of sidecars. A shell: what an answer means is `security.token_rules`' to say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from patio_kube.client import ApiError, KubeClient
from patio_kube.resources import TOKEN_REVIEW
from patio_operator.security.token_rules import review_of

FORBIDDEN = 403


class TokenReviewError(Exception):
    """The API server did not say whether a token is good."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """`TokenReviewForbidden` or `TokenNotReviewed`."""


class TokenReviewer:
    """Has tokens reviewed."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def review(self, token: str) -> Mapping[str, Any]:
        """Return the API server's TokenReview of a token.

        Raises:
            TokenReviewError: it did not give one, and why.

        """
        try:
            return await self._client.create(TOKEN_REVIEW, review_of(token))
        except ApiError as error:
            if error.status == FORBIDDEN:
                message = (
                    "The operator has no permission to create TokenReviews, so it sends no credentials. Allow its "
                    f"ClusterRole to create tokenreviews (authentication.k8s.io). {error.message}"
                )
                raise TokenReviewError("TokenReviewForbidden", message) from None
            message = (
                f"The operator sends no credentials: the API server did not review the sidecar's token. {error.message}"
            )
            raise TokenReviewError("TokenNotReviewed", message) from None
