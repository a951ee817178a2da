"""Parts of an image and words of a text in the joint space, for every encoder that ``tether.load`` gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import checked
from tether.core.types import Features
from tether.models.composed.dual_tower import DualTexts
from tether.models.composed.encoder import ComposedEncoder
from tether.models.convert.transformers_families import SIGLIP
from tether.models.encoders.wrapped import TransformersEncoder
from tether.models.features.find import tower_of
from tether.models.features.parts import BlockAnatomy, Layout, TokenStream
from tether.models.features.tower import TowerAnatomy
from tether.models.refusals import refusal
from tether.models.tokenizer import lengths

Kind = Literal["value", "q", "k", "v", "qk", "qv", "kv", "qkv"]


@checked
@dataclass(frozen=True, kw_only=True)
class DensePath:
    """How patches are kept from being mixed in the last blocks, so that each says what stands in its own place.

    A published method is a setting: MaskCLIP (arXiv 2112.01071, and so CLIP-DINOiser 2312.12359 and CLIPSelf
    2310.01403) is the default; AnomalyCLIP (2310.18961) is ``kind="v", start=..., beside=True, feed_forward=False``;
    ExCEL (2503.20826) is ``kind="qkv", start=-5, heads="summed", beside=True, feed_forward=False``; SegEarth-OV
    (2410.01768), which FarSLIP (2511.14901) reads, is ``kind="qkv", letters="sum", residual=False,
    feed_forward=False``. FarSLIP's plain commands skip the last block: that is no path but ``layer=-2``.

    Attributes:
        kind: what a token takes: its own ``value`` alone, or values weighted by how much queries are like queries
            (``q``), keys like keys (``k``), values like values (``v``).
        letters: how the weights of several letters come together: their ``mean``, or their ``sum``.
        start: first block that is changed; negative from the end.
        heads: ``apart``, or each with the sum of all heads' weights (``summed``).
        residual: whether what attention gives is added to the stream, or replaces it.
        feed_forward: whether the block's feed-forward net follows.
        beside: whether queries, keys and values come from the unchanged stream, beside which the changed one runs.
    """

    kind: Kind = "value"
    start: int = -1
    heads: Literal["apart", "summed"] = "apart"
    residual: bool = True
    feed_forward: bool = True
    beside: bool = False
    letters: Literal["mean", "sum"] = "mean"


def dense_image(
    model: DualEncoder,
    image: Tensor,
    *,
    keep: Int[Tensor, "b k"] | None = None,
    layer: int = -1,
    path: DensePath | None = None,
    affinity: Float[Tensor, "b n n"] | None = None,
    pooled_norm: bool = True,
) -> Features:
    """Embed images and each of their patches: a patch goes through the same read-out as the whole image would.

    Of a class token's tower that is the final norm and the projection; a tower that pools is given one patch as if it
    were all there is. So for a mean of patches with a linear read-out, ``pooled`` is the mean of ``tokens``. Of a
    network of convolutions each place of its last map is one patch.

    Args:
        model: any model that ``tether.load`` gives, but those whose image tower shows neither tokens nor a map.
        image: (b, 3, h, w) uint8 pixels at the model's size or normalised floats.
        keep: (b, k) the patches to look at, of a vision transformer.
        layer: block after which patches are read; negative from the end.
        path: how the last blocks are changed for them; None leaves the blocks as they are.
        affinity: (b, patches, patches) added to the weights of each head of the changed blocks, such as a learned
            likeness.
        pooled_norm: whether ``pooled`` has the final norm, which some published methods leave out.

    Returns:
        ``pooled`` (b, d) of the unchanged tower, and ``tokens`` (b, patches, d) row by row from the top left, not
        normalised, with gradient.

    Raises:
        UnsupportedModelError: a tower of another kind, with a reason of ``models.refusals``.
        InputError: no such layer.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.models.features.dense import DensePath, dense_image
        >>> model, image = create("tiny").eval(), torch.rand(2, 3, 32, 32)
        >>> dense_image(model, image).tokens.shape
        torch.Size([2, 16, 64])
        >>> masked = dense_image(model, image, path=DensePath())  # MaskCLIP
        >>> torch.equal(masked.pooled, dense_image(model, image).pooled)
        True
    """
    return dense_layers(model, image, layers=[layer], keep=keep, path=path, affinity=affinity, pooled_norm=pooled_norm)[
        0
    ]


def dense_layers(
    model: DualEncoder,
    image: Tensor,
    *,
    layers: Sequence[int],
    keep: Int[Tensor, "b k"] | None = None,
    path: DensePath | None = None,
    affinity: Float[Tensor, "b n n"] | None = None,
    pooled_norm: bool = True,
) -> list[Features]:
    """``dense_image`` after each of several layers, in one pass."""
    tower = tower_of(model)
    stream = tower.embed_some(image, keep=keep)
    return dense_from(tower, stream, layers=layers, path=path, affinity=affinity, pooled_norm=pooled_norm)


def dense_from(
    tower: TowerAnatomy,
    stream: TokenStream,
    *,
    first: int = 0,
    layers: Sequence[int] = (-1,),
    path: DensePath | None = None,
    affinity: Float[Tensor, "b n n"] | None = None,
    pooled_norm: bool = True,
) -> list[Features]:
    """``dense_layers`` of a stream that enters block ``first``, so that the blocks before can be looked at, too.

    Raises:
        InputError: a layer or a changed block before ``first``.
    """
    if path is not None and not isinstance(path, DensePath):
        raise InputError(f"path: expected a DensePath, such as DensePath() for MaskCLIP's, got {path!r:.200}")
    if tower.sealed is not None and (path is not None or {*layers} != {-1}):
        tower.opened()
    depth = len(tower.blocks)
    asked = [tower.place(layer) for layer in layers] if depth else [-1 for _ in layers]
    start = depth if path is None else _start(tower, path)
    _check_first(first, min(start, *asked))
    added = None if affinity is None else _spread(affinity, tower, patches=stream.x.shape[1] - tower.prefix)
    found, changed = {}, None
    for index in range(first, depth):
        block = tower.blocks[index]
        if path is not None and index >= start:
            layout = tower.layout_at(stream.layout, index)
            changed = _changed(block, stream.x if changed is None else changed, stream.x, layout, path, added)
        stream = tower.step(stream, index)
        if index in asked:
            found[index] = stream if changed is None else stream.to(changed)
    pooled = tower.read_out(stream, norm=pooled_norm)
    return [
        Features(pooled, tower.read_tokens(found.get(index, stream))[:, tower.prefix :], extra=stream.extra)
        for index in asked
    ]


def dense_tokens(model: DualEncoder, image: Tensor, *, path: DensePath | None = None) -> Float[Tensor, "b patches d"]:
    """The ``tokens`` of ``dense_image`` alone; blocks that only ``pooled`` needs are not run.

    Raises:
        UnsupportedModelError: see ``dense_image``.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.models.features.dense import DensePath, dense_image, dense_tokens
        >>> model, image = create("tiny").eval(), torch.rand(2, 3, 32, 32)
        >>> masked = dense_image(model, image, path=DensePath())
        >>> torch.equal(dense_tokens(model, image, path=DensePath()), masked.tokens)
        True
    """
    tower = tower_of(model)
    return tokens_from(tower, tower.embed(image), path=path)


def tokens_from(
    tower: TowerAnatomy, stream: TokenStream, *, first: int = 0, path: DensePath | None = None
) -> Float[Tensor, "b patches d"]:
    """``dense_tokens`` of a stream that enters block ``first``."""
    if path is None or path.beside or tower.sealed is not None:
        (found,) = dense_from(tower, stream, first=first, path=path)
        assert found.tokens is not None  # dense_from gives them
        return found.tokens
    start = _start(tower, path)
    _check_first(first, start)
    stream = tower.run(stream, first, start)
    for index in range(start, len(tower.blocks)):
        layout = tower.layout_at(stream.layout, index)
        stream = stream.to(_changed(tower.blocks[index], stream.x, stream.x, layout, path, None))
    return tower.read_tokens(stream)[:, tower.prefix :]


def dense_text(model: DualEncoder, text: Int[Tensor, "b l"], *, layer: int = -1) -> Features:
    """Embed texts and each of their tokens: a token goes through the read-out of the text's own.

    Args:
        model: any model that ``tether.load`` gives, but those whose text tower shows no tokens.
        text: (b, l) token ids as the tokenizer gives them.
        layer: block after which tokens are read; negative from the end.

    Returns:
        ``pooled`` (b, d), ``tokens`` (b, l, d) not normalised, with gradient, and ``mask`` (b, l), True for words:
        neither the start, the end nor padding. A text without words has its last token instead.

    Raises:
        UnsupportedModelError: a text tower of another kind, with a reason of ``models.refusals``.
    """
    if isinstance(model, TransformersEncoder) and model.text_padding.left:
        raise refusal("padded left", type(model).__name__)
    tower = tower_of(model, "text")
    stop = len(tower.blocks) if layer == -1 else tower.opened().place(layer) + 1
    read = tower.run(tower.embed(text), stop=stop)
    stream = tower.run(read, stop)
    tokens = tower.read_tokens(read.to(read.x[:, : text.shape[1]]))
    return Features(tower.read_out(stream), tokens, word_mask(text, starts=_starts(model)), stream.extra)


def word_mask(text: Int[Tensor, "b l"], *, starts: int = 1) -> Bool[Tensor, "b l"]:
    """True for the words of ids that end in an end token and zeros; the end itself where there is no word.

    Args:
        text: token ids as a tokenizer gives them.
        starts: tokens before the first word.
    """
    place = torch.arange(text.shape[1], device=text.device)
    end = lengths(text)[:, None] - 1
    words = (place >= starts) & (place < end)
    return words | (~words.any(dim=1, keepdim=True) & (place == end))


def _starts(model: object) -> int:
    """Tokens before the first word: SigLIP's texts have none."""
    if isinstance(model, ComposedEncoder) and isinstance(model.parts.text, DualTexts):
        return _starts(model.parts.text.inner)
    return 0 if isinstance(model, TransformersEncoder) and model.family.model in SIGLIP else 1


def _start(tower: TowerAnatomy, path: DensePath) -> int:
    depth = len(tower.blocks)
    if not -depth <= path.start < depth:
        raise InputError(f"path.start: expected {-depth} to {depth - 1}, got {path.start}")
    return path.start % depth


def _check_first(first: int, asked: int) -> None:
    if 0 <= asked < first:
        raise InputError(f"first: expected at most {asked}, the first block that is asked for, got {first}")


def _spread(affinity: Tensor, tower: TowerAnatomy, *, patches: int) -> Float[Tensor, "b 1 n n"]:
    """Likeness of patches as weights of all tokens."""
    if affinity.ndim != 3 or affinity.shape[1:] != (patches, patches):
        raise InputError(f"affinity: expected (b, {patches}, {patches}), got {tuple(affinity.shape)}")
    return F.pad(affinity, (tower.prefix, 0, tower.prefix, 0))[:, None]


def _changed(
    block: BlockAnatomy, x: Tensor, original: Tensor, layout: Layout, path: DensePath, added: Tensor | None
) -> Float[Tensor, "b n w"]:
    """The changed stream after one block.

    Args:
        block: of the tower.
        x: the changed stream.
        original: the unchanged one.
        layout: of both.
        path: how it is changed.
        added: to the weights.
    """
    source = original if path.beside else x
    queries, keys, values = block.qkv(block.norm1(source), layout)
    parts = {"q": queries, "k": keys, "v": values}
    alike = [] if path.kind == "value" else [parts[letter] for letter in path.kind]
    if path.heads == "apart" and added is None:
        heads = [block.attend(part, part, values, layout.bias) for part in alike]
        mixed = _together(heads, path) if heads else values
    else:
        weights = [block.weights(part, part, layout.bias) for part in alike]
        own = torch.eye(values.shape[2], dtype=values.dtype, device=values.device).expand(*values.shape[:3], -1)
        weight = _together(weights, path) if weights else own
        weight = weight if added is None else weight + added.to(weight.dtype)
        mixed = (weight.sum(1, keepdim=True) if path.heads == "summed" else weight) @ values
    branch = block.project(mixed)
    x = x + branch if path.residual else branch
    return x + block.feed_forward(x, layout) if path.feed_forward else x


def _together(parts: Sequence[Tensor], path: DensePath) -> Tensor:
    stacked = torch.stack(list(parts))
    return stacked.mean(0) if path.letters == "mean" else stacked.sum(0)
