"""The rotation that brings rows of one space nearest to their partners in another (orthogonal Procrustes)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError, NotFiniteError


def procrustes(source: Float[Tensor, "n d"], target: Float[Tensor, "n d"]) -> Float[Tensor, "d e"]:
    """The orthogonal R for which ``source @ R.T`` is nearest to ``target``: U V^T of the singular vectors of both.

    Pairs fewer than dimensions, or lying in a plane, say nothing about the directions that they do not reach. There R
    is as near to the identity as an orthogonal map with the same action on the pairs can be, and where both sides
    reach the same directions it is the identity on all others. A reflection is allowed: the determinant may be -1.

    Args:
        source: rows to be turned; not centred, not brought to length 1.
        target: the partner of each.

    Returns:
        (d, d) in the inputs' precision; turn rows by ``rows @ R.T`` and a single one by ``R @ row``.

    Raises:
        InputError: no pairs, or rows of different shapes.
        NotFiniteError: NaN or infinity.

    Source: Schönemann (1966); its completion is ours.

    Example:
        >>> import torch
        >>> from tether.core.procrustes import procrustes
        >>> rows = torch.eye(3)[:2]  # the third direction is not reached
        >>> procrustes(rows, rows[[1, 0]]).round().abs().tolist()
        [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    if source.ndim != 2 or source.shape != target.shape or not source.numel():
        got = f"{tuple(source.shape)} and {tuple(target.shape)}"
        raise InputError(f"source, target: expected (n, d) rows, as many and as wide, at least one, got {got}")
    if not bool(source.isfinite().all()) or not bool(target.isfinite().all()):
        raise NotFiniteError("source, target: expected finite rows, got NaN or infinity")
    together = target.double().T @ source.double()
    u, sizes, vh = torch.linalg.svd(together)
    eps = torch.finfo(torch.promote_types(source.dtype, torch.float32)).eps  # products of narrower numbers are exact
    known = int((sizes > sizes[0] * len(together) * eps).sum())
    turned = u[:, :known] @ vh[:known]
    left, right = u[:, known:], vh[known:].T
    if left.shape[1]:
        a, _, bh = torch.linalg.svd(left.T @ right)
        turned = turned + left @ (a @ bh) @ right.T
    return turned.to(source)
