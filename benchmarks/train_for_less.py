"""Train for less: what each method reaches with equal CPU seconds, on the same data and seeds.

Command:  python benchmarks/train_for_less.py --json FILE [--seeds 5] [--seconds 60] [--arms NAME ...]
Cost:     about 90 CPU seconds for each arm and seed; a run that was cut off goes on from FILE.

Every arm is a recipe that comes along with a few settings changed, on emoji (3,415 drawings, 380 held out), in a
process of its own with one thread, by turns: all arms of a seed, then the next seed. Twenty steps tell what a step
costs, from which follow the steps that the budget pays for, so that schedules end where the budget does; what the run
then spent stands beside its recall. Time of measuring is left out. Nothing is tuned for an arm beyond its recipe;
the learning rate is that of ``speedrun`` unless the arm is about it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tether.core.atomic_io import write_json

RECIPES = Path(__file__).parents[1] / "recipes"
ARMS: dict[str, tuple[str, list[str]]] = {
    "all patches": ("speedrun", ["step={name: contrastive}"]),
    "half of the patches at random (speedrun)": ("speedrun", []),
    "a quarter at random": ("speedrun", ["step.keep_patches=0.25"]),
    "a patch of each 2 by 2": ("speedrun", ["step={views: {image: {patches: {name: grid, window: 2}}, text: {}}}"]),
    "small images and short texts first": ("short-tokens", []),
    "attended patches, two crops": ("attentive", []),
    "LAMB at 4 times the rate": ("speedrun", ["optimizer={name: lamb, lr: 4.0e-3}"]),
    "Matryoshka": ("speedrun", ["objective={name: matryoshka, of: clip, dims: [48, 96, 192]}"]),
}
TRIAL_STEPS = 20


def run(arm: str, *, seed: int, steps: int | None, seconds: float) -> dict[str, float]:
    """One arm with so many steps, or with as many as the budget pays for."""
    import torch

    import tether
    from tether.core.protocols import DualEncoder
    from tether.data import open_source
    from tether.evaluate import evaluate
    from tether.train import load_config, train

    torch.set_num_threads(1)
    recipe, overrides = ARMS[arm]

    def trained(steps: int) -> tuple[float, DualEncoder]:
        common = [f"seed={seed}", "threads=1", f"steps={steps}", "evaluate=null"]
        config = load_config(RECIPES / f"{recipe}.yaml", overrides=[*overrides, *common])
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            train(config, folder=Path(folder) / "run")
            return time.process_time() - start, tether.load(Path(folder) / "run")

    if steps is None:
        trained(2)  # opens the data and fills the caches
        steps = max(TRIAL_STEPS, round(TRIAL_STEPS * seconds / trained(TRIAL_STEPS)[0]))
    spent, model = trained(steps)
    held = open_source({"name": "emoji", "split": "test", "size": 64}, where="benchmark")
    return {
        "cpu_seconds": spent,
        "steps": steps,
        "r10": evaluate(model, held, measures=["retrieval"])["text_to_image_r10"],
    }


def child(arm: str, seed: int, seconds: float) -> dict[str, float]:
    command = [sys.executable, __file__, "--arm", arm, "--seed", str(seed), "--seconds", str(seconds)]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--json", type=Path)
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--seconds", type=float, default=60.0, help="CPU seconds of every arm")
    arguments.add_argument("--arms", nargs="*", default=list(ARMS))
    arguments.add_argument("--arm", choices=list(ARMS))
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    if given.arm:
        print(json.dumps(run(given.arm, seed=given.seed, steps=None, seconds=given.seconds)))
        return
    results = json.loads(given.json.read_text()) if given.json and given.json.exists() else {}
    for seed in range(given.seeds):
        for arm in given.arms:
            found = results.setdefault(arm, {})
            if str(seed) not in found:
                found[str(seed)] = child(arm, seed, given.seconds)
                if given.json:
                    write_json(given.json, results)
    print("| method | R@10 | over the seeds | CPU seconds | steps |\n| --- | --- | --- | --- | --- |")
    for arm in given.arms:
        runs = list(results[arm].values())
        recalls = [100 * one["r10"] for one in runs]
        spent, steps = (statistics.fmean(one[name] for one in runs) for name in ("cpu_seconds", "steps"))
        print(
            f"| {arm} | {statistics.fmean(recalls):.1f} | {min(recalls):.1f} to {max(recalls):.1f} | {spent:.0f} "
            f"| {steps:.0f} |"
        )


if __name__ == "__main__":
    main()
