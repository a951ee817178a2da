"""Whether the figures of a smoke trial are still what they were, within what another processor's kernels change."""

from __future__ import annotations

from typing import Any

RELATIVE, ABSOLUTE = 0.05, 1e-4
"""How far a figure may lie from the stored one, as a share of it, and for one near 0.

Between AVX-512 with one thread and AVX2 with two, nearly all figures of smoke trials differ by less than 1e-5 of
themselves, ill-conditioned ones (ratios of eigenvalues, agreements after two steps) by 3e-3, and a share of a few
hundred images by one or two images, which was 0.026 at most.
"""


def moved(before: dict[str, Any], today: dict[str, Any]) -> list[str]:
    """The figures of two smoke trials of one paper that differ by more than the tolerance, in words.

    Args:
        before: ``baseline``, ``ours`` and ``notes`` as a result holds them.
        today: the same, measured now.
    """
    old, new = ({"baseline": one["baseline"], "ours": one["ours"], **one["notes"]} for one in (before, today))
    found = [f"{name}: only measured {'before' if name in old else 'now'}" for name in sorted(old.keys() ^ new.keys())]
    for name in old.keys() & new.keys():
        if abs(new[name] - old[name]) > RELATIVE * max(abs(old[name]), abs(new[name])) + ABSOLUTE:
            found.append(f"{name}: was {old[name]:.6g}, is {new[name]:.6g}")
    return sorted(found)
