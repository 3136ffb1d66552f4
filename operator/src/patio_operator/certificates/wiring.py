"""Chooses where the webhook's certificate comes from: the operator's own CA, or the folder that cert-manager keeps."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from pathlib import Path

from patio_kube.client import KubeClient
from patio_kube.resources import (
    CUSTOM_RESOURCE_DEFINITION,
    MUTATING_WEBHOOK_CONFIGURATION,
    VALIDATING_WEBHOOK_CONFIGURATION,
)
from patio_operator.certificates import crd_bundle
from patio_operator.certificates.authority import Periods
from patio_operator.certificates.rotation import MountedCertificate, ServingCertificate, SharedCertificate
from patio_operator.settings import Settings


def wire(client: KubeClient, settings: Settings) -> ServingCertificate:
    """Return the certificate."""
    if settings.certificate_folder:
        write_crd = partial(crd_bundle.correct, client, settings.service_name, settings.namespace)
        return MountedCertificate(Path(settings.certificate_folder), write_crd)
    periods = Periods(timedelta(hours=settings.certificate_hours), timedelta(hours=settings.certificate_renew_hours))
    trusting = [
        (MUTATING_WEBHOOK_CONFIGURATION, settings.webhook_configuration),
        (VALIDATING_WEBHOOK_CONFIGURATION, settings.webhook_configuration),
        (CUSTOM_RESOURCE_DEFINITION, crd_bundle.NAME),
    ]
    return SharedCertificate(
        client, settings.namespace, settings.webhook_secret, settings.service_name, periods, trusting
    )
