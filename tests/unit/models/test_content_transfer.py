"""Texts adapted to images and masks named by them where the figures do not look."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tether.core.errors import InputError
from tether.models.heads.content_transfer import ContentDependentTransfer, RegionNamer, region_text_logits

DIM = 16


class TestTransfer:
    def test_starts(self) -> None:
        torch.manual_seed(0)
        texts, image = torch.randn(3, DIM), torch.randn(2, 3, 5, DIM)
        same = ContentDependentTransfer(DIM, heads=4, start="identity")
        assert torch.equal(same(texts, image), texts.expand(2, -1, -1))
        same(texts, image).square().sum().backward()
        assert same.linear.weight.grad is not None
        assert same.linear.weight.grad.any()
        bent = ContentDependentTransfer(DIM, heads=4)(texts, image)
        assert bent.mean(dim=2).abs().max() < 1e-5  # a layer norm that has learnt nothing yet
        assert not torch.allclose(bent[0], bent[1])

    def test_texts_of_each_image(self) -> None:
        transfer = ContentDependentTransfer(DIM, heads=4)
        texts, image = torch.randn(3, DIM), torch.randn(2, 3, 5, DIM)
        assert torch.equal(transfer(texts.expand(2, -1, -1), image), transfer(texts, image))

    def test_what_does_not_fit_is_refused(self) -> None:
        transfer = ContentDependentTransfer(DIM, heads=4)
        with pytest.raises(InputError, match="image: expected"):
            transfer(torch.randn(3, DIM), torch.randn(2, 15, DIM))
        with pytest.raises(InputError, match="texts: expected"):
            transfer(torch.randn(3, 3, DIM), torch.randn(2, 3, 5, DIM))
        with pytest.raises(InputError, match="texts: expected"):
            transfer(torch.randn(0, DIM), torch.randn(2, 3, 5, DIM))
        with pytest.raises(InputError, match="heads = 3, got 16"):
            ContentDependentTransfer(DIM, heads=3)


class TestLogits:
    def test_the_highest_synonym_counts_and_the_last_row_stays(self) -> None:
        regions, texts = torch.randn(2, 3, DIM), torch.randn(2, 4, DIM)
        each = region_text_logits(regions, texts, scale=10.0)
        found = region_text_logits(regions, texts, scale=10.0, synonyms=[2, 1])
        assert torch.equal(found, torch.stack([each[..., :2].amax(2), each[..., 2], each[..., 3]], dim=2))
        assert torch.equal(region_text_logits(regions, texts, scale=10.0, synonyms=[3, 1])[..., 1], each[..., 3])
        assert torch.allclose(each, 10 * F.normalize(regions, dim=2) @ texts.mT)

    def test_the_scale_is_held(self) -> None:
        regions, texts = torch.randn(1, 3, DIM), torch.randn(1, 2, DIM)
        most = region_text_logits(regions, texts, scale=100.0)
        assert torch.equal(region_text_logits(regions, texts, scale=1000.0), most)
        assert torch.equal(region_text_logits(regions, texts, scale=torch.tensor(1000.0)), most)

    def test_what_does_not_fit_is_refused(self) -> None:
        with pytest.raises(InputError, match="synonyms: expected 4 rows in all, or one less, got 2"):
            region_text_logits(torch.randn(1, 3, DIM), torch.randn(1, 4, DIM), scale=1.0, synonyms=[1, 1])
        with pytest.raises(InputError, match="expected regions"):
            region_text_logits(torch.randn(1, 3, DIM), torch.randn(2, 4, DIM), scale=1.0)


class TestNamer:
    def test_names_by_the_nearest_text_or_by_none(self) -> None:
        namer = RegionNamer(DIM, start="none")
        namer.void.data = 5 * torch.eye(DIM)[2:3]
        found = namer(3 * torch.eye(DIM)[None, :3], torch.randn(1, 4, 4, DIM), torch.eye(DIM)[:2], scale=10.0)
        assert torch.allclose(found[0], 10 * torch.eye(3))
        found.sum().backward()
        assert namer.void.grad is not None

    def test_an_identity_start_names_as_none(self) -> None:
        texts, places = F.normalize(torch.randn(3, DIM), dim=1), torch.randn(2, 4, 4, DIM)
        regions = torch.randn(2, 5, DIM)
        plain, bent = RegionNamer(DIM, start="none"), RegionNamer(DIM, heads=4, start="identity")
        bent.void.data.copy_(plain.void.data)
        assert torch.equal(bent(regions, places, texts, scale=5.0), plain(regions, places, texts, scale=5.0))
        assert bent(regions, places, texts, scale=5.0, synonyms=[2, 1]).shape == (2, 5, 3)
