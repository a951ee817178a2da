"""Distillation from a teacher: open_clip's loss, one tower alone, and teachers of another width or size."""

from __future__ import annotations

import pytest
import torch
from open_clip.loss import DistillClipLoss
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

import tether
from tether.core.errors import InputError
from tether.core.gather import LOCAL
from tether.core.types import Batch
from tether.losses import ClipLoss
from tether.models.presets import create
from tether.models.save import save
from tether.training import load_config, train
from tether.training.metrics_log import read_metrics
from tether.training.steps import STEPS, ComposedStep, StepModule

TEXTS = ["a heart", "a cat", "a dog on sand", "the sun"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    """A folder with a model of another size, width and context."""
    folder = tmp_path_factory.mktemp("teacher") / "other"
    save(create("tiny", seed=9, context=20, image_size=64, dim=48).eval(), folder)
    return str(folder)


@pytest.fixture(scope="module")
def module() -> StepModule:
    return StepModule(create("tiny", seed=0))


@pytest.fixture(scope="module")
def batch(module) -> Batch:
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(pixels, module.model.tokenizer(TEXTS), {"texts": TEXTS})


def begun(step, module: StepModule) -> StepModule:
    step.see_start(module.model)
    return StepModule(module.model, heads=step.new_heads(module.model))


def one_tower(side: str, teacher: str, *, head: str | None = None, size: int | None = None) -> ComposedStep:
    views = {"image": {}, "text": {}, f"theirs_{side}": {"source": side, "encoder": teacher}}
    if size is not None:
        views[f"theirs_{side}"]["size"] = size
    term = {"name": "distill", "student": side, "teacher": f"theirs_{side}", "head": head, "weight": 2.0}
    heads = {} if head is None else {head: {"name": "projection", "layers": 1, "out": 48}}
    return ComposedStep(ClipLoss(), steps=3, seed=0, views=views, terms=["objective", term], heads=heads)


def test_it_is_open_clips_distill_on_the_same_features(module, batch, teacher) -> None:
    step = STEPS["distill"](ClipLoss(), steps=3, seed=0, encoder=teacher, size=64)
    views = step.see(begun(step, module), batch, step=0, gather=LOCAL).views
    student, other = module.model, tether.load(teacher)
    mine: list[Tensor] = [normalize(views[name].features.pooled, dim=1) for name in views]
    assert {tuple(rows.shape) for rows in mine[2:]} == {(4, 48)}
    contrast, distilled = DistillClipLoss()(mine[0], mine[1], student.logit_scale, mine[2], mine[3], other.logit_scale)
    loss = step(module, batch, step=0, gather=LOCAL)
    torch.testing.assert_close(loss.terms["distill"], distilled, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(loss.total, contrast + distilled, rtol=1e-6, atol=1e-6)
    wanted = torch.autograd.grad(contrast + distilled, student.visual.projection.weight)
    torch.testing.assert_close(torch.autograd.grad(loss.total, student.visual.projection.weight), wanted)


def test_divergence_and_cross_entropy_differ_by_the_teachers_entropy(module, batch) -> None:
    step = STEPS["distill"](ClipLoss(), steps=3, seed=0)  # the teacher is the model itself
    term, _ = step.terms["distill"]
    seen = step.see(begun(step, module), batch, step=0, gather=LOCAL)
    entropy = term(seen, step=0, gather=LOCAL)[0].total
    term.form = "kl"
    assert float(term(seen, step=0, gather=LOCAL)[0].total.detach()) == pytest.approx(0, abs=1e-6)
    rows = [normalize(seen.views[name].features.pooled, dim=1) for name in ("teacher_image", "teacher_text")]
    told = seen.logit_scale * rows[0] @ rows[1].T
    expected = sum(torch.distributions.Categorical(logits=logits).entropy().mean() for logits in (told, told.T)) / 2
    torch.testing.assert_close(entropy, expected)


@pytest.mark.parametrize("side", ["image", "text"])
def test_one_tower_through_a_projection(module, batch, teacher, side) -> None:
    step = one_tower(side, teacher, head="to_theirs", size=64 if side == "image" else None)
    inside = begun(step, module)
    loss = step(inside, batch, step=0, gather=LOCAL)
    views = step.see(inside, batch, step=0, gather=LOCAL).views
    told = inside.heads["to_theirs"](views[side].features.pooled)
    expected = 1 - cosine_similarity(told, views[f"theirs_{side}"].features.pooled).mean()
    torch.testing.assert_close(loss.terms["distill"], expected.detach())
    module.zero_grad()
    loss.total.backward()
    assert inside.heads["to_theirs"].layers[0].weight.grad.any()


def test_a_teacher_of_another_width_needs_a_projection(module, batch, teacher) -> None:
    said = r"the teacher's embeddings have 48 numbers, the student's \d+: give .*name: projection, layers: 1, out: 48"
    step = one_tower("image", teacher, size=64)
    with pytest.raises(InputError, match=said):
        step(begun(step, module), batch, step=0, gather=LOCAL)


def test_a_teacher_of_another_size_is_told_how_to_be_read(module, batch, teacher) -> None:
    step = STEPS["distill"](ClipLoss(), steps=3, seed=0, encoder=teacher)
    with pytest.raises(InputError, match="takes images of 64 x 64, got 32 x 32; give the view size: 64"):
        step(begun(step, module), batch, step=0, gather=LOCAL)


def test_words_have_no_scale_of_their_own(module, batch) -> None:
    views = {"image": {}, "text": {}, "words_text": {"source": "text", "encoder": "words"}}
    term = {"name": "similarity", "teacher_image": "words_text", "teacher_text": "words_text", "temperature": None}
    step = ComposedStep(ClipLoss(), steps=3, seed=0, views=views, terms=["objective", term])
    with pytest.raises(InputError, match="temperature: expected a number, for no teacher reads the view 'words_text'"):
        step(module, batch, step=0, gather=LOCAL)


def test_a_run_with_a_teacher_saves_the_student_alone(tmp_path, teacher) -> None:
    settings = ["data={name: scenes, rows: 8, size: 64, captions: short}", "size=tiny", "model={image_size: 64}"]
    settings += [
        "batch_size=4",
        "steps=2",
        "precision=fp32",
        f"step={{name: distill, encoder: '{teacher}', weight: 0.5}}",
    ]
    train(load_config(overrides=settings), folder=tmp_path / "run")
    records = list(read_metrics(tmp_path / "run" / "metrics.jsonl"))
    for record in records:
        assert record["loss"] == pytest.approx(record["objective"] + 0.5 * record["distill"], rel=1e-5)
    plain = create("tiny", seed=0, image_size=64).state_dict()
    assert load_file(tmp_path / "run" / "model.safetensors").keys() == plain.keys()
