"""Learning rates of the optimisers in the stability bench: fault-free runs of a seed that the bench never uses.

    python benchmarks/stability_rates.py sgd clip_adagrad [--grid 0.01 0.03 0.1]      about 3 s for each rate and model

Prints the held-out loss, in nats, after a run as long as the bench's with every rate; the lowest one belongs in
``RATES`` of ``tether_lab.stability.guards``.
"""

from __future__ import annotations

import argparse
from unittest import mock

import torch

from tether_lab.stability import guards as bench_guards
from tether_lab.stability.models import MODELS
from tether_lab.stability.runs import run

SEED = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--grid", nargs="+", type=float, default=[0.001, 0.003, 0.01, 0.03, 0.1, 0.3])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.names:
        for model in arguments.models:
            for rate in arguments.grid:
                with mock.patch.dict(bench_guards.RATES, {name: {model: rate}}):
                    final = run(model, fault="clean", guard=bench_guards.guards()[name], seed=SEED).final
                print(f"{name:16} {model:10} {rate:8g} {'diverged' if final is None else f'{final:8.3f}'}", flush=True)


if __name__ == "__main__":
    main()
