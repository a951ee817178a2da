"""Heads over views against a plain loop over crops: images per second on the same crops and weights.

    python benchmarks/views.py [--model small] [--images 8] [--side 512] [--rounds 3] [--batch 64]
        [--quick] [--json OUT]

Random weights and images, one thread, CPU seconds, the two interleaved in alternating order, median ratio and range
over the rounds. The loop is what one writes first: Pillow cuts and resizes a crop, and the encoder sees it alone; texts
are encoded once there, too, and boxes and token windows are handed to it ready. For windows of tokens it goes on from
the tokens that enter the last block, one window at a time. Both must name every image alike. Costs a minute.

Images lie in memory as ``data.images.decode`` gives them. The shares are what it takes of our seconds to cut and resize
the windows of pixels, and to encode them.

Measured last on 2026-11-28, 4 images, one core of an Intel Xeon, other work beside it. ``tiny``: guided crops 78 images
a CPU-second, loop 11.1, ratio 7.1 (6.8 to 8.1); attention views 46 against 7.0, ratio 6.4 (5.7 to 8.1). ``small``: 6.1
against 3.0, ratio 2.0 (1.9 to 2.0), and 3.6 against 2.2, ratio 1.6 (1.6 to 1.7); with ``--batch 16`` 2.1 (2.1 to 2.2)
and 2.1 (1.9 to 2.2). With ``small`` the encoder, its maps and windows of tokens among it, takes 94 % of guided crops'
seconds and 90 % of attention views', cutting and resizing 4 %. A crop costs 4.1 ms in a batch of 64 and 6.3 alone, so
the larger the model, the less common batches win on one core.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tether.data.boxes import cut
from tether.data.images import resize_and_crop
from tether.methods.abs import attention_views
from tether.methods.abs.attention_views import AttentionViews
from tether.methods.abs.soft_match import soft_match
from tether.methods.abs.token_crops import feature_crops
from tether.methods.gc_clip import guided_crops
from tether.methods.gc_clip.guided_crops import GuidedCrops, candidate_classes
from tether.models import create
from tether.models.embed import encode_images
from tether.models.features.find import anatomy_of
from tether.tasks.classify.views import ViewHead, encode_windows, view_spec

CLASSES = ("cat", "dog", "cow", "sun", "tree", "house", "boat", "cup")
PROMPTS = ("a photo of a {}.", "a small {}.", "a large {}.")


def alone(model, image: Tensor, window: Sequence[int]) -> Tensor:
    """One crop by itself."""
    picture = Image.fromarray(image.permute(1, 2, 0).numpy()).crop(tuple(window))
    picture = picture.resize(model.image_spec.size[::-1], Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None]
    with torch.inference_mode():
        return F.normalize(model.encode_image(pixels).pooled, dim=1)[0]


def spied(head: ViewHead, images: Sequence[Tensor]) -> tuple[list, list]:
    """Which windows of pixels and of tokens a head looks at."""
    windows, places, module = [], [], guided_crops if isinstance(head, GuidedCrops) else attention_views

    def look(model, images, boxes, **given):
        windows.append(boxes)
        return encode_windows(model, images, boxes, **given)

    def cropped(tokens, **given):
        places.append(given)
        return feature_crops(tokens, **given)

    module.encode_windows, attention_views.feature_crops = look, cropped
    try:
        head.predict(images)
    finally:
        module.encode_windows, attention_views.feature_crops = encode_windows, feature_crops
    return windows[-1], places


def guided_loop(head: GuidedCrops, images: Sequence[Tensor], windows: list, places: list) -> list[int]:
    """Crop by crop."""
    best = []
    for image, some in zip(images, windows, strict=True):
        full = alone(head.model, image, (0, 0, image.shape[2], image.shape[1])) @ head._texts.T
        chosen = candidate_classes(full, k=head.k)
        for name in (head.classes[number] for number in chosen.tolist()):
            head._open(image, name)
        crops = torch.stack([alone(head.model, image, window) for window in some])
        best.append(int(chosen[(crops @ head._texts[chosen].T).mean(0).argmax()]))
    return best


def attention_loop(head: AttentionViews, images: Sequence[Tensor], windows: list, places: list) -> list[int]:
    """View by view."""
    tower, best = anatomy_of(head.model), []
    texts = head._rows.view(len(head.classes), -1, head._rows.shape[1])
    for image, some, given in zip(images, windows, places, strict=True):
        head._source([image])
        views = [alone(head.model, image, window) for window in some]
        picture = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(head.model.image_spec.size[::-1])
        pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None]
        with torch.inference_mode():
            stream = tower.run(tower.embed(pixels), 0, -1)
            for number in range(len(given["centres"])):
                one = {name: given[name][number : number + 1] for name in ("centres", "sizes")}
                crop = feature_crops(stream.x[0], **{**given, **one})
                views.append(F.normalize(tower.read_out(tower.run(stream.to(crop), -1)), dim=1)[0])
        best.append(int(soft_match(torch.stack(views), descriptions=texts).argmax()))
    return best


def shares(head: ViewHead, images: Sequence[Tensor], windows: Sequence[Sequence]) -> tuple[float, float]:
    """Seconds to cut and resize the windows, and to encode them."""
    spec = view_spec(head.model, pad=head.pad if isinstance(head, GuidedCrops) else "own")
    jobs = list(dict.fromkeys((number, window) for number, some in enumerate(windows) for window in some))
    made = list[Tensor]()
    cutting = timed(lambda: made.extend(resize_and_crop(cut(images[number], window), spec) for number, window in jobs))
    return cutting, timed(lambda: encode_images(head.model, torch.stack(made).split(head.batch_size)))


def timed(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="small")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64, help="views in one forward")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="2 images, one round")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.quick:
        given.images, given.rounds = 2, 1
    torch.set_num_threads(1)
    model = create(given.model).eval()
    draws = torch.Generator().manual_seed(0)
    coarse = torch.rand(given.images, 3, 16, 16, generator=draws)
    planes = (255 * F.interpolate(coarse, size=(given.side, given.side))).to(torch.uint8)
    images = list(planes.contiguous(memory_format=torch.channels_last))
    found = {}
    heads: dict[str, tuple[ViewHead, Callable]] = {
        "guided_crops": (GuidedCrops(templates=PROMPTS, batch_size=given.batch), guided_loop),
        "attention_views": (AttentionViews(templates=PROMPTS, batch_size=given.batch), attention_loop),
    }
    for name, (head, loop) in heads.items():
        head.prepare(model, CLASSES)
        windows, places = spied(head, images)
        ours = head.predict(images).cosine.argmax(1).tolist()
        agree = sum(map(int.__eq__, ours, loop(head, images, windows, places))) / len(images)
        ratios, speeds, spent = [], [], []
        for round_ in range(given.rounds):
            work = (partial(head.predict, images), partial(loop, head, images, windows, places))
            order = (0, 1) if round_ % 2 == 0 else (1, 0)
            seconds = dict(zip(order, [timed(work[which]) for which in order], strict=True))
            ratios.append(seconds[1] / seconds[0])
            speeds.append([len(images) / seconds[which] for which in (0, 1)])
            spent.append([one / seconds[0] for one in shares(head, images, windows)])
        fast, slow = (statistics.median(pair[which] for pair in speeds) for which in (0, 1))
        cutting, encoding = (statistics.median(pair[which] for pair in spent) for which in (0, 1))
        found[name] = {"ratio": statistics.median(ratios), "images_per_second": fast, "loop": slow, "agree": agree}
        found[name] |= {"cutting": cutting, "encoding": encoding}
        low, high = min(ratios), max(ratios)
        print(
            f"{name}: {fast:.2f} images a CPU-second, plain loop {slow:.2f}, ratio {found[name]['ratio']:.1f} "
            f"({low:.1f} to {high:.1f}); named alike {agree:.0%}; "
            f"cutting and resizing {cutting:.0%}, encoding windows of pixels {encoding:.0%}"
        )
    if given.json:
        given.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
