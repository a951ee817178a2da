"""Terms on strong views: their heads, what they are made of, and what is refused."""

from __future__ import annotations

import pytest
import torch

from tether.core.errors import InputError
from tether.core.gather import LOCAL
from tether.core.types import Batch
from tether.losses import ClipLoss, rocket_loss
from tether.methods.improved_baselines import barlow_loss, sinkhorn, swapped_loss
from tether.methods.improved_baselines.projectors import PairedProjectors
from tether.methods.improved_baselines.synced_batch_norm import SyncedBatchNorm
from tether.models import create
from tether.training import RunConfig, train
from tether.training.checkpoints import list_checkpoints, load_checkpoint
from tether.training.steps import ComposedStep
from tether.training.steps.module import StepModule

STRONG = {"local_images": ["strong_image", "other_image"], "local_texts": ["strong_text", "other_text"]}
VIEWS = {name: {} for name in ("image", "text", *STRONG["local_images"], *STRONG["local_texts"])}
SMALL = {"name": "projectors", "hidden": [16], "out": 8}
HEADS = {
    "projectors": {**SMALL, "hidden": [16, 16], "scale": 10.0},
    "barlow": {**SMALL, "last_norm": "plain"},
    "siamese": {**SMALL, "bias": False, "last_norm": "plain", "predictor": 16, "momentum": 0.9},
    "prototypes": {**SMALL, "prototypes": 12},
}


def batch(count: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(2)
    tokens = create("tiny").tokenizer(["heart", "cat", "dog face", "red apple", "sun", "flag of Chile"][:count])
    extra = {}
    for place, name in enumerate(STRONG["local_images"]):
        extra[name] = torch.rand(count, 3, 32, 32, generator=generator)
        extra[STRONG["local_texts"][place]] = tokens.roll(place, 1)
    return Batch(torch.rand(count, 3, 32, 32, generator=generator), tokens, extra)


def step_of(*terms: dict, teacher=None, views=VIEWS, heads=None) -> tuple[ComposedStep, StepModule]:
    used = {term["name"] if "head" not in term else term["head"] for term in terms}
    used = {{"rocket": "projectors"}.get(name, name) for name in used}
    heads = {name: spec for name, spec in HEADS.items() if name in used} if heads is None else heads
    step = ComposedStep(ClipLoss(), steps=4, seed=1, views=views, terms=list(terms), heads=heads, teacher=teacher)
    model = create("tiny", seed=0)
    step.see_start(model)
    return step, StepModule(model, heads=step.new_heads(model))


TERMS = {
    "rocket": {"name": "rocket", **STRONG},
    "swapped": {"name": "rocket", **STRONG, "label_smoothing": 0.0, "swapped": 0.2},
    "barlow": {"name": "barlow", **STRONG},
    "siamese": {"name": "siamese", **STRONG},
    "prototypes": {"name": "prototypes"},
}


@pytest.mark.parametrize("name", TERMS)
def test_every_weight_of_model_and_heads_learns_from_each_term(name):
    views = {key: VIEWS[key] for key in (("image", "text") if name == "prototypes" else VIEWS)}
    step, module = step_of(TERMS[name], views=views)
    loss = step(module, batch(), step=0, gather=LOCAL)
    assert loss.total.isfinite()
    assert not any(term.requires_grad for term in loss.terms.values())
    loss.total.backward()
    heads = dict(module.heads.named_parameters())
    assert heads
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in heads.values())
    assert all(
        heads[key].grad.any() for key in heads if "layers.0.weight" in key or key.endswith(("log_scale", "types"))
    )
    for tower in (module.model.visual, module.model.text):
        assert tower.projection.weight.grad.any()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert step(module, batch(), step=1, gather=LOCAL).total.isfinite()


def test_the_rocket_term_is_the_loss_of_projections_each_with_its_own_batch():
    step, module = step_of(TERMS["swapped"])
    seen, model, head = batch(), module.model, module.heads["projectors"]
    views = {"image": [seen.image, *map(seen.extra.get, STRONG["local_images"])]}
    views["text"] = [seen.text, *map(seen.extra.get, STRONG["local_texts"])]
    encode = {"image": model.encode_image, "text": model.encode_text}
    rows = {side: [encode[side](one).pooled for one in found] for side, found in views.items()}
    local = {side: torch.stack([head.project(side, one) for one in found[1:]]) for side, found in rows.items()}
    wanted = rocket_loss(
        rows["image"][0], rows["text"][0], model.logit_scale,
        local_image=local["image"], local_text=local["text"], local_scale=10.0, reduction="sum",
    ).total  # fmt: skip
    wanted = wanted + 0.2 * swapped_loss(local["image"], local["text"], 10.0)
    torch.testing.assert_close(step(module, seen, step=0, gather=LOCAL).total, wanted, rtol=1e-5, atol=1e-5)


def test_a_trailing_head_follows_once_a_step_and_is_never_trained():
    step, module = step_of(TERMS["siamese"])
    head, trailing = module.heads["siamese"], module.heads["siamese:trailing"]
    assert not any("trailing" in name for name, _ in module.named_parameters())
    before = {name: value.clone() for name, value in trailing.named_buffers()}
    assert before.keys() == dict(head.named_parameters()).keys()
    step.follow_(step=0)
    assert all(torch.equal(value, before[name]) for name, value in trailing.named_buffers())
    with torch.no_grad():
        for weight in head.parameters():
            weight.add_(1)
    for _ in range(2):  # however often it is asked
        step(module, batch(), step=1, gather=LOCAL)
    step.follow_(step=1)
    for name, value in trailing.named_buffers():
        torch.testing.assert_close(value, before[name] + 0.1)


def test_a_head_that_trails_from_a_stage_on_begins_as_the_head_is_then(tmp_path):
    head = {"name": "projectors", "hidden": [16], "out": 8, "predictor": 16}
    settings = [
        {"terms": ["objective", "siamese"], "heads": {"siamese": {**head, "momentum": momentum}}}
        for momentum in (None, 1.0)
    ]
    stages = [{"steps": 2, "step": one} for one in settings]
    about = {
        "data": "emoji:split=validation,size=32",
        "size": "tiny",
        "batch_size": 8,
        "threads": 1,
        "save_every": 1,
        "keep": 9,
    }
    train(RunConfig(**about, steps=4, stages=stages), folder=tmp_path / "run")  # pyrefly: ignore
    _, before, after = (
        load_checkpoint(path).tensors["heads"] for path in list_checkpoints(tmp_path / "run" / "checkpoints")
    )
    assert before
    for name, value in before.items():
        torch.testing.assert_close(after[name.replace("siamese", "siamese:trailing")], value, rtol=0, atol=0)
    assert any(not torch.equal(after[name], value) for name, value in before.items())


def test_targets_may_be_a_teacher_that_trails_the_model():
    taught = {f"teacher_{name}": {"of": name, "encoder": "teacher"} for name in VIEWS}
    targets = {name: f"teacher_{name}" for name in VIEWS}
    own = {"name": "siamese", **STRONG}
    step, module = step_of({**own, "targets": targets}, teacher={"ema": {"momentum": 0.5}}, views=VIEWS | taught)
    plain, same = step_of(own)
    first = [one(two, batch(), step=0, gather=LOCAL).total for one, two in ((step, module), (plain, same))]
    torch.testing.assert_close(*first)  # the teacher begins as the model
    with torch.no_grad():
        for weight in module.model.parameters():
            weight.add_(0.01)
    assert step(module, batch(), step=1, gather=LOCAL).total != first[0]
    with pytest.raises(InputError, match="targets: expected one for each of image, strong_image"):
        step_of({**own, "targets": {"image": "text"}})


def test_the_own_scale_is_kept_in_its_range():
    head = PairedProjectors(hidden=[4], scale=10.0, dim=4, vocabulary=9, context=5, generator=torch.Generator())
    with torch.no_grad():
        head.log_scale.fill_(9.0)
    assert head.scale.item() == pytest.approx(100, rel=1e-3)
    with torch.no_grad():
        head.log_scale.fill_(-2.0)
    assert head.scale.item() == 1


@pytest.mark.parametrize(
    ("term", "said"),
    [
        ({"name": "rocket"}, "expected at least one strong view"),
        ({"name": "rocket", "local_images": ["a_image"]}, "expected as many of both, got 1 and 0"),
        ({**TERMS["rocket"], "swapped": 0.2}, "expected 2 strong views and label_smoothing 0, got 2 and 0.1"),
        (
            {**TERMS["swapped"], "local_images": ["strong_image"], "local_texts": ["strong_text"]},
            "expected 2 strong views and label_smoothing 0, got 1",
        ),
        ({**TERMS["rocket"], "label_smoothing": 1.0}, "label_smoothing: expected"),
        ({**TERMS["swapped"], "eps": 0.0}, "eps: expected"),
        ({**TERMS["barlow"], "scale": -1.0}, "scale: expected"),
        ({"name": "prototypes", "iters": 0}, "iters: expected"),
    ],
)
def test_bad_settings_are_refused(term, said):
    with pytest.raises(InputError, match=said):
        step_of(term)


@pytest.mark.parametrize(
    ("term", "heads", "said"),
    [
        (TERMS["rocket"], {"projectors": SMALL}, "expected scale"),
        (TERMS["siamese"], {"siamese": SMALL}, "expected predictor"),
        ({"name": "prototypes"}, {"prototypes": SMALL}, "expected prototypes"),
        ({"name": "barlow"}, {"barlow": "causal_decoder"}, "expected projectors, got CausalDecoder"),
    ],
)
def test_heads_that_lack_something_are_named(term, heads, said):
    views = VIEWS if "local_images" in term else {"image": {}, "text": {}}
    step, module = step_of(term, heads=heads, views=views)
    with pytest.raises(InputError, match=said):
        step(module, batch(), step=0, gather=LOCAL)


def test_heads_refuse_what_they_cannot_be():
    for spec, said in (
        ({"scale": 1000.0}, "scale: expected 1 to 100"),
        ({"hidden": []}, "hidden"),
        ({"out": 0}, "out"),
    ):
        with pytest.raises(InputError, match=said):
            step_of(TERMS["rocket"], heads={"projectors": {**SMALL, **spec}})


def test_batch_norm_is_torchs_and_takes_one_row():
    rows, norm, plain = torch.randn(7, 5), SyncedBatchNorm(5), torch.nn.BatchNorm1d(5)
    torch.testing.assert_close(norm(rows), plain(rows))
    assert torch.equal(norm(rows[:1]), torch.zeros(1, 5))


class TestLosses:
    def test_numbers_of_views(self):
        rows = torch.eye(4)
        with pytest.raises(InputError, match="as many local views of images as of texts, got 2 and 1"):
            rocket_loss(rows, rows, 10.0, local_image=torch.stack([rows, rows]), local_text=rows[None])
        with pytest.raises(InputError, match="as many local views of images as of texts, got 0 and 1"):
            rocket_loss(rows, rows, 10.0, local_text=rows[None])
        with pytest.raises(InputError, match="expected 2 views"):
            swapped_loss(rows[None], rows[None], 10.0)

    def test_other_rows(self):
        with pytest.raises(InputError, match=r"got \(3, 4\) and \(2, 4\)"):
            barlow_loss(torch.rand(3, 4), torch.rand(2, 4))
        with pytest.raises(InputError, match="expected as many"):
            barlow_loss(torch.rand(0, 4), torch.rand(0, 4))

    def test_both_ways_to_the_correlations_are_one(self):
        for count in (3, 9):
            left, right = (torch.randn(count, 5, dtype=torch.float64) for _ in range(2))
            c = left.T @ right / count
            off = c.square().sum() - c.diagonal().square().sum()
            wanted = 0.025 * ((c.diagonal() - 1).square().sum() + 0.005 * off)
            torch.testing.assert_close(barlow_loss(left, right), wanted)

    def test_sinkhorn_bears_half_precision_and_wide_scores(self):
        scores = 300 * torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
        for dtype in (torch.float16, torch.bfloat16, torch.float32):
            found = sinkhorn(scores.to(dtype))
            assert found.dtype == torch.float32
            torch.testing.assert_close(found.sum(dim=1), torch.ones(6))
        assert not sinkhorn(scores.requires_grad_()).requires_grad
