"""What ``near_duplicates`` finds and what it takes for a copy by mistake, on drawings and on scenes.

    python benchmarks/near_duplicates.py            # about a minute of one core

Of each picture five changed copies are made; a copy is found when it and its original are alike. Lost is the share of
pictures, none of them a copy, that would go because another one stays in their place.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance

from tether.data import open_source
from tether.data.curate import NearDuplicates
from tether.data.curate.steps.near_duplicates import differing
from tether.data.curate.steps.phash import Prints, fingerprints

MOST = 4_000


def encoded(picture: Image.Image, kind: str = "PNG", **options: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def scaled(picture: Image.Image, by: float) -> bytes:
    return encoded(picture.resize((round(picture.width * by), round(picture.height * by)), Image.Resampling.BICUBIC))


CHANGES: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG of quality 50": lambda picture: encoded(picture, "JPEG", quality=50),
    "half the size": lambda picture: scaled(picture, 0.5),
    "twice the size": lambda picture: scaled(picture, 2),
    "10 % brighter": lambda picture: encoded(ImageEnhance.Brightness(picture).enhance(1.1)),
    "1 pixel cut off each edge": lambda picture: encoded(picture.crop((1, 1, picture.width - 1, picture.height - 1))),
}


def pictures(spec: str) -> list[Image.Image]:
    source, found = open_source(spec), []
    for block in source.blocks():
        for row in source.read(block):
            opened = (
                Image.fromarray(row.image) if isinstance(row.image, np.ndarray) else Image.open(io.BytesIO(row.image))
            )
            found.append(opened.convert("RGB"))
            if len(found) == MOST:
                return found
    return found


def alike(one: Prints, other: Prints, *, distance: int, colour: int) -> np.ndarray:
    colours = np.abs(one.colours.astype(int) - other.colours).max(axis=1)
    return (differing(one.shape, other.shape) <= distance) & (colours <= colour)


def main() -> None:
    for spec in ("emoji:size=64", "scenes"):
        originals = pictures(spec)
        seen = fingerprints([encoded(picture) for picture in originals])
        copies = {name: fingerprints([change(each) for each in originals]) for name, change in CHANGES.items()}
        for distance, colour in ((0, 24), (4, 24), (4, 255), (6, 24)):
            step = NearDuplicates(distance=distance, colour=colour, prefer="any")
            keys = np.arange(len(originals), dtype=np.uint64)
            step.load_state_dict({"key": keys, "shape": seen.shape, "colours": seen.colours, "pixels": seen.pixels,
                                  "pairs": len(keys), "unreadable": 0})  # fmt: skip
            lost = 1 - step.report()["stay"] / len(originals)
            found = ", ".join(
                f"{name} {alike(seen, copy, distance=distance, colour=colour).mean():.1%}"
                for name, copy in copies.items()
            )
            print(f"{spec} ({len(originals):,}), distance {distance}, colour {colour}: lost {lost:.2%}; found {found}")


if __name__ == "__main__":
    main()
