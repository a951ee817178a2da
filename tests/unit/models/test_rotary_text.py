"""CLIP-IN's parts besides its loss: rotary positions, the converted text tower, distilling, the joint step."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest
import torch

import tether
from tether.adaptation.distill import distil_text
from tether.core.errors import InputError
from tether.core.gather import LOCAL
from tether.core.types import Batch, ImageSpec
from tether.data.loader import Loader, SideBySide
from tether.data.sets.scenes import ScenesSet
from tether.losses import ClipLoss, clip_loss
from tether.methods.clip_in import SymmetricHardNegativeLoss
from tether.methods.clip_in.rotary import RotaryEmbedding
from tether.methods.clip_in.step import ClipInStep
from tether.methods.m2_mix import M2MixLoss
from tether.methods.tripletclip import SceneTwins
from tether.models import create
from tether.models.tokenizer import ClipTokenizer
from tether.models.towers.blocks.rope import half_rope
from tether.training import load_config, train
from tether.training.steps.module import StepModule
from tether.training.steps.presets import HardNegativeStep

TEXTS = ["a red star and a blue ring", "a ring", "two green hearts on paper", "a blue ring and a red star"]
LONG = "There are two things: a red star and a blue ring. The red star is in the top left. Everything is on sand."


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestRotaryEmbedding:
    def test_is_what_our_blocks_do(self) -> None:
        x = normal(2, 7, 8)
        torch.testing.assert_close(RotaryEmbedding(8)(x), half_rope(x, position=torch.arange(7), theta=10000.0))

    def test_half_precision_keeps_far_places_apart(self) -> None:
        turn, x = RotaryEmbedding(4).to(torch.bfloat16), torch.ones(2, 4, dtype=torch.bfloat16)
        at = torch.tensor([513, 514])  # the same number in bfloat16
        got = turn(x, position=at)
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got.double(), turn(x.double(), position=at), rtol=1e-2, atol=1e-2)
        assert not torch.equal(got[0], got[1])
        assert not turn.state_dict()
        assert not list(turn.parameters())

    def test_refuses_places_past_its_length_and_other_shapes(self) -> None:
        turn = RotaryEmbedding(4, length=5)
        assert turn(torch.ones(5, 4)).shape == (5, 4)
        with pytest.raises(InputError, match="below 5, got 0 to 5"):
            turn(torch.ones(6, 4))
        with pytest.raises(InputError, match="got -1 to 0"):
            turn(torch.ones(2, 4), position=torch.tensor([-1, 0]))
        with pytest.raises(InputError, match=r"expected \(2,\) integers"):
            turn(torch.ones(2, 4), position=torch.tensor([0.0, 1.0]))
        with pytest.raises(InputError, match=r"expected \(..., l, 4\)"):
            turn(torch.ones(2, 6))
        with pytest.raises(InputError, match="head_dim: expected an even number"):
            RotaryEmbedding(7)


class TestRotary:
    def test_only_the_places_change(self) -> None:
        model = create("tiny", context=16).eval()
        student = model.resized(context=64, how="rotary")
        kept = {name for name in model.state_dict() if name != "text.position"}
        assert set(student.state_dict()) == kept
        assert all(torch.equal(student.state_dict()[name], model.state_dict()[name]) for name in kept)
        student.text.token.weight.data.zero_()
        assert model.text.token.weight.abs().sum() > 0
        assert student.config.text.context == student.tokenizer.context_length == 64
        assert not student.training
        pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
        assert torch.equal(student.encode_image(pixels).pooled, model.encode_image(pixels).pooled)

    def test_reads_to_the_end_and_padding_moves_nothing(self) -> None:
        student = create("tiny", context=16).eval().resized(context=64, how="rotary").double()
        texts = [LONG, LONG.replace("sand", "snow"), *TEXTS]
        ids = student.tokenizer(texts)
        assert ids.shape[1] > 16
        found = student.encode_text(ids).pooled
        assert (found[0] - found[1]).abs().max() > 1e-6
        for row, text in enumerate(texts):
            alone = student.encode_text(student.tokenizer([text])).pooled[0]
            torch.testing.assert_close(found[row], alone, rtol=1e-9, atol=1e-11)
        padded = student.encode_text(ids, want="tokens").pooled  # the path that does not pack
        torch.testing.assert_close(found, padded, rtol=1e-9, atol=1e-11)

    def test_order_still_counts(self) -> None:
        student = create("tiny", context=16).eval().resized(context=32, how="rotary")
        first, last = student.encode_text(student.tokenizer([TEXTS[0], TEXTS[3]])).pooled
        assert (first - last).abs().max() > 1e-6

    def test_survives_saving(self, tmp_path) -> None:
        student = create("tiny", context=16).eval().resized(context=64, how="rotary")
        tether.save(student, tmp_path / "model")
        again = tether.load(tmp_path / "model")
        ids = student.tokenizer([LONG])
        assert torch.equal(again.tokenizer([LONG]), ids)
        assert torch.equal(again.encode_text(ids).pooled, student.encode_text(ids).pooled)
        with pytest.raises(InputError, match="export"):
            tether.export(student, tmp_path / "theirs", format="open_clip")

    def test_takes_models_of_open_clip(self) -> None:
        theirs = create("tiny", block={"activation": "quick_gelu"}, context=16)  # what load makes of a ViT-B-32
        assert theirs.resized(context=32, how="rotary").config.text.blocks[0].activation == "quick_gelu"
        preset = create("tiny", block={"preset": "prenorm"}, context=16)
        assert all(block.rope == "half" for block in preset.resized(context=32, how="rotary").config.text.blocks)
        assert all(block.rope == "none" for block in preset.resized(context=32, how="rotary").config.vision.blocks)
        with pytest.raises(InputError, match="already"):
            theirs.resized(context=32, how="rotary").resized(context=64, how="rotary")
        with pytest.raises(InputError, match="rope: 'half' needs heads"):
            create("tiny", text={"width": 6, "heads": 2}).resized(context=32, how="rotary")


class TestDistilText:
    def test_student_comes_to_agree_and_the_rest_stays(self) -> None:
        teacher = create("tiny", context=16).eval()
        student = teacher.resized(context=32, how="rotary")
        before = {name: value.clone() for name, value in student.state_dict().items()}
        found = distil_text(
            student, teacher=teacher, texts=TEXTS * 2, steps=60, generator=torch.Generator().manual_seed(0)
        )
        assert found.after > 0.95 > found.before
        assert len(found.losses) == 60
        assert found.losses[-1] < found.losses[0]
        for name, value in student.state_dict().items():
            if not name.startswith("text."):
                assert torch.equal(value, before[name]), name
        assert not student.training
        assert all(parameter.grad is None for parameter in student.parameters())

    def test_a_student_that_agrees_stays_there(self) -> None:
        teacher = create("tiny", context=16).eval()
        student = create("tiny", context=16).eval()
        found = distil_text(student, teacher=teacher, texts=TEXTS, steps=1, generator=torch.Generator())
        assert found.before == pytest.approx(1, abs=1e-6)
        assert found.losses[0] == pytest.approx(0, abs=1e-6)

    def test_frozen_parameters_stay(self) -> None:
        teacher, student = create("tiny", context=16, seed=1).eval(), create("tiny", context=16)
        student.text.token.weight.requires_grad_(False)
        before = student.text.token.weight.clone()
        distil_text(student, teacher=teacher, texts=TEXTS, steps=2, generator=torch.Generator())
        assert torch.equal(student.text.token.weight, before)

    def test_refuses_what_cannot_be_taught(self) -> None:
        teacher = create("tiny", context=16).eval()
        student, draw = teacher.resized(context=64, how="rotary"), torch.Generator()
        with pytest.raises(InputError, match="more than the 16 tokens"):
            distil_text(student, teacher=teacher, texts=[*TEXTS, LONG], generator=draw)
        with pytest.raises(InputError, match="expected at least one, got none"):
            distil_text(student, teacher=teacher, texts=[], generator=draw)
        with pytest.raises(InputError, match="one embedding size, got 64 and 32"):
            distil_text(student, teacher=create("tiny", dim=32), texts=TEXTS, generator=draw)
        with pytest.raises(InputError, match="steps and batch_size"):
            distil_text(student, teacher=teacher, texts=TEXTS, steps=0, generator=draw)


def loader(source, *, batch: int, context: int = 48) -> Loader:
    spec = ImageSpec((32, 32))
    return Loader(source, batch_size=batch, image_spec=spec, tokenizer=ClipTokenizer(context), seed=1)


def both() -> SideBySide:
    edits = loader(SceneTwins(quadruples=12), batch=4)
    return SideBySide(edits, second=loader(ScenesSet(rows=8, captions="long", things=(1, 1)), batch=3), prefix="long")


class TestJointStep:
    def test_is_both_losses(self) -> None:
        pair, batch = StepModule(create("tiny", context=48).double()), next(both())
        weighted = ClipInStep(SymmetricHardNegativeLoss(), steps=10, seed=0, weight=0.5)
        loss = weighted(pair, batch, step=0, gather=LOCAL)
        edits = HardNegativeStep(SymmetricHardNegativeLoss(), steps=10, seed=0)(pair, batch, step=0, gather=LOCAL)
        model = pair.model
        image, text = model.encode_image(batch.extra["long_image"]), model.encode_text(batch.extra["long_text"])
        long = clip_loss(image.unit, text.unit, model.logit_scale)
        torch.testing.assert_close(loss.total, edits.total + 0.5 * long, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(loss.terms["long"], long.detach(), rtol=1e-9, atol=1e-11)

    def test_weight_zero_is_the_other_step(self) -> None:
        pair, batch = StepModule(create("tiny", context=48).double()), next(both())
        losses = [
            step(pair, batch, step=0, gather=LOCAL).total
            for step in (
                ClipInStep(SymmetricHardNegativeLoss(), steps=10, seed=0, weight=0.0),
                HardNegativeStep(SymmetricHardNegativeLoss(), steps=10, seed=0),
            )
        ]
        torch.testing.assert_close(*losses, rtol=1e-10, atol=1e-12)

    def test_the_objective_is_that_of_the_step(self) -> None:
        pair, batch = StepModule(create("tiny", context=48).double()), next(both())
        objective = M2MixLoss(m2=1.0, epochs=5)
        for step in (0, 7):
            joint, alone = (
                part(objective, steps=10, seed=0)(pair, batch, step=step, gather=LOCAL)
                for part in (ClipInStep, HardNegativeStep)
            )
            torch.testing.assert_close(joint.terms["mix"], alone.terms["mix"], rtol=1e-9, atol=1e-11)
            torch.testing.assert_close(
                joint.total, alone.total + joint.terms["long"].to(alone.total), rtol=1e-9, atol=1e-11
            )

    def test_equal_long_captions_may_be_positives(self) -> None:
        pair, batch = StepModule(create("tiny", context=48).double()), next(both())
        texts = batch.extra["long_text"][[0, 1, 0]]
        batch = replace(batch, extra={**batch.extra, "long_text": texts})
        model = pair.model
        image, text = model.encode_image(batch.extra["long_image"]), model.encode_text(texts)
        for duplicates, labels in (("negatives", None), ("positives", torch.tensor([4, 9, 4]))):
            step = ClipInStep(SymmetricHardNegativeLoss(), steps=10, seed=0, duplicates=duplicates)
            wanted = clip_loss(image.unit, text.unit, model.logit_scale, labels=labels).detach()
            got = step(pair, batch, step=0, gather=LOCAL).terms["long"]
            torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-11)

    def test_says_what_is_missing(self) -> None:
        pair, batch = StepModule(create("tiny", context=48)), next(both())
        step = ClipInStep(ClipLoss(), steps=10, seed=0)
        with pytest.raises(InputError, match="expected 'negative_image', got nothing"):
            step(pair, Batch(batch.image, batch.text), step=0, gather=LOCAL)
        odd = {**batch.extra, "long_text": batch.extra["long_text"][:2]}
        with pytest.raises(InputError, match=r"at least one; got \{'long_image': 3, 'long_text': 2"):
            step(pair, Batch(batch.image, batch.text, odd), step=0, gather=LOCAL)
        with pytest.raises(InputError, match="weight"):
            ClipInStep(ClipLoss(), steps=10, seed=0, weight=-1.0)
        with pytest.raises(InputError, match="duplicates: "):
            ClipInStep(ClipLoss(), steps=10, seed=0, duplicates="left_out")


class TestSideBySide:
    def test_goes_on_where_it_stood(self) -> None:
        first, second = both(), both()
        list(islice(first, 5))
        second.load_state_dict(first.state_dict())
        for one, two in zip(islice(first, 4), islice(second, 4), strict=True):
            assert torch.equal(one.image, two.image)
            assert torch.equal(one.extra["long_image"], two.extra["long_image"])
            assert torch.equal(one.extra["long_text"], two.extra["long_text"])
        first.close()

    def test_refuses_a_nameless_second(self) -> None:
        edits = loader(SceneTwins(quadruples=12), batch=4)
        with pytest.raises(InputError, match="prefix"):
            SideBySide(edits, second=edits, prefix="")


def test_a_run_mixes_edits_and_long_captions(tmp_path) -> None:
    long = ScenesSet(rows=8, captions="long", things=(1, 1))

    def mixed(source, **settings) -> SideBySide:
        return SideBySide(Loader(source, **settings), second=Loader(long, **settings), prefix="long")

    overrides = ["size=tiny", "data={name: scene_twins, quadruples: 8}", "model={context: 48}", "batch_size=4"]
    config = load_config(
        overrides=[*overrides, "step=clip_in", "objective=symmetric_negatives", "steps=2", "precision=fp32"]
    )
    records: list[dict] = []
    train(config, folder=tmp_path / "run", make_loader=mixed, on_record=records.append)  # pyrefly: ignore
    assert {"image_to_text_edit", "long"} <= set(records[-1])
