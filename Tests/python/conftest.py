"""Settings of the test run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import swiftmax
from hypothesis import HealthCheck, settings

settings.register_profile(
    "default",
    max_examples=400,
    deadline=None,
    derandomize=True,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ],
)
# For the second and third run of the same tests, with other kernels: test_isa.py.
settings.register_profile("short", settings.get_profile("default"), max_examples=60)
# For a person who looks for more: pytest --hypothesis-profile=explore
settings.register_profile(
    "explore", settings.get_profile("default"), max_examples=5000, derandomize=False
)
settings.load_profile("default")


@pytest.fixture
def threads() -> Iterator[None]:
    """Restores the number of threads after the test."""
    before = swiftmax.get_num_threads()
    yield
    swiftmax.set_num_threads(before)
