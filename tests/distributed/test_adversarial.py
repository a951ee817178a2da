"""Two players on two gloo processes, with accumulation, against one process on the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tether.core.errors import InputError

WORKER = Path(__file__).with_name("worker_adversarial.py")


@pytest.mark.distributed
def test_two_processes_equal_one(tmp_path: Path) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(tmp_path / "store"), str(rank)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [worker.communicate(timeout=120)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(error[-3000:] for error in errors)


def test_without_a_process_group_it_says_so() -> None:
    from torch import nn

    from tether.train.steps.adversarial import AdversarialPair

    with pytest.raises(InputError, match="initialised process group"):
        AdversarialPair(nn.Linear(1, 1), nn.Linear(1, 1)).share_gradients_()
