"""What starting costs: help, import, finding a paper, and the first use of a model.

Command: ``python benchmarks/startup.py [--quick] [--json OUT]``; about a minute of one core.

Each line starts fresh Python processes, in rotating order, and takes the CPU seconds of the child (user and system, one
thread). ``first use`` makes a tiny model and encodes one text and one picture; ``torch`` is torch's own import, so the
difference is what Tether adds.

Last measured on a quiet virtual machine with two cores of an Intel Xeon, nine rounds, median (min..max) in CPU
seconds: ``import tether`` 0.019 (0.018..0.020), ``--help`` 0.067 (0.065..0.069), ``where`` 0.182 (0.176..0.192),
``papers`` 0.422 (0.408..0.454), first use of a model 0.256 (0.219..0.283) above torch's own 1.235. With both cores
overloaded the last one has been seen at 0.406.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

FIRST_USE = """
import torch
from tether.models import create
model = create(size="tiny").eval()
with torch.inference_mode():
    model.encode_text(model.tokenizer(["a red apple"]))
    model.encode_image(torch.zeros(1, 3, *model.image_spec.size, dtype=torch.uint8))
"""
CASES = {
    "python": ["-c", "pass"],
    "import tether": ["-c", "import tether"],
    "tether --help": ["-m", "tether", "--help"],
    "tether-lab where metaclip": ["-m", "tether", "where", "metaclip"],
    "tether methods": ["-m", "tether", "methods"],
    "tether train --help": ["-m", "tether", "train", "--help"],
    "torch": ["-c", "import torch"],
    "first use": ["-c", FIRST_USE],
}
LIMITS = {"import tether": 0.1, "tether --help": 0.15, "tether-lab where metaclip": 0.4}
FIRST_USE_OVER_TORCH = 0.3


def child_seconds(arguments: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *arguments], env=environment, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    names = list(CASES)
    for name in names:
        child_seconds(CASES[name])  # byte code and file cache
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            seconds[name].append(child_seconds(CASES[name]))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="three rounds instead of nine")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    arguments = parser.parse_args()
    seconds = measure(3 if arguments.quick else 9)

    print(f"{'':24}{'median s':>10}{'min':>8}{'max':>8}{'limit':>8}")
    for name, values in seconds.items():
        limit = f"{LIMITS[name]:.2f}" if name in LIMITS else ""
        print(f"{name:24}{statistics.median(values):10.3f}{min(values):8.3f}{max(values):8.3f}{limit:>8}")
    over = [used - torch for used, torch in zip(seconds["first use"], seconds["torch"], strict=True)]
    print(
        f"{'first use over torch':24}{statistics.median(over):10.3f}{min(over):8.3f}{max(over):8.3f}"
        f"{FIRST_USE_OVER_TORCH:8.2f}"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(seconds | {"first use over torch": over}, indent=2) + "\n")


if __name__ == "__main__":
    main()
