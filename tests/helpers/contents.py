"""Photos with regions and latents, and loaders of batches that hold all of it."""

import json

import numpy as np
import torch

from tether.core.types import ImageSpec, Regions, Row
from tether.data.contents import BatchContents
from tether.data.loader import Loader

SPEC = ImageSpec((32, 32), interpolation="bilinear")


class Letters:
    """A tokenizer whose ids are bytes, between a start and an end."""

    context_length, vocab_size = 64, 300

    def __call__(self, texts):
        ids = [[298, *text.encode()[:62], 299] for text in texts]
        return torch.tensor([row + [0] * (max(map(len, ids)) - len(row)) for row in ids])


def photo(number: int, height: int = 60, width: int = 90) -> np.ndarray:
    """Pixels that say which image they are of, and where they lie in it."""
    across = np.broadcast_to(np.linspace(0, 255, width)[None], (height, width))
    down = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, width))
    return np.stack([across, down, np.full((height, width), number)], axis=2).round().astype(np.uint8)


def rows(count=24, *, bad=()):
    """Photos of several sizes with two things each, and a latent."""
    found = []
    for number in range(count):
        height, width = 60 + number, 90 - number
        boxes = [[0.1, 0.2, 0.4, 0.7], [0.5, 0.1, 0.9, 0.5 + number / 100]]
        masks = np.zeros((height, width), np.uint8)
        for value, (x0, y0, x1, y1) in enumerate(boxes, 1):
            masks[round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)] = value
        meta = {
            "boxes": boxes if number % 3 else json.dumps(boxes),
            "phrases": [f"left {number}", "right"],
            "masks": masks,
            "vae": np.full((2, 3), number, np.float16).tobytes(),
        }
        if number in bad:
            meta["boxes"] = [[0.1, 0.2, 0.4, 0.7], [0.5, 0.5, 0.4, 0.9]]
        found.append(Row(f"k{number}", photo(number, height, width), (f"row {number}", f"text {number}"), meta))
    return found


EVERYTHING = {
    "crops": {
        "image": {"scale": (0.4, 1.0), "flip": 0.5},
        "local_image": {"size": 16, "scale": (0.1, 0.5), "augment": {"name": "chain", "parts": ["flip", "colour"]}},
        "reference_image": {"around": ["image", "local_image"]},
    },
    "captions": {"short_text": "first", "other_text": "random"},
    "regions": {"most": 3, "phrases": "phrases", "masks": "masks"},
    "latents": {"latent_image": {"column": "vae", "shape": [2, 3], "dtype": "float16"}},
}


def loader(source, *, contents, **changes):
    settings = {"batch_size": 6, "image_spec": SPEC, "tokenizer": Letters(), "seed": 3, **changes}
    return Loader(source, contents=BatchContents(**contents), **settings)


def flat(batch):
    """Everything in a batch as one mapping of tensors and plain values."""
    found = {"image": batch.image, "text": batch.text}
    for name, value in batch.extra.items():
        if isinstance(value, Regions):
            parts = {part: getattr(value, part) for part in ("boxes", "valid", "masks", "phrases", "ids")}
            found |= {f"{name}.{part}": tensor for part, tensor in parts.items()}
        else:
            found[name] = value
    return found


def assert_equal(one, two):
    assert one.keys() == two.keys()
    for name, value in one.items():
        same = torch.equal(value, two[name]) if isinstance(value, torch.Tensor) else value == two[name]
        assert same, name
