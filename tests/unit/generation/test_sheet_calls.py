"""Parts called as the papers' sheets write them: by place, with marks and maps of any kind."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tether import generation
from tether.core.errors import InputError
from tether.generation import TextDiffusion, nag
from tether.generation.autoregress.transformer import ScaleTransformer
from tether.generation.canvases import FinerField, PrimitiveCanvas, StrokeCanvas
from tether.generation.canvases.primitives import patch_order
from tether.generation.edit import thresholded_patch_loss
from tether.methods.cut_and_paste import VideoEditor, blend, inject
from tether.methods.dti import DirectionalToken
from tether.models import create
from tether.models.latent.quantizer import MultiScaleQuantizer

MODEL = create("tiny").eval()


def test_what_a_sheet_gives_by_place_is_taken_by_place() -> None:
    assert StrokeCanvas(4, 32, 50, (1, 3), 8, 0.5).elements == 4
    assert PrimitiveCanvas({"line": 1, "circle": 1}, 2, 8, 32, 0.3, 0.1).elements == 4
    field = FinerField(16, 2, 20.0, 4.0, True)
    assert (field.omega, field.detach_factor, field.linears[0].out_features) == (20.0, True, 16)
    z = torch.randn(2, 3, 4)
    assert torch.equal(nag(z, z.roll(1, 0), 5.0, 2.5, 0.25, 2), nag(z, z.roll(1, 0), scale=5.0, p=2))
    assert MultiScaleQuantizer(16, 4, (1, 2, 4), True, 1, 0.25).ratio == 0.25
    assert ScaleTransformer(8, 16, 2, 2, (1, 2), 32).told_dim == 32
    assert DirectionalToken(MODEL, "cup", 3.0).scale == 3.0


def test_drawing_is_a_call_of_the_package() -> None:
    seen = list[int]()
    made = generation.draw(
        StrokeCanvas(3, 32), MODEL, "a red circle", negatives=["text"], steps=2, n_augment=0,
        callback=lambda step, _: seen.append(step),
    )  # fmt: skip
    assert (made.image.shape, seen) == ((3, 32, 32), [1, 2])
    with pytest.raises(InputError, match="prompt: expected a text with words"):
        generation.draw(StrokeCanvas(3, 32), MODEL, " ")


def test_marks_may_be_numbers_and_maps_whole() -> None:
    terms = torch.tensor([1.0, 1.0, 0.5])
    wanted = thresholded_patch_loss(terms, torch.tensor([True, False, False]))
    for marks in (torch.tensor([1, 0, 0]), torch.tensor([1.0, 0.0, 0.0])):
        assert torch.equal(thresholded_patch_loss(terms, marks), wanted)
    order, middles = patch_order(torch.tensor([[0, 0, 1, 1]] * 2), 2)
    assert (order.tolist(), middles.tolist()) == ([1, 0], [[3.0, 1.0], [1.0, 1.0]])
    assert patch_order(torch.eye(4, dtype=torch.bool), 2)[0].tolist() == [0, 3, 1, 2]


def test_tokens_to_keep_may_be_marked() -> None:
    edit, source = torch.rand(2, 2, 4, 3), torch.rand(2, 2, 4, 3)
    wanted = inject(edit, source, [0, 2])
    marks = [True, False, True]
    for keep in (marks, np.array(marks), torch.tensor(marks), torch.tensor([0, 2]), np.array([0, 2])):
        assert torch.equal(inject(edit, source, keep), wanted)
    with pytest.raises(InputError, match="one mark for each of 3 tokens"):
        inject(edit, source, [True, False])


def test_samples_are_blended_by_shares_and_in_their_own_shape() -> None:
    edit, source, mask = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4), torch.rand(2, 4, 4)
    hard = blend(edit, source, mask > 0.5)
    assert torch.equal(blend(edit, source, (mask > 0.5).float()), hard)
    torch.testing.assert_close(blend(edit, source, mask), source + mask[:, None] * (edit - source))
    with pytest.raises(InputError, match=r"numbers from 0 to 1, got .* to 3"):
        blend(edit, source, torch.full((2, 4, 4), 3.0))


def test_an_encoder_is_no_reference_prompt_and_a_reference_may_come_by_place() -> None:
    pytest.importorskip("diffusers", reason="needs tether-clip[generate]")
    diffusion = TextDiffusion(MODEL, size=8, channels=(8, 16))
    with pytest.raises(InputError, match="references: expected a ReferencePrompt or None, got Clip"):
        VideoEditor(diffusion, MODEL)
    frames = torch.rand(2, 3, 8, 8) * 2 - 1
    made = VideoEditor(diffusion, steps=2).edit(frames, "a red circle", "a red star", None, word="circle")
    assert made.frames.shape == frames.shape
