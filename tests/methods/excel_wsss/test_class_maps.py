"""ExCEL's parts by themselves: what is left of a map, of texts, of attention and of pixels, and what is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tether.core.errors import InputError, UnsupportedModelError
from tether.losses import label_affinity
from tether.losses.patch_affinity import halved_cross_entropy
from tether.methods.excel_wsss.class_maps import class_maps, self_correlation_features, text_scores
from tether.methods.excel_wsss.map_refinement import (
    attention_refine,
    high_boxes,
    mean_attention,
    pixel_refine,
    transition,
)
from tether.methods.excel_wsss.patch_relation import (
    ExcelAdapter,
    ExcelDecoder,
    block_patches,
    predicted_affinity,
    relation_weights,
)
from tether.methods.excel_wsss.text_attributes import attribute_centres, cluster_texts, enrich_texts
from tether.models import create
from tether.models.features.dense import dense_image


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_more_blocks_than_there_are_take_all_and_the_whole_image_stays() -> None:
    model, image = create("tiny", seed=1).eval(), torch.rand(2, 3, 32, 32)
    found = self_correlation_features(model, image)
    torch.testing.assert_close(found, self_correlation_features(model, image, blocks=2))
    torch.testing.assert_close(found[:, 0], model.encode_image(image).pooled)
    assert not torch.allclose(found, self_correlation_features(model, image, blocks=1))
    assert not torch.allclose(found, self_correlation_features(model, image, kind="k"))
    assert not torch.allclose(found[:, 1:], dense_image(model, image).tokens)


@pytest.mark.parametrize("normalise", ["tokens", "channels"])
def test_maps_are_of_each_image_alone_and_a_constant_one_is_zero(normalise: str) -> None:
    features, texts = drawn(3, 10, 6), F.normalize(drawn(4, 6, seed=1), dim=1)
    found = class_maps(features, texts, classes=2, normalise=normalise)
    assert found.shape == (3, 9, 2)
    assert 0 <= found.min() <= found.max() <= 1
    torch.testing.assert_close(found[1:2], class_maps(features[1:2], texts, classes=2, normalise=normalise))
    same = torch.ones(1, 5, 6)
    assert class_maps(same, texts, normalise=normalise).abs().max() == 0
    torch.testing.assert_close(text_scores(features, texts).sum(dim=2), torch.zeros(3, 10), atol=1e-5, rtol=0)


def test_norms_over_tokens_depend_on_the_image_and_over_channels_do_not() -> None:
    features, texts = drawn(1, 10, 6), F.normalize(drawn(4, 6, seed=1), dim=1)
    part = features[:, :6]
    channels = text_scores(part, texts, normalise="channels")
    torch.testing.assert_close(channels, text_scores(features, texts, normalise="channels")[:, :6])
    assert not torch.allclose(text_scores(part, texts), text_scores(features, texts)[:, :6])


@pytest.mark.parametrize("count", [1, 3, 10, 20])
def test_few_clusters_and_equal_ones_give_numbers(count: int) -> None:
    texts = F.normalize(drawn(5, 8), dim=1)
    for centres in (drawn(count, 8, seed=2), torch.ones(count, 8)):
        found = enrich_texts(texts, centres)
        torch.testing.assert_close(found.norm(dim=1), torch.ones(5))


def test_least_suited_clusters_do_not_count() -> None:
    texts, centres = torch.eye(1, 3), torch.tensor([[1.0, 0, 0], [0, 1, 0], [-1, 0, 0], [0, 0, -5]])
    kept = enrich_texts(texts, centres, keep=0.75)
    torch.testing.assert_close(kept, enrich_texts(texts, centres[[0, 1, 3]], keep=1.0))


def test_centres_of_what_is_said() -> None:
    model = create("tiny", seed=1).eval()
    said = {"star": ["with five points", "bright"], "ball": ["round"], "road": []}
    assert attribute_centres(model, said).shape == (1, 64)
    assert attribute_centres(model, said, clusters=3).shape == (3, 64)
    with pytest.raises(InputError, match="clusters: expected at most 3, one for each different description, got 4"):
        attribute_centres(model, said, clusters=4)
    with pytest.raises(InputError, match="descriptions: expected one at least"):
        attribute_centres(model, {"road": []})
    with pytest.raises(InputError, match=r"template: expected one with \{\}"):
        attribute_centres(model, said, template="a road")
    with pytest.raises(InputError, match="centres: expected"):
        enrich_texts(torch.eye(2), torch.ones(0, 2))
    with pytest.raises(InputError, match="clusters: expected at most 1"):
        cluster_texts(torch.ones(4, 2), clusters=2)


def test_relations_of_an_image_do_not_depend_on_others() -> None:
    features = drawn(2, 7, 5)
    features[1, 3] = 0
    for part in (predicted_affinity, relation_weights):
        torch.testing.assert_close(part(features)[:1], part(features[:1]))
        assert part(features).isfinite().all()
    both, alone = predicted_affinity(features, over="batch"), predicted_affinity(features[:1], over="batch")
    assert not torch.allclose(both[:1], alone)
    torch.testing.assert_close(relation_weights(features)[0].sum(dim=1), torch.ones(7))


def test_the_adapter_learns_from_blocks_of_a_tower() -> None:
    model = create("tiny", seed=1).eval()
    blocks, grid = block_patches(model, torch.rand(2, 3, 32, 32))
    adapter, decoder = ExcelAdapter(layers=2, width=64, dim=16), ExcelDecoder(classes=3, dim=16, heads=2)
    logits = decoder(adapter(blocks), grid=grid)
    labels = torch.randint(0, 3, (2, 4, 4))
    loss = halved_cross_entropy(logits, labels)
    loss.backward()
    learnt = [*adapter.parameters(), *decoder.parameters()]
    assert all(parameter.grad is not None for parameter in learnt)
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(InputError, match="blocks: expected the patches of 2 blocks, got 1"):
        adapter(blocks[:1])
    with pytest.raises(InputError, match="heads: expected a divisor"):
        ExcelDecoder(classes=2, dim=6, heads=4)


def test_attention_spreads_from_inside_the_boxes() -> None:
    one = torch.tensor([[1.0, 0.9, 0.1, 0.0], [0.0, 0.9, 0.0, 0.85]])
    expected = torch.tensor([[True, True, False, False], [True, True, False, True]])
    assert torch.equal(high_boxes(one, above=0.79), expected)
    attention = drawn(8, 8).exp()
    whole = attention_refine(one[None], attention, above=None)
    torch.testing.assert_close(whole.flatten(), transition(attention.double()).float() @ one.flatten())
    assert not torch.allclose(attention_refine(one[None], attention), whole)
    holed = attention.clone()
    holed[:, 2] = holed[2] = 0
    assert transition(holed).isfinite().all()
    with pytest.raises(InputError, match="attention: expected one of the 8 patches"):
        attention_refine(one[None], attention[:4, :4])
    with pytest.raises(InputError, match="attention: expected"):
        transition(attention[:4])


def test_blocks_far_from_the_affinity_are_left_out() -> None:
    attention, affinity = torch.stack([torch.full((3, 3), 0.2), torch.full((3, 3), 0.9)]), torch.full((3, 3), 0.5)
    torch.testing.assert_close(mean_attention(attention, affinity=affinity), torch.full((3, 3), 0.1))
    torch.testing.assert_close(mean_attention(attention), torch.full((3, 3), 0.55))
    with pytest.raises(InputError, match="attention: expected"):
        mean_attention(attention, affinity=affinity[:2])


def test_pixels_that_look_alike_come_to_agree() -> None:
    image = torch.zeros(3, 12, 12)
    image[:, :, 7:] = 200.0
    found = pixel_refine(image, torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]), dilations=[1, 2, 4])
    labels = found.argmax(dim=0)
    assert (labels[:, :7] == 0).all()
    assert (labels[:, 7:] == 1).all()
    same = pixel_refine(torch.ones(3, 4, 4), torch.full((1, 4, 4), 0.5), rounds=3, place=0.0)
    torch.testing.assert_close(same, torch.full((1, 4, 4), 0.5))
    with pytest.raises(InputError, match=r"image: expected \(3, h, w\)"):
        pixel_refine(torch.ones(1, 4, 4), torch.ones(1, 4, 4))


def test_no_label_and_far_patches_do_not_count() -> None:
    labels = torch.tensor([[[1, 1, 2], [255, 2, 1]]])
    near, all_ = label_affinity(labels, radius=1), label_affinity(labels, radius=None)
    assert all_[0, 0, 5] == 1
    assert near[0, 0, 5] == 255
    assert (all_[0, 3] == 255).all()
    torch.testing.assert_close(near, near.transpose(1, 2))
    nothing = halved_cross_entropy(torch.zeros(1, 2, 1, 2), torch.full((1, 1, 2), 255))
    assert nothing == 0
    with pytest.raises(InputError, match="label: expected classes 0 to 1, or 255 for none, got 7"):
        halved_cross_entropy(torch.zeros(1, 2, 1, 1), torch.full((1, 1, 1), 7))


def test_bad_input() -> None:
    with pytest.raises(InputError, match="texts: expected"):
        text_scores(torch.zeros(1, 2, 3), torch.zeros(1, 3))
    with pytest.raises(InputError, match="classes: expected at most 2"):
        class_maps(torch.zeros(1, 2, 3), torch.eye(2, 3), classes=3)
    with pytest.raises(InputError, match="features: expected"):
        predicted_affinity(torch.zeros(2, 3))
    with pytest.raises(UnsupportedModelError, match="expected a model of"):
        self_correlation_features(object(), torch.zeros(1, 3, 32, 32))
