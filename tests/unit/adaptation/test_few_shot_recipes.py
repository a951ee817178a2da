"""GDA, Tip-Adapter and singular values as recipes: what the heads hold, views, and what is refused."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tether
from memory_rows import squares
from tether.adaptation.heads import CacheHead, LinearHead
from tether.adaptation.recipes import FullTuning, Given, PairTuning, TipAdapterRecipe, play
from tether.adaptation.training_free import TipAdapter
from tether.core.errors import InputError, UnsupportedModelError
from tether.data.labelled import draw_parts, read_labels
from tether.methods.clip_svd import Svd, SvdRecipe, singular_values
from tether.methods.gda import GDAClassifier
from tether.methods.gda.recipe import GdaRecipe
from tether.models import create

PROMPTS = (("a blue square",), ("a green square",), ("a red square",))


@pytest.fixture(scope="module")
def model():
    return create("tiny", seed=1).eval()


@pytest.fixture(scope="module")
def given(model):
    rows = read_labels(squares(60))
    parts = draw_parts(rows, shots=5, validation=True, test_share=None)
    text = F.normalize(model.embed([prompt for (prompt,) in PROMPTS]), dim=1)
    return Given(
        "labels",
        rows.part(parts.train, prompts=PROMPTS, name="train"),
        len(parts.train),
        validation=rows.part(parts.validation, prompts=PROMPTS, name="validation"),
        classes=rows.classes,
        prompts=PROMPTS,
        class_text=text,
    )


def validation(model, given):
    chosen = given.embed(model, part="validation")
    return chosen.image, chosen.labels.numpy()


@pytest.mark.parametrize("views", [0, 3])
def test_gda_gives_the_estimators_logits_as_a_linear_head(views, model, given):
    head = GdaRecipe(views=views).fit(model, given).head
    assert isinstance(head, LinearHead)
    assert head.classes == ("blue", "green", "red")
    train = given.embed(model, views=views)
    assert len(train.image) == 15 * max(1, views)
    own = GDAClassifier.for_encoder(model).fit(
        train.image, train.labels.numpy(), text_weights=given.class_text, validation=validation(model, given)
    )
    image = torch.randn(9, model.dim, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(head.logits(image), own.logits(image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"keys": "tuned", "epochs": 6}, {"alpha": 1.0, "beta": 2.0, "views": 0}])
def test_tip_adapter_gives_the_estimators_logits_as_a_cache(settings, model, given):
    recipe = TipAdapterRecipe(**{"views": 3, **settings})
    assert recipe.validates == ("alpha" not in settings)
    head = recipe.fit(model, given).head
    assert isinstance(head, CacheHead)
    train = given.embed(model, views=recipe.views)
    views = max(1, recipe.views)
    estimator = {name: value for name, value in settings.items() if name != "views"}
    own = TipAdapter.for_encoder(model, **(estimator | ({"epochs": 2} if "epochs" in settings else {}))).fit(
        train.image.view(views, 15, -1).mean(dim=0),
        train.labels[:15].numpy(),
        text_weights=given.class_text,
        validation=validation(model, given),
        queries=(train.image, train.labels.numpy()),
    )
    image = torch.randn(9, model.dim, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(head.logits(image), own.logits(image), rtol=1e-4, atol=1e-4)


def test_a_cache_that_does_not_fit_is_refused():
    weight, keys, owners = torch.eye(2, 3), torch.eye(4, 3), torch.tensor([0, 1, 1, 0])
    settings = {"classes": ("a", "b"), "alpha": 1.0, "beta": 1.0}
    assert CacheHead(weight, keys, owners, **settings).dim == 3
    with pytest.raises(InputError, match="expected"):
        CacheHead(weight, keys[:, :2], owners, **settings)
    with pytest.raises(InputError, match="expected"):
        CacheHead(weight, keys[:0], owners[:0], **settings)
    with pytest.raises(InputError, match="class numbers from 0 to 1"):
        CacheHead(weight, keys, owners + 1, **settings)
    with pytest.raises(InputError, match="'keys': expected finite"):
        CacheHead(weight, keys * torch.nan, owners, **settings)


@pytest.mark.parametrize("name", ["gda", "tip_adapter"])
def test_another_geometry_is_refused(name):
    with pytest.raises(UnsupportedModelError, match="geometry is euclidean"):
        tether.adapt(create("tiny", geometry="euclidean"), squares(), recipe=name, keep=squares(6), random_weights=True)


def test_no_map_to_adapt_is_refused(model):
    with pytest.raises(UnsupportedModelError, match="no linear map in text is one of map"):
        SvdRecipe(include=("map",), side="text").check(model)


def test_towers_that_share_their_weights_move_together_or_not_at_all():
    shared = create("tiny", seed=1, towers="shared").eval()
    with pytest.raises(UnsupportedModelError, match="one side must rest, and the towers share"):
        SvdRecipe(side="image").check(shared)
    SvdRecipe().check(shared)
    before = [shared.encode_image(torch.ones(1, 3, 32, 32)).pooled, shared.embed(["a cat"])]
    Svd().apply_(shared)
    count = sum(parameter.numel() for parameter in shared.parameters() if parameter.requires_grad)
    assert count == sum(map(len, singular_values(shared).values()))
    with torch.no_grad():
        for parameter in shared.parameters():
            parameter.mul_(1.2 if parameter.requires_grad else 1.0)
    after = [shared.encode_image(torch.ones(1, 3, 32, 32)).pooled, shared.embed(["a cat"])]
    assert not any(torch.allclose(now, then) for now, then in zip(after, before, strict=True))


def test_singular_values_of_one_side_leave_the_other(model):
    done = tether.adapt(
        model,
        squares(),
        recipe={"name": "svd", "side": "text", "steps": 3, "layers": "top", "include": ["v", "o"]},
        keep=squares(6),
        random_weights=True,
    )
    assert done.report.costs.moved == 2 * 64
    assert done.report.frozen.image_side
    assert not done.report.frozen.changed
    assert not torch.equal(done.model.embed(["a cat"]), model.embed(["a cat"]))


@pytest.mark.parametrize(("images", "times"), [("plain", 1), ("crops", 4)])
def test_a_tower_that_rests_reads_an_image_once_where_it_stays_the_same(
    images, times, model, given, tmp_path, monkeypatch
):
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path))
    tuned, rows = copy.deepcopy(model), []
    tuned.visual.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    recipe = FullTuning(side="text", steps=4, batch_size=15, learning_rate=1e-3, images=images)
    play(recipe.tuning(tuned, given), tuned)
    assert [count for count in rows if count > 1] == times * [15]  # and one to see how wide a row is
    alone = copy.deepcopy(model)
    monkeypatch.setattr("tether.training.tuning.kept_at_rest", lambda *arguments, **keywords: None)
    play(recipe.tuning(alone, given), alone)
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(tuned.state_dict()[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("side", "times"), [("text", 1), ("both", 4)])
def test_images_of_pairs_are_read_once_where_texts_alone_move(side, times, model, tmp_path, monkeypatch):
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path))
    tuned, rows = copy.deepcopy(model), []
    tuned.visual.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    pairs = Given("pairs", squares(), 36)
    recipe = PairTuning(side=side, steps=4, batch_size=36, learning_rate=1e-3)
    play(recipe.tuning(tuned, pairs), tuned)
    assert [count for count in rows if count > 1] == times * [36]
