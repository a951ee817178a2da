"""Sources and a model that Ray's workers import, with rows that kill whoever embeds them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from tether.core.types import Block, Row
from tether.data.blocks import IndexedSource
from tether.models import create
from tether.models.towers.clip import Clip


def shot(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)


class Shots(IndexedSource):
    """Images by number, so that workers read them; some are lost, some keys come twice, reading may be stopped."""

    name, version, block_rows = "shots", "1", 10

    def __init__(self, count: int, *, lost: Sequence[int] = (), twice: Sequence[int] = (), stop: int = -1) -> None:
        self.indices = [*range(count), *twice]
        self.lost, self.stop = set(lost), stop

    def __len__(self) -> int:
        return len(self.indices)

    def row(self, index: int) -> Row:
        if index == self.stop:
            raise KeyboardInterrupt
        at = self.indices[index]
        image = b"no image" if at in self.lost else shot(at)
        return Row(f"k{at:02d}", image, (f"shot {at}",), {"odd": at} if at % 7 == 3 else {})


class Stream:
    """The same as blocks of unknown length, which are read one after another."""

    name, version = "stream", "1"

    def __init__(self, shots: Shots) -> None:
        self.shots = shots

    def blocks(self) -> Sequence[Block]:
        return [Block(block.id) for block in self.shots.blocks()]

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        yield from self.shots.read(block, start=start)


class Deadly(torch.nn.Module):
    """Kills its process when it meets one image, as often as there are marks to remove in a folder."""

    def __init__(self, deadly: int, marks: Path) -> None:
        super().__init__()
        self.inner: Clip = create("tiny").eval()
        self.dim, self.image_spec, self.tokenizer = self.inner.dim, self.inner.image_spec, self.inner.tokenizer
        self.deadly, self.marks = torch.from_numpy(shot(deadly)).permute(2, 0, 1), marks

    @property
    def logit_scale(self) -> torch.Tensor:
        return self.inner.logit_scale

    def encode_image(self, image: torch.Tensor, *, mask: torch.Tensor | None = None):
        mark = next(iter(sorted(self.marks.iterdir())), None)
        if mark is not None and any(torch.equal(one, self.deadly) for one in image):
            mark.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inner.encode_image(image, mask=mask)

    def encode_text(self, text: torch.Tensor, *, mask: torch.Tensor | None = None):
        return self.inner.encode_text(text, mask=mask)
