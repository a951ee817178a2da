"""AGC's limit against the learning rate on handwritten digits, beside no clipping and batch normalisation.

Command: ``python benchmarks/agc_grid.py`` (about 2 CPU minutes; ``--quick`` for one epoch, whose numbers mean nothing).
The network, batches and 12 epochs of ``tether_lab/worlds/digits.py``, one seed a cell, one thread. The last line is
the same network with every standardised filter replaced by a plain one and batch normalisation, not clipped.

Last measured on one core of an Intel Xeon, seeds 0 / 1, rates 0.1, 0.4, 1.6:
no clipping 0.83 / 0.54, 0.09 / 0.09, 0.09 / 0.09;
AGC(0.0025) 0.57 / 0.55, 0.86 / 0.84, 0.93 / 0.94; AGC(0.01) 0.77 / 0.66, 0.89 / 0.92, 0.93 / 0.89;
AGC(0.04) 0.80 / 0.76, 0.91 / 0.86, 0.89 / 0.42; AGC(0.16) 0.83 / 0.70, 0.47 / 0.44, 0.07 / 0.10;
batch norm 0.99 / 0.99, 0.99 / 0.99, 0.07 / 0.09.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from tether.methods.nfnet_agc import AGC
from tether.optim.clip import NoClip
from tether_lab.lab.lab import Lab
from tether_lab.worlds.digits import EPOCHS, digits, network, train, with_batch_norm

RATES = (0.1, 0.4, 1.6)
LIMITS = (0.0025, 0.01, 0.04, 0.16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    forms = {
        "no clipping": lambda: (network(seed=arguments.seed), NoClip()),
        **{
            f"AGC({limit:g})": lambda limit=limit: (
                network(seed=arguments.seed),
                AGC(limit, exclude=["head.weight"]),
            )
            for limit in LIMITS
        },
        "batch norm, no clipping": lambda: (with_batch_norm(network(seed=arguments.seed)), NoClip()),
    }
    cells: dict[str, dict[str, float]] = {}
    print(f"| | {' | '.join(f'lr {rate:g}' for rate in RATES)} |\n|{' --- |' * (len(RATES) + 1)}")
    with Lab(arguments.seed) as lab:
        data = digits(lab)
        for name, make in forms.items():
            cells[name] = {}
            for rate in RATES:
                torch.manual_seed(arguments.seed)  # the plain filters are drawn from torch's own generator
                model, clipper = make()
                cells[name][f"{rate:g}"] = train(
                    model,
                    clipper,
                    data=data,
                    lr=rate,
                    generator=lab.generator("order"),
                    epochs=1 if arguments.quick else EPOCHS,
                )
            print(f"| {name} | {' | '.join(f'{value:.2f}' for value in cells[name].values())} |", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(cells, indent=2) + "\n")


if __name__ == "__main__":
    main()
