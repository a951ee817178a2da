"""The mask decoder where the figures do not look: what queries may see, texts among them, and maps of any shape."""

from __future__ import annotations

import pytest
import torch

from tether.core.errors import InputError
from tether.models.heads.mask_decoder import MaskHead, MaskTextDecoder, MaskTextLayer, PixelDecoder, semantic_map
from tether.models.towers.positions import sine_grid

DIM = 16


def layer() -> MaskTextLayer:
    torch.manual_seed(0)
    return MaskTextLayer(DIM, heads=4, inner=32)


class TestLayer:
    def test_a_query_that_may_look_nowhere_looks_everywhere(self) -> None:
        seen = torch.ones(1, 2, 5, dtype=torch.bool)
        queries, image = torch.randn(1, 2, DIM), torch.randn(1, 5, DIM)
        open_ = layer()(queries, image, seen=seen)[0]
        seen[0, 0] = False
        assert torch.allclose(layer()(queries, image, seen=seen)[0], open_, atol=1e-6)
        assert torch.allclose(layer()(queries, image)[0], open_, atol=1e-6)

    def test_what_is_hidden_does_not_matter_and_texts_see_masks(self) -> None:
        seen = torch.ones(2, 3, 5, dtype=torch.bool)
        seen[..., 4] = False
        queries, image, texts = torch.randn(2, 3, DIM), torch.randn(2, 5, DIM), torch.randn(2, 4, DIM)
        first = layer()(queries, image, texts=texts, seen=seen)
        image[:, 4] = 100.0
        second = layer()(queries, image, texts=texts, seen=seen)
        other = layer()(queries + 1, image, texts=texts, seen=seen)
        assert first[1] is not None
        assert second[1] is not None
        assert other[1] is not None
        assert torch.equal(first[0], second[0])
        assert not torch.allclose(second[1], other[1])

    def test_heads_that_do_not_divide(self) -> None:
        with pytest.raises(InputError, match="divides dim = 16, got 3"):
            MaskTextLayer(DIM, heads=3)


class TestDecoder:
    def test_shapes_with_and_without_texts_and_every_parameter_learns(self) -> None:
        torch.manual_seed(0)
        decoder = MaskTextDecoder(DIM, heads=4, layers=2, queries=5, classes=3, text_dim=24)
        pixels, memory = torch.randn(2, DIM, 8, 12), torch.randn(2, DIM, 4, 6)
        found = decoder(pixels, memory=memory, texts=torch.randn(3, 2, 24))
        assert found.rows.shape == (3, 2, 5, 24)
        assert found.logits.shape == (3, 2, 5, 8, 12)
        assert found.classes is not None
        assert found.classes.shape == (3, 2, 5, 4)
        assert found.texts is not None
        assert found.texts.shape == (2, 6, DIM)
        sum(part.square().sum() for part in (found.rows, found.logits, found.classes)).backward()
        assert all(one.grad is not None for one in decoder.parameters())
        bare = MaskTextDecoder(DIM, heads=4, layers=1, queries=5)(pixels)
        assert bare.rows.shape == (2, 2, 5, DIM)
        assert (bare.classes, bare.texts) == (None, None)

    def test_what_does_not_fit_is_refused(self) -> None:
        decoder = MaskTextDecoder(DIM, heads=4, queries=5)
        with pytest.raises(InputError, match="pixels: expected"):
            decoder(torch.randn(2, 8, 4, 4))
        with pytest.raises(InputError, match="memory: expected"):
            decoder(torch.randn(2, DIM, 4, 4), memory=torch.randn(2, DIM, 0, 4))
        with pytest.raises(InputError, match="texts: expected"):
            decoder(torch.randn(2, DIM, 4, 4), texts=torch.randn(3, 0, DIM))
        with pytest.raises(InputError, match="multiple of 4"):
            MaskTextDecoder(6, heads=2)


class TestHead:
    def test_a_map_that_is_no_square_and_one_image_at_a_time(self) -> None:
        torch.manual_seed(0)
        head = MaskHead(24, dim=DIM, heads=4, layers=2, queries=4, classes=2, doublings=1).eval()
        features = torch.randn(2, 3, 5, 24)
        both = head(features)
        assert both.logits.shape == (3, 2, 4, 6, 10)
        assert torch.allclose(head(features[1:]).logits[:, 0], both.logits[:, 1], atol=1e-5)

    def test_without_doubling(self) -> None:
        coarse, fine = PixelDecoder(6, dim=DIM, doublings=0)(torch.randn(1, 3, 4, 6))
        assert coarse.shape == fine.shape == (1, DIM, 3, 4)


class TestSemanticMap:
    def test_void_masks_count_for_nothing(self) -> None:
        classes, masks = torch.randn(1, 3, 2), torch.randn(1, 3, 4, 4)
        void = torch.tensor([[0.0, 1.0, 0.0]])
        kept = semantic_map(classes[:, [0, 2]], masks[:, [0, 2]])
        assert torch.allclose(semantic_map(classes, masks, void=void), kept, atol=1e-6)

    def test_what_does_not_fit_is_refused(self) -> None:
        with pytest.raises(InputError, match="expected class_logits"):
            semantic_map(torch.randn(1, 3, 2), torch.randn(1, 2, 4, 4))
        with pytest.raises(InputError, match="void: expected"):
            semantic_map(torch.randn(1, 3, 2), torch.randn(1, 3, 4, 4), void=torch.zeros(1, 2))


def test_sine_positions_end_at_the_same_place_on_any_grid() -> None:
    small, large = sine_grid((4, 4), width=8), sine_grid((8, 8), width=8)
    assert torch.allclose(small[-1], large[-1], atol=1e-6)
    with pytest.raises(InputError, match="multiple of 4, got 6"):
        sine_grid((2, 2), width=6)
