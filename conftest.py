"""Settings of the property tests, for all of them."""

import os

from hypothesis import HealthCheck, settings

# Machines that test are busy: how long a single example takes says nothing here. In CI the examples are the same in
# every run, so that a change is judged by itself.
settings.register_profile(
    "patio",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("patio")
