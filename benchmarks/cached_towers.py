"""Training on a locked tower's kept rows against encoding them in each step: images a CPU second, by turns.

    python benchmarks/cached_towers.py [--quick] [--json OUT]        about 3 minutes of one core (--quick: 1)

Three locks of one CLIP (224 px in patches of 32, width 192, 6 blocks; texts of at most 77 tokens, width 192, 6 blocks):
the image tower (a text-only epoch), the text tower (an image-only epoch), both (the scale alone learns). Each round
trains some steps on rows that are kept and some that encode, in turn, in one process with one thread; the first epoch,
which fills the cache, is not counted but timed by itself. The data are scenes of 64 px, decoded before.

Last measured on one core of a busy AMD EPYC (least and most of the rounds): text-only 1.28 [1.21..1.30], image-only
1.44 [1.35..1.48] times as fast, as the tower that learns costs the most; scale only 41 [30..45] times.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

BATCH, ROWS = 32, 128
LOCKS = {
    "text-only (image tower locked)": ["text.*", "log_logit_scale"],
    "image-only (text tower locked)": ["visual.*", "log_logit_scale"],
    "scale only (both locked)": ["log_logit_scale"],
}


class Run:
    """A run that is taken some steps at a time."""

    def __init__(self, folder: Path, *, features: str, trainable: list[str]) -> None:
        """Build it."""
        from tether.core.gather import LOCAL
        from tether.training.config import RunConfig
        from tether.training.parts import check_parts
        from tether.training.trainer import Trainer

        config = RunConfig(
            data={"name": "scenes", "rows": ROWS, "size": 64, "captions": "long"},
            model={"load": str(folder / "clip")},
            batch_size=BATCH,
            steps=10**6,
            precision="fp32",
            trainable=trainable,
            features=features,
        )
        plan = check_parts(config, {}, where="benchmark")
        self.gather, self.step = LOCAL, 0
        self.trainer = Trainer(
            plan,
            0,
            checkpoint=None,
            folder=folder,
            device=torch.device("cpu"),
            gather=LOCAL,
            edits={},
            where="benchmark",
        )

    def take(self, steps: int) -> float:
        """Images a CPU second over so many steps, all threads counted."""
        from tether.training.loop import fit

        start = time.process_time()
        fit(
            self.trainer.forward,
            [self.trainer.player],
            self.trainer.loader,
            start=self.step,
            steps=10**6,
            end=self.step + steps,
            accumulate=1,
            precision=self.trainer.precision,
            gather=self.gather,
            on_step=lambda report: None,
        )
        self.step += steps
        return steps * BATCH / (time.process_time() - start)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rounds, epoch = (3 if options.quick else 7), ROWS // BATCH
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["TETHER_CACHE"] = str(folder / "cache")
        from tether.models import create
        from tether.models.save import save

        tower = {"width": 192, "layers": 6, "heads": 6, "hidden": 768}
        save(create("base", seed=0, dim=256, vision=tower, text=tower).eval(), folder / "clip")
        for lock, trainable in LOCKS.items():
            runs = {kind: Run(folder, features=kind, trainable=trainable) for kind in ("cache", "encode")}
            first = runs["cache"].take(epoch)
            runs["encode"].take(epoch)
            rates = [{kind: run.take(epoch) for kind, run in runs.items()} for _ in range(rounds)]
            ratios = sorted(rate["cache"] / rate["encode"] for rate in rates)
            found[lock] = {
                "ratio": statistics.median(ratios),
                "range": [ratios[0], ratios[-1]],
                "first_epoch_images_per_second": first,
                **{f"{kind}_images_per_second": statistics.median(rate[kind] for rate in rates) for kind in runs},
            }
            print(
                f"{lock}: {found[lock]['cache_images_per_second']:,.0f} images a CPU second on kept rows, "
                f"{found[lock]['encode_images_per_second']:,.0f} encoding: {found[lock]['ratio']:.2f} "
                f"[{ratios[0]:.2f}..{ratios[-1]:.2f}] times; first epoch {first:,.0f}",
                flush=True,
            )
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
