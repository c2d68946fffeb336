"""What the tests of the model may ask for."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.model.search import Search
from tests.model.world import World

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.model.search import Verdict

logger = logging.getLogger("tests.model")


@pytest.fixture
def search(request: pytest.FixtureRequest) -> Callable[..., Verdict]:
    """Follows every order of the steps of some processes; ``-o log_cli_level=INFO`` shows how many states."""

    def run(*processes: Any, **options: Any) -> Verdict:
        found = Search(World(processes, **options)).run()
        logger.info("%s %d states, %d hits", request.node.name, found.states, found.hits)
        return found

    return run


@pytest.fixture
def thorough() -> None:
    """Leaves a search out that takes minutes, unless it is asked for."""
    if os.environ.get("MODEL") != "thorough":
        pytest.skip("only with MODEL=thorough")
