"""How the property tests search, for all of them.

Profile `fixed`, the default: the same examples in every run, so that a change is judged by itself. Profile `long`, with
PATIO_TEST_LONG=1: other examples in every run, and many times as many.
"""

import os
from collections.abc import Iterable

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings
from hypothesis.internal.conjecture import providers

LONG = os.environ.get("PATIO_TEST_LONG") == "1"
TIMES = 20
"""How many times as many examples a long search tries as the test asks for."""
LONG_SECONDS = 3600
"""How long one test may search."""

# Machines that test are busy: how long a single example takes says nothing here.
settings.register_profile("fixed", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("long" if LONG else "fixed")
if not LONG:
    # Hypothesis tries the constants of all local modules that the process has imported. Which these are depends on what
    # else the process tests, so the same seed would give other examples. There is no public way to leave them out.
    providers._get_local_constants = lambda: providers._local_constants


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """Have a long search try more, also where a test says how many examples it wants."""
    if not LONG:
        return
    for item in items:
        test = getattr(item, "obj", None)
        if test is None or not is_hypothesis_test(test):
            continue
        test = getattr(test, "__func__", test)
        # Hypothesis has no public way to change what a test's own decorator asked for.
        own_settings = getattr(test, "_hypothesis_internal_use_settings", None) or settings.default
        test._hypothesis_internal_use_settings = settings(own_settings, max_examples=own_settings.max_examples * TIMES)
        item.add_marker(pytest.mark.timeout(LONG_SECONDS))
