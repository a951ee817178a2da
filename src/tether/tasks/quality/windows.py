"""Parts of a photo as large as a model reads images: resizing the whole of it would hide what is wrong with it."""

from __future__ import annotations

from tether.core.ranges import Count, checked
from tether.data.boxes import Window


@checked
def native_windows(size: tuple[Count, Count], *, of: tuple[Count, Count], grid: Count) -> list[Window]:
    """``grid`` x ``grid`` windows spread evenly from edge to edge; of one, the middle.

    Args:
        size: height and width of the photo.
        of: height and width that the model reads. Of a photo that is smaller in a direction the windows are as large as
            fits, in the same aspect, and will be enlarged.
        grid: windows in each direction; those that fall on each other come once.

    Example:
        >>> from tether.tasks.quality import native_windows
        >>> native_windows((100, 64), of=(64, 64), grid=2)
        [(0, 0, 64, 64), (0, 36, 64, 100)]
        >>> native_windows((40, 90), of=(64, 64), grid=1)  # smaller than what the model reads
        [(25, 0, 65, 40)]
    """
    share = min(1.0, size[0] / of[0], size[1] / of[1])
    height, width = (min(max(1, round(side * share)), whole) for side, whole in zip(of, size, strict=True))
    tops, lefts = (_starts(whole - part, grid) for whole, part in ((size[0], height), (size[1], width)))
    return [(left, top, left + width, top + height) for top in tops for left in lefts]


def _starts(room: int, grid: int) -> list[int]:
    places = [room / 2] if grid == 1 else [room * step / (grid - 1) for step in range(grid)]
    return list(dict.fromkeys(int(place) for place in places))
