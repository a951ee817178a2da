"""What the small models of the checks draw and change, as contact sheets for the guides: the first of seed 0, unchosen.

    python benchmarks/galleries.py [drawing inversion editing people digits ...] [--out docs/guides] [--quick]

About 12 minutes of one core for all of them, once the models are in the cache. Every image comes from the test bed of
its paper, with the settings that were measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tether.core.atomic_io import atomic_path
from tether_lab.lab.lab import Lab

CELL, LEFT, TOP, GAP, LETTERS = 112, 190, 26, 6, 14
SHOWN = 5


def sheet(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Float[Tensor, "3 h w"]]]]) -> Image.Image:
    """Images in 0 to 1 of any size, a line of text beside each row and one above each column."""
    page = Image.new("RGB", (LEFT + len(columns) * (CELL + GAP), TOP + len(rows) * (CELL + GAP)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=LETTERS)
    for place, name in enumerate(columns):
        pen.text((LEFT + place * (CELL + GAP) + CELL // 2, TOP // 2), name, fill="black", font=font, anchor="mm")
    for line, (said, images) in enumerate(rows):
        y = TOP + line * (CELL + GAP)
        text = "\n".join(_wrapped(said, width=LEFT - 2 * GAP, font=font))
        pen.multiline_text((GAP, y + CELL // 2), text, fill="black", font=font, anchor="lm")
        for place, image in enumerate(images):
            large = F.interpolate(image.detach()[None].clamp(0, 1), size=(CELL, CELL), mode="nearest")[0]
            pixels = (large * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
            page.paste(Image.fromarray(pixels), (LEFT + place * (CELL + GAP), y))
    return page


def _wrapped(said: str, *, width: float, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    lines = [""]
    for word in said.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if font.getlength(longer) <= width else [*lines, word]
    return lines


def drawing(lab: Lab) -> Image.Image:
    """Strokes, primitives, pixels and strokes without views, of the same prompts."""
    from tether.generation import PlainView
    from tether_lab.worlds import drawn_prompts as bed
    from tether_lab.worlds.drawn_shapes import PHRASES

    found = bed.bed(lab, prompts=SHOWN)
    arms = {
        "strokes": bed.drawings(lab, found, bed.strokes, steps=bed.STEPS, faster=bed.FASTER),
        "without views": bed.drawings(lab, found, bed.strokes, steps=bed.STEPS, faster=bed.FASTER, views=PlainView()),
        "primitives": bed.drawings(lab, found, bed.primitives, steps=bed.STEPS, faster=bed.FASTER),
        "free pixels": bed.drawings(lab, found, bed.pixels, steps=bed.PIXEL_STEPS, faster=bed.PIXELS_FASTER),
    }
    return _by_row([PHRASES[asked] for asked in found.asked], {name: one.images for name, one in arms.items()})


def inversion(lab: Lab) -> Image.Image:
    """The image of the bank that all begin from, the field, and free pixels."""
    from tether_lab.worlds import inverted_scenes as bed
    from tether_lab.worlds.drawn_shapes import PHRASES

    found = bed.bed(lab, many=SHOWN)
    begun = bed.starts(lab, found)
    field = bed.inverted(lab, found, begun, bed.field(), steps=bed.STEPS, rate=bed.FIELD_RATE)
    pixels, noise = (bed.pixels(lab=lab, from_start=start) for start in (True, False))
    arms = {
        "nearest in bank": torch.stack([one.image for one in begun]),
        "field": field.images,
        "pixels from it": bed.inverted(lab, found, begun, pixels, steps=bed.PIXEL_STEPS, rate=bed.PIXEL_RATE).images,
        "pixels from noise": bed.inverted(lab, found, begun, noise, steps=bed.PIXEL_STEPS, rate=bed.NOISE_RATE).images,
    }
    return _by_row([PHRASES[asked] for asked in found.asked], arms)


def editing(lab: Lab) -> Image.Image:
    """The thing of a scene in another colour: by a style with its mask, by one text, and as morphs of pixels."""
    from dataclasses import replace

    from tether_lab.worlds import morphed_scenes, restyled_scenes

    whole = restyled_scenes.prepare(lab)
    bed = replace(
        whole, image=whole.image[:SHOWN], mask=whole.mask[:SHOWN], texts=whole.texts[:SHOWN],
        asked=whole.asked[:SHOWN], labels=whole.labels[:SHOWN],
    )  # fmt: skip
    one = restyled_scenes.restyled(lab, bed, masked=False)
    morphs = morphed_scenes.morphed(lab, bed, similarity="geodesic", stability=0.0, rate=morphed_scenes.RATES[1])
    arms = {
        "before": bed.image,
        "style, mask": restyled_scenes.restyled(lab, bed, masked=True),
        "style, one text": one,
        "one text, pasted": restyled_scenes.pasted(bed, one),
        "morph": morphs,
    }
    return _by_row(bed.asked, arms)


def people(lab: Lab) -> Image.Image:
    """Clothes changed, as they were generated, before anything is pasted back."""
    from tether_lab.worlds import dressed_edits, dressed_people

    wanted = dressed_people.wanted_looks(lab, count=SHOWN)
    arms = {"before": wanted.shown.images, "made again": dressed_edits.rebuilt(lab, wanted)}
    for name, said in {"clip": "text alone", "clip_img": "text and ground", "ours": "all terms"}.items():
        arms[said] = dressed_edits.edited(lab, wanted, weights=dressed_edits.ARMS[name], lr=dressed_edits.RATES[name])
    return _by_row([f"{look}: {text}" for look, text in zip(wanted.looks, wanted.texts, strict=True)], arms)


def digits(lab: Lab) -> Image.Image:
    """Digits of which one is to be left out, in the four steps that the check takes."""
    from tether.generation import CFG
    from tether_lab.worlds import negative_digits as bed

    found = bed.prepare(lab)
    names, rows = ("nothing said", "NAG", "CFG"), []
    ways = (None, bed.SETTINGS, CFG(scale=bed.OWN_SCALE))
    for place in range(0, len(found.pairs), max(1, len(found.pairs) // SHOWN))[:SHOWN]:
        wanted, other = (bed.NAMES[digit] for digit in found.pairs[place])
        made = [
            found.diffusion.generate(
                [f"{wanted} or {other}"], noise=found.noise[place : place + 1], steps=bed.SAMPLING,
                negative=None if way is None else [other], guidance=way,
            )[0]
            for way in ways
        ]  # fmt: skip
        rows.append((f"{wanted} or {other}, not {other}", [(image + 1) / 2 for image in made]))
    return sheet(names, rows)


def scenes(lab: Lab) -> Image.Image:
    """Four images of each of five texts by VAR-CLIP's maker, and the first without guidance."""
    from tether_lab.worlds import made_scenes
    from tether_lab.worlds import scene_makers as bed

    told = made_scenes.things(lab, "train", count=lab.steps(bed.SCENES, 64))
    maker = bed.taught_maker(lab, bed.new_maker(lab, made_scenes.scene_clip(lab), told), told)
    texts = made_scenes.prompts()[0]
    guided, plain = (bed.made_of_texts(lab, maker, cfg=cfg).unflatten(0, (-1, bed.IMAGES)) for cfg in (bed.CFG, 0.0))
    rows = range(0, len(texts), len(texts) // SHOWN)[:SHOWN]
    return sheet(
        [*(f"{number + 1}" for number in range(bed.IMAGES)), "unguided"],
        [(texts[row], [(image + 1) / 2 for image in (*guided[row], plain[row, 0])]) for row in rows],
    )


def clips(lab: Lab) -> Image.Image:
    """First, middle and last frame of two clips, as they were and replaced in three ways."""
    from tether_lab.worlds import edited_clips as bed

    found = bed.prepare(lab)
    ways: dict[str, dict[str, Any]] = {
        "no control": {"inject_share": 0.0, "fuse": 0.0, "beside": ()},
        "fused maps": {},
        "and put back": {"blending": True},
    }
    rows = []
    for clip in found.clips[:2]:
        made = [
            bed.editor(found, **way).edit(clip.frames, *clip.said, word=clip.word, reference=clip.reference).frames
            for way in ways.values()
        ]
        for frame in (0, bed.FRAMES // 2, bed.FRAMES - 1):
            rows.append((clip.said[1], [(one[frame] + 1) / 2 for one in (clip.frames, *made)]))
    return sheet(["before", *ways], rows)


def solids(lab: Lab) -> Image.Image:
    """Combinations that no view showed, asked for by their shape and by their colour, and drawn."""
    from tether_lab.worlds import carved_solids as bed

    found = bed.prepare(lab)
    fields, editor = bed.learnt(lab, found, "own")
    pose, rows = found.poses[0], []
    with torch.no_grad():
        for asked in found.held_out[:SHOWN]:
            number = next(row for row, one in enumerate(found.solids) if one.colour == asked.colour)
            other = next(row for row, one in enumerate(found.solids) if one.shape == asked.shape)
            one, two = fields.codes(number), fields.codes(other)
            codes = (
                one,
                editor.edit(asked.caption, one, which="shape"),
                two,
                editor.edit(asked.caption, two, which="appearance"),
            )
            drawn = bed.solid_view(asked, pose, bed.LENS).pixels / 255
            looks = [fields.view(each, pose).image for each in codes]
            rows.append((asked.caption, [*looks, drawn if drawn.shape[0] == 3 else drawn.permute(2, 0, 1)]))
    return sheet(["same colour", "shape edited", "same shape", "colour edited", "drawn"], rows)


def _by_row(said: Sequence[str], arms: Mapping[str, Float[Tensor, "n 3 h w"]]) -> Image.Image:
    return sheet(list(arms), [(text, [one[place] for one in arms.values()]) for place, text in enumerate(said)])


GALLERIES: dict[str, Callable[[Lab], Image.Image]] = {
    one.__name__: one for one in (drawing, inversion, editing, people, digits, scenes, clips, solids)
}


def main() -> None:
    """Write the sheets that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(GALLERIES))
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "guides")
    parser.add_argument("--quick", action="store_true", help="a few steps; the images mean nothing")
    options = parser.parse_args()
    for name in options.names or GALLERIES:
        if name not in GALLERIES:
            sys.exit(f"{name}: no such sheet; known: {', '.join(GALLERIES)}")
        with Lab(0, smoke=options.quick) as lab:
            page = GALLERIES[name](lab)
        path = options.out / f"gallery-{name}.png"
        with atomic_path(path) as temporary:
            page.quantize(128).save(temporary, format="PNG", optimize=True)
        print(path)


if __name__ == "__main__":
    main()
