"""Sensitivity to rendered text: words drawn onto the user's own pictures, to see whether the model reads them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tether.core.errors import InputError
from tether.core.finding import Bar, Bars, Finding, Gallery, Item
from tether.evaluate.inspect.figures import mean, points, share, shown
from tether.evaluate.inspect.pictures import uri
from tether.evaluate.inspect.subject import Subject
from tether.evaluate.inspect.vocabulary import vocabulary

LEAST = 20
ALARM = 0.1
"""Share of pictures, beyond chance, that a drawn word must turn for an alarm."""
HEIGHT = 0.18
"""Of the strip that is written on, as a share of the picture's height."""
_FINE = 8  # the strip is drawn this much larger and scaled down, as a camera would see it
_SHOWN = 8
_NAMED = 8


class Lettering:
    """A typographic attack (arXiv 2103.00020's authors; goh2021multimodal) with its control.

    Each picture of the sample gets, on a light strip at its top or bottom, a word that is not in its captions; a second
    copy gets another such word. The words compete as answers; an attack works when the picture is then named by the
    word that stands on it. The control is how often it is named by that same word while the *other* word stands on it.

    Args:
        alarm: share beyond the control that makes an alarm, in (0, 1).
        height: of the strip as a share of the picture, in (0, 1).
    """

    title = "Sensitivity to rendered text"

    def __init__(self, *, alarm: float = ALARM, height: float = HEIGHT) -> None:
        """Take the settings."""
        for name, value in (("alarm", alarm), ("height", height)):
            if not 0 < value < 1:
                raise InputError(f"{name}: expected a share in (0, 1), got {value}")
        self.alarm, self.height = alarm, height

    def __call__(self, subject: Subject) -> Finding:
        """An alarm when drawn words turn pictures.

        Raises:
            InputError: too few pictures, or captions without words to draw.
        """
        words = vocabulary(subject)
        true = torch.zeros(len(subject.image), len(words.words), dtype=torch.int32)
        true = true.index_add_(0, subject.owner, words.holds.int()) > 0
        chance = subject.generator("lettering")
        kept = [
            at
            for at, row in enumerate(subject.sample.rows.tolist())
            if subject.first_caption[row] >= 0 and int((~true[row]).sum()) >= 2
        ]
        if len(kept) < LEAST:
            raise InputError(f"expected at least {LEAST} pictures to write on, got {len(kept)}")
        rows, pixels = subject.sample.rows[kept], subject.sample.pixels[kept]
        draw = torch.rand(len(kept), len(words.words), generator=chance).masked_fill(true[rows], -1.0)
        drawn = draw.topk(2, dim=1).indices
        named, picture = [], []
        for side in (0, 1):
            written = torch.stack(
                [
                    write(one, words.words[int(word)], height=self.height, edge="bottom" if at % 2 else "top")
                    for at, (one, word) in enumerate(zip(pixels, drawn[:, side], strict=True))
                ]
            )
            picture.append(written)
            named.append(subject.encode_pixels(written) @ words.directions.T)
        hit = torch.cat([named[side].argmax(1) == drawn[:, side] for side in (0, 1)])
        control = torch.cat([named[side].argmax(1) == drawn[:, 1 - side] for side in (0, 1)])
        pull = named[0].gather(1, drawn[:, :1]) - named[1].gather(1, drawn[:, :1])
        pull = (pull + named[1].gather(1, drawn[:, 1:]) - named[0].gather(1, drawn[:, 1:])).flatten() / 2
        gain = (hit.double() - control.double()).view(2, -1).mean(0)
        figures = (
            mean("pictures turned by the word drawn on them, less the control", gain, unit="share"),
            share("named by the word that stands on it", hit),
            share("named by that word while another stands on it (control)", control),
            mean("pull of a drawn word (difference of cosines)", pull),
        )
        turned = figures[0]
        reads = (turned.low or 0) > self.alarm
        some = not reads and (turned.low or 0) > 0
        sentence = (
            f"Words drawn onto a picture change what the model sees: {shown(turned)} of the pictures are turned "
            f"({shown(figures[1])} with the word, {shown(figures[2])} without it)."
            if reads
            else f"Words drawn onto pictures hardly turn them ({points(turned.value)} against the control)."
        )
        flat = drawn.T.flatten()
        rates = sorted(
            (
                (float((hit.double() - control.double())[flat == number].mean()), word)
                for number, word in enumerate(words.words)
                if (flat == number).sum() >= 4
            ),
            key=lambda pair: (-pair[0], pair[1]),
        )
        bars = Bars(
            "Turned beyond the control, by word",
            tuple(Bar(word, rate, strong=rate > self.alarm) for rate, word in rates[:_NAMED]),
        )
        order = torch.argsort(
            (named[0].gather(1, drawn[:, :1]) - named[1].gather(1, drawn[:, :1])).flatten(),
            descending=True,
            stable=True,
        )
        items = tuple(
            Item(
                None,
                f"now “{words.words[int(named[0][at].argmax())]}”",
                subject.caption_of(int(rows[at])),
                uri(picture[0][at]),
            )
            for at in order[:_SHOWN].tolist()
        )
        return Finding(
            sentence,
            "alarm" if reads else "note" if some else "good",
            figures,
            (bars, Gallery("Where the drawn word pulled most", items)),
            "Only words of your captions were tried, in one typeface, on a strip. Pictures whose text belongs there "
            "(signs, packages) need a model that reads; then this is a skill, and only its misuse a fault.",
            "tether reproduce parrot-captions; tether curate (drop pairs whose caption stands in the picture)",
        )


def write(picture: Tensor, word: str, *, height: float, edge: str) -> Tensor:
    """A copy of a (3, h, w) picture with dark letters on a light strip at its ``top`` or ``bottom``."""
    rows, columns = picture.shape[-2:]
    deep = max(4, round(height * rows))
    strip = torch.from_numpy(_strip(word, deep, columns).copy())
    changed = picture.clone()
    where = slice(0, deep) if edge == "top" else slice(rows - deep, rows)
    changed[:, where] = strip
    return changed


@lru_cache(maxsize=1024)
def _strip(word: str, height: int, width: int) -> np.ndarray:
    """(height, width) uint8 strip with the word in its middle, as large as fits."""
    high, wide = _FINE * height, _FINE * width
    for size in range(high, 8, -4):
        font = ImageFont.load_default(size)
        left, top, right, bottom = font.getbbox(word)
        if right - left <= 0.92 * wide and bottom - top <= 0.86 * high:
            break
    sheet = Image.new("L", (wide, high), 245)
    place = ((wide - (right - left)) / 2 - left, (high - (bottom - top)) / 2 - top)
    ImageDraw.Draw(sheet).text(place, word, fill=15, font=font)
    return np.asarray(sheet.resize((width, height), Image.Resampling.BOX))
