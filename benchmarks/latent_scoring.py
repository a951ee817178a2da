"""Scoring latents as they are against decoding them and asking a CLIP on pixels: time, and whether the two agree.

Command:  python benchmarks/latent_scoring.py [TRAIN TEST] [--seeds 3] [--quick]
Cost:     about 2 CPU minutes a seed on one core, half of it for TRAIN and TEST; models of papers' checks are kept.

Scenes of one thing, whose 72 names are the texts, by the codec and the two CLIPs of the check of Latent-CLIP. With
TRAIN and TEST, Parquet files of photos with labels (CIFAR-10), the same is trained on them anew: a codec of 4 x 16 x 16
for 64 px, and two tiny CLIPs on the names of the classes, 600 steps of 64 and of 16. Latents are those of held-out
images, as a generator would give them. *rank* is the rank correlation of the scores of all images for a text, the mean
over texts, and *same* how often the same text is nearest: latents as they are against decoded ones, and beside it what
decoding alone changes for the CLIP on pixels. CPU milliseconds an image, 64 at once, one thread, both ways in turn,
median of ten rounds.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor

from tether.generation.seen import as_images
from tether.models import create
from tether.models.embed import encode_texts
from tether.models.latent.clip import hold_codec_
from tether.models.latent.codec import ConvCodec, ScaledCodec
from tether.models.towers.clip import Clip
from tether.training.codec_training import train_codec
from tether_lab.lab.lab import Lab
from tether_lab.worlds import in_memory, steered_latents
from tether_lab.worlds.plain_scenes import SIDE, things_called

ROUNDS, AT_ONCE = 10, 64
Trained = tuple[ScaledCodec, Clip, Clip]
"""A codec, a CLIP on its latents, and one on pixels."""


def photos(path: Path, *, most: int) -> tuple[Tensor, list[str]]:
    """Pixels at 64 px and names of classes, evenly through the file."""
    table = pq.read_table(path)
    rows = np.linspace(0, len(table) - 1, min(most, len(table))).astype(int)
    cells = table.take(rows).to_pylist()
    opened = [Image.open(io.BytesIO(cell["image"]["bytes"])).convert("RGB").resize((SIDE, SIDE)) for cell in cells]
    pixels = torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1) for one in opened])
    return pixels, [str(cell["label"]) for cell in cells]


def said(name: str) -> str:
    return f"a photo of a {name}"


def on_photos(lab: Lab, pixels: Tensor, labels: Sequence[str], *, steps: int) -> Trained:
    """All three, trained on photos."""
    codec = ConvCodec(channels=4, downsampling=4, width=16, seed=lab.seed)
    train_codec(codec, pixels, steps=steps, batch_size=16, learning_rate=3e-3, seed=lab.seed)
    latents = torch.cat([codec.encode(some) for some in pixels.split(256)])
    models = []
    for images, vision in ((latents, {"tower": "latent", "latent": codec.latent}), (pixels, {})):
        model = create("tiny", seed=lab.seed, image_size=SIDE, patch=16, vision=vision)
        if vision:
            hold_codec_(model, codec)
        tokens = model.tokenizer([said(label) for label in labels])
        model.prune_vocabulary_(tokens)
        rows = in_memory.draws(len(pixels), size=64, generator=lab.generator("photos"), repeats=False)
        in_memory.fit_pairs(model, images, tokens, rows=rows, steps=steps, warmup=steps // 10, seed=lab.seed)
        models.append(model)
    return codec, models[0], models[1]


@torch.inference_mode()
def compared(trained: Trained, pixels: Tensor, truth: Sequence[int], texts: list[str]) -> dict[str, float]:
    """Accuracy, agreement and time."""
    codec, on_latents, on_pixels = trained
    latents = torch.cat([codec.encode(some) for some in pixels.split(128)])
    spec = on_pixels.image_spec
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "direct": lambda some: on_latents.encode_image(some).unit,
        "decoded": lambda some: on_pixels.encode_image(as_images(codec.decode(some), spec=spec)).unit,
    }
    words = {
        name: F.normalize(encode_texts(model, texts), dim=1)
        for name, model in (("direct", on_latents), ("decoded", on_pixels))
    }
    scores = {name: torch.cat([way(some) for some in latents.split(128)]) @ words[name].T for name, way in ways.items()}
    whole = torch.cat([on_pixels.encode_image(some).unit for some in pixels.split(128)])
    scores["original"] = whole @ words["decoded"].T
    found = {
        f"top {name}": 100 * float((one.argmax(1) == torch.tensor(truth)).float().mean())
        for name, one in scores.items()
    }
    for first, second in (("direct", "decoded"), ("original", "decoded")):
        ranks = [
            spearmanr(a.numpy(), b.numpy()).statistic for a, b in zip(scores[first].T, scores[second].T, strict=True)
        ]
        same = scores[first].argmax(1) == scores[second].argmax(1)
        found |= {f"rank {first}": float(np.mean(ranks)), f"same {first}": 100 * float(same.float().mean())}
    spent: dict[str, list[float]] = {name: [] for name in (*ways, "decoder")}
    for _ in range(ROUNDS + 1):
        for name, way in {**ways, "decoder": codec.decode}.items():
            begun = time.process_time()
            way(latents[:AT_ONCE])
            spent[name].append(1000 * (time.process_time() - begun) / AT_ONCE)
    found |= {f"ms {name}": statistics.median(times[1:]) for name, times in spent.items()}
    return found | {
        "times": statistics.median(b / a for a, b in zip(spent["direct"][1:], spent["decoded"][1:], strict=True))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="*", type=Path, help="TRAIN and TEST with the columns image and label")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one seed and hardly any steps; its figures mean nothing")
    given = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in range(1 if given.quick else given.seeds):
        with (lab := Lab(seed, smoke=given.quick)):
            bed = steered_latents.prepare(lab)
            names = things_called("medium") + things_called("large")
            truth = [
                names.index(f"a {one.size} {one.colour} {one.shape}")
                for one in (scene.things[0] for scene in bed.held_out.scenes)
            ]
            trained = (bed.codec, bed.latents, bed.pixels)
            rows.setdefault("scenes", []).append(compared(trained, bed.held_out.pixels, truth, names))
            if given.photos:
                pixels, labels = photos(given.photos[0], most=6_000)
                held_out, own = photos(given.photos[1], most=1_000)
                classes = sorted(set(labels))
                trained = on_photos(lab, pixels, labels, steps=lab.steps(600))
                truth = [classes.index(label) for label in own]
                rows.setdefault("photos", []).append(compared(trained, held_out, truth, [said(one) for one in classes]))
        print(f"# {seed} { ({name: some[-1] for name, some in rows.items()}) }", flush=True)
    keys = list(next(iter(rows.values()))[0])
    print(f"| images | {' | '.join(keys)} |\n|{' --- |' * (len(keys) + 1)}")
    for name, some in rows.items():
        columns = [[one[key] for one in some] for key in keys]
        print(f"| {name} | {' | '.join(f'{statistics.mean(v):.3g} ({min(v):.3g} to {max(v):.3g})' for v in columns)} |")


if __name__ == "__main__":
    main()
