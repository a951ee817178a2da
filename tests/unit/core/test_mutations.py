"""What ``scripts/robustness`` does, in small: mutations, kills, two writers and bombs find nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[3] / "scripts" / "robustness"


@pytest.mark.parametrize(
    "words",
    [
        ["mutations.py", "--inputs", "500", "--seed", "1"],
        ["kills.py", "--kills", "3", "--verb", "curate"],
        ["two_writers.py", "--rounds", "1", "--verb", "index new"],
        ["bombs.py", "--only", "YAML", "EPS", "pipe", "JATS with"],
    ],
    ids=lambda words: words[0],
)
def test_driver_finds_nothing(words: list[str]) -> None:
    command = [sys.executable, str(SCRIPTS / words[0]), *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
