"""What a reproduction may use: a seed, a budget, data sets and a small CLIP that is trained once and reused."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from tether.core.protocols import Source

SMALL_CLIP_DATA = "emoji:holdout=sequence,size=32"
SMALL_CLIP_STEPS = 300
_CACHED_SETS = 8


@dataclass(frozen=True, slots=True)
class Pairs:
    """A data set in memory; entry i of each belongs to picture i.

    Attributes:
        keys: of the rows.
        pixels: (n, 3, size, size) uint8; shared by everyone who asks for the same set, so not to be changed.
        texts: the captions of each picture.
        meta: the other columns of each row.
    """

    keys: tuple[str, ...]
    pixels: Tensor
    texts: tuple[tuple[str, ...], ...]
    meta: tuple[Mapping[str, object], ...]

    def __len__(self) -> int:
        """How many pictures."""
        return len(self.keys)


class Lab:
    """One seed of one reproduction.

    Used as a context it sets torch's thread count and default generator, and puts both back afterwards, so one
    paper's check cannot change the next one's.

    Args:
        seed: of everything random (>= 0).
        smoke: run everything once with as little as possible; numbers mean nothing then.
        device: where the small CLIP is loaded.
        threads: of torch on the CPU.
    """

    def __init__(self, seed: int, *, smoke: bool = False, device: str = "cpu", threads: int = 1) -> None:
        """Take the settings; nothing is loaded yet."""
        self.seed = seed
        self.smoke = smoke
        self.device = device
        self.threads = threads
        self._before: tuple[int, torch.Tensor] | None = None

    def steps(self, full: int, smoke: int = 2) -> int:
        """How many of anything: ``full``, or ``smoke`` in a smoke run."""
        return smoke if self.smoke else full

    def generator(self, name: str = "") -> torch.Generator:
        """A fresh CPU generator drawn from the seed and a name; equal names give equal streams."""
        import torch

        from tether.core.hash_rng import hash_int

        return torch.Generator().manual_seed(hash_int(name, seed=self.seed, salt="lab") >> 1)

    def source(self, spec: str) -> Source:
        """A data set by its spec, such as ``emoji:split=test``; prepared sets are cached for the user."""
        from tether.data import open_source

        return open_source(spec, where="lab")

    def pairs(self, spec: str, *, size: int, limit: int | None = None) -> Pairs:
        """A whole data set in memory, kept for the next one who asks.

        Args:
            spec: as for ``source``.
            size: height and width of the pictures in pixels.
            limit: how many rows, from the first; None = all.
        """
        return _pairs(spec, size, limit)

    def emoji(
        self,
        *,
        split: Literal["train", "validation", "test", "variants", "all"] = "train",
        size: int = 32,
        holdout: Literal["base", "sequence"] = "sequence",
        limit: int | None = None,
    ) -> Pairs:
        """Emoji drawings with their English names; a smoke run gets at most 64 of them."""
        if self.smoke:
            limit = min(limit or 64, 64)
        return self.pairs(f"emoji:split={split},size={size},holdout={holdout}", size=size, limit=limit)

    def small_clip(
        self,
        *,
        seed: int | None = None,
        steps: int = SMALL_CLIP_STEPS,
        data: str = SMALL_CLIP_DATA,
        settings: Mapping[str, Any] | None = None,
    ) -> nn.Module:
        """A tiny CLIP trained on emoji, in eval mode; trained at the first call, then read from the user's cache.

        Every call gives a fresh copy, so a reproduction may change the one it gets. A smoke run trains two steps.

        Args:
            seed: of its training; default: the lab's.
            steps: of its training.
            data: what it learns from.
            settings: further keys of ``tether.train.RunConfig``, such as ``{"objective": "siglip"}``.
        """
        from tether.models.load import load

        smoke = {"batch_size": 8, "schedule": "cosine"} if self.smoke else {}
        wanted = {
            "size": "tiny",
            "data": data,
            "steps": self.steps(steps),
            "seed": self.seed if seed is None else seed,
            "precision": "fp32",
            "save_every": 10**9,  # a run of a minute is quicker done again than saved
            **smoke,
            **(settings or {}),
        }
        return load(_trained(wanted), device=self.device)

    def __enter__(self) -> Self:
        import torch

        self._before = (torch.get_num_threads(), torch.get_rng_state())
        torch.set_num_threads(self.threads)
        torch.manual_seed(self.seed)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import torch

        if self._before is not None:
            torch.set_num_threads(self._before[0])
            torch.set_rng_state(self._before[1])


@functools.lru_cache(maxsize=_CACHED_SETS)
def _pairs(spec: str, size: int, limit: int | None) -> Pairs:
    import torch

    from tether.core.types import ImageSpec
    from tether.data import open_source
    from tether.data.loader import ordered

    keys, pixels, texts, meta = [], [], [], []
    source = open_source(spec, where="lab")
    for rows, pictures in ordered(source, image_spec=ImageSpec((size, size)), batch_size=256, limit=limit):
        keys += [row.key for row in rows]
        texts += [row.texts for row in rows]
        meta += [row.meta for row in rows]
        pixels.append(pictures)
    return Pairs(tuple(keys), torch.cat(pixels), tuple(texts), tuple(meta))


def _trained(wanted: Mapping[str, Any]) -> Path:
    """The folder of a run with these settings and this source; trains it when the cache has none."""
    from tether.data import open_source
    from tether.papers.reproduction.model_cache import cached_model
    from tether.train import RunConfig, train

    config = RunConfig.model_validate(wanted)

    def make(folder: Path) -> None:
        train(config, folder=folder)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)

    facts = [open_source(config.data, where="lab").version, config.model_dump(mode="json")]
    return cached_model("small-clip", made_by=Path(__file__), facts=facts, make=make)
