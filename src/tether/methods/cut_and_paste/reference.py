"""Reference images as further tokens that a diffusion looks at beside a text's: an image prompt."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, PositiveRate, Share, Whole, checked
from tether.core.state_file import check_encoder, read_state, wide_array, write_state
from tether.core.types import Features
from tether.generation.diffuse.text_diffusion import TextDiffusion
from tether.generation.training import NOTHING, MakerStep
from tether.models.features.image_digest import image_digest
from tether.models.features.token_rows import TokenRows
from tether.optim.clip import GlobalNorm
from tether.training.schedules import Cosine
from tether.training.tensor_batches import ReplayedBatches
from tether.training.tuning import Tuning, play

_FORMAT = "tether-reference-prompt-1"
AT_ONCE = 64
"""Reference images in one forward of the encoder."""


class ReferencePrompt(nn.Module):
    """A linear map from an encoder's patches of an image to tokens in the width of its texts.

    The tokens stand behind those of a text, so that each layer's softmax is over both. The map learns with the
    diffusion, or after it, and half of the time the reference is hidden, so that texts alone are still followed.

    Source: Cut-and-Paste (arXiv 2311.11697) says that a reference image is a condition; the map, and that references
    are hidden, are those of image prompts (arXiv 2308.06721).

    Attributes:
        drop: share of references that training hides.

    Example:
        >>> import torch
        >>> from tether.methods.cut_and_paste import ReferencePrompt
        >>> from tether.generation import TextDiffusion
        >>> from tether.models import create
        >>> diffusion = TextDiffusion(create("tiny").eval(), size=8, channels=(8, 16))
        >>> ReferencePrompt(diffusion).tokens(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([1, 16, 64])
    """

    reader: TokenRows

    @checked
    def __init__(self, diffusion: TextDiffusion, *, drop: Share = 0.5, seed: Whole = 0) -> None:
        """Draw the map.

        Args:
            diffusion: whose encoder reads the images.
            drop: share of references that training hides.
            seed: of the map's first weights.

        Raises:
            UnsupportedModelError: the encoder's images show no patches, with a reason of ``models.refusals``.
        """
        super().__init__()
        self.drop, reader = drop, TokenRows(diffusion.model)
        self.__dict__["reader"] = reader  # not registered: it is no part of the state
        width = diffusion.read([""]).tokens
        assert width is not None  # read gives them
        self.map = nn.Linear(reader.width, width.shape[-1])
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.map.weight.normal_(std=reader.width**-0.5, generator=draw)
            self.map.bias.zero_()

    @torch.no_grad()
    def patches(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b r d"]:
        """What the encoder shows of images at its own size."""
        rows = [self.reader.encode_image(some).pooled for some in images.split(AT_ONCE)]
        return self.reader.tokens(torch.cat(rows))

    def tokens(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b r width"]:
        """Tokens of reference images, with gradient to the map."""
        return self.map(self.patches(images))

    def save(self, path: Path | str) -> None:
        """Write the map and the digest of the encoder's image side to one safetensors file, atomically."""
        settings = {"drop": self.drop, "encoder": image_digest(self.reader.inside)}
        write_state(
            path, format=_FORMAT, settings=settings, arrays={k: wide_array(v) for k, v in self.state_dict().items()}
        )

    @classmethod
    def load(cls, path: Path | str, *, diffusion: TextDiffusion) -> ReferencePrompt:
        """Read what ``save`` wrote; a file of another kind or encoder is an InputError."""
        written, arrays = read_state(path, what=cls.__name__, format=_FORMAT)
        digest = image_digest(diffusion.model)
        check_encoder(path, recorded=str(written.get("encoder")), encoder=None, digest=digest, name="an image side")
        try:
            found = cls(diffusion, drop=written["drop"])
            found.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
        except (KeyError, TypeError, RuntimeError) as error:
            raise InputError(f"{path}: expected the map of a {cls.__name__}: {error}") from error
        return found


def with_tokens(texts: Features, more: Tensor | None, *, kept: Bool[Tensor, " b"] | None = None) -> Features:
    """Token states with further ones behind each text's.

    Args:
        texts: of b texts.
        more: (r, w) for all of them, or (b, r, w); None changes nothing.
        kept: whether each text's further ones are seen; None shows all.

    Raises:
        InputError: tokens of another width or number.
    """
    assert texts.tokens is not None
    assert texts.mask is not None
    if more is None:
        return texts
    count, _, width = texts.tokens.shape
    if more.ndim not in (2, 3) or more.shape[-1] != width or (more.ndim == 3 and len(more) != count):
        raise InputError(f"reference: expected (r, {width}) tokens, or ({count}, r, {width}), got {tuple(more.shape)}")
    added = more.to(texts.tokens).expand(count, -1, -1)
    seen = torch.ones(added.shape[:2], dtype=torch.bool, device=added.device)
    mask = torch.cat([texts.mask, seen if kept is None else seen & kept[:, None]], dim=1)
    return Features(texts.pooled, torch.cat([texts.tokens, added], dim=1), mask)


class ReferencedStep(MakerStep):
    """The loss of a diffusion that also sees reference images, most of the time hidden or not by chance."""

    def __init__(
        self,
        prompt: ReferencePrompt,
        diffusion: TextDiffusion,
        images: Tensor,
        texts: Sequence[Sequence[str]],
        references: Tensor,
        *,
        batch_size: int,
        seed: int,
    ) -> None:
        """Args: prompt: that learns. references: one for each image. The rest is ``MakerStep``'s."""
        super().__init__(diffusion, images, texts, batch_size=batch_size, seed=seed)
        self._prompt, self._diffusion, self._patches = prompt, diffusion, prompt.patches(references)

    def loss_on(self, x: Tensor, said: Sequence[str], *, rows: Tensor, generator: torch.Generator) -> Tensor:
        """See MakerStep."""
        more = self._prompt.map(self._patches[rows.to(self._patches.device)])
        kept = (torch.rand(len(rows), generator=generator) >= self._prompt.drop).to(more.device)
        read = self._diffusion.read
        return self._diffusion.loss(
            x, said, generator=generator, read=lambda texts: with_tokens(read(texts), more, kept=kept)
        )


@checked
def train_referenced(
    diffusion: TextDiffusion,
    prompt: ReferencePrompt,
    images: Tensor,
    texts: Sequence[Sequence[str]],
    references: Tensor,
    *,
    steps: Count,
    batch_size: Count = 64,
    learning_rate: PositiveRate = 1e-3,
    seed: Whole = 0,
    folder: Path | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train a diffusion and the map of its reference images together, in place; resumable, and left at rest.

    Args:
        diffusion: that learns.
        prompt: of it.
        images: (n, 3, h, w) uint8, of the diffusion's size.
        texts: captions of each image.
        references: (n, 3, H, W) uint8 of the encoder's size, such as the thing of each image alone.
        steps: of AdamW, whose rate falls to 0 as a cosine.
        batch_size: images of a step.
        learning_rate: at its highest.
        seed: of the draws.
        folder: of checkpoints, from the newest of which it goes on; None keeps none.
        should_stop: asked after each step; when true a checkpoint is saved and ``StoppedError`` raised.

    Raises:
        InputError: images, texts and references of different numbers or of another size.

    Example:
        >>> import torch
        >>> from tether.methods.cut_and_paste import ReferencePrompt, train_referenced
        >>> from tether.generation import TextDiffusion
        >>> from tether.models import create
        >>> diffusion = TextDiffusion(create("tiny").eval(), size=8, channels=(8, 16))
        >>> images, alone = (torch.zeros(2, 3, side, side, dtype=torch.uint8) for side in (8, 32))
        >>> prompt = ReferencePrompt(diffusion)
        >>> train_referenced(diffusion, prompt, images, [["a cat"]] * 2, alone, steps=2, batch_size=2)
    """
    for name, given, size in (
        ("images", images, diffusion.size), ("references", references, prompt.reader.image_spec.size)
    ):  # fmt: skip
        wanted = (len(texts), 3, *size)
        if given.dtype != torch.uint8 or tuple(given.shape) != wanted or not len(texts):
            raise InputError(f"{name}: expected {wanted} uint8, got {tuple(given.shape)} of {given.dtype}")
    for row, captions in enumerate(texts):
        if not len(captions):
            raise InputError(f"texts, row {row}: expected at least one caption, got none")
    diffusion.requires_grad_(True)
    prompt.requires_grad_(True)
    tuning = Tuning[None](
        step=ReferencedStep(prompt, diffusion, images, texts, references, batch_size=batch_size, seed=seed),
        batches=ReplayedBatches(lambda: itertools.repeat(NOTHING)),
        steps=steps,
        optimizer={"name": "adamw", "lr": learning_rate},
        schedule=Cosine(warmup=min(100, steps // 10)),
        clipper=GlobalNorm(max_norm=1.0),
        training=[diffusion],
        modules={"reference": prompt},
    )
    try:
        play(tuning, diffusion, folder=folder, seed=seed, should_stop=should_stop)
    finally:
        for part in (diffusion, prompt):
            part.zero_grad(set_to_none=True)
            part.eval().requires_grad_(False)


def reference_size(image: Tensor, *, size: tuple[int, int]) -> UInt8[Tensor, "1 3 h w"]:
    """A reference image as a batch of the encoder's size.

    Raises:
        InputError: no uint8 image (3, h, w).
    """
    if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8 or not image.numel():
        raise InputError(f"reference: expected a uint8 image (3, h, w), got {tuple(image.shape)} of {image.dtype}")
    if tuple(image.shape[1:]) == size:
        return image[None]
    resized = F.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)
