"""The binding map: identities, folding into every kind of encoder, fitting, probes, state, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_models_wrapped import BUILDERS as WRAPPED

import tether
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.methods.labclip import (
    LinearBindingMap,
    MappedEncoder,
    binding_accuracy,
    binding_loss,
    fold_text_map_,
    probe_agreement,
    probe_binding,
)
from tether.models import create

pytestmark = pytest.mark.slow

TEXTS = ["a cat", "a small red cat", "the dog in the sun"]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def triple(n=200, d=8, seed=0):
    """Captions whose twins differ along directions that images hold elsewhere: a matrix can bring them together."""
    what, which = draw(n, d, seed=seed), draw(n, d, seed=seed + 1).sign() * 0.3
    image = F.normalize(torch.cat([what, which.roll(1, dims=1)], dim=1))
    return image, torch.cat([what, which], dim=1), torch.cat([what, -which], dim=1)


def random_matrix(dim):
    return torch.eye(dim) + 0.3 * draw(dim, dim, seed=5).float()


# Identities.


def test_identity_changes_nothing():
    text = draw(5, 8)
    np.testing.assert_allclose(LinearBindingMap(8)(text).detach(), F.normalize(text), rtol=1e-12)
    torch.testing.assert_close(LinearBindingMap(8).raw(text), text)


def test_loss_is_two_cross_entropies_with_swapped_captions_on_one_side():
    image, text, text_neg = (F.normalize(draw(6, 8, seed=seed)) for seed in range(3))
    rows = 5.0 * image @ torch.cat([text, text_neg]).T
    to_text = -(rows.log_softmax(dim=1)).diagonal().mean()
    to_image = -((5.0 * text @ image.T).log_softmax(dim=1)).diagonal().mean()
    assert torch.isclose(binding_loss(image, text, text_neg, logit_scale=5.0), (to_text + to_image) / 2)


def test_one_pair_is_told_from_its_twin_alone():
    image, text, text_neg = (F.normalize(draw(1, 8, seed=seed)) for seed in range(3))
    gap = 3.0 * (image * (text - text_neg)).sum()
    assert torch.isclose(binding_loss(image, text, text_neg, logit_scale=3.0), F.softplus(-gap) / 2)


def test_gradient_of_the_loss():
    image, text, text_neg = triple(6)
    matrix = torch.eye(16, dtype=torch.float64, requires_grad=True)

    def loss(matrix):
        mapped = (F.normalize(rows @ matrix.T) for rows in (text, text_neg))
        return binding_loss(image, *mapped, logit_scale=7.0)

    assert torch.autograd.gradcheck(loss, (matrix,))


def test_accuracy_counts_ties_as_misses():
    image = torch.eye(4)
    assert binding_accuracy(image, image, image) == 0.0
    assert binding_accuracy(image, image, -image) == 1.0
    assert binding_accuracy(image, torch.cat([image[:2], -image[2:]]), torch.cat([-image[:2], image[2:]])) == 0.5
    assert binding_accuracy(image, 7 * image, image - 0.1) == 1.0


# Folding.


@pytest.fixture(scope="module", params=["tiny", "open_clip", *WRAPPED])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "tiny":
        return create("tiny", seed=1).eval()
    if request.param == "open_clip":
        return tether.load("open_clip:ViT-B-32", random_weights=True)
    return WRAPPED[request.param](folder)


def encoded(model):
    image = torch.randint(
        0, 256, (2, 3, *model.image_spec.size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        return model.encode_image(image).pooled, model.encode_text(model.tokenizer(TEXTS)).pooled


def test_wrapping_and_folding_are_the_map_on_every_encoder(model):
    image, text = encoded(model)
    binding = LinearBindingMap(model.dim, init=random_matrix(model.dim))
    wanted = binding.raw(text).detach()
    wrapped = binding.wrap(model)
    assert isinstance(wrapped, DualEncoder)
    again, mapped = encoded(wrapped)
    assert torch.equal(again, image)
    torch.testing.assert_close(mapped, wanted, rtol=1e-5, atol=1e-6)

    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        assert binding.fold_(model) is model
        again, folded = encoded(model)
        assert torch.equal(again, image)
        torch.testing.assert_close(folded, wanted, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(folded, text, atol=1e-3)
    finally:
        model.load_state_dict(before)


def test_folded_model_is_saved_and_loaded_as_any_other(tmp_path):
    model = create("tiny", seed=1).eval()
    binding = LinearBindingMap(model.dim, init=random_matrix(model.dim))
    wanted = binding.raw(encoded(model)[1]).detach()
    tether.save(binding.fold_(model), tmp_path / "bound")
    torch.testing.assert_close(encoded(tether.load(tmp_path / "bound"))[1], wanted, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_folded_is_left_as_it_was():
    model = create("tiny", seed=1).eval()
    model.visual.projection.weight = model.text.projection.weight  # one projection for both sides
    before = model.text.projection.weight.detach().clone()
    with pytest.raises(InputError, match=r"cannot be folded in; the model is unchanged, use MappedEncoder"):
        fold_text_map_(model, matrix=random_matrix(model.dim))
    assert torch.equal(model.text.projection.weight, before)
    outer = MappedEncoder(create("tiny").eval(), matrix=torch.eye(64))
    with pytest.raises(InputError, match="found no text projection"):
        fold_text_map_(MappedEncoder(outer, matrix=torch.eye(64)), matrix=torch.eye(64))
    with pytest.raises(InputError, match=r"expected \(64, 64\) for this model, got \(8, 8\)"):
        LinearBindingMap(8).fold_(model)
    with pytest.raises(InputError, match=r"expected \(64, 64\)"):
        LinearBindingMap(8).wrap(model)


# Fitting.


def fit(binding, rows, **settings):
    chosen = {"logit_scale": 10.0, "generator": torch.Generator().manual_seed(0), **settings}
    return binding.fit(*(part.float() for part in rows), **chosen)


def test_fit_brings_the_binding_across_for_rows_it_has_not_seen():
    image, text, text_neg = (part.float() for part in triple(1000, seed=10))
    assert binding_accuracy(image, text, text_neg) < 0.6
    binding = LinearBindingMap(16)
    report = fit(binding, triple(1000), steps=300)
    assert (report.steps, report.best_step, report.validation_loss) == (300, 300, None)
    with torch.no_grad():
        assert binding_accuracy(image, binding(text), binding(text_neg)) > 0.9


def test_equal_generators_give_equal_maps_and_a_small_table_is_one_batch():
    maps = []
    for seed in (3, 3, 4):
        binding = LinearBindingMap(16)
        fit(binding, triple(50), steps=5, batch_size=20, generator=torch.Generator().manual_seed(seed))
        maps.append(binding.matrix.detach())
    assert torch.equal(maps[0], maps[1])
    assert not torch.equal(maps[0], maps[2])
    whole = LinearBindingMap(16)
    fit(whole, triple(50), steps=1, batch_size=1000)
    assert torch.isfinite(whole.matrix).all()


def test_weight_decay_pulls_to_the_identity_and_not_to_zero():
    distances = []
    for decay in (0.0, 30.0):
        binding = LinearBindingMap(16)
        fit(binding, triple(), steps=150, weight_decay=decay)
        distances.append(float((binding.matrix.detach() - torch.eye(16)).norm()))
    assert distances[1] < 0.7 * distances[0]
    assert float(binding.matrix.detach().diagonal().mean()) > 0.5


def test_validation_keeps_the_best_matrix_and_stops():
    few, other = triple(20), triple(200, seed=40)
    noise = (F.normalize(draw(200, 16, seed=1)), other[1], other[2])  # nothing carries over: the first look is best
    binding = LinearBindingMap(16)
    report = fit(binding, few, steps=2000, lr=0.03, validation=tuple(part.float() for part in noise))
    assert report.steps < 2000
    assert report.best_step < report.steps
    with torch.no_grad():  # 128 rows at a time, the default batch
        blocks = zip(*(part.float().split(128) for part in noise), strict=True)
        found = sum(float(binding.loss(*block, logit_scale=10.0)) * len(block[0]) for block in blocks) / 200
    assert found == pytest.approx(report.validation_loss, rel=1e-5)


def test_the_first_matrix_is_kept_where_learning_only_harms():
    few, other = triple(20), triple(200, seed=40)
    against = tuple(part.float() for part in other)
    binding = LinearBindingMap(16, init=torch.linalg.lstsq(other[1], other[0]).solution.T.float())
    start = binding.matrix.detach().clone()
    report = fit(binding, tuple(part.flip(0) for part in few[:1]) + few[1:], steps=300, lr=0.1, validation=against)
    assert report.best_step == 0
    torch.testing.assert_close(binding.matrix.detach(), start)


def test_progress_is_told():
    told = []
    fit(LinearBindingMap(16), triple(20), steps=3, on_progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


# Probes.


def things(n=900, seed=0):
    rng = np.random.default_rng(seed)
    names, colours = np.array(["star", "ring", "moon"]), np.array(["red", "blue", "green"])
    objects, attributes = [], []
    for _ in range(n):
        objects.append(list(rng.permutation(names)[:2]))
        attributes.append(list(rng.choice(colours, 2, replace=False)))
    bound, bag = [], []
    places = {(o, c): k for k, (o, c) in enumerate((o, c) for o in names for c in colours)}
    for kinds, values in zip(objects, attributes, strict=True):
        row = np.zeros(9)
        row[[places[pair] for pair in zip(kinds, values, strict=True)]] = 1
        bound.append(row)
        bag.append(np.concatenate([np.isin(names, kinds), np.isin(colours, values)]).astype(float))
    return np.array(bound), np.array(bag), objects, attributes


def test_probes_read_binding_where_it_is_and_not_from_a_bag():
    bound, bag, objects, attributes = things()
    found = probe_binding(bound, objects=objects, attributes=attributes)
    assert found.accuracy == 1.0
    assert set(found.by_object) == {"star", "ring", "moon"}
    blind = probe_binding(bag, objects=objects, attributes=attributes)
    assert 0.3 < blind.accuracy < 0.65  # two colours are known, which is whose is not
    assert 0.2 < blind.majority < 0.5
    assert found.weights[("star", "red")].shape == (9,)
    assert found.weights[("star", "red")].argmax() == 0


def test_probes_can_be_asked_about_chosen_scenes():
    bound, _, objects, attributes = things()
    chosen = np.arange(len(bound)) >= 600
    found = probe_binding(bound, objects=objects, attributes=attributes, held_out=chosen)
    assert found.accuracy == 1.0


def test_agreement_is_one_for_the_same_and_lower_for_a_turned_space():
    bound, _, objects, attributes = things()
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((9, 9)))[0]
    one = probe_binding(bound + 0.1, objects=objects, attributes=attributes)
    turned = probe_binding((bound + 0.1) @ turn, objects=objects, attributes=attributes)
    assert probe_agreement(one, one) == pytest.approx(1.0)
    assert probe_agreement(one, turned) < 0.5
    two = probe_binding(bound[:, :8] + 0.1, objects=objects, attributes=attributes)
    with pytest.raises(InputError, match="9 and 8"):
        probe_agreement(one, two)


def test_two_attributes_have_opposite_directions_and_rare_things_are_left_out():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((200, 3))
    objects, attributes = [["star"]] * 200, [["red" if row[0] > 0 else "blue"] for row in rows]
    objects[0], attributes[0] = ["moon"], ["red"]
    with pytest.warns(UserWarning, match="'moon': left out"):
        found = probe_binding(rows, objects=objects, attributes=attributes)
    np.testing.assert_allclose(found.weights[("star", "red")], -found.weights[("star", "blue")])
    assert found.weights[("star", "red")][0] > 0


# State and bad input.


def test_state_survives_a_file_and_belongs_to_a_model(tmp_path):
    binding = LinearBindingMap(4, init=random_matrix(4))
    binding.save(tmp_path / "map.safetensors", base="runs/demo")
    again = LinearBindingMap.load(tmp_path / "map.safetensors", base="runs/demo", dim=4)
    assert torch.equal(again.matrix, binding.matrix)
    assert again.matrix.requires_grad
    with pytest.raises(InputError, match="belongs to 'runs/demo', not to 'runs/other'"):
        LinearBindingMap.load(tmp_path / "map.safetensors", base="runs/other")
    with pytest.raises(InputError, match="has 4 dimensions, expected 8"):
        LinearBindingMap.load(tmp_path / "map.safetensors", dim=8)
    with pytest.raises(InputError, match="no such file"):
        LinearBindingMap.load(tmp_path / "none.safetensors")


def test_bad_rows():
    image, text, text_neg = (part.float() for part in triple(20))
    same, hole = text_neg.clone(), text_neg.clone()
    same[3], hole[5, 0] = text[3], torch.nan
    for rows, message in (
        ((image, text, same), "text_neg: 1 of 20 rows equal their caption, the first is row 3"),
        ((image, text, hole), "text_neg: 1 of 20 rows hold NaN or infinity, the first is row 5"),
        ((image[:10], text, text_neg), r"one shape with n >= 1, got \[\(10, 16\), \(20, 16\), \(20, 16\)\]"),
        ((image[:0], text[:0], text_neg[:0]), "one shape"),
        ((image[:, :8], text[:, :8], text_neg[:, :8]), "expected width 16"),
    ):
        with pytest.raises(InputError, match=message):
            fit(LinearBindingMap(16), rows, steps=1)
    with pytest.raises(InputError, match="validation text_neg"):
        fit(LinearBindingMap(16), (image, text, text_neg), steps=1, validation=(image, text, text))
    with pytest.raises(InputError, match="text_neg: 1 of 20 rows hold NaN"):
        binding_accuracy(image, text, hole)
    with pytest.raises(InputError, match=r"expected \(n, 16\), got \(20, 8\)"):
        LinearBindingMap(16)(text[:, :8])


@pytest.mark.parametrize("init", [torch.eye(3), torch.full((4, 4), torch.nan), torch.eye(4).long()])
def test_bad_start(init):
    with pytest.raises(InputError, match="init"):
        LinearBindingMap(4, init=init)


def test_bad_probes():
    bound, _, objects, attributes = things(60)
    for change, message in (
        ({"objects": objects[:-1]}, "60 scenes, got 59 and 60"),
        ({"objects": [["star", "star"], *objects[1:]]}, "scene 0: expected an attribute for each of its distinct"),
        ({"attributes": [["red"], *attributes[1:]]}, "scene 0"),
        ({"held_out": np.ones(3, dtype=bool)}, "held_out: expected 60 booleans"),
    ):
        with pytest.raises(InputError, match=message):
            probe_binding(bound + 0.1, **{"objects": objects, "attributes": attributes, **change})
    with pytest.warns(UserWarning, match="left out"), pytest.raises(InputError, match="no kind of thing"):
        probe_binding(bound + 0.1, objects=[["star"]] * 60, attributes=[["red"]] * 60)
    with pytest.raises(InputError, match="rows hold NaN"):
        probe_binding(bound * np.nan, objects=objects, attributes=attributes)
