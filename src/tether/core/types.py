"""The values that pass between packages: frozen, named, one shape each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.geometry import COSINE, Geometry
from tether.core.ranges import PositiveSingle, Single, checked

Side = Annotated[int, Ge(1), Le(8_192)]


@dataclass(frozen=True, slots=True)
class Features:
    """What one tower gives for a batch.

    Attributes:
        pooled: (b, d) joint-space embedding, NOT normalised; its length is information.
        tokens: (b, n, w) token states of the last layer before pooling, or None.
        mask: (b, n) True where a token is real, or None when every token is.
        extra: sums over the batch that a training step may ask for, by name; those of two batches add up.
    """

    pooled: Float[Tensor, "b d"]
    tokens: Float[Tensor, "b n w"] | None = None
    mask: Bool[Tensor, "b n"] | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def unit(self) -> Float[Tensor, "b d"]:
        """The pooled embedding scaled to length 1."""
        return F.normalize(self.pooled, dim=-1)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A batch of pairs as an objective sees it; row i of both sides is one pair.

    Attributes:
        image: features of the b images.
        text: features of the b texts.
        logit_scale: 0-d multiplier of the cosine similarity, already exponentiated (> 0).
        logit_bias: 0-d offset added to the logits (SigLIP), or None.
        negative_image: features of b images, row i the hard negative of pair i; None where there are none.
        negative_text: features of b captions, row i the hard negative of pair i; None where there are none.
        geometry: what the embeddings are compared with; the scale multiplies that similarity.
    """

    image: Features
    text: Features
    logit_scale: Float[Tensor, ""]
    logit_bias: Float[Tensor, ""] | None = None
    negative_image: Features | None = None
    negative_text: Features | None = None
    geometry: Geometry = COSINE


@dataclass(frozen=True, slots=True)
class Regions:
    """Parts of the images of a batch, r places for each; a place without a region is not valid and holds zeros.

    Attributes:
        boxes: (b, r, 4) x0, y0, x1, y1 in shares of the image's width and height, 0 to 1.
        valid: (b, r) True where there is a region.
        masks: (b, r, h, w) True inside the region, at the size of the image; or None.
        phrases: r texts for each image, empty where nothing is said; or None.
        ids: (b, r) numbers of the phrases, equal where these are, in every batch and process; -1 without; or None.

    Example:
        >>> import torch
        >>> from tether.core.types import Regions
        >>> found = Regions(torch.tensor([[[0.1, 0.2, 0.5, 0.6], [0, 0, 0, 0]]]), torch.tensor([[True, False]]))
        >>> found.to("cpu").boxes[found.valid].tolist()[0][2:]
        [0.5, 0.6000000238418579]
    """

    boxes: Float[Tensor, "b r 4"]
    valid: Bool[Tensor, "b r"]
    masks: Bool[Tensor, "b r h w"] | None = None
    phrases: Sequence[Sequence[str]] | None = None
    ids: Int[Tensor, "b r"] | None = None

    def to(self, device: torch.device | str) -> Regions:
        """The same regions on another device."""
        masks, ids = (None if tensor is None else tensor.to(device) for tensor in (self.masks, self.ids))
        return replace(self, boxes=self.boxes.to(device), valid=self.valid.to(device), masks=masks, ids=ids)


@dataclass(frozen=True, slots=True)
class Grounding:
    """What a decoder of queries reads from images: each as a whole, some regions of it, and where these are.

    Attributes:
        image: (b, d) one row for each image, not normalised.
        regions: (b, q, d) one row for each region, not normalised.
        boxes: (b, q, 4) centre x, centre y, width, height in shares of the image, 0 to 1.
        earlier: (l - 1, b, q, 4) boxes after each layer but the last; or None.
    """

    image: Float[Tensor, "b d"]
    regions: Float[Tensor, "b q d"]
    boxes: Float[Tensor, "b q 4"]
    earlier: Float[Tensor, "l b q 4"] | None = None


@dataclass(frozen=True, slots=True)
class MaskPrediction:
    """What a decoder says before its first layer and after each: l is one more than its layers.

    Attributes:
        rows: (l, b, q, d) of the queries; with ``text_dim`` in the width of texts.
        logits: (l, b, q, h, w) of masks at the size of the pixels.
        classes: (l, b, q, c + 1) logits of classes and, last, of no object; None without classes.
        texts: (b, n, d) the texts as the last layer left them; None without texts.
    """

    rows: Float[Tensor, "l b q d"]
    logits: Float[Tensor, "l b q h w"]
    classes: Float[Tensor, "l b q c"] | None = None
    texts: Float[Tensor, "b n d"] | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """One training batch.

    Attributes:
        image: (b, 3, h, w): uint8 raw pixels at the model's size, or floats already normalised.
        text: (b, l) int64 token ids, zero after the end token, trimmed to the longest row.
        extra: whatever else a step asks for (labels, keys, hard negatives, regions), by name.
    """

    image: Tensor
    text: Tensor
    extra: Mapping[str, object] = field(default_factory=dict)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device; tensors and regions of ``extra`` move too."""
        extra = {k: v.to(device) if isinstance(v, (Tensor, Regions)) else v for k, v in self.extra.items()}
        return Batch(self.image.to(device), self.text.to(device), extra)


@dataclass(frozen=True, slots=True)
class Loss:
    """A scalar to minimise and its detached parts, for logs."""

    total: Float[Tensor, ""]
    terms: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClipReport:
    """What a clipper did in one step; all 0-d tensors on the gradients' device, so no sync is forced.

    Attributes:
        norm: global L2 norm of the raw gradients.
        scale: factor applied to the gradients (the smallest one if it differs by tensor); 1 when untouched.
        threshold: the limit in force in units of ``norm``; infinity when there is none.
        skip: bool, True when the gradients were not finite: they are zeroed and the step must not be taken.
    """

    norm: Tensor
    scale: Tensor
    threshold: Tensor
    skip: Tensor


ImageLike = bytes | Path | np.ndarray
"""An encoded file's bytes, the path of one, or uint8 pixels (h, w, 3)."""


@dataclass(frozen=True, slots=True)
class Row:
    """One image with its texts, as a source yields it.

    Attributes:
        key: unique and stable within the source; draws and logs of bad rows are keyed by it.
        image: encoded bytes, a path, or uint8 pixels (h, w, 3); None for text-only rows.
        texts: zero or more captions.
        meta: the row's other columns.
        bad: why the row cannot be used, or the empty string.
    """

    key: str
    image: ImageLike | None
    texts: tuple[str, ...] = ()
    meta: Mapping[str, object] = field(default_factory=dict)
    bad: str = ""


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a source that is read in order: a row group, a tar, a stretch of a folder.

    Attributes:
        id: stable name of the piece.
        rows: how many rows it holds, or None when only reading tells.
    """

    id: str
    rows: int | None = None


@checked
@dataclass(frozen=True, slots=True)
class ImageSpec:
    """How a model wants its images.

    Attributes:
        size: height and width in pixels.
        mean: per-channel mean, on the [0, 1] scale.
        std: per-channel standard deviation, on the [0, 1] scale.
        resize: ``shortest`` (scale the short side, centre crop), ``squash`` (ignore the aspect), ``longest`` (scale
            the long side, pad with ``fill``) or ``patches`` (keep the aspect: as many whole patches as allowed).
        interpolation: ``bicubic`` or ``bilinear``, antialiased, or ``nearest``.
        fill: 0..255 value of the padding for ``longest``.
        resized: height and width to scale to before the centre is cut out; ``size`` if None. transformers' processors
            round the margin down, open_clip's to even, so theirs say it even where both are alike.
        patches: side of a patch and the most patches of an image, for ``patches``; ``size`` is then the square one.
    """

    size: tuple[Side, Side]
    mean: tuple[Single, Single, Single] = (
        0.48145466,
        0.4578275,
        0.40821073,
    )  # CLIP, arXiv 2103.00020, released code
    std: tuple[PositiveSingle, PositiveSingle, PositiveSingle] = (0.26862954, 0.26130258, 0.27577711)
    resize: Literal["shortest", "squash", "longest", "patches"] = "shortest"
    interpolation: Literal["bicubic", "bilinear", "nearest"] = "bicubic"
    fill: Annotated[int, Ge(0), Le(255)] = 0
    resized: tuple[Side, Side] | None = None
    patches: tuple[Side, Side] | None = None

    def __post_init__(self) -> None:
        """Refuse patches without the rule for them, or the rule without patches."""
        if (self.resize == "patches") != (self.patches is not None):
            raise InputError(f"patches: expected a side and a number with resize 'patches' alone, got {self.patches}")

    def __repr__(self) -> str:
        """Fields that are None are left out, so that digests made before they came still hold."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        said = ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)
        return f"ImageSpec({said})"

    def fixed(self) -> ImageSpec:
        """The same for batches whose images must be of one size: ``patches`` becomes ``squash``."""
        return replace(self, resize="squash", patches=None) if self.resize == "patches" else self

    def normalise(self, pixels: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Raw uint8 pixels (b, 3, h, w) to normalised floats; floats pass through, only their dtype changes."""
        if pixels.dtype != torch.uint8:
            return pixels.to(dtype)
        mean = torch.tensor(self.mean, device=pixels.device, dtype=torch.float32).view(3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device, dtype=torch.float32).view(3, 1, 1)
        return pixels.float().sub_(255 * mean).div_(255 * std).to(dtype)  # in place: the floats are a fresh copy
