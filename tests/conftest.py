"""What every test can rely on: the helpers in `support`, and a seed that is printed."""

import os
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

SEED_VARIABLE = "MEMCACHEPY_TEST_SEED"


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of a random test: new in each run, from the environment to repeat one.

    pytest shows the line below with a failing test's output.
    """
    chosen = int(os.environ.get(SEED_VARIABLE, 0)) or random.SystemRandom().randrange(1, 2**32)
    print(f"{request.node.nodeid}: repeat with {SEED_VARIABLE}={chosen}")
    return chosen


@pytest.fixture
def rng(seed: int) -> random.Random:
    """A generator started from the printed seed."""
    return random.Random(seed)
