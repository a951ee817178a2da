"""Spherical interpolation: along the arc between two directions, at constant angular speed, and on round the circle."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from tether.core.errors import InputError

_DEGENERATE_SINE = 1e-9  # below this the two directions span no plane that float64 can resolve


def angle(start: Float[np.ndarray, " d"], *, end: Float[np.ndarray, " d"]) -> float:
    """Angle between two vectors in radians, 0 to pi; their lengths do not matter."""
    start, end = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
    if start.ndim != 1 or start.shape != end.shape:
        raise InputError(f"expected two vectors of one length, got shapes {start.shape} and {end.shape}")
    lengths = np.linalg.norm(start) * np.linalg.norm(end)
    if lengths == 0:
        raise InputError("a vector of length zero has no direction to interpolate from")
    return float(np.arccos(np.clip(start @ end / lengths, -1.0, 1.0)))


def slerp(
    start: Float[np.ndarray, " d"], *, end: Float[np.ndarray, " d"], t: Float[np.ndarray, " k"]
) -> Float[np.ndarray, "k d"]:
    """Points on the great circle through two vectors; ``t = 0`` is the start and ``t = 1`` the end.

    The vectors are not normalised: for lengths that differ the curve is the ellipse through both. ``t`` outside
    [0, 1] goes on round the circle.

    Args:
        start: (d,) any length but zero.
        end: (d,) any length but zero.
        t: (k,) places in units of the angle between the two.
    """
    omega = angle(start, end=end)
    sine = np.sin(omega)
    if sine < _DEGENERATE_SINE:
        raise InputError(
            f"the two vectors are {np.degrees(omega):.6g} degrees apart: no single great circle runs through them"
        )
    t = np.asarray(t, dtype=np.float64)[:, None]
    return (np.sin((1 - t) * omega) * np.asarray(start) + np.sin(t * omega) * np.asarray(end)) / sine
