"""An image tower's embedding taken apart: what every head, token and feed-forward net adds (arXiv 2310.05916)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.decomposition import AXES, Decomposition, Reduce
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import checked
from tether.models.features.find import anatomy_of
from tether.models.features.frozen_parts import FrozenOutput, FrozenReadOut, computed
from tether.models.features.parts import BlockAnatomy, Layout
from tether.models.features.tower import TowerAnatomy


@checked
def decompose(model: DualEncoder, images: Tensor, *, reduce: Reduce = "none") -> Decomposition:
    """Write the unit embedding of each image as an exact sum over layers, heads and tokens, and feed-forward nets.

    The tower runs once, in evaluation mode as ``tether.load`` gives it. Attention weights and the final norm's mean and
    deviation are held at what they were; everything else on the way to the embedding is linear. What belongs to no part
    (the norm's mean and offset, output biases) is spread evenly, as the released code does. A pooling by mean or by
    attention is one more linear map and is folded in.

    Source: arXiv 2310.05916, section 3, and its released prs_hook.py. It differs in that towers other than CLIP's are
    taken apart too, and that the variance of the final norm is computed in two passes.

    Args:
        model: any model that ``tether.load`` gives whose image tower is a pre-norm vision transformer that reads one
            token, a mean or an attention with one query: Tether's own, open_clip's (CoCa's too), timm's (SigLIP 2,
            PE-Core, EVA02), transformers' CLIP-like and SigLIP-like ones, alone or in a composed encoder.
        images: (b, 3, h, w) uint8 pixels at the model's size or normalised floats.
        reduce: ``none`` keeps (b, layers, tokens, heads, d); ``tokens`` and ``heads`` sum that axis before it is ever
            made, which needs a fraction of the memory.

    Raises:
        UnsupportedModelError: an image tower of another kind, with a reason of ``models.refusals``; also an
            InputError and a NotImplementedError.
    """
    if images.ndim != 4 or not len(images):
        raise InputError(f"images: expected (b, 3, h, w) with b >= 1, got {tuple(images.shape)}")
    if images.is_floating_point() and not images.isfinite().all():
        raise InputError("images: hold NaN or infinity")
    if isinstance(model, nn.Module) and model.training:
        raise InputError("model: is in training mode, where dropout would change what is taken apart; call eval()")
    with torch.no_grad():
        return _parts(anatomy_of(model), images.to(model.logit_scale.device), reduce=reduce)


def mean_parts(
    model: DualEncoder,
    batches: Iterable[Tensor],
    *,
    reduce: Reduce = "tokens",
    on_progress: Callable[[int, int | None], None] | None = None,
) -> Decomposition:
    """The mean decomposition of a whole data set, one row, in the memory of one batch.

    Args:
        model: as for ``decompose``.
        batches: (b, 3, h, w) each, of any length.
        reduce: as for ``decompose``.
        on_progress: called with (images done, None).

    Returns:
        A ``Decomposition`` of one row, on the CPU in float64.
    """
    sums: list[Tensor] = []
    done, class_tokens = 0, 1
    for images in batches:
        parts = decompose(model, images, reduce=reduce)
        class_tokens = parts.class_tokens
        some = [x.sum(0, keepdim=True).double().cpu() for x in (parts.attention, parts.mlp, parts.representation)]
        sums = some if not sums else [total.add_(more) for total, more in zip(sums, some, strict=True)]
        done += len(images)
        if on_progress is not None:
            on_progress(done, None)
    if not sums:
        raise InputError("batches: expected at least one image, got none")
    attention, mlp, representation = (total / done for total in sums)
    return Decomposition(attention, mlp, representation, reduce=reduce, class_tokens=class_tokens)


def _parts(tower: TowerAnatomy, images: Tensor, *, reduce: Reduce) -> Decomposition:
    """Two passes: the first for the read-out, the second for what each block adds to it."""
    stream = tower.embed(images)
    layout, states = stream.layout, [stream.x]
    for index in range(len(tower.blocks)):
        stream = tower.step(stream, index)
        states.append(stream.x)
    read, pooled = FrozenReadOut.of(tower, stream.x, layout), tower.read_out(stream)
    # What belongs to no part is spread evenly over the terms of the sum, and within attention over tokens and heads.
    spread = read.offset - torch.einsum("br,rdw->bd", read.mean, read.maps)
    share = spread / (2 * len(tower.blocks) + 1)
    attention, streams = [], [computed(tower, states[0], layout)]
    for index, block in enumerate(tower.blocks):
        own = tower.layout_at(layout, index)
        layer = _Layer.of(tower, block, states[index], own)
        attention.append(layer.contributions(read, share, reduce=reduce))
        streams.append(layer.fed)
    mlp = torch.einsum("brq,bmqw,rdw->bmd", read.weights, torch.stack(streams, dim=1), read.maps) + share[:, None]
    length = pooled.norm(dim=-1)
    return Decomposition(
        torch.stack(attention, dim=1) / length.view(-1, *[1] * (AXES[reduce] - 1)),
        torch.cat([mlp, read.rest], dim=1) / length[:, None, None],
        pooled,
        reduce=reduce,
        class_tokens=tower.prefix,
    )


@dataclass(frozen=True, slots=True)
class _Layer:
    """One block at the tokens that the read-out looks at.

    Attributes:
        weights: (b, h, q, n) of its attention.
        values: (b, h, n, e) of each source token, with their bias.
        output: from the heads into the stream.
        fed: (b, q, w) that its feed-forward net adds.
    """

    weights: Float[Tensor, "b h q n"]
    values: Float[Tensor, "b h n e"]
    output: FrozenOutput
    fed: Float[Tensor, "b q w"]

    @classmethod
    def of(cls, tower: TowerAnatomy, block: BlockAnatomy, x: Float[Tensor, "b n w"], layout: Layout) -> _Layer:
        """The pieces of a block at the stream that enters it."""
        queries, keys, values = block.qkv(block.norm1(x), layout)
        asked = computed(tower, queries.transpose(1, 2), layout).transpose(1, 2)
        weights = block.weights(asked, keys, None)
        heads = weights @ values
        after = computed(tower, x, layout) + block.project(heads)
        return cls(weights, values, FrozenOutput.of(block.out, heads), block.feed_forward(after, layout))

    def contributions(self, read: FrozenReadOut, share: Float[Tensor, "b d"], *, reduce: Reduce) -> Tensor:
        """What each head and token adds to the embedding, with the layer's share of what belongs to no part."""
        output, values, counts = self.output, self.values, read.weights
        scaled = counts if output.factor is None else counts * output.factor[:, None]
        taken = torch.einsum("brq,bhqn->brhn", scaled, self.weights)
        maps = torch.einsum("rdw,whe->rhed", read.maps, output.weight)
        tokens, heads = values.shape[2], values.shape[1]
        offset = output.offset.expand(len(share), counts.shape[-1], -1)
        common = share + torch.einsum("brq,bqw,rdw->bd", counts, offset, read.maps)
        if reduce == "tokens":
            mixed = torch.einsum("brhn,bhne->brhe", taken, values)
            return torch.einsum("brhe,rhed->bhd", mixed, maps) + common[:, None] / heads
        mixed = torch.einsum("brhn,bhne->brhne", taken, values)
        if reduce == "heads":
            return torch.einsum("brhne,rhed->bnd", mixed, maps) + common[:, None] / tokens
        return torch.einsum("brhne,rhed->bnhd", mixed, maps) + common[:, None, None] / (tokens * heads)
