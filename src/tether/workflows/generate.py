"""``tether generate``: a maker of images learnt from images with texts, and images of texts made by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import torch
from annotated_types import Ge, Le
from jaxtyping import UInt8
from torch import Tensor, nn

from tether.core.atomic_io import atomic_folder, csv_file
from tether.core.component import build
from tether.core.errors import InputError
from tether.core.model_digest import model_digest
from tether.core.ranges import Count, Whole, checked
from tether.data import open_source
from tether.generation.autoregress.generator import VarGenerator
from tether.generation.edit.frames import png_bytes
from tether.generation.training import train_generator
from tether.models.latent.codecs import load_codec, save_codec
from tether.tasks.retrieve.gallery import gallery
from tether.tasks.retrieve.search import Hit
from tether.training.codec_training import train_codec
from tether.workflows.learning_folder import learning, mean_of_last, read_images
from tether.workflows.models import Data, Model, OnStage, opened

CODEC_FILE = "codec.safetensors"
WEIGHT_DECAY, GRAD_CLIP = 0.05, 2.0
"""VAR-CLIP's."""


@dataclass(frozen=True, slots=True)
class LearntGenerator:
    """What was learnt.

    Attributes:
        path: of the maker's file.
        images: that it saw.
        bad: rows that could not be read, or have no text.
        codec_loss: mean absolute error of the codec's last steps, in a half of the range of pixels.
        loss: cross-entropy of codewords in the last steps; that of guessing is the logarithm of their number.
    """

    path: Path
    images: int
    bad: int
    codec_loss: float | None
    loss: float | None


@dataclass(frozen=True, slots=True)
class MadeImages:
    """Images of texts.

    Attributes:
        texts: one for each image.
        pixels: (n, 3, h, w).
    """

    texts: Sequence[str]
    pixels: UInt8[Tensor, "n 3 h w"]

    def save(self, folder: str | Path) -> Path:
        """Write a new folder of PNG files, ``0000.png`` and so on, and ``metadata.csv`` with their texts.

        Raises:
            InputError: a folder that holds something.
            WriteError: as on a full disk.
        """
        folder = Path(folder)
        with atomic_folder(folder) as place:
            for number, one in enumerate(self.pixels):
                (place / f"{number:04d}.png").write_bytes(png_bytes(one))
            with csv_file(place / "metadata.csv", ["file_name", "text"]) as table:
                for number, text in enumerate(self.texts):
                    table.write([f"{number:04d}.png", text])
        return folder

    def gallery(self, path: str | Path) -> Path:
        """Write one HTML page with all images under their texts; it loads nothing from elsewhere."""
        found: dict[str, list[Hit]] = {}
        for number, (text, one) in enumerate(zip(self.texts, self.pixels, strict=True)):
            found.setdefault(text, []).append(Hit(f"{number:04d}.png", 0.0, (), png_bytes(one)))
        return gallery(found, Path(path), title="Made images", scores="", span=(0.0, 1.0))


def learn_maker(
    source: Data,
    *,
    model: Model,
    out: str | Path,
    settings: Mapping[str, Any] | None = None,
    steps: int = 4000,
    codec_steps: int = 2000,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    limit: int = 50_000,
    seed: int = 0,
    workers: int = 1,
    strict: bool = False,
    bad_rows: Path | None = None,
    random_weights: bool = False,
    device: str = "auto",
    on_stage: OnStage | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> LearntGenerator:
    """Learn to make images from images with texts: first their codewords, then which of them a text means.

    What was done lies beside the file in a folder ``OUT.learning`` until all is: the same call goes on from there.

    Args:
        source: what ``data.open_source`` takes; rows without a text are skipped.
        model: reads the texts, and goes with the maker from then on.
        out: the maker's file.
        settings: of ``generation.VarGenerator``, such as ``{"size": 64}``.
        steps: of the transformer.
        codec_steps: of the codec.
        batch_size: images of a step.
        learning_rate: of both, at its highest.
        limit: most images; all are held in memory.
        seed: of weights and draws.
        workers: threads that decode ahead.
        strict: stop at the first bad row instead of skipping it.
        bad_rows: JSON-lines file that names the rows skipped; written anew.
        random_weights: accept a model without trained weights.
        device: where to compute.
        on_stage: told the name of a stage, what is done and what there is in all.
        should_stop: asked after each step; when true a checkpoint is saved and ``StoppedError`` raised.

    Raises:
        InputError: no image with a text, settings that do not fit, or a folder of another learning.
        StoppedError: it was asked to stop.
    """
    rows = open_source(source, where="--learn")
    encoder, _ = opened(model, device=device, random_weights=random_weights)
    out, chosen = Path(out), {"seed": seed, **(settings or {})}
    maker = cast(
        VarGenerator, build({"name": "scales", **chosen}, {"scales": VarGenerator}, where="--set", model=encoder)
    )
    facts = {
        "data": rows.version, "model": model_digest(cast(nn.Module, encoder)), "settings": maker.settings,
        "steps": steps, "codec_steps": codec_steps, "batch_size": batch_size, "learning_rate": learning_rate,
        "limit": limit,
    }  # fmt: skip

    def told(stage: str, of: int, step: int) -> None:
        if on_stage is not None:
            on_stage(stage, step + 1, of)

    with learning(out, facts, purpose="tether generate") as place:
        pixels, texts, bad = read_images(
            rows, maker.size, with_texts=True, limit=limit, workers=workers, strict=strict, bad_rows=bad_rows,
            on_stage=on_stage,
        )  # fmt: skip
        maker.to(encoder.logit_scale.device)
        losses: tuple[float, ...] = ()
        if (place / CODEC_FILE).is_file():
            maker.codec.load_state_dict(load_codec(place / CODEC_FILE).state_dict())
        else:
            losses = train_codec(
                maker.codec, pixels, steps=codec_steps, batch_size=batch_size, learning_rate=learning_rate, seed=seed,
                folder=place / "codec", on_step=lambda report: told("codec", codec_steps, report.step),
                should_stop=should_stop,
            )  # fmt: skip
            save_codec(maker.codec, place / CODEC_FILE)
        found = train_generator(
            maker, pixels, texts, steps=steps, batch_size=batch_size, learning_rate=learning_rate,
            weight_decay=WEIGHT_DECAY, grad_clip=GRAD_CLIP, seed=seed, folder=place / "maker",
            on_step=lambda step, loss: told("maker", steps, step), should_stop=should_stop,
        )  # fmt: skip
        maker.save(out)
    return LearntGenerator(out, len(pixels), bad, mean_of_last(losses), mean_of_last(found))


@checked
def generate(
    texts: Sequence[str],
    *,
    model: Model,
    maker: str | Path | VarGenerator,
    images: Annotated[int, Ge(1), Le(10_000)] = 1,
    cfg: float | None = None,
    seed: Whole = 0,
    batch_size: Count = 64,
    random_weights: bool = False,
    device: str = "auto",
    on_progress: Callable[[int, int], None] | None = None,
) -> MadeImages:
    """Make images of texts.

    Args:
        texts: at least one; none empty.
        model: that the maker learnt with.
        maker: what ``learn_maker`` made, or its file.
        images: of each text; all are held in memory.
        cfg: how far from what there would be without a text; None takes the maker's own.
        seed: of the draws.
        batch_size: images made at once; draws depend on it.
        random_weights: accept a model without trained weights.
        device: where to compute.
        on_progress: told images done and images in all.

    Raises:
        InputError: no text, an empty one, or a maker of another model.

    Example:
        >>> import tether
        >>> from tether.generation import VarGenerator
        >>> from tether.workflows.generate import generate
        >>> model = tether.load("tiny", random_weights=True)
        >>> maker = VarGenerator(model, size=16, scales=(1, 2, 4), vocab=16, width=16, depth=1).eval()
        >>> generate(["a red circle"], model=model, maker=maker, images=2).pixels.shape
        torch.Size([2, 3, 16, 16])
    """
    if isinstance(texts, str) or not texts:
        raise InputError("texts: expected a list of at least one text")
    for place, text in enumerate(texts):
        if not text.strip():
            raise InputError(f"texts: the one at place {place} is empty; expected some words")
    encoder, _ = opened(model, device=device, random_weights=random_weights)
    if not isinstance(maker, VarGenerator):
        maker = VarGenerator.load(maker, model=encoder).to(encoder.logit_scale.device)
    wanted = [text for text in texts for _ in range(images)]
    rng, made = torch.Generator().manual_seed(seed), list[Tensor]()
    for first in range(0, len(wanted), batch_size):
        some = maker.generate(wanted[first : first + batch_size], generator=rng, cfg=cfg)
        made.append(((some + 1) * 127.5).round().to(torch.uint8).cpu())
        if on_progress is not None:
            on_progress(min(first + batch_size, len(wanted)), len(wanted))
    return MadeImages(wanted, torch.cat(made))
