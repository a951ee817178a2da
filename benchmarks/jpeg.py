"""JPEG bytes to a 224-pixel tensor: Tether against open_clip's evaluation transform.

Run:   python benchmarks/jpeg.py [--quick] [--json OUT] [--folder FOLDER]
Cost:  about 40 s of one core (--quick: 8 s).

Measures CPU seconds on one thread from JPEG bytes to batches of 32 normalised float tensors, variants interleaved in
rotating order, and compares the pixels. Without --folder the pictures are pieced together from scikit-learn's two
sample photographs at their own resolution, saved at quality 90 with 4:2:0 chroma, once at about 460 x 380 and once at
about 2016 x 1512. With --folder its JPEG files are used as they are.

Measured last on two virtual cores of a quiet Intel Xeon: 2.34 times (2.24 to 2.41) at 460 x 380, 2.25 times (2.20
to 2.34) at 2016 x 1512, and 3.12 times (2.98 to 3.30) on 200 everyday photographs of about 150 x 200 given by
--folder. Mean difference at most 0.004 grey levels of 255, worst picture 0.009.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from open_clip.transform import image_transform
from PIL import Image
from sklearn.datasets import load_sample_images

from tether.core.types import ImageSpec
from tether.data.images import load

SPEC = ImageSpec((224, 224))
BATCH = 32


def generated(count: int, *, width: int, height: int) -> list[bytes]:
    """Windows of about this size out of a mosaic of real photographs, mirrored and turned at random."""
    photographs = load_sample_images().images
    rng = np.random.default_rng(0)
    out = []
    for _ in range(count):
        w, h = (int(side * rng.uniform(0.9, 1.1)) for side in (width, height))
        mosaic = np.zeros((h, w, 3), np.uint8)
        step = 400
        for top in range(0, h, step):
            for left in range(0, w, step):
                tile = photographs[rng.integers(len(photographs))][:, :: rng.choice([-1, 1])]
                part = mosaic[top : top + step, left : left + step]
                part[:] = tile[: part.shape[0], : part.shape[1]]
        buffer = io.BytesIO()
        Image.fromarray(mosaic).save(buffer, "JPEG", quality=90)
        out.append(buffer.getvalue())
    return out


def measure(pictures: list[bytes], *, rounds: int) -> dict[str, object]:
    """Images a second of both, the ratio with its spread, and the mean and largest difference in grey levels."""
    transform = image_transform(224, is_train=False, mean=SPEC.mean, std=SPEC.std)

    batches = [pictures[at : at + BATCH] for at in range(0, len(pictures), BATCH)]

    def ours() -> Iterator[torch.Tensor]:
        for batch in batches:
            yield SPEC.normalise(torch.stack([load(data, SPEC) for data in batch]))

    def theirs() -> Iterator[torch.Tensor]:
        for batch in batches:
            yield torch.stack([transform(Image.open(io.BytesIO(data))) for data in batch])

    std = 255 * torch.tensor(SPEC.std).view(3, 1, 1)
    difference = ((torch.cat(list(ours())) - torch.cat(list(theirs()))) * std).abs().mean((1, 2, 3))
    seconds: dict[str, list[float]] = {"tether": [], "open_clip": []}
    variants = {"tether": ours, "open_clip": theirs}
    for turn in range(rounds):
        names = list(variants)[:: 1 if turn % 2 == 0 else -1]
        for name in names:
            start = time.process_time()
            for batch in variants[name]():  # used and let go, as a model would
                del batch
            seconds[name].append(time.process_time() - start)
    ratios = [b / a for a, b in zip(seconds["tether"], seconds["open_clip"], strict=True)]
    return {
        "pictures": len(pictures),
        "tether_per_second": len(pictures) / statistics.median(seconds["tether"]),
        "open_clip_per_second": len(pictures) / statistics.median(seconds["open_clip"]),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "mean_difference": difference.mean().item(),
        "worst_picture": difference.max().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, help="JPEG files of your own instead of generated ones")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.folder:
        files = [each for each in sorted(given.folder.rglob("*")) if each.suffix.lower() in (".jpg", ".jpeg")]
        if not files:
            parser.error(f"{given.folder}: no .jpg or .jpeg files")
        sets = {str(given.folder): [each.read_bytes() for each in files[: 40 if given.quick else 400]]}
    else:
        small, large = (24, 4) if given.quick else (96, 12)
        sets = {
            "about 460 x 380": generated(small, width=460, height=380),
            "about 2016 x 1512": generated(large, width=2016, height=1512),
        }
    results = {name: measure(pictures, rounds=3 if given.quick else 7) for name, pictures in sets.items()}
    print(
        f"{'pictures':22} {'tether/s':>9} {'open_clip/s':>11} {'ratio':>6} {'range':>12} {'mean diff':>10} {'worst':>7}"
    )
    for name, r in results.items():
        low, high = r["ratio_range"]
        print(
            f"{name[-22:]:22} {r['tether_per_second']:9.0f} {r['open_clip_per_second']:11.0f} {r['ratio']:6.2f} "
            f"{low:5.2f}..{high:5.2f} {r['mean_difference']:10.4f} {r['worst_picture']:7.4f}"
        )
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
