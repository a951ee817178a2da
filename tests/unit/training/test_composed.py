"""Steps made of views and terms."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import tether
from tether.core.errors import InputError
from tether.core.gather import LOCAL, Gather
from tether.core.types import Batch
from tether.losses import OBJECTIVES, ClipLoss
from tether.models import create
from tether.training import RunConfig, train
from tether.training.metrics_log import read_metrics
from tether.training.parts import check_parts
from tether.training.steps import STEPS, ComposedStep, StepModule
from tether.training.view_costs import view_costs
from tether.workflows.edits import EDITS

pytestmark = pytest.mark.slow

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "steps.md"
RECIPES = re.findall(r"^```yaml\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
TEXTS = [f"a {name} on sand. It has a {name} above it, with a hat" for name in ("heart", "cat", "dog", "sun")]
GATES = {"vision": {"gate": "mirror"}, "text": {"gate": "mirror"}}
TWINS = {"negative_image": "negative_image", "negative_text": "negative_text"}


def module(**settings: Any) -> StepModule:
    return StepModule(create("tiny", context=48, **settings))


def batch(model: StepModule, rows: slice = slice(None)) -> Batch:
    pixels = torch.randint(0, 256, (3, 4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    tokens = model.model.tokenizer(TEXTS)
    extra = {"texts": TEXTS[rows], "negative_image": pixels[1][rows], "negative_text": tokens.roll(1, 0)[rows]}
    return Batch(pixels[0][rows], tokens[rows], extra | {"long_image": pixels[2][:3], "long_text": tokens[:3]})


def step_of(objective: str = "clip", **recipe: Any) -> ComposedStep:
    return ComposedStep(OBJECTIVES[objective](), steps=10, seed=3, **recipe)


PRESETS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "contrastive": ("clip", {"keep_patches": 0.5}, {"views": {"image": {"keep_patches": 0.5}, "text": {}}}),
    "hard_negatives": (
        "triplet_clip",
        {},
        {
            "views": {"image": {}, "text": {}, "negative_image": {}, "negative_text": {}},
            "terms": [{"name": "objective", **TWINS}],
        },
    ),
    "clip_in": (
        "symmetric_negatives",
        {"weight": 0.7},
        {
            "views": {name: {} for side in ("image", "text") for name in (side, f"negative_{side}", f"long_{side}")},
            "terms": [
                {"name": "objective", **TWINS},
                {"name": "clip", "image": "long_image", "text": "long_text", "weight": 0.7},
            ],
        },
    ),
    "distill": (
        "clip",
        {"weight": 0.5},
        {
            "views": {
                "image": {},
                "text": {},
                "teacher_image": {"source": "image", "encoder": "teacher"},
                "teacher_text": {"source": "text", "encoder": "teacher"},
            },
            "terms": [
                "objective",
                {"name": "similarity", "temperature": None, "form": "cross_entropy", "weight": 0.5, "as": "distill"},
            ],
            "teacher": "start",
        },
    ),
    "semantic": (
        "align_clip",
        {},
        {
            "views": {"image": {}, "text": {}, "said": {"source": "text", "encoder": "words"}},
            "terms": [{"name": "objective", "extra": {"semantic": "said"}}],
        },
    ),
    "skip_middle": ("clip", {"gain": 5.0}, {"terms": ["objective", {"name": "gates", "gain": 5.0}]}),
    "specs": (
        "clip",
        {"margin": 1.0},
        {
            "views": {"image": {}, "text": {}, "growing": {"source": "text", "rewrite": "growing"}},
            "terms": ["objective", {"name": "details", "margin": 1.0}],
        },
    ),
}


def trajectory(step: Any, *, micro_batch: int | None) -> list[torch.Tensor]:
    model = StepModule(create("tiny", context=48, **GATES), micro_batch=micro_batch)
    step.see_start(model.model)
    assert step.new_heads(model.model) == {}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for at in range(3):
        optimizer.zero_grad()
        loss = step(model, batch(model), step=at, gather=LOCAL).total
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return [*losses, *(parameter.detach() for parameter in model.parameters())]


@pytest.mark.parametrize("micro_batch", [None, 2])
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_its_recipe_spelled_out(name, micro_batch):
    objective, settings, recipe = PRESETS[name]
    preset = STEPS[name](OBJECTIVES[objective](), steps=10, seed=3, **settings)
    named, spelled = (trajectory(step, micro_batch=micro_batch) for step in (preset, step_of(objective, **recipe)))
    assert all(torch.equal(one, other) for one, other in zip(named, spelled, strict=True))


def test_every_preset_is_spelled_out_here():
    assert PRESETS.keys() == STEPS.keys() - {"composed"}


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ({"views": {"image": {}, "text": {}, "crop": {"source": "image"}}}, "views: no term uses crop"),
        ({"heads": {"decoder": "causal_decoder"}}, "heads: no term uses decoder"),
        (
            {"terms": [{"name": "clip", "image": "imag"}]},
            "term clip: image: unknown name 'imag' .* did you mean 'image'",
        ),
        ({"terms": ["objective", "caption"]}, "term caption: head: unknown name 'decoder'"),
        ({"terms": ["clop"]}, "entry 0: unknown term 'clop'; did you mean 'clip'"),
        ({"terms": [{"name": ["clip"]}]}, r"entry 0: unknown term \['clip'\]; did you mean 'clip'"),
        ({"views": {"image": {}, "text": {"of": ["image"]}}}, r"of: unknown view \['image'\]"),
        ({"terms": []}, "terms: expected at least one"),
        ({"terms": [{"name": "clip", "weight": -1}]}, "weight: expected a finite number"),
        ({"terms": [{"name": "objective", "directions": "sum"}]}, "settings under `objective`"),
        ({"views": {"image": {}, "text": {"sorce": "text"}}}, "unknown key 'sorce'"),
        ({"views": {"image": {}, "words": {}}}, "words: expected a source that ends in 'image' or 'text'"),
        ({"views": {"image": {"source": ["image", "text"]}, "text": {}}}, "names that end in 'image'"),
        ({"views": {"image": {}, "text": {"optional": True}}}, "text: only hard negatives may be optional"),
        ({"views": {"image": {"crop": 1.5}, "text": {}}}, "crop: "),
        ({"views": {"image": {"encoder": "x", "keep_patches": 0.5}, "text": {}}}, "'x' sees whole images"),
        ({"views": {"image": {}, "text": {"rewrite": "growth"}}}, "did you mean 'growing'"),
        ({"views": {"image": {}, "text": {"source": "long_text", "rewrite": "growing"}}}, "read the captions"),
    ],
)
def test_a_recipe_that_does_not_hold_together_is_refused(recipe, says):
    with pytest.raises(InputError, match=says):
        step_of(**recipe)


def test_an_extra_view_of_other_length_is_named():
    views = {"image": {}, "text": {}, "long_text": {}}
    term = {"name": "long_clip", "k": 2, "extra": {"short_text": "long_text"}}
    step, model = step_of(views=views, terms=[term]), module()
    with pytest.raises(
        InputError, match=r"extra.short_text is the view long_text with 3 rows; the batch has \d+ pairs"
    ):
        step(model, batch(model), step=0, gather=LOCAL)


def test_terms_of_one_name_are_numbered_and_what_they_log_is_told_apart():
    model = module()
    terms = ["objective", {"name": "clip", "directions": "sum", "weight": 0.5}, {"name": "clip", "weight": 0.0}]
    loss = step_of(terms=terms)(model, batch(model), step=0, gather=LOCAL)
    assert {"objective", "clip", "clip_2", "image_to_text", "clip_2.image_to_text"} <= loss.terms.keys()
    assert loss.terms["clip"] == pytest.approx(2 * loss.terms["objective"].item())
    assert loss.total.item() == pytest.approx(2 * loss.terms["objective"].item())


def test_windows_are_parts_of_the_image_and_those_of_two_processes_are_those_of_one():
    model = module()
    given = batch(model)
    ramp = Batch(torch.arange(32, dtype=torch.uint8).expand(4, 3, 32, 32).contiguous(), given.text)
    view = step_of(views={"image": {"crop": 0.25, "size": 16}, "text": {}}).views["image"]
    whole = view.rows(model, ramp, step=2, gather=LOCAL).rows
    assert whole.shape == (4, 3, 16, 16)
    assert whole.dtype == torch.uint8
    width = whole[:, 0, 0, -1].int() - whole[:, 0, 0, 0].int()
    assert (width >= 32 * 0.25 - 3).all()
    assert len(set(width.tolist())) > 1
    parts = [
        view.rows(model, Batch(ramp.image[rows], ramp.text[rows]), step=2, gather=Gather(rank, 2)).rows
        for rank, rows in enumerate((slice(2), slice(2, 4)))
    ]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(view.rows(model, ramp, step=3, gather=LOCAL).rows, whole)


def test_texts_are_cut_at_their_first_sentence_or_at_a_length_with_their_end():
    model = module()
    views = {"image": {}, "text": {"rewrite": "sentences"}, "cut": {"source": "text", "context": 5}}
    terms = ["objective", {"name": "clip", "text": "cut"}]
    found = step_of(views=views, terms=terms).views
    first, cut = (found[name].rows(model, batch(model), step=0, gather=LOCAL).rows for name in ("text", "cut"))
    assert torch.equal(
        first, model.model.tokenizer(["a heart on sand.", "a cat on sand.", "a dog on sand.", "a sun on sand."])
    )
    whole = batch(model).text
    assert torch.equal(cut[:, :4], whole[:, :4])
    assert (cut[:, 4] == model.model.config.text.end).all()


def test_a_teacher_that_is_the_student_asks_for_nothing_and_another_pulls(tmp_path):
    for name, seed in (("same", 0), ("other", 5)):
        tether.save(create("tiny", context=48, seed=seed), tmp_path / name)
    model = module(logit_scale=20.0)
    for name in ("same", "other"):
        teacher = {f"teacher_{side}": {"source": side, "encoder": str(tmp_path / name)} for side in ("image", "text")}
        step = step_of(views={"image": {}, "text": {}, **teacher}, terms=[{"name": "similarity", "temperature": 0.05}])
        total = step(model, batch(model), step=0, gather=LOCAL).total
        assert (total.item() < 1e-6) == (name == "same")
        assert total.requires_grad


def test_a_decoder_learns_through_the_image_tower_and_is_drawn_from_the_seed():
    model = create("tiny", context=48)
    step = step_of(terms=["caption"], heads={"decoder": {"name": "causal_decoder", "width": 32, "layers": 1}})
    heads, again = step.new_heads(model), step.new_heads(model)
    assert all(
        torch.equal(*pair) for pair in zip(heads["decoder"].parameters(), again["decoder"].parameters(), strict=True)
    )
    whole = StepModule(model, heads=heads)
    loss = step(whole, batch(whole), step=0, gather=LOCAL).total
    assert loss.item() == pytest.approx(torch.tensor(49408.0).log().item(), rel=0.05)
    loss.backward()
    assert model.visual.patch.weight.grad.any()
    assert all(parameter.grad is not None for parameter in heads["decoder"].parameters())


@pytest.mark.filterwarnings("ignore::tether.losses.EqualNegativesWarning")
@pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")
@pytest.mark.parametrize("number", range(len(RECIPES)))
def test_a_recipe_of_the_guide_runs_as_it_stands(number, tmp_path):
    tether.save(create("tiny"), tmp_path / "teacher")
    values = yaml.safe_load(RECIPES[number].replace("runs/teacher", str(tmp_path / "teacher")))
    config = RunConfig.model_validate({**values, "steps": 4, "batch_size": 8, "precision": "fp32", "threads": 1})
    assert list(view_costs(check_parts(config, EDITS, where="guide")))
    train(config, folder=tmp_path / "run", edits=EDITS)
    records = list(read_metrics(tmp_path / "run" / "metrics.jsonl"))
    assert len(records) == 4
    assert not any("heads" in name for name in tether.load(tmp_path / "run").state_dict())
    if len(values.get("step", {}).get("terms", [])) > 1:
        names = [term if isinstance(term, str) else term.get("as", term["name"]) for term in values["step"]["terms"]]
        assert set(names) <= records[0].keys()


def test_the_dry_run_says_what_views_cost():
    step = {"views": {"image": {"keep_patches": 0.5}, "text": {}, "more": {"source": "text", "rewrite": "growing"}}}
    step["terms"] = ["objective", {"name": "details", "growing": "more"}]  # pyrefly: ignore
    config = RunConfig(data="emoji", size="tiny", step=step)
    lines = list(view_costs(check_parts(config, {}, where="test")))
    assert [line.split(" tokens")[0] for line in lines] == ["view image: 9", "view text: 24", "view more: 72"]
    assert "9 tokens, 2.0 MFLOP" in lines[0]
    hiding = config.model_copy(update={"edits": [{"name": "masked_patches"}]})
    assert next(view_costs(check_parts(hiding, EDITS, where="test"))).startswith("view image: 17 tokens")


def test_a_micro_batch_with_views_of_other_shapes_gives_the_gradients_of_the_whole():
    views = {
        "image": {},
        "text": {},
        "crop": {"source": "image", "keep_patches": 0.5},
        "long_image": {},
        "long_text": {},
    }
    terms = [
        "objective",
        {"name": "clip", "image": "crop"},
        {"name": "clip", "image": "long_image", "text": "long_text"},
    ]
    gradients = []
    for size in (None, 2):
        model = StepModule(create("tiny", context=48).double(), micro_batch=size)
        step = ComposedStep(ClipLoss(), steps=10, seed=0, views=views, terms=terms)
        step(model, batch(model), step=0, gather=LOCAL).total.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
