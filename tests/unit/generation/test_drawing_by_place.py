"""Parts of drawing and editing called as their papers' interfaces are written, by place."""

import torch

from tether.generation.canvases import StrokeCanvas
from tether.methods.cut_and_paste.attention_maps import blend


def test_the_generator_of_strokes_comes_last_by_place() -> None:
    same = [torch.Generator().manual_seed(3) for _ in range(2)]
    placed = StrokeCanvas(4, 16, 10, (1, 3), 8, 0.5, same[0])
    named = StrokeCanvas(4, 16, 10, (1, 3), samples=8, tau=0.5, generator=same[1])
    assert torch.equal(placed.points, named.points)


def test_a_mask_with_a_channel_blends_as_one_without() -> None:
    edit, source, mask = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4), torch.rand(2, 4, 4)
    for one in (mask, mask > 0.5):
        assert torch.equal(blend(edit, source, one[:, None]), blend(edit, source, one))
