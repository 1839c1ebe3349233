"""Workers for tests, ended with them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from worker_process import WorkerProcess

StartWorker = Callable[..., WorkerProcess]


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[StartWorker]:
    """Start a worker in a folder with `plug.py`; it stops at the end.

    Args:
        source: what is in the file.
        specs: NAMEs in it, or MODULE:NAMEs.
        options: as of `WorkerProcess`.
    """
    started: list[WorkerProcess] = []

    def start(source: str, *specs: str, **options: Any) -> WorkerProcess:
        (tmp_path / "plug.py").write_text(dedent(source))
        worker = WorkerProcess(
            tmp_path, *(f"plug:{spec}" if spec.isidentifier() else spec for spec in specs), **options
        )
        started.append(worker)
        return worker

    yield start
    for worker in started:
        worker.close()
