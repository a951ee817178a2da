"""An image tower's embedding taken apart: what every head, token and feed-forward net adds (arXiv 2310.05916)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.decomposition import Decomposition, Reduce
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.protocols import DualEncoder
from tether.core.ranges import checked
from tether.models.decomposition.pieces import Anatomy, AttentionLayer, ReadOut
from tether.models.dual import Clip
from tether.models.transformers_families import SIGLIP
from tether.models.wrapped_encoders import OpenClipEncoder, TransformersEncoder


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
        model: any model that ``tether.load`` gives whose image tower is a pre-norm vision transformer: Tether's own
            (CLIP's from open_clip and transformers become these), open_clip's ``VisionTransformer`` with a class token
            or mean pooling, transformers' SigLIP.
        images: (b, 3, h, w) uint8 pixels at the model's size or normalised floats.
        reduce: ``none`` keeps (b, layers, tokens, heads, d); ``tokens`` and ``heads`` sum that axis before it is ever
            made, which needs a fraction of the memory.

    Raises:
        UnsupportedModelError: an image tower of another kind, also an InputError and a NotImplementedError.
    """
    if images.ndim != 4 or not len(images):
        raise InputError(f"images: expected (b, 3, h, w) with b >= 1, got {tuple(images.shape)}")
    if images.is_floating_point() and not images.isfinite().all():
        raise InputError("images: hold NaN or infinity")
    with torch.no_grad():
        return assemble(_dissect(model, images.to(model.logit_scale.device)), reduce=reduce)


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


def assemble(anatomy: Anatomy, *, reduce: Reduce) -> Decomposition:
    """Contributions from the pieces of a pass; see ``decompose``."""
    read, length = anatomy.read_out, anatomy.pooled.norm(dim=-1)
    layers = len(anatomy.attention)
    # Spread evenly over the terms of the sum, and within attention over tokens and heads.
    spread = read.offset - torch.einsum("br,rdw->bd", read.mean, read.maps)
    share = spread / (2 * layers + 1)
    attention = torch.stack([_attention(layer, read, share, reduce=reduce) for layer in anatomy.attention], dim=1)
    streams = torch.stack([anatomy.embedding, *anatomy.feed_forward], dim=1)
    mlp = torch.einsum("brq,bmqw,rdw->bmd", read.weights, streams, read.maps) + share[:, None]
    mlp = torch.cat([mlp, read.rest], dim=1)
    return Decomposition(
        attention / length.view(-1, *[1] * (attention.ndim - 1)),
        mlp / length[:, None, None],
        anatomy.pooled,
        reduce=reduce,
        class_tokens=anatomy.class_tokens,
    )


def _attention(layer: AttentionLayer, read: ReadOut, share: Float[Tensor, "b d"], *, reduce: Reduce) -> Tensor:
    """One layer's contributions, with its share of what belongs to no part."""
    taken = torch.einsum("brq,bhqn->brhn", read.weights, layer.weigh())
    maps = torch.einsum("rdw,whe->rhed", read.maps, layer.output)
    tokens, heads = layer.values.shape[2], layer.values.shape[1]
    offset = layer.offset.expand(len(share), read.weights.shape[-1], -1)
    common = share + torch.einsum("brq,bqw,rdw->bd", read.weights, offset, read.maps)
    if reduce == "tokens":
        mixed = torch.einsum("brhn,bhne->brhe", taken, layer.values)
        return torch.einsum("brhe,rhed->bhd", mixed, maps) + common[:, None] / heads
    mixed = torch.einsum("brhn,bhne->brhne", taken, layer.values)
    if reduce == "heads":
        return torch.einsum("brhne,rhed->bnd", mixed, maps) + common[:, None] / tokens
    return torch.einsum("brhne,rhed->bnhd", mixed, maps) + common[:, None, None] / (tokens * heads)


def _dissect(model: DualEncoder, images: Tensor) -> Anatomy:
    if isinstance(model, nn.Module) and model.training:
        raise InputError("model: is in training mode, where dropout would change what is taken apart; call eval()")
    if isinstance(model, Clip):
        from tether.models.decomposition.own import dissect_own

        return dissect_own(model, images)
    if isinstance(model, OpenClipEncoder):
        from tether.models.decomposition.open_clip import dissect_open_clip

        return dissect_open_clip(model, images)
    if isinstance(model, TransformersEncoder) and model.family.model in SIGLIP:
        from tether.models.decomposition.siglip import dissect_siglip

        return dissect_siglip(model, images)
    raise UnsupportedModelError(
        f"{type(model).__name__}: expected a model of tether.load with a vision transformer as its image tower"
    )
