"""The engine's test servers; one of each serves all tests of a file."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from raw_engineio import EngineProcess, engine_process


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """With the heartbeat that phones have: nothing happens by itself while a test runs."""
    with engine_process(tmp_path_factory.mktemp("engine") / "log") as process:
        yield process


@pytest.fixture
def own(tmp_path: Path) -> Iterator[EngineProcess]:
    """Of one test alone, which looks at what is left when its clients have gone."""
    with engine_process(tmp_path / "log") as process:
        yield process


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """With a heartbeat that tests can wait for."""
    with engine_process(tmp_path_factory.mktemp("quick") / "log", ping_interval=0.3, ping_timeout=0.5) as process:
        yield process
