"""Similarity along the geodesic between two small subspaces, those of two sets of rows (Geodesic CLIP)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Count, checked

_MOST, _SPARED = 128, 2
"""Greatest number of dimensions of a subspace, and how many fewer than rows it has where there are more than two."""
_DIAGONAL, _TINY, _RANK = 1e-4, 1e-12, 1e-6
"""What the release adds to a diagonal; what keeps a division finite; share of the largest singular value below which
rows have no further direction."""


@torch.no_grad()
@checked
def geodesic_kernel(
    x: Float[Tensor, "b d"],
    y: Float[Tensor, "b d"],
    *,
    dim: Count = 256,
    noise: float | torch.Generator = 0.0,
    exact: bool = False,
) -> Float[Tensor, "d d"]:
    """The metric of the geodesic flow from the subspace of one set of rows to that of another, without gradient.

    Rows are scaled to length 1, transposed and centred over their d features. A subspace is made of the first k left
    singular vectors, k = b for one or two rows, else b - 2 and at most 128, and never more than rows have directions.
    The release finds principal angles by a generalised singular value decomposition whose inverse is one step of
    Newton and Schulz, so that they are approximate, and looks at ``dim`` dimensions outside of x's subspace only.
    Where ``dim`` is less than d - k, rounding errors and the library for decompositions (LAPACK) choose these
    dimensions, as in the release, and another processor may choose others; ``exact`` does not depend on that.

    Args:
        x: rows, such as directions in which images moved.
        y: as many, such as directions between texts.
        dim: dimensions outside of x's subspace.
        noise: 0 adds nothing; a generator draws what the release adds to diagonals before it inverts, 1e-4 times normal
            numbers, on the CPU.
        exact: principal angles by a plain singular value decomposition, and all dimensions: the kernel as it is defined
            in Gong et al. (CVPR 2012).

    Returns:
        (d, d) symmetric, of rank 2k at most, in the type of x; computed in float64.

    Raises:
        InputError: no rows, other shapes, rows of zeros or not finite, or d not above k.

    Source: arXiv 2401.10526, section 3; geo_loss.py of oyt9306/geodesic-CLIP.

    Example:
        >>> import torch
        >>> from tether.losses import geodesic_kernel
        >>> geodesic_kernel(torch.randn(8, 64), torch.randn(8, 64)).shape
        torch.Size([64, 64])
    """
    if not isinstance(noise, torch.Generator) and noise:
        raise InputError(f"noise: expected 0, or a generator that draws the release's, got {noise!r:.100}")
    if x.ndim != 2 or x.shape != y.shape or not len(x):
        raise InputError(f"x, y: expected (b, d) rows of the same shape, got {tuple(x.shape)} and {tuple(y.shape)}")
    many, wide = x.shape
    k = many if many <= _SPARED else min(_MOST, many - _SPARED)
    if wide <= k:
        raise InputError(f"x, y: expected more than {k} features for {many} rows, got {wide}")
    for name, rows in (("x", x), ("y", y)):
        if bool((rows.double().norm(dim=1) == 0).any()) or not bool(rows.isfinite().all()):
            raise InputError(f"{name}: expected finite rows that are not zero")
    ours, theirs = (_subspace(rows, k) for rows in (x, y))
    inside = ours.T @ theirs
    if exact:
        left, cosines, right = torch.linalg.svd(inside, full_matrices=False)
        outside = theirs @ right.T - ours @ (left * cosines)
        gamma, sines = cosines, outside.norm(dim=0)
        v1, v2 = ours @ left, outside / sines.clamp(min=_TINY)
    else:
        rest = _complement(ours)[:, :dim]
        outside = rest.T @ theirs
        v = _shared_right(inside, outside, noise if isinstance(noise, torch.Generator) else None)
        a, b = inside @ v, outside @ v
        gamma, sines = a.norm(dim=0), b.norm(dim=0)
        v1, v2 = ours @ (a / gamma.clamp(min=_TINY)), rest @ (b / sines.clamp(min=_TINY))
    twice = 2 * gamma.clamp(-1, 1).acos()
    over = twice + _TINY
    # At an angle of 0 the release's quotient is 0, not its limit 1; an angle that small comes of rounding alone.
    same, across = torch.where(twice < _TINY, 1.0, twice.sin() / over), (twice.cos() - 1) / over
    both = (v1 * across) @ v2.T
    found = (v1 * (1 + same)) @ v1.T - both - both.T + (v2 * (1 - same)) @ v2.T
    return (found / 2).to(x.dtype)


def _subspace(rows: Tensor, k: int) -> Tensor:
    """(d, k) float64 of what the release rounds to float32, or fewer where rows have fewer directions."""
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    columns = (rows / rows.norm(dim=1, keepdim=True)).T
    left, values, _ = torch.linalg.svd((columns - columns.mean(dim=0)).double(), full_matrices=False)
    rank = int((values > _RANK * values[0]).sum())
    return left[:, : max(1, min(k, rank))].float().double()


def _complement(basis: Tensor) -> Tensor:
    """(d, d - k) what is orthogonal to a basis; decomposed in float32, since the release's choice depends on it."""
    return torch.linalg.svd(basis.T.float(), full_matrices=True)[2][basis.shape[1] :].T.double()


def _shared_right(inside: Tensor, outside: Tensor, noise: torch.Generator | None) -> Tensor:
    """Right vectors that two matrices share, nearly: of the mean of the quotients of their Gram matrices."""
    grams = [one.T @ one for one in (inside, outside)]
    inverses = [_inverse(gram, noise) for gram in grams]
    mean = (grams[0] @ inverses[1] + grams[1] @ inverses[0]) / 2
    return torch.linalg.svd(mean + _DIAGONAL * torch.eye(len(mean)).to(mean))[0]


def _inverse(gram: Tensor, noise: torch.Generator | None) -> Tensor:
    """The square of the inverse square root after one step of Newton and Schulz."""
    if noise is not None:
        gram = gram + torch.diag(_DIAGONAL * torch.randn(len(gram), generator=noise)).to(gram)
    norm = gram.norm().clamp(min=_TINY)
    root = 1.5 * torch.eye(len(gram)).to(gram) - gram / norm / 2
    return root @ root / norm


class GeodesicSimilarity:
    """Cosine of pairs of rows in the metric of ``geodesic_kernel``, which gets no gradient; the rows do.

    All rows of a group together make the metric, so a pair's value depends on the others. Of one row the metric has
    rank 2, and the value depends on the cosine of the two alone.

    Example:
        >>> import torch
        >>> from tether.losses import GeodesicSimilarity
        >>> x, y = torch.randn(2, 6, 64, generator=torch.Generator().manual_seed(0))
        >>> GeodesicSimilarity()(x, y).shape, GeodesicSimilarity()(x, x).allclose(torch.ones(6))
        (torch.Size([6]), True)
    """

    @checked
    def __init__(
        self,
        dim: Count = 256,
        *,
        noise: float | torch.Generator = 0.0,
        exact: bool = False,
        group: Count | None = None,
    ) -> None:
        """Take the settings.

        Args:
            dim: see ``geodesic_kernel``.
            noise: see there.
            exact: see there.
            group: rows that make a metric together, in their order; None for all. For more rows than features.
        """
        self.dim, self.noise, self.exact, self.group = dim, noise, exact, group

    def __call__(self, x: Float[Tensor, "b d"], y: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        """From -1 to 1, in the type of x; computed in float64.

        Args:
            x: rows, scaled to length 1 here.
            y: as many.

        Raises:
            InputError: see ``geodesic_kernel``.
        """
        if x.shape != y.shape or x.ndim != 2 or self.group is None or len(x) <= self.group:
            return self._alike(x, y)
        pairs = zip(x.split(self.group), y.split(self.group), strict=True)
        return torch.cat([self._alike(some, others) for some, others in pairs])

    def _alike(self, x: Tensor, y: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        metric = geodesic_kernel(x.to(wide), y.to(wide), dim=self.dim, noise=self.noise, exact=self.exact).double()
        x_, y_ = (F.normalize(rows.double(), dim=1) for rows in (x, y))
        across, own, other = ((one @ metric * two).sum(dim=1) for one, two in ((x_, y_), (x_, x_), (y_, y_)))
        return (across / (own * other).clamp(min=_TINY).sqrt()).to(x.dtype)
