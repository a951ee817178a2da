"""Linear attention: scores are products of features, so keys and values are added up once for all queries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.models.towers.blocks.layers import pick
from tether.models.towers.blocks.rope import Turn

LAMBDA = 3.0  # arXiv 2506.21137, released code
LEAST_NORM = 1e-6
"""Added to a query's length, so that one of length zero has a direction; the released code gives NaN there."""
CHUNK = 128
"""Queries handled at once in the causal form: products inside a chunk, sums across chunks."""


def nala_queries(q: Tensor, lam: float) -> Float[Tensor, "... twice"]:
    """[relu(u)^p, relu(-u)^p] with the direction u = q / |q| and the power p = lam (0.5 + tanh |q|).

    The power is taken through logarithms, several times as fast as ``pow`` and its gradient. A channel at zero gets
    zero, and no gradient.
    """
    length = torch.linalg.vector_norm(q, dim=-1, keepdim=True)
    power = lam * (0.5 + length.tanh())
    size = (q.abs() + torch.finfo(q.dtype).tiny).log() - (length + LEAST_NORM).log()
    return _by_sign(q, (power * size).exp())


def nala_keys(k: Tensor, lam: float) -> Float[Tensor, "... twice"]:
    """[relu(k)^lam, relu(-k)^lam]."""
    return _by_sign(k, k.abs().pow(lam))


def relu_features(x: Tensor, lam: float) -> Tensor:
    """relu(x)."""
    return F.relu(x)


def elu_features(x: Tensor, lam: float) -> Tensor:
    """elu(x) + 1 (arXiv 2006.16236, section 3.2.1)."""
    return F.elu(x) + 1


def _by_sign(x: Tensor, size: Tensor) -> Tensor:
    """``size``, which is zero where x is, among the first features if x is positive, else among the last."""
    above = size * (x > 0).to(size.dtype)  # on a CPU several times as fast as choosing
    return torch.cat([above, size - above], dim=-1)


@dataclass(frozen=True, slots=True)
class FeatureMap:
    """A kernel: what queries and keys become; both functions take the power lam, which only NaLa has a use for."""

    queries: Callable[[Tensor, float], Tensor]
    keys: Callable[[Tensor, float], Tensor]


KERNELS: Mapping[str, FeatureMap] = {
    "nala": FeatureMap(nala_queries, nala_keys),
    "relu": FeatureMap(relu_features, relu_features),
    "elu": FeatureMap(elu_features, elu_features),
}
"""Feature maps of linear attention by name."""


def linear_attention(
    q: Float[Tensor, "b h m d"],
    k: Float[Tensor, "b h n d"],
    v: Float[Tensor, "b h n e"],
    *,
    kernel: str = "nala",
    lam: float = LAMBDA,
    eps: float = 1e-6,
    causal: bool = False,
    bias: Tensor | None = None,
    turn: Turn | None = None,
) -> Float[Tensor, "b h m e"]:
    """Attention whose weights are products of non-negative features, in time linear in the number of tokens.

    ``o_i = phi(q_i) . mean_j(phi(k_j) v_j) / (phi(q_i) . mean_j phi(k_j) + eps)``. With the ``nala`` kernel
    (arXiv 2506.21137) the length of a query is the power that its direction is raised to, so a longer query looks
    more sharply; with ``relu`` and ``elu`` it cancels. Computed in float32 at least, whatever autocast says.

    Args:
        q: (b, h, m, d) queries; the m queries are the last m positions when ``causal``.
        k: (b, h, n, d) keys.
        v: (b, h, n, e) values.
        kernel: a name in ``KERNELS``.
        lam: power of the keys in ``nala``.
        eps: added to the denominator.
        causal: whether a query sees only keys up to its own position; the means run over those.
        bias: logarithm of each key's weight, broadcastable to (b, h, 1, n); minus infinity hides a key. The means run
            over the weights.
        turn: rotary positions; they turn the features in the numerator, each d of them for themselves, and leave the
            denominator alone, so weights may then be negative.

    Returns:
        (b, h, m, e) in the dtype of ``q``. A query that sees no key gets zero.

    Example:
        >>> import torch
        >>> from tether.models.towers.blocks.linear_attention import linear_attention
        >>> q, k, v = torch.randn(3, 2, 4, 10, 16)  # (batch, heads, tokens, channels)
        >>> read, prefix = linear_attention(q, k, v), linear_attention(q, k, v, causal=True)
        >>> read.shape, torch.allclose(read[:, :, -1], prefix[:, :, -1], atol=1e-4)
        (torch.Size([2, 4, 10, 16]), True)
    """
    features = pick(kernel, KERNELS, option="kernel")
    m, n = q.shape[-2], k.shape[-2]
    if bias is not None and (bias.ndim < 2 or bias.shape[-2] != 1):
        raise InputError(
            f"bias: linear attention can weigh keys, (b, heads, 1, {n}), but not pairs of query and key, got "
            f"{tuple(bias.shape)}"
        )
    dtype = q.dtype
    with torch.autocast(q.device.type, enabled=False):
        q, k, v = (_wide(part) for part in (q, k, v))
        width = q.shape[-1]
        phi_q, phi_k = features.queries(q, lam), features.keys(k, lam)
        weight = None if bias is None else bias.to(q.dtype).exp().transpose(-2, -1)
        weighted = phi_k if weight is None else phi_k * weight
        asked, held = phi_q, weighted
        if turn is not None:
            asked, held = _turned(turn.queries, phi_q, width), _turned(turn.keys, weighted, width)
        if causal and m > 1:
            seen = torch.ones(n, 1, dtype=q.dtype, device=q.device) if weight is None else weight
            count = seen.cumsum(-2)[..., n - m :, :]
            above, below = _causal(asked, held, v)
            if turn is not None:
                below = _causal(phi_q, weighted, v[..., :1])[1]
        else:
            count = n if weight is None else weight.sum(-2, keepdim=True)
            below = phi_q @ weighted.sum(-2)[..., None]
            above = _all(asked, held, v)
        below = below + eps * count
        if weight is not None:
            below = below.clamp(min=torch.finfo(below.dtype).tiny)
        return (above / below).to(dtype)


def linear_weights(q: Tensor, k: Tensor, *, kernel: str, bias: Tensor | None = None) -> Float[Tensor, "b h m n"]:
    """What each query takes of each key, adding up to 1; positions by rotation are left out, as they have signs.

    Args:
        q: (b, h, m, d) queries.
        k: (b, h, n, d) keys.
        kernel: a name in ``KERNELS``.
        bias: logarithm of each key's weight, broadcastable to (b, h, m, n).
    """
    features = pick(kernel, KERNELS, option="kernel")
    with torch.autocast(q.device.type, enabled=False):
        scores = features.queries(_wide(q), LAMBDA) @ features.keys(_wide(k), LAMBDA).transpose(-2, -1)
        if bias is not None:
            scores = scores * bias.to(scores.dtype).exp()
        return scores / scores.sum(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _turned(turn: Callable[[Tensor], Tensor], phi: Tensor, width: int) -> Tensor:
    """Each run of ``width`` features turned as if it were a head of its own."""
    parts = phi.unflatten(-1, (-1, width))
    alone = parts.movedim(-2, 2).flatten(1, 2)
    return turn(alone).unflatten(1, (phi.shape[1], -1)).movedim(2, -2).flatten(-2)


def _all(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every query over every key, in whichever order of products is shorter."""
    (m, f), (n, e) = q.shape[-2:], v.shape[-2:]
    if m * n * (f + e) < (m + n) * f * e:
        return (q @ k.transpose(-2, -1)) @ v
    return q @ (k.transpose(-2, -1) @ v)


def _causal(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Every query over the keys up to its own place: the weighted sum of values, and the sum of the weights."""
    late = k.shape[-2] - q.shape[-2]
    if late:
        scores = (q @ k.transpose(-2, -1)).tril(late)
        return scores @ v, scores.sum(-1, keepdim=True)
    above, below = [], []
    earlier: tuple[Tensor, Tensor] | None = None  # sums of keys times values and of keys, over the chunks before
    for queries, keys, values in zip(q.split(CHUNK, -2), k.split(CHUNK, -2), v.split(CHUNK, -2), strict=True):
        scores = (queries @ keys.transpose(-2, -1)).tril()
        read, total = scores @ values, scores.sum(-1, keepdim=True)
        if earlier is not None:
            read, total = read + queries @ earlier[0], total + queries @ earlier[1]
        above.append(read)
        below.append(total)
        if len(above) * CHUNK < q.shape[-2]:
            own = keys.transpose(-2, -1) @ values, keys.sum(-2)[..., None]
            earlier = own if earlier is None else (earlier[0] + own[0], earlier[1] + own[1])
    return torch.cat(above, dim=-2), torch.cat(below, dim=-2)
