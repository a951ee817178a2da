"""Time to quality: CPU seconds until ours reaches the held-out R@10 at which open_clip's own training ends.

Command:  python benchmarks/time_to_quality.py [--seeds 5] [--epochs 8] [--json FILE]
Cost:     about 8 CPU minutes a seed on one core; a run that was cut off goes on from FILE.

Both sides train the same architecture (image 64 px, patch 8, width 192, 6 layers; text 24 tokens, width 192, 4 layers)
on the same emoji split, batch 256, one thread, bf16 autocast, each in its own process, in turn for every seed.
open_clip 3 gets the recipe of its documentation: its train transform, AdamW with learning rate 1e-3, weight decay 0.1,
betas 0.9 and 0.98, a tenth of the steps for warm-up, cosine, one caption a picture (the English name). Its pictures
wait decoded in memory, so reading files costs it nothing. Ours runs ``recipes/speedrun.yaml`` through ``tether.train``
and is measured every few steps; the time of all measuring is left out on both sides.

Measured last, five seeds, two virtual cores of a busy AMD EPYC: median 30.3 times (21.9 to 51.7); the table is in
docs/speedrun.md.
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

RECIPE = Path(__file__).parents[1] / "recipes" / "speedrun.yaml"
EVERY = 5
VISION = {"image_size": 64, "layers": 6, "width": 192, "head_width": 32, "patch_size": 8}
TEXT = {"context_length": 24, "vocab_size": 49408, "width": 192, "heads": 6, "layers": 4}


def run_open_clip(seed: int, epochs: int) -> dict[str, float]:
    import math

    import open_clip
    import torch
    from open_clip.loss import ClipLoss
    from open_clip.transform import image_transform
    from PIL import Image

    from tether.data.sets.emoji import EmojiSet
    from tether.evaluate.retrieval import recall_at_k

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    train, test = (EmojiSet(split=split, size=64) for split in ("train", "test"))
    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=24)
    model = open_clip.CLIP(192, VISION, TEXT)
    augment, plain = image_transform(64, is_train=True), image_transform(64, is_train=False)
    pictures = [Image.fromarray(pixels) for pixels in train.pixels]
    words = tokenizer([captions[0] for captions in train.captions])
    held_images = torch.stack([plain(Image.fromarray(pixels)) for pixels in test.pixels])
    held_words = tokenizer([captions[0] for captions in test.captions])
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": others, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.1}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), eps=1e-6)
    loss_of = ClipLoss()
    per_epoch = len(pictures) // 256
    steps, step = epochs * per_epoch, 0
    warmup = steps // 10
    start = time.process_time()
    for _ in range(epochs):
        order = torch.randperm(len(pictures)).tolist()
        for begin in range(0, per_epoch * 256, 256):
            rows = order[begin : begin + 256]
            after = (step - warmup) / (steps - warmup)
            factor = (step + 1) / warmup if step < warmup else 0.5 * (1 + math.cos(math.pi * after))
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * factor
            images = torch.stack([augment(pictures[row]) for row in rows])
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loss_of(*model(images, words[rows]))
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, math.log(100))
            step += 1
    seconds = time.process_time() - start
    model.eval()
    with torch.inference_mode():
        image = torch.cat([model.encode_image(part, normalize=True) for part in held_images.split(128)])
        text = torch.cat([model.encode_text(part, normalize=True) for part in held_words.split(128)])
    recall = recall_at_k(image, text, k=(10,))
    return {"cpu_seconds": seconds, "r10": recall["text_to_image_r10"], "steps": steps}


def run_ours(seed: int) -> dict[str, list[list[float]]]:
    import torch

    from tether.data import open_source
    from tether.evaluate import evaluate
    from tether.training import load_config, train

    torch.set_num_threads(1)
    held = open_source({"name": "emoji", "split": "test", "size": 64}, where="benchmark")
    config = load_config(RECIPE, overrides=[f"seed={seed}", "threads=1", f"evaluate.every={EVERY}"])
    curve: list[list[float]] = []
    measuring = 0.0
    start = time.process_time()

    def measure(model: torch.nn.Module) -> dict[str, float]:
        nonlocal measuring
        before = time.process_time()
        result = evaluate(model, held, measures=["retrieval"])
        curve.append([before - start - measuring, result["text_to_image_r10"]])
        measuring += time.process_time() - before
        return result

    with tempfile.TemporaryDirectory() as folder:
        train(config, folder=Path(folder) / "run", evaluate=measure)
    return {"curve": curve}


def child(side: str, seed: int, epochs: int) -> dict:
    command = [sys.executable, __file__, "--side", side, "--seed", str(seed), "--epochs", str(epochs)]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--epochs", type=int, default=8, help="of open_clip's run")
    arguments.add_argument("--json", type=Path)
    arguments.add_argument("--side", choices=("open_clip", "ours"))
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    if given.side:
        result = run_open_clip(given.seed, given.epochs) if given.side == "open_clip" else run_ours(given.seed)
        print(json.dumps(result))
        return
    results = json.loads(given.json.read_text()) if given.json and given.json.exists() else {}
    for seed in range(given.seeds):
        for side in ("open_clip", "ours"):
            if f"{side}-{seed}" not in results:
                results[f"{side}-{seed}"] = child(side, seed, given.epochs)
                if given.json:
                    given.json.write_text(json.dumps(results, indent=1))
    ratios = []
    print(
        f"{'seed':>4} {'open_clip: R@10 at its end, CPU s':>34} {'ours: CPU s to reach it':>24} {'end R@10':>9} ratio"
    )
    for seed in range(given.seeds):
        theirs, curve = results[f"open_clip-{seed}"], results[f"ours-{seed}"]["curve"]
        reached = next((seconds for seconds, recall in curve if recall >= theirs["r10"]), None)
        ratio = theirs["cpu_seconds"] / reached if reached else float("nan")
        ratios.append(ratio)
        shown = f"{reached:.1f}" if reached else "not reached"
        print(
            f"{seed:>4} {theirs['r10']:>22.3f} {theirs['cpu_seconds']:>11.1f} {shown:>24} {curve[-1][1]:>9.3f} "
            f"{ratio:.1f}x"
        )
    print(f"median ratio {statistics.median(ratios):.1f}x  spread {min(ratios):.1f}..{max(ratios):.1f}")


if __name__ == "__main__":
    main()
