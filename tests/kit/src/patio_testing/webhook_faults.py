"""Faults of the webhook's certificate: it ends soon, and the operator may not write the Secret that it is in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from patio_operator.certificates import authority
from patio_testing.kube import Kube, until

SECRET = "/api/v1/namespaces/patio-system/secrets/patio-webhook-tls"
ROLE = "/apis/rbac.authorization.k8s.io/v1/namespaces/patio-system/roles/patio-operator"
NAMES = ("patio-webhook.patio-system.svc", "patio-webhook.patio-system.svc.cluster.local")
WRITING = {"create", "patch"}


def certificate_end(kube: Kube) -> datetime:
    """Return when the certificate in the Secret ends, once there is one."""
    bundle = authority.decode(until("the webhook has a certificate", lambda: kube.get(SECRET))["data"])
    assert bundle is not None
    return authority.ends(bundle.certificate, bundle.trusted).serving


def end_certificate_in(kube: Kube, lifetime: timedelta) -> None:
    """Have the webhook's CA sign another certificate, which ends in this time, and put it into the Secret."""
    bundle = authority.decode(kube.get(SECRET)["data"])
    assert bundle is not None
    periods = authority.Periods(lifetime, timedelta(0))
    short = authority.improved(bundle, NAMES, datetime.now(UTC), periods, bundle.trusted)
    assert short.authorities == bundle.authorities
    patch = json.dumps({"data": authority.encode(short)})
    kube.kubectl("-n", "patio-system", "patch", "secret", "patio-webhook-tls", "--type=merge", "-p", patch)


@contextmanager
def secrets_read_only(kube: Kube) -> Iterator[None]:
    """The operator may only read its Secrets, for the length of a `with`."""
    rules = kube.get(ROLE)["rules"]
    lessened = [
        {**rule, "verbs": [verb for verb in rule["verbs"] if verb not in WRITING]}
        if rule["resources"] == ["secrets"]
        else rule
        for rule in rules
    ]
    assert lessened != rules
    _set_rules(kube, [rule for rule in lessened if rule["verbs"]])
    try:
        yield
    finally:
        _set_rules(kube, rules)


def _set_rules(kube: Kube, rules: list[dict[str, object]]) -> None:
    patch = json.dumps({"rules": rules})
    kube.kubectl("-n", "patio-system", "patch", "role", "patio-operator", "--type=merge", "-p", patch)
