"""Two image networks as one: their tokens side by side in channels, in the place of words of a language model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Whole, checked
from tether.core.types import ImageLike, ImageSpec
from tether.data.images import decode, resize_and_crop
from tether.models.encoders.vision_vocabulary import VisionVocabulary
from tether.models.features.find import tower_of
from tether.models.features.penultimate import patch_grid
from tether.models.train_mode import eval_mode

_ASPECT = 1.2  # from which on a change of aspect is told
_PART = 64  # images that the networks look at together


class AspectWarning(UserWarning):
    """Images lost more of their aspect than a reader should bear."""


class VisionPixels(NamedTuple):
    """Images as each network wants them; None for a network that is not there.

    Attributes:
        clip: (b, 3, h, w) uint8 at the size of the CLIP.
        vocabulary: (b, 3, H, W) uint8 at the size of the vocabulary.
    """

    clip: UInt8[Tensor, "b 3 h w"] | None
    vocabulary: UInt8[Tensor, "b 3 H W"] | None


class VisionTokens(NamedTuple):
    """Tokens of images by each network; None for a network that is not there.

    Attributes:
        clip: (b, n, c) patches of the CLIP after its last block but one, without those before them.
        vocabulary: (b, n, d) of the vocabulary, of the same places.
    """

    clip: Float[Tensor, "b n c"] | None
    vocabulary: Float[Tensor, "b n d"] | None


def splice(
    embeddings: Float[Tensor, "b l w"],
    ids: Int[Tensor, "b l"],
    image_tokens: Float[Tensor, "b n w"],
    *,
    start: int,
    end: int,
) -> Float[Tensor, "b l w"]:
    """Rows of words with image tokens in the place of the words between start and end; all texts at once.

    A text without start and end stays as it is; its image tokens have gradients of 0, so that every parameter takes
    part in every step.

    Source: Vary (arXiv 2312.06109), ``vary_qwen_vary.py``, which does it image by image.

    Args:
        embeddings: of the words.
        ids: of the words.
        image_tokens: of the image of each text; of texts without an image they do not matter.
        start: id of the word before an image.
        end: id of the word behind it.

    Raises:
        InputError: more than one image in a text, a start without an end, another number of places between them than
            image tokens, or shapes that do not fit.

    Example:
        >>> import torch
        >>> from tether.tasks.read import splice
        >>> ids = torch.tensor([[1, 8, 8, 2, 5], [5, 5, 5, 5, 5]])
        >>> splice(torch.zeros(2, 5, 1), ids, torch.ones(2, 2, 1), start=1, end=2)[..., 0].tolist()
        [[0.0, 1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]]
    """
    b, count, width = image_tokens.shape
    if embeddings.shape != (*ids.shape, width) or len(ids) != b:
        raise InputError(
            f"splice: expected embeddings and ids of {b} texts and rows of {width}, got {tuple(embeddings.shape)} and "
            f"{tuple(ids.shape)}"
        )
    starts, ends = ids == start, ids == end
    for row, (opened, closed) in enumerate(zip(starts.sum(1).tolist(), ends.sum(1).tolist(), strict=True)):
        if opened != closed or opened > 1:
            raise InputError(f"splice: row {row}: expected one start and one end or neither, got {opened} and {closed}")
    first, last = starts.long().argmax(1), ends.long().argmax(1)
    shown = starts.any(1)
    if wrong := [row for row in shown.nonzero()[:, 0].tolist() if last[row] - first[row] - 1 != count]:
        row = wrong[0]
        raise InputError(
            f"splice: row {row}: expected {count} places between start and end, got {int(last[row] - first[row]) - 1}"
        )
    place = torch.arange(ids.shape[1], device=ids.device) - first[:, None] - 1
    inside = (place >= 0) & (place < count) & shown[:, None]
    taken = image_tokens.gather(1, place.clamp(0, count - 1)[..., None].expand(-1, -1, width))
    dummy = torch.where(shown[:, None, None], 0.0, image_tokens).sum() * 0.0
    return torch.where(inside[..., None], taken.to(embeddings.dtype), embeddings) + dummy.to(embeddings.dtype)


class ChannelMerge(nn.Module):
    """A linear map for the tokens of each network; where both are there, each gives half of a language model's row.

    Example:
        >>> import torch
        >>> from tether.tasks.read import ChannelMerge
        >>> ChannelMerge(64, 96, lm_dim=32)(torch.zeros(2, 16, 64), torch.zeros(2, 16, 96)).shape
        torch.Size([2, 16, 32])
    """

    @checked
    def __init__(self, clip: Count | None, vocabulary: Count | None, *, lm_dim: Count, seed: Whole = 0) -> None:
        """Draw the maps.

        Args:
            clip: numbers of a token of the CLIP; None where there is none.
            vocabulary: likewise.
            lm_dim: of the rows.
            seed: of the weights.

        Raises:
            InputError: neither, or an odd number of both.
        """
        super().__init__()
        if clip is None and vocabulary is None:
            raise InputError("clip, vocabulary: expected at least one, got None twice")
        if clip is not None and vocabulary is not None and lm_dim % 2:
            raise InputError(f"lm_dim: expected an even number, of which each network gives half, got {lm_dim}")
        half = lm_dim if clip is None or vocabulary is None else lm_dim // 2
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.clip = None if clip is None else nn.Linear(clip, half)
            self.vocabulary = None if vocabulary is None else nn.Linear(vocabulary, half)

    def forward(
        self, clip: Float[Tensor, "b n c"] | None, vocabulary: Float[Tensor, "b n d"] | None
    ) -> Float[Tensor, "b n w"]:
        """Rows of the tokens, those of one place side by side.

        Raises:
            InputError: tokens of a network that is not there or none of one that is, or as many of one as not of the
                other.
        """
        if (clip is None) != (self.clip is None) or (vocabulary is None) != (self.vocabulary is None):
            raise InputError("tokens: expected those of the networks that are merged and of no other")
        if clip is not None and vocabulary is not None and clip.shape[:2] != vocabulary.shape[:2]:
            raise InputError(
                f"tokens: expected as many of both networks, got {tuple(clip.shape)} and {tuple(vocabulary.shape)}"
            )
        maps = ((self.clip, clip), (self.vocabulary, vocabulary))
        return torch.cat([net(tokens) for net, tokens in maps if net is not None and tokens is not None], dim=2)


class MergedVision(nn.Module):
    """A CLIP and a vocabulary that see the same image and rest, and the maps from both to a language model's rows.

    Either may be left out. Of the CLIP patches after the last block but one are taken, without a class token.

    Source: Vary (arXiv 2312.06109, section 3.3).

    Attributes:
        merge: the maps, which learn.
        vocabulary: at rest, or None.
        tokens: rows of an image.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.models.encoders.vision_vocabulary import VisionVocabulary
        >>> from tether.tasks.read import MergedVision
        >>> net = VisionVocabulary(
        ...     image_size=64, patch=8, width=32, depth=1, heads=2, window=4, global_blocks=[], channels=[16, 24]
        ... )
        >>> merged = MergedVision(create("tiny", image_size=32, patch=8).eval(), net, lm_dim=48)
        >>> merged(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape
        torch.Size([2, 16, 48])
    """

    @checked
    def __init__(
        self, clip: DualEncoder | None, vocabulary: VisionVocabulary | None, *, lm_dim: Count, seed: Whole = 0
    ) -> None:
        """Take both, and look at a blank image.

        Args:
            clip: any of ``tether.load`` whose image tower has blocks and patches; it is not copied and not part of the
                state.
            vocabulary: whose map of tokens has the CLIP's size.
            lm_dim: of the language model's rows.
            seed: of the maps.

        Raises:
            InputError: neither, or maps of tokens of two sizes.
            UnsupportedModelError: a tower that cannot be looked into.
        """
        super().__init__()
        self.vocabulary = vocabulary
        self._clip = [clip]  # no submodule: it belongs to whoever gave it
        self.clip_spec = None if clip is None else replace(clip.image_spec.fixed(), resize="squash", resized=None)
        self.spec = None
        widths: list[int | None] = [None, None]
        grid = None
        if clip is not None and self.clip_spec is not None:
            blank = torch.zeros(1, 3, *self.clip_spec.size, dtype=torch.uint8, device=clip.logit_scale.device)
            with torch.no_grad():
                shown = self._clip_tokens(blank)
            grid = patch_grid(clip)
            widths[0] = shown.shape[2]
            self.tokens = shown.shape[1]
        if vocabulary is not None:
            self.spec = vocabulary.image_spec
            widths[1] = vocabulary.out
            self.tokens = vocabulary.tokens
            if grid is not None and grid != (vocabulary.grid, vocabulary.grid):
                raise InputError(
                    f"vocabulary: its tokens are a map of {vocabulary.grid} x {vocabulary.grid}, the CLIP's of "
                    f"{grid[0]} x {grid[1]}; expected the same"
                )
        self.merge = ChannelMerge(widths[0], widths[1], lm_dim=lm_dim, seed=seed)

    @property
    def clip(self) -> DualEncoder | None:
        """The CLIP, at rest."""
        return self._clip[0]

    def prepare(self, images: Sequence[ImageLike] | UInt8[Tensor, "b 3 h w"]) -> VisionPixels:
        """Images at the sizes of both networks, whole: squeezed where their aspect differs, as pages lose borders else.

        Warns:
            AspectWarning: of those whose aspect changes by more than a fifth.

        Raises:
            InputError: none, or one that cannot be read, by its number.
        """
        specs = [spec for spec in (self.clip_spec, self.spec) if spec is not None]
        if not len(images):
            raise InputError("images: expected at least one, got none")
        if isinstance(images, Tensor):
            _tell_aspects([(images.shape[2], images.shape[3])] * len(images), None, specs[-1])
            sized = {spec.size: _resized(images, spec) for spec in specs}
        else:
            named = [str(one) if isinstance(one, str | Path) else f"image {row}" for row, one in enumerate(images)]
            found: dict[tuple[int, int], list[Tensor]] = {spec.size: [] for spec in specs}
            aspects = []
            for image, name in zip(images, named, strict=True):
                pixels = decode(image, name=name)
                aspects.append((pixels.shape[1], pixels.shape[2]))
                for spec in {spec.size: spec for spec in specs}.values():
                    found[spec.size].append(resize_and_crop(pixels, spec))
            _tell_aspects(aspects, named, specs[-1])
            sized = {size: torch.stack(some) for size, some in found.items()}
        return VisionPixels(*(None if spec is None else sized[spec.size] for spec in (self.clip_spec, self.spec)))

    @torch.no_grad()
    def encode(self, pixels: VisionPixels) -> VisionTokens:
        """Tokens by the networks at rest, without gradient."""
        clip, vocabulary = None, None
        if pixels.clip is not None and self.clip is not None:
            clip = torch.cat([self._clip_tokens(some) for some in pixels.clip.split(_PART)])
        if pixels.vocabulary is not None and self.vocabulary is not None:
            with eval_mode(self.vocabulary):
                vocabulary = torch.cat([self.read(some) for some in pixels.vocabulary.split(_PART)])
        return VisionTokens(clip, vocabulary)

    def read(self, pixels: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """The vocabulary's tokens, with gradient."""
        assert self.vocabulary is not None
        assert self.spec is not None
        at = next(self.vocabulary.parameters())
        return self.vocabulary(self.spec.normalise(pixels.to(at.device), dtype=at.dtype))

    def forward(self, images: Sequence[ImageLike] | UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b n w"]:
        """Rows of images for a language model, with gradient to the maps alone; errors as for ``prepare``."""
        return self.merge(*self.encode(self.prepare(images)))

    def _clip_tokens(self, pixels: Tensor) -> Float[Tensor, "b n c"]:
        assert self.clip is not None
        tower = tower_of(self.clip).opened()
        stream = tower.run(tower.embed(pixels.to(self.clip.logit_scale.device)), 0, -1)
        return stream.x[:, tower.prefix :].float()


def _resized(images: Tensor, spec: ImageSpec) -> UInt8[Tensor, "b 3 h w"]:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise InputError(f"images: expected uint8 pixels (n, 3, h, w), got {images.dtype} {tuple(images.shape)}")
    if tuple(images.shape[2:]) == spec.size:
        return images
    parts = [
        F.interpolate(some.float(), spec.size, mode="bicubic", antialias=True).clamp_(0, 255).round_().to(torch.uint8)
        for some in images.split(_PART)
    ]
    return torch.cat(parts)


def squeezed(sizes: Sequence[tuple[int, int]], names: Sequence[str] | None, spec: ImageSpec) -> str | None:
    """What must be told of images that are squeezed by more than a fifth; None where none is.

    Args:
        sizes: height and width of each.
        names: of each, or None for their numbers.
        spec: what they become.
    """
    want = spec.size[0] / spec.size[1]
    changes = [max(h / w / want, want * w / h) for h, w in sizes]
    wrong = [row for row, change in enumerate(changes) if change > _ASPECT]
    if not wrong:
        return None
    worst = max(wrong, key=lambda row: changes[row])
    name = f"image {worst}" if names is None else names[worst]
    return (
        f"{len(wrong)} of {len(sizes)} images change their aspect by more than 20 %, most of all {name}, "
        f"{sizes[worst][1]} x {sizes[worst][0]} pixels; cut them into parts of the aspect {1 / want:.2g}"
    )


def _tell_aspects(sizes: Sequence[tuple[int, int]], names: Sequence[str] | None, spec: ImageSpec) -> None:
    """Warn once of images that are squeezed."""
    if said := squeezed(sizes, names, spec):
        warnings.warn(said, AspectWarning, stacklevel=4)
