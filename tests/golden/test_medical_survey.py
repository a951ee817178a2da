"""The survey's two loss families and its zero-shot protocol against an independent transcription, at any sizes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loading import load
from torch import Tensor

from tether.evaluate.medical import multilabel_report
from tether.losses import multi_positive_loss
from tether.methods.medical_survey import local_alignment_loss, local_similarity, soft_target_loss, soft_targets
from tether.methods.medical_survey.prompt_pairs import pair_scores
from tether.tasks.classify.zero_shot import weights_of_prompts

VECTORS = load("medical-survey")
META = VECTORS.meta
HYPER: dict[str, Any] = META["hyper"]
TOLERANCE = float(META.get("tolerance", "1e-10"))
CLOSE = {"rtol": TOLERANCE, "atol": TOLERANCE}


def tensor(name: str) -> Tensor:
    return torch.from_numpy(VECTORS[name])


def said(name: str) -> Any:
    if name not in META:
        pytest.skip(f"no {name} in these vectors")
    return META[name]


def temperatures(*names: str) -> dict[str, float]:
    return {name: float(HYPER[name]) for name in names}


def soft_loss(image: Tensor, text: Tensor) -> Tensor:
    left, right = tensor("label_image"), tensor("label_text")
    return soft_target_loss(
        F.normalize(image, dim=1),
        F.normalize(text, dim=1),
        1 / float(HYPER["temperature"]),
        targets=soft_targets(left, right=right),
        text_targets=soft_targets(right, right=left),
    )


def real_words() -> Tensor:
    return torch.arange(VECTORS["words"].shape[1]) < tensor("n_words")[:, None]


def local_loss(regions: Tensor, words: Tensor, *, block: int | None = None) -> Tensor:
    settings = temperatures("temp1", "temp2", "temp3")
    return local_alignment_loss(regions, words=words, real=real_words(), block=block, **settings)


def test_probability_of_each_finding() -> None:
    VECTORS.need("image", "pos", "neg", "prob")
    positive, negative = (weights_of_prompts(tensor(name)) for name in ("pos", "neg"))
    found = pair_scores(tensor("image"), positive=positive, negative=negative, scale=float(HYPER["scale"]))
    torch.testing.assert_close(found.probability, tensor("prob"), **CLOSE)
    both = HYPER["scale"] * torch.stack([found.positive, found.negative], dim=-1)
    torch.testing.assert_close(both.softmax(dim=-1)[..., 0], tensor("prob"), **CLOSE)


@pytest.mark.parametrize(("figure", "of"), [("auroc", "auroc"), ("average_precision", "average_precision")])
def test_figures_of_each_finding(figure: str, of: str) -> None:
    VECTORS.need("prob", "y")
    report = multilabel_report(VECTORS["prob"], truth=VECTORS["y"])
    wanted = said(figure)
    assert len(report.findings) == len(wanted)
    known = []
    for finding, value in zip(report.findings, wanted, strict=True):
        found = getattr(finding, of)
        if value is None or not math.isfinite(value) or found is None:
            assert found is None
            assert finding.positives in (0, finding.rows)
            continue
        assert found.value == pytest.approx(value, rel=0, abs=TOLERANCE)
        known.append(value)
    if known:
        assert getattr(report, of).value == pytest.approx(float(np.mean(known)), rel=0, abs=TOLERANCE)


def test_soft_label_loss_and_its_gradient() -> None:
    VECTORS.need("image", "text", "label_image", "label_text")
    leaves = [tensor(name).clone().requires_grad_() for name in ("image", "text")]
    assert soft_loss(*leaves).item() == pytest.approx(said("soft_label_loss"), rel=TOLERANCE, abs=TOLERANCE)
    assert torch.autograd.gradcheck(soft_loss, leaves)


def test_a_row_without_findings_wants_everything_alike() -> None:
    VECTORS.need("label_image", "label_text")
    targets = soft_targets(tensor("label_image"), right=tensor("label_text"))
    empty = (tensor("label_image") == 0).all(dim=1)
    torch.testing.assert_close(targets[empty], torch.full_like(targets[empty], 1 / targets.shape[1]))
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(len(targets), dtype=targets.dtype))


@pytest.mark.parametrize("block", [None, 1, 3])
def test_local_similarities(block: int | None) -> None:
    VECTORS.need("regions", "words", "n_words", "local")
    found = local_similarity(
        tensor("regions"), words=tensor("words"), real=real_words(), block=block, **temperatures("temp1", "temp2")
    )
    torch.testing.assert_close(found, tensor("local"), **CLOSE)


def test_local_loss_and_its_gradient() -> None:
    VECTORS.need("regions", "words", "n_words")
    leaves = [tensor(name).clone().requires_grad_() for name in ("regions", "words")]
    whole, pieces = local_loss(*leaves), local_loss(*leaves, block=2)
    assert whole.item() == pytest.approx(said("local_loss"), rel=TOLERANCE, abs=TOLERANCE)
    assert torch.autograd.gradcheck(local_loss, leaves)
    for one, two in zip(torch.autograd.grad(whole, leaves), torch.autograd.grad(pieces, leaves), strict=True):
        torch.testing.assert_close(one, two, **CLOSE)


def test_what_is_not_a_word_changes_nothing() -> None:
    VECTORS.need("regions", "words", "n_words", "local")
    words = tensor("words").clone()
    words[~real_words()] = 1e3
    found = local_similarity(tensor("regions"), words=words, real=real_words(), **temperatures("temp1", "temp2"))
    torch.testing.assert_close(found, tensor("local"), **CLOSE)


def test_several_positives_are_the_loss_written_out() -> None:
    VECTORS.need("image", "text", "label_image")
    image, text = (F.normalize(tensor(name), dim=1) for name in ("image", "text"))
    labels = tensor("label_image")
    positive = (labels[:, None] == labels).all(dim=2)
    scale = 1 / float(HYPER["temperature"])
    logits = scale * image @ text.T
    wanted = 0.0
    for table, own in ((logits, positive), (logits.T, positive.T)):
        chance = table.log_softmax(dim=1)
        wanted += sum(-chance[row][own[row]].mean() for row in range(len(table))) / len(table) / 2
    torch.testing.assert_close(multi_positive_loss(image, text, scale, positive=positive), wanted, **CLOSE)
