"""The survey's eleven items (arXiv 2312.07353), one test each, and retrieval by findings."""

import re
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tether.core.errors import InputError
from tether.core.gather import LOCAL
from tether.core.types import Batch, ImageSpec, Row
from tether.data.augment import Colour, Flip
from tether.data.captions import CAPTION_PICKS
from tether.data.images import decode, resize_and_crop
from tether.data.intensity_window import WindowLevel
from tether.evaluate.medical import multilabel_report
from tether.losses import MultiPositive
from tether.methods.medical_survey import (
    LocalAlignmentLoss,
    PromptPairZeroShot,
    SoftTargetContrastive,
    check_apart,
    group_split,
    shared_precision,
)
from tether.methods.medical_survey.volume_encoder import SliceStackEncoder
from tether.models import create
from tether.models.embed import encode_images
from tether.training import RunConfig
from tether.training.steps.module import StepModule
from tether.training.steps.presets import ContrastiveStep

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "medical.md"
FINDINGS = ["a bright mark", "a dark line"]
REPORTS = [
    "a bright mark on the left. no dark line",
    "a dark line",
    "nothing unusual is seen",
    "a dark line. a bright mark",
]


def pixels(count=4):
    return torch.randint(0, 256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(scope="module")
def model():
    return create("tiny", seed=0).eval()


def trained(objective, model, *, want="pooled", **extra):
    batch = Batch(pixels(), model.tokenizer(REPORTS), extra)
    step = ContrastiveStep(objective, steps=2, seed=0, want=want)
    return step(StepModule(model), batch, step=0, gather=LOCAL)


def test_1_global_and_local_alignment_together(model):
    loss = trained(LocalAlignmentLoss(temp1=4.0, temp2=5.0, temp3=10.0), model, want="tokens")
    assert {"local", "image_to_text"} <= loss.terms.keys()
    loss.total.backward()
    assert model.text.projection.weight.grad.abs().sum() > 0
    model.zero_grad()


def test_2_soft_targets_unpaired_rows_and_patients_that_are_no_negatives(model):
    findings = torch.tensor([[1, 0], [0, 1], [0, 0], [1, -1]])
    assert trained(SoftTargetContrastive(), model, findings=findings).total.isfinite()
    unpaired = trained(SoftTargetContrastive(), model, findings=findings, text_findings=findings.roll(1, 0))
    assert unpaired.total.isfinite()
    patients = torch.tensor([1, 1, 2, 3])
    assert trained(MultiPositive(), model, patient=patients).total < trained(MultiPositive(), model).total


def test_7_few_shot_probes_at_one_ten_and_a_hundred_percent(model):
    from sklearn.linear_model import LogisticRegression

    rows = F.normalize(encode_images(model, pixels(200).split(100)), dim=1).numpy()
    labels = np.arange(200) % 2
    scores = []
    for share in (0.01, 0.1, 1.0):
        chosen = np.concatenate([np.flatnonzero(labels == kind)[: max(1, round(100 * share))] for kind in (0, 1)])
        probe = LogisticRegression(max_iter=1000).fit(rows[chosen], labels[chosen])
        scores.append(multilabel_report(probe.predict_proba(rows)[:, 1:], truth=labels[:, None]).auroc.value)
    assert scores[2] > 0.6


def test_10_deep_wide_and_stacked_images_and_no_mirrors_unless_asked(model):
    deep = np.linspace(0, 60000, 20 * 50).reshape(20, 50).astype(np.uint16)
    shown = WindowLevel(30000, 20000)(deep)
    spec = ImageSpec((32, 32), mean=(0.5,) * 3, std=(0.25,) * 3, resize="longest")
    ready = resize_and_crop(decode(shown), spec)
    assert ready.shape == (3, 32, 32)
    assert float(spec.normalise(ready[None]).max()) == pytest.approx((255 / 255 - 0.5) / 0.25)
    stack = SliceStackEncoder(model, pooling="attention")
    assert stack.encode_image(torch.stack([ready] * 6)[None]).pooled.shape == (1, 64)
    assert RunConfig.model_fields["augment"].default is None  # neither mirrored nor recoloured
    draws = np.arange(8, dtype=np.uint64)
    plain = pixels(8)
    assert not torch.equal(Flip(chance=1.0)(plain, draws=draws), plain)  # only who names it gets it
    assert not torch.equal(Colour()(plain, draws=draws), plain)
    kept = CAPTION_PICKS["carefully_augmented"]()(Row("a", None, ("a mark on the left, no line",)), draw=12345)
    assert "left" in kept
    assert "no line" in kept


def test_11_patients_apart_groups_calibration_and_no_network(model, monkeypatch):
    def refuse(*_given, **_more):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    patients = [f"p{number // 2}" for number in range(200)]
    split = group_split(patients)
    check_apart({name: [patients[row] for row in split.rows(name)] for name in split.names})
    test = split.rows("test")
    probability = PromptPairZeroShot().prepare(model, FINDINGS).predict(pixels(len(test))).probability
    truth = torch.arange(2 * len(test)).view(-1, 2) % 3 == 0
    report = multilabel_report(
        probability,
        truth=truth.float(),
        groups={"site": [number % 2 for number in range(len(test))]},
        patients=[patients[row] for row in test],
        resamples=20,
    )
    assert set(report.groups["site"]) == {0, 1}
    assert report.gap("site") >= 0
    assert all(0 <= finding.calibration_error <= 1 for finding in report.findings)


def test_the_guide_answers_every_item_with_a_call_or_an_honest_no():
    text = GUIDE.read_text("utf-8")
    items = re.findall(r"^\| (\d+) \|", text, re.M)
    assert items == [str(number) for number in range(1, 12)]
    assert text.count("not here") >= 4
    assert "no medical evidence" in text


def test_precision_counts_whoever_shares_a_finding():
    queries = torch.tensor([[1, 0, 0], [0, 1, 1], [0, 0, 0]])
    candidates = torch.tensor([[1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 0]])
    similarity = torch.tensor([[4.0, 3, 2, 1], [1, 1, 1, 1], [0, 0, 9, 0]])
    found = shared_precision(similarity, queries=queries, candidates=candidates, k=(1, 2, 9))
    assert found == {"precision_at_1": 1.0, "precision_at_2": pytest.approx(0.75), "precision_at_9": pytest.approx(0.5)}
    alike = shared_precision(similarity, queries=queries, candidates=candidates, k=(1, 4), match="all")
    assert alike == {"precision_at_1": pytest.approx(0.5), "precision_at_4": pytest.approx(0.25)}
    unsure = torch.tensor([[1, -1, 0]])
    same = shared_precision(torch.zeros(1, 4), queries=unsure, candidates=candidates, k=(4,), match="all")
    assert same == {"precision_at_4": pytest.approx(0.5)}
    nothing = shared_precision(torch.zeros(1, 4), queries=torch.zeros(1, 3), candidates=candidates)
    assert set(nothing.values()) == {None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": torch.zeros(2, 4)}, "expected similarity"),
        ({"candidates": torch.zeros(5, 3)}, "expected similarity"),
    ],
)
def test_bad_retrieval_is_refused(change, message):
    given = {"queries": torch.zeros(2, 3), "candidates": torch.zeros(4, 3)} | change
    with pytest.raises(InputError, match=message):
        shared_precision(torch.zeros(2, 4), **given)
    with pytest.raises(InputError, match="NaN"):
        shared_precision(torch.full((1, 1), torch.nan), queries=torch.ones(1, 1), candidates=torch.ones(1, 1))
