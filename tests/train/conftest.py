import multiprocessing
import os
import sys
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

# The tests and the processes that they start and kill share small_run.py.
HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)


@pytest.fixture(scope="session")
def processes() -> Iterator[ForkServerContext]:
    """New processes that need not import torch again: each is forked from a server that has done nothing but import."""
    before = {key: os.environ.get(key) for key in ("PYTHONPATH", "OMP_NUM_THREADS")}
    os.environ |= {"PYTHONPATH": HERE, "OMP_NUM_THREADS": "1"}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["small_run", "torch.utils.tensorboard"])
    yield context
    for key, value in before.items():
        os.environ.pop(key, None)
        os.environ |= {} if value is None else {key: value}
