"""A captioner learnt from texts alone, which then writes of images (MacCap, arXiv 2401.02347)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError, UnsupportedModelError
from tether.core.geometry import geometry_of
from tether.core.hash_rng import hash_int
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Number, Positive, Whole, checked
from tether.losses.self_critical import until_end
from tether.models.embed import encode_texts
from tether.models.encoders.causal_lm import CausalLM
from tether.tasks.caption.captioner import FILE, How, PrefixCaptioner
from tether.tasks.caption.memory import (
    ImageRows,
    Over,
    Variance,
    mix,
    noise_variance,
    noisy_copies,
    read_images,
    why_no_regions,
)
from tether.tasks.caption.prefix import PrefixAdaptor
from tether.tasks.caption.training import BATCH, LEARNING_RATE, Tune, check_captions, fit_pairs
from tether.training.loop import StepReport

Gap = Literal["noise", "shift", "both", "none"]
COPIES = 10


@dataclass(frozen=True, slots=True)
class Captioned:
    """What is said of one image.

    Attributes:
        caption: the one that was chosen.
        score: its cosine to the image.
        candidates: all that were written, each with its cosine, in the order that they were written in.
    """

    caption: str
    score: float
    candidates: tuple[tuple[str, float], ...]


@checked
@dataclass(frozen=True)
class Writing:
    """How captions of images are written.

    Attributes:
        n_noise: candidates of each image, each from noise of its own.
        rerank: whether the candidate nearest to the image is taken, or the first.
        how: see ``PrefixCaptioner.draw``.
        beams: see there.
        regions: how many are told beside the image, 10 in the paper; 0 tells the image alone, which did better in our
            pilots.
        region_weight: of a region beside the image.
        temperature: see ``region_features``.
        over: see ``region_features``.
        gap: what brings images to where texts lie: noise as in training, a shift by the difference of the means
            (``learn_shift_`` comes first), both or nothing.
        prompt: words before the caption, which set its tone.
        longest: most tokens.
        shortest: least tokens.
    """

    n_noise: Count = 1
    rerank: bool = True
    how: How = "beams"
    beams: Count = 4
    regions: Whole = 0
    region_weight: Number = 1.0
    temperature: Positive = 1.0
    over: Over = "weights"
    gap: Gap = "noise"
    prompt: str = ""
    longest: Count = 32
    shortest: Whole = 0


class TextOnlyCaptioner:
    """Texts' embeddings are told back as the texts; at test images' embeddings take their place.

    In training a text's unit embedding is copied, each copy gets noise of its own, and a prefix made of the copies
    tells a language model the text. At test the memory is the image's embedding, with noise too; if regions are asked
    for, plus that of each of its most attended ones. The noise lets images pass for texts, whose embeddings lie
    elsewhere.

    Source: MacCap (arXiv 2401.02347) and its release. Labels of padding are not learnt, as they are in the release.

    Attributes:
        model: the encoder, at rest.
        captioner: adaptor and language model.
        copies: of a text.
        variance: of the noise.
        shift: (d,) mean of images less mean of texts, once learnt.
        text_mean: (d,) mean of the unit rows of the texts it learnt from.
        without_regions: why the image tower shows none, or None.

    Example:
        >>> import tether
        >>> from tether.models.encoders.causal_lm import small_causal_lm
        >>> from tether.tasks.caption import TextOnlyCaptioner
        >>> texts = ["a red ball", "a blue cube"]
        >>> model = tether.load("tiny", random_weights=True)
        >>> captioner = TextOnlyCaptioner(model, small_causal_lm(texts, width=32, layers=1), n_queries=4)
        >>> _ = captioner.fit(texts, steps=2)
        >>> import torch
        >>> found = captioner.generate(torch.rand(2, 3, 32, 32), n_noise=3, longest=4)
        >>> len(found), len(found[0].candidates)
        (2, 3)
    """

    shift: Tensor | None
    text_mean: Tensor | None

    @checked
    def __init__(
        self,
        model: DualEncoder,
        language_model: CausalLM,
        *,
        adaptor: PrefixAdaptor | None = None,
        n_queries: Count = 32,
        copies: Count = COPIES,
        variance: Variance = "auto",
        seed: Whole = 0,
    ) -> None:
        """Take encoder and language model.

        Args:
            model: any that ``tether.load`` gives and that compares by cosine.
            language_model: pre-trained, or a small one that is trained too.
            adaptor: from memories of the encoder's width to its rows; None makes one.
            n_queries: rows of the prefix of the one that is made.
            copies: of a text; the published number is 10.
            variance: of the noise on each number of a unit row; ``auto`` is 0.5 / D. The published 0.016 for 512
                numbers is 8 / D, which did worse in our pilots than no noise.
            seed: of the weights of the adaptor that is made.

        Raises:
            UnsupportedModelError: a model of another geometry.
        """
        if (found := geometry_of(model)).name != "clip":
            raise UnsupportedModelError(f"captions are told by unit rows, and this model's geometry is {found.name}")
        if adaptor is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                adaptor = PrefixAdaptor(model.dim, lm_dim=language_model.dim, n_queries=n_queries)
        device = model.logit_scale.device
        self.model, self.captioner = model, PrefixCaptioner(adaptor, language_model).to(device).eval()
        self.copies, self.variance = copies, noise_variance(variance, dim=model.dim)
        self.shift, self.text_mean = None, None
        self.without_regions = why_no_regions(model)

    def text_rows(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """Unit rows of texts, on the CPU; their mean is kept for ``learn_shift_``."""
        check_captions(texts)
        rows = F.normalize(encode_texts(self.model, texts), dim=1)
        self.text_mean = rows.mean(0)
        return rows

    def memory_of(self, rows: Float[Tensor, "b d"], generator: torch.Generator) -> Float[Tensor, "b k d"]:
        """What is told of texts' unit rows in training."""
        return noisy_copies(rows, self.copies, variance=self.variance, generator=generator)

    def fit(
        self,
        texts: Sequence[str],
        *,
        tune: Tune = "all",
        steps: int = 1000,
        batch_size: int = BATCH,
        learning_rate: float = LEARNING_RATE,
        weight_decay: float = 0.0,
        longest: int = 64,
        seed: int = 0,
        on_step: Callable[[StepReport], None] = lambda report: None,
    ) -> TextOnlyCaptioner:
        """Learn from texts alone; arguments and errors as for ``fit_pairs``. The encoder does not move."""
        fit_pairs(
            self.captioner,
            self.text_rows(texts),
            texts,
            memory=self.memory_of,
            tune=tune,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            longest=longest,
            seed=seed,
            on_step=on_step,
        )
        return self

    @torch.no_grad()
    def surprise(self, texts: Sequence[str], *, seed: int = 0, longest: int = 64) -> tuple[float, float]:
        """Nats a token of texts that are told of themselves, and of the same when each is told of another text.

        The second is that of a language model that does not listen; noise is as in training.

        Args:
            texts: that it did not learn from, at least two.
            seed: of the noise.
            longest: most tokens of a text.

        Raises:
            InputError: fewer than two texts, or empty ones.
        """
        check_captions(texts)
        if len(texts) < 2:
            raise InputError(f"texts: expected at least two to exchange between, got {len(texts)}")
        rows = F.normalize(encode_texts(self.model, texts), dim=1)
        memory = self.memory_of(rows, _drawing("surprise", seed, 0))
        tokens = self.captioner.language_model.tokens(texts, longest=longest)
        found = []
        for told in (memory, memory.roll(1, 0)):
            parts = zip(told.split(BATCH), tokens.split(BATCH), strict=True)
            found.append(float(sum(self.captioner.log_probabilities(*part).sum() for part in parts)))
        count = int(until_end(tokens, end=self.captioner.language_model.end).sum())
        return -found[0] / count, -found[1] / count

    def learn_shift_(self, image: Float[Tensor, "n d"]) -> None:
        """Keep by how much images' mean unit row lies off that of the texts it was fitted on.

        Args:
            image: embeddings of some images, such as those that are to be described; no words of them are needed.

        Raises:
            InputError: no image, or nothing was fitted.
        """
        if self.text_mean is None or not len(image):
            raise InputError(f"shift: expected images after fit, got {len(image)} images")
        self.shift = F.normalize(image.float(), dim=1).mean(0).cpu() - self.text_mean

    def told(
        self, read: ImageRows, writing: Writing, *, keys: Sequence[str], draw: int = 0, seed: int = 0
    ) -> Float[Tensor, "b k d"]:
        """The memory of images.

        Args:
            read: what ``read_images`` gave.
            writing: how.
            keys: of the images; the noise of each depends on its key, the draw and the seed alone.
            draw: number of the candidate.
            seed: of the noise.
        """
        image, regions = read.image, read.regions
        if writing.gap in ("shift", "both"):
            if self.shift is None:
                raise InputError(f"gap: {writing.gap!r} needs learn_shift_ first")
            shift = self.shift.to(image)
            image = F.normalize(image - shift, dim=1)
            regions = None if regions is None else F.normalize(regions - shift, dim=2)
        rows = image if regions is None else mix(image, regions, weight=writing.region_weight)
        k = self.copies if regions is None else regions.shape[1]
        if writing.gap in ("shift", "none"):
            return noisy_copies(rows, k, variance=0.0)
        noise = torch.stack([torch.randn(k, image.shape[1], generator=_drawing(key, seed, draw)) for key in keys])
        return noisy_copies(rows, k, variance=self.variance, noise=noise)

    @torch.no_grad()
    def generate(
        self,
        images: Tensor | ImageRows,
        *,
        keys: Sequence[str] | None = None,
        seed: int = 0,
        **writing: Any,
    ) -> list[Captioned]:
        """Write a caption of each image.

        Args:
            images: (b, 3, h, w) uint8 pixels at the model's size or normalised floats, or what was read of them.
            keys: of the images, from which the noise comes; None takes their places.
            seed: of noise and sampling; tokens that are drawn by chance also depend on which images are given together.
            **writing: fields of ``Writing``.

        Raises:
            InputError: settings out of range.
        """
        chosen = Writing(**writing)
        if isinstance(images, ImageRows):
            read = images
        else:
            k = 0 if self.without_regions is not None else chosen.regions
            read = read_images(self.model, images, k=k, temperature=chosen.temperature, over=chosen.over)
        names = [str(place) for place in range(len(read.image))] if keys is None else list(keys)
        if len(names) != len(read.image):
            raise InputError(f"keys: expected {len(read.image)}, got {len(names)}")
        if not names:
            return []
        drawn = [
            self.captioner.draw(
                self.told(read, chosen, keys=names, draw=draw, seed=seed),
                how=chosen.how,
                beams=chosen.beams,
                longest=chosen.longest,
                shortest=chosen.shortest,
                prompt=chosen.prompt,
                generator=_drawing("tokens", seed, draw),
            ).texts
            for draw in range(chosen.n_noise)
        ]
        text = F.normalize(encode_texts(self.model, [text for texts in drawn for text in texts]), dim=1)
        near = torch.einsum("nbd,bd->bn", text.view(len(drawn), len(names), -1), read.image.cpu())
        best = near.argmax(1) if chosen.rerank else torch.zeros(len(names), dtype=torch.int64)
        found = []
        for row, (scores, taken) in enumerate(zip(near.tolist(), best.tolist(), strict=True)):
            candidates = tuple((texts[row], score) for texts, score in zip(drawn, scores, strict=True))
            caption, score = candidates[taken]
            found.append(Captioned(caption, score, candidates))
        return found

    def save(self, folder: Path | str) -> Path:
        """Write a folder that ``load`` reads, bound to the encoder and to the language model, which lies in it."""
        arrays = {"text_mean": self.text_mean, "shift": self.shift}
        return self.captioner.save(
            folder,
            encoder=model_digest(cast(nn.Module, self.model)),
            settings={"kind": "text_only", "copies": self.copies, "variance": self.variance},
            arrays={name: value for name, value in arrays.items() if value is not None},
        )

    @classmethod
    def load(
        cls, folder: Path | str, *, model: DualEncoder, language_model: CausalLM | None = None
    ) -> TextOnlyCaptioner:
        """Read what ``save`` wrote, with nothing unpickled.

        Raises:
            InputError: no captioner, or one of another encoder, on either side, or of another language model.
        """
        inner, settings, arrays = PrefixCaptioner.load(
            folder, encoder=model_digest(cast(nn.Module, model)), language_model=language_model
        )
        if settings.get("kind") != "text_only":
            raise InputError(f"{Path(folder) / FILE}: expected a captioner that was learnt from texts")
        for name, value in arrays.items():
            if value.shape != (model.dim,) or not value.isfinite().all():
                got = f"{tuple(value.shape)} with up to {value.abs().max() if value.numel() else 'none'}"
                raise InputError(f"{Path(folder) / FILE}: {name}: expected ({model.dim},) finite numbers, got {got}")
        found = cls(
            model,
            inner.language_model,
            adaptor=cast(PrefixAdaptor, inner.adaptor),
            copies=cast(Any, settings.get("copies")),
            variance=cast(Any, settings.get("variance")),
        )
        found.text_mean, found.shift = arrays.get("text_mean"), arrays.get("shift")
        return found


def _drawing(key: str, seed: int, draw: int) -> torch.Generator:
    return torch.Generator().manual_seed(hash_int(key, seed=seed, salt=f"caption {draw}") >> 1)
