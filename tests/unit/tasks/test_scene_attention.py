"""The gated attention of words to their scene."""

from __future__ import annotations

import pytest
import torch

from tether.core.errors import InputError
from tether.tasks.read import GatedSceneAttention


def made(*, alpha: float = 0.5, position: bool = False) -> GatedSceneAttention:
    fusion = GatedSceneAttention(8, scene_dim=6, heads=2, position=position, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        fusion.alpha.fill_(alpha)
    return fusion


def given(words: int = 3, scenes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(words, 4, 8, generator=generator), torch.randn(scenes, 5, 6, generator=generator)


def test_a_closed_gate_and_no_scene_change_nothing():
    words, scene = given()
    assert torch.equal(made(alpha=0.0)(words, scene), words)
    assert made()(words, None) is words
    assert not torch.equal(made()(words, scene), words)


def test_only_the_gate_has_a_gradient_while_it_is_closed():
    words, scene = given()
    fusion = made(alpha=0.0)
    fusion(words, scene).pow(2).sum().backward()
    moved = {name for name, weight in fusion.named_parameters() if weight.grad.any()}
    assert moved == {"alpha"}


def test_words_share_scenes():
    words, scene = given(scenes=2)
    index = torch.tensor([1, 0, 1])
    padding = torch.tensor([[False] * 5, [False, False, True, True, True]])
    shared = made()(words, scene, scene_index=index, scene_padding=padding)
    own = made()(words, scene[index], scene_padding=padding[index])
    torch.testing.assert_close(shared, own)
    torch.testing.assert_close(shared[2:], made()(words[2:], scene[1:, :2]))


def test_a_scene_of_padding_adds_nothing():
    words, scene = given()
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[1] = True
    fusion = made()
    found = fusion.look(words, scene, scene_padding=padding)
    assert torch.equal(fusion(words, scene, scene_padding=padding)[1], words[1])
    assert not found.weights[1].any()
    fusion(words, scene, scene_padding=padding).sum().backward()
    assert all(torch.isfinite(weight.grad).all() for weight in fusion.parameters())


def test_the_gate_stays_in_single_precision():
    words, scene = given()
    fusion = made(alpha=1e-3).bfloat16()
    assert fusion.alpha.dtype == torch.float32
    assert float(fusion.alpha.detach()) == pytest.approx(1e-3, rel=1e-6)
    assert fusion.project.weight.dtype == torch.bfloat16
    assert fusion(words.bfloat16(), scene).dtype == torch.bfloat16
    assert made().double().alpha.dtype == torch.float64


def test_boxes_change_what_is_asked():
    words, scene = given()
    fusion, boxes = made(position=True), torch.tensor([[0.0, 0.0, 0.5, 0.5]] * 3)
    assert not torch.equal(fusion(words, scene, boxes=boxes), fusion(words, scene, boxes=boxes + 0.3))
    with pytest.raises(InputError, match="boxes"):
        fusion(words, scene)
    with pytest.raises(InputError, match="boxes"):
        fusion(words, scene, boxes=2 * boxes + 1)
    with pytest.raises(InputError, match="boxes"):
        made()(words, scene, boxes=boxes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"scene": torch.zeros(2, 5, 6)}, "scene: expected one a word, 3, got 2"),
        ({"scene": torch.zeros(3, 5, 7)}, r"scene: expected \(b, n, 6\)"),
        ({"scene": torch.zeros(3, 0, 6)}, "scene: expected"),
        ({"words": torch.zeros(3, 8)}, "words: expected"),
        ({"scene_padding": torch.zeros(3, 4, dtype=torch.bool)}, "scene_padding"),
        ({"scene_index": torch.tensor([0, 1, 3])}, "scene_index: expected 3 numbers from 0 to 2"),
        ({"scene_index": torch.tensor([0, 1])}, "scene_index"),
    ],
)
def test_what_does_not_fit_is_refused(changes, told):
    words, scene = given()
    arguments = {"words": words, "scene": scene} | changes
    with pytest.raises(InputError, match=told):
        made()(arguments.pop("words"), arguments.pop("scene"), **arguments)


def test_heads_must_divide():
    with pytest.raises(InputError, match="heads"):
        GatedSceneAttention(8, scene_dim=6, heads=3)
