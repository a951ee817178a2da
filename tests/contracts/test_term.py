"""What every term of ``TERMS`` promises, seen through the ``ComposedStep`` that calls it."""

from __future__ import annotations

import copy
import functools
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import LOCAL
from tether.core.protocols import Stateful
from tether.core.types import Batch, Loss, Regions
from tether.losses import ClipLoss
from tether.methods.clip_up.upcycle import upcycle
from tether.models import create
from tether.models.towers.clip import Clip
from tether.training.steps import ComposedStep, StepModule
from tether.training.terms import TERMS, Term

pytestmark = pytest.mark.slow
terms = pytest.mark.parametrize("name", sorted(TERMS))
ROWS = 6
STRONG = {"local_images": ["second_image"], "local_texts": ["second_text"]}
STRONG_VIEWS: dict[str, dict[str, Any]] = {name: {} for name in ("image", "text", "second_image", "second_text")}
PROJECTORS = {"name": "projectors", "hidden": [16], "out": 8}
PROJECTION = {"name": "projection", "hidden": 16, "out": 8}


@dataclass(frozen=True)
class Setup:
    """What a term needs around it.

    Attributes:
        views: that it names, and no others.
        heads: likewise.
        term: settings that are not its defaults.
        teacher: of the step.
        beside: further terms, which weigh nothing.
        model: settings of the trained one.
        before: steps until its loss is more than 0.
    """

    views: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"image": {}, "text": {}})
    heads: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    term: Mapping[str, Any] = field(default_factory=dict)
    teacher: Any = None
    beside: Sequence[Mapping[str, Any]] = ()
    model: Mapping[str, Any] = field(default_factory=dict)
    before: int = 0


OBJECTIVE = ({"name": "objective", "weight": 0},)
TEACHER = {"encoder": "teacher"}
SETUPS: dict[str, Setup] = {
    "barlow": Setup(STRONG_VIEWS, {"barlow": {**PROJECTORS, "last_norm": "plain"}}, STRONG),
    "byol": Setup(
        {"image": {}, "second_image": {}, "whole_image": {"source": "image", **TEACHER}},
        {"projector": PROJECTION, "predictor": {**PROJECTION, "inputs": 8}},
        teacher={"ema": {"momentum": 0.9}},
    ),
    "caption": Setup(heads={"decoder": {"name": "causal_decoder", "width": 16, "layers": 1}}),
    "concepts": Setup(
        {
            "image": {"want": "dense"},
            "teacher_image": {"of": "image", **TEACHER},
            "concepts_text": {"texts": ["left", "right", "above"], **TEACHER},
        },
        term={"random": 2, "temperature": None},
        teacher="start",
    ),
    "details": Setup({"image": {}, "text": {}, "growing": {"source": "text", "rewrite": "growing"}}),
    "distill": Setup({"image": {}, "teacher_image": {"source": "image", **TEACHER}}, teacher="start"),
    "experts": Setup(beside=OBJECTIVE, model={"upcycle": {"experts": 2}}),
    "gates": Setup(  # its controllers act on what the step before measured
        beside=OBJECTIVE,
        term={"gain": 5.0},
        model={"vision": {"gate": "mirror"}, "text": {"gate": "mirror"}},
        before=1,
    ),
    "grounding": Setup(
        {"image": {"want": "states"}, "text": {}, "region_text": {}},
        {"grounding": {"name": "grounding", "queries": 2, "layers": 1, "heads": 4, "width": 16, "inner": 16}},
    ),
    "prototypes": Setup(heads={"prototypes": {**PROJECTORS, "prototypes": 5}}),
    "pseudo_labels": Setup(
        {"image": {"want": "map"}},
        {
            "classes": {"name": "dense", "task": "seg", "classes": 4, "width": 8},
            "far": {"name": "dense", "task": "depth", "width": 8},
            "facing": {"name": "dense", "task": "normal", "width": 8},
        },
        {"seg": "classes", "depth": "far", "normal": "facing"},
    ),
    "rebuild": Setup(
        {"masked_image": {"source": "image", "want": "tokens", "keep_patches": 0.5}, "text": {"want": "tokens"}},
        {"rebuilder": {"name": "text_guided", "width": 16, "depth": 1}},
    ),
    "region_text": Setup(
        {"image": {"want": "states"}, "region_text": {}}, {"prompter": {"name": "prompter"}}, {"head": "prompter"}
    ),
    "rocket": Setup(STRONG_VIEWS, {"projectors": {**PROJECTORS, "scale": 10.0}}, STRONG),
    "siamese": Setup(STRONG_VIEWS, {"siamese": {**PROJECTORS, "predictor": 16, "momentum": 0.9}}, STRONG),
    "similarity": Setup(
        {
            "image": {},
            "text": {},
            "teacher_image": {"source": "image", **TEACHER},
            "teacher_text": {"source": "text", **TEACHER},
        },
        teacher="start",
    ),
    "simclr": Setup({"image": {}, "second_image": {}}, {"simclr": PROJECTION}),
}
"""By the term's name; one that is not listed needs an image, a text and no more."""


def setup_of(name: str) -> Setup:
    return SETUPS.get(name, Setup())


@dataclass(frozen=True)
class Seen:
    """What one step gave: the loss, and the gradient of every parameter that has one."""

    loss: Loss
    gradients: Mapping[str, Tensor]


def step_of(name: str, *, weight: float = 1.0, **settings: Any) -> ComposedStep:
    setup = setup_of(name)
    term = {"name": name, "weight": weight, **setup.term, **settings}
    return ComposedStep(
        ClipLoss(),
        steps=4,
        seed=1,
        views={view: dict(one) for view, one in setup.views.items()},
        terms=[term, *map(dict, setup.beside)],
        heads={head: dict(one) for head, one in setup.heads.items()},
        teacher=setup.teacher,
    )


@functools.cache
def model_of(name: str, *, seed: int) -> Clip:
    settings = dict(setup_of(name).model)
    experts = settings.pop("upcycle", None)
    model = create("tiny", seed=seed, context=48, **settings)
    return model if experts is None else upcycle(model, **experts)


def begun(step: ComposedStep, name: str) -> StepModule:
    """A run that goes on: ``start`` were other weights than the model's are now."""
    step.see_start(model_of(name, seed=9))
    model = copy.deepcopy(model_of(name, seed=4))
    return StepModule(model, heads=step.new_heads(model))


@functools.cache
def batch() -> Batch:
    """One that has what any term reads."""
    generator = torch.Generator().manual_seed(2)
    texts = [f"a {name} on sand. It has a {name} above it, with a hat" for name in ("heart", "cat", "dog", "sun")]
    texts += ["two things: a red star and a blue ring. All is on sand", "a flag, near a tree, under the moon"]
    tokenizer = create("tiny", context=48).tokenizer
    images = torch.randint(0, 256, (2, ROWS, 3, 32, 32), dtype=torch.uint8, generator=generator)
    near = torch.rand(ROWS, 2, 2, generator=generator) / 2
    regions = Regions(
        torch.cat([near, near + 0.4], dim=2),
        torch.ones(ROWS, 2, dtype=torch.bool),
        phrases=[["left", f"thing {row}"] for row in range(ROWS)],
        ids=torch.stack([torch.zeros(ROWS, dtype=torch.int64), torch.arange(1, ROWS + 1)], dim=1),
    )
    phrases = [phrase for row in regions.phrases or () for phrase in row]
    labels = {
        "seg": torch.randint(0, 4, (ROWS, 32, 32), generator=generator).to(torch.uint8),
        "depth": torch.rand(ROWS, 1, 32, 32, generator=generator),
        "normal": F.normalize(torch.randn(ROWS, 3, 32, 32, generator=generator), dim=1),
    }
    extra = {f"image_{task}": one for task, one in labels.items()} | {"seg_classes": 4, "texts": texts}
    extra |= {"second_image": images[1], "second_text": tokenizer([text[:20] for text in texts])}
    extra |= {"regions": regions, "region_text": tokenizer(phrases)}
    return Batch(images[0], tokenizer(texts), extra)


def seen(step: ComposedStep, module: StepModule, *, at: int) -> Seen:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)  # of dropout
        loss = step(module, batch(), step=at, gather=LOCAL)
    module.zero_grad()
    loss.total.backward()
    return Seen(loss, {key: one.grad for key, one in module.named_parameters() if one.grad is not None})


def run(name: str, *, weight: float = 1.0) -> Seen:
    step = step_of(name, weight=weight)
    module = begun(step, name)
    for at in range(setup_of(name).before):
        seen(step, module, at=at)
    return seen(step, module, at=setup_of(name).before)


whole_run = functools.cache(run)
"""At weight 1, for tests that only look at it."""


def together(gradients: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients.values()])


def test_every_setup_is_of_a_term() -> None:
    assert set(SETUPS) <= set(TERMS)


@terms
def test_what_the_step_reads_of_it_is_of_its_type(name: str) -> None:
    term, _ = step_of(name).terms[name]
    assert isinstance(term, Term)
    for names in (term.views, term.heads):
        assert isinstance(names, Mapping)
        assert all(isinstance(word, str) for pair in names.items() for word in pair)
    assert isinstance(term.trailed, Sequence)
    assert not isinstance(term.trailed, str)
    assert set(term.trailed) <= set(term.heads.values())


@terms
def test_its_loss_is_a_finite_scalar_that_teaches_the_model_and_each_head(name: str) -> None:
    found = whole_run(name)
    assert found.loss.total.shape == ()
    assert found.loss.total.dtype == torch.float32
    assert found.loss.total.isfinite()
    for key, told in found.loss.terms.items():
        assert told.shape == (), key
        assert told.isfinite(), key
        assert not told.requires_grad, key
    assert all(gradient.isfinite().all() for gradient in found.gradients.values())
    for part in ("model", *(f"heads.{head}" for head in setup_of(name).heads)):
        assert any(gradient.any() for key, gradient in found.gradients.items() if key.startswith(f"{part}.")), part


@terms
def test_the_same_again_gives_the_same_bits(name: str) -> None:
    first, second = whole_run(name), run(name)
    assert torch.equal(first.loss.total, second.loss.total)
    assert torch.equal(together(first.gradients), together(second.gradients))


@terms
def test_its_weight_scales_loss_and_gradient(name: str) -> None:
    whole, thrice, none = whole_run(name), run(name, weight=3.0), run(name, weight=0.0)
    torch.testing.assert_close(thrice.loss.total, 3 * whole.loss.total)
    one, other = (together(found.gradients) for found in (whole, thrice))
    assert (other - 3 * one).norm() <= 1e-4 * one.norm()
    assert none.loss.total == 0
    assert not any(gradient.any() for gradient in none.gradients.values())


@terms
def test_with_the_state_of_another_it_goes_on_alike(name: str) -> None:
    first, second, fresh = (step_of(name) for _ in range(3))
    modules = [begun(step, name) for step in (first, second, fresh)]
    seen(first, modules[0], at=0)
    second.load_state_dict(first.state_dict())
    going_on, taken_over, without = (
        seen(step, module, at=1).loss.total for step, module in zip((first, second, fresh), modules, strict=True)
    )
    assert torch.equal(going_on, taken_over)
    assert torch.equal(going_on, without) != isinstance(first.terms[name][0], Stateful)


@terms
def test_an_unknown_setting_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(InputError, match=rf"step: terms, entry 0 \({name}\): unknown key 'no_such'; known: "):
        step_of(name, no_such=1)


def renamed(value: Any, name: str) -> Any:
    """A setting with ``absent`` in place of one name, wherever that stands."""
    if isinstance(value, Mapping):
        return {renamed(key, name): renamed(one, name) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [renamed(one, name) for one in value]
    return "absent" if value == name else value


@terms
def test_a_view_or_head_that_is_not_there_is_named(name: str) -> None:
    term, _ = step_of(name).terms[name]
    own = {key: one.default for key, one in inspect.signature(TERMS[name].__init__).parameters.items()}
    setup = setup_of(name)
    settings = {key: one for key, one in own.items() if key not in ("self", "steps", "seed")} | dict(setup.term)
    assert {*term.views.values()} == {*setup.views} or not term.views
    assert {*term.heads.values()} == {*setup.heads}
    for kind, names in (("views", term.views), ("heads", term.heads)):
        for key, missing in names.items():
            changed = {setting: renamed(one, missing) for setting, one in settings.items()}
            said = rf"step: term {name}: {re.escape(key)}: unknown name 'absent' among its {kind}; .*{missing}"
            with pytest.raises(InputError, match=said):
                step_of(name, **changed)


@terms
def test_its_constructor_documents_every_setting(name: str) -> None:
    said = inspect.getdoc(TERMS[name].__init__) or ""
    documented = said.partition("Args:")[2].partition("Raises:")[0]
    for key in list(inspect.signature(TERMS[name].__init__).parameters)[1:]:
        assert re.search(rf"\b{key}: \S", documented), f"{key}: not under Args: of {TERMS[name].__name__}.__init__"
