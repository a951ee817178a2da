"""AnomalyCLIP's features: changed blocks, rows taken apart again, other sizes, and what is refused."""

import pytest
import torch

from tether.core.errors import InputError, UnsupportedModelError
from tether.models import create
from tether.models.composed.cached import CachedEncoder
from tether.models.features.dense import dense_image
from tether.models.features.value_attention import (
    ValueRows,
    text_maps,
    text_probabilities,
    value_attention_features,
    value_path,
)

DEEP = {"vision": {"layers": 4}}


@pytest.fixture(scope="module")
def model():
    return create("tiny", seed=1, **DEEP).eval()


def images(count=2, size=32):
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_nineteen_of_twenty_four_blocks_are_changed(model):
    assert value_path(model).start == -3
    assert value_path(create("tiny", seed=1, vision={"layers": 24})).start == -19
    assert value_path(create("tiny", seed=1, vision={"layers": 1})).start == -1
    assert value_path(model, blocks=0) is None
    found = value_attention_features(model, images(), layers=(0, 1, -1))
    plain = [dense_image(model, images(), layer=layer).tokens for layer in (0, 1, -1)]
    same = [torch.allclose(*pair) for pair in zip(found.patches, plain, strict=True)]
    assert same == [True, False, False]
    same = value_attention_features(model, images(), blocks=0).patches[0]
    torch.testing.assert_close(same, dense_image(model, images()).tokens)


def test_the_image_leaves_out_the_last_norm_or_not(model):
    pooled = model.encode_image(images()).pooled
    torch.testing.assert_close(value_attention_features(model, images(), post_norm=True).image, pooled)
    assert not torch.allclose(value_attention_features(model, images()).image, pooled, atol=1e-2)


@pytest.mark.parametrize("layers", [(), (-1,), (0, 3, 1)])
def test_rows_hold_what_is_read(model, layers, tmp_path, monkeypatch):
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path))
    reader = ValueRows(model, blocks=2, layers=layers)
    found = value_attention_features(model, images(3), blocks=2, layers=layers)
    for _ in range(2):
        kept = CachedEncoder(reader)
        again = reader.features(kept.encode_image(images(3)).pooled)
        torch.testing.assert_close(again.image, found.image.detach())
        torch.testing.assert_close(again.patches, found.patches.detach())
    assert kept.computed["image"] == 0
    other = CachedEncoder(ValueRows(model, blocks=3, layers=layers))
    other.encode_image(images(3))
    assert other.computed["image"] == 3
    with pytest.raises(InputError, match=rf"rows: expected \(b, {reader.dim}\)"):
        reader.features(torch.zeros(1, reader.dim + 1))


def test_rows_of_larger_images(model):
    reader = ValueRows(model, image_size=48)
    assert reader.grid == (6, 6)
    assert reader.image_spec.size == (48, 48)
    assert reader.image_spec.resize == "squash"
    assert model.image_spec.size == (32, 32)
    assert reader.features(reader.encode_image(images(2, 48)).pooled).patches.shape == (1, 2, 36, 64)
    with pytest.raises(InputError, match="multiple"):
        ValueRows(model, image_size=50)
    with pytest.raises(InputError, match="mask: rows of patches take none"):
        reader.encode_image(images(1, 48), mask=torch.ones(1))


def test_maps_are_softmaxes_of_cosines(model):
    patches, texts = torch.randn(2, 3, 6, 8), torch.randn(2, 8)
    maps = text_maps(patches, texts, grid=(2, 3), size=(2, 3), temperature=0.5)
    cosine = torch.nn.functional.cosine_similarity(patches[1, 2, 4], texts, dim=1)
    torch.testing.assert_close(maps[1, 2, :, 1, 1], (cosine / 0.5).softmax(dim=0))
    torch.testing.assert_close(maps.sum(dim=2), torch.ones(2, 3, 2, 3))
    assert text_maps(patches, texts, grid=(2, 3), size=(10, 9)).shape == (2, 3, 2, 10, 9)
    assert text_probabilities(3 * patches, texts).allclose(text_probabilities(patches, 5 * texts))
    with pytest.raises(InputError, match=r"patches: expected \(l, b, 3 \* 3, d\), got \(2, 3, 6, 8\)"):
        text_maps(patches, texts, grid=(3, 3), size=(9, 9))


def test_what_cannot_be_read_is_refused(model, tmp_path):
    from encoders import ENCODERS

    with pytest.raises(InputError, match="blocks: expected at most the 4 of the image tower, got 5"):
        value_attention_features(model, images(), blocks=5)
    with pytest.raises(InputError, match="layer: expected -4 to 3, got 4"):
        ValueRows(model, layers=(4,))
    with pytest.raises(UnsupportedModelError):
        ValueRows(ENCODERS["open_clip"](tmp_path))  # convolutions
