"""Official clip-beyond-tail code against our imbalance measures, cosine head, class sampling and concept counts."""

from __future__ import annotations

import math
import re
from typing import get_args

import numpy as np
import pytest
import torch
from loading import load

from tether.evaluate.imbalance import imbalance_report
from tether.losses.sub_vocabulary import VocabSampler, Weight
from tether.methods.beyond_tail.concepts import IMAGENET_NEGATIVES, concept_frequency, words_of
from tether.methods.beyond_tail.cosine_head import CosineHead
from tether.methods.beyond_tail.neural_collapse import NeuralCollapse, neural_collapse

VECTORS = load("beyond-tail")
META = VECTORS.meta
_TOLERANCE = META.get("tolerance", "")
RTOL = float((re.search(r"([\d.e-]+) relative", _TOLERANCE) or ["", "1e-8"])[1])
NC_RTOL = float((re.search(r"pseudo-inverse: ([\d.e-]+)", _TOLERANCE) or ["", "1e-6"])[1])
SIGNS = {
    "Sw_invSb": "within_between",
    "cos_M_all": "means_all",
    "cos_W_all": "head_all",
    "cos_M_nearest": "means_nearest",
    "cos_W_nearest": "head_nearest",
}
CASES = META.get("sample_class_inds", [])
CONCEPT = META.get("concept")


def tensor(name: str) -> torch.Tensor:
    return torch.from_numpy(VECTORS[name])


def head() -> CosineHead:
    VECTORS.need("head", "features")
    start = tensor("head")
    made = CosineHead(len(start), dim=start.shape[1], start=start)
    if "logit_scale" in VECTORS:
        with torch.no_grad():
            made.log_scale.fill_(float(VECTORS["logit_scale"]))  # the parameter, before its exponential
    return made


def collapse() -> NeuralCollapse:
    VECTORS.need("features", "targets", "head")
    return neural_collapse(tensor("features"), labels=tensor("targets"), head=tensor("head"))


def test_cosine_head():
    VECTORS.need("logits")
    np.testing.assert_allclose(head()(tensor("features")).detach(), VECTORS["logits"], rtol=RTOL, atol=1e-12)


def test_cosine_head_over_some_classes():
    VECTORS.need("logits_sub", "sub_idx")
    found = head()(tensor("features"), classes=tensor("sub_idx"))
    np.testing.assert_allclose(found.detach(), VECTORS["logits_sub"], rtol=RTOL, atol=1e-12)


def test_imbalance():
    VECTORS.need("confusion", "freqs")
    confusion = VECTORS["confusion"].astype(np.int64)
    classes = np.arange(len(confusion))
    truth = np.repeat(classes, confusion.sum(axis=1))
    predicted = np.concatenate([np.repeat(classes, row) for row in confusion])
    report = imbalance_report(predicted, truth=truth, frequencies=VECTORS["freqs"])
    np.testing.assert_array_equal(report.confusion, confusion)
    check_report(report)
    if "logits" in VECTORS and "targets" in VECTORS:
        again = imbalance_report(VECTORS["logits"].argmax(1), truth=VECTORS["targets"], frequencies=VECTORS["freqs"])
        np.testing.assert_array_equal(again.confusion, confusion)


def check_report(report) -> None:
    if "per_class_accs" in VECTORS:
        np.testing.assert_allclose(report.accuracy, VECTORS["per_class_accs"], rtol=RTOL, atol=1e-12)
    if "per_class_pred_cnt" in VECTORS:
        np.testing.assert_array_equal(report.predictions, VECTORS["per_class_pred_cnt"])
    corrs = META.get("corrs", {})
    for name, found in (("corr_acc", report.rho_accuracy), ("corr_pred", report.rho_predictions)):
        if name in corrs:
            check_correlation(found, corrs[name])


def check_correlation(found: float | None, expected: float | None) -> None:
    if expected is None or math.isnan(expected):
        return  # a constant, or a class without a row: ours says None or leaves the class out
    assert found == pytest.approx(expected, rel=NC_RTOL, abs=1e-9)


@pytest.mark.parametrize("name", SIGNS)
def test_neural_collapse(name):
    VECTORS.need(name)
    found, expected = getattr(collapse(), SIGNS[name]).numpy(), VECTORS[name]
    if np.isnan(expected).all():
        pytest.skip("a class without a row makes all of the official values NaN")
    np.testing.assert_allclose(found, expected, rtol=NC_RTOL, atol=1e-12)


@pytest.mark.parametrize("name", SIGNS)
def test_correlations_of_neural_collapse(name):
    VECTORS.need("freqs", "per_class_accs")
    found, corrs = collapse(), META.get("corrs", {})
    for key, values in ((f"corr_{name}", VECTORS["freqs"]), (f"corr_{name}_acc", VECTORS["per_class_accs"])):
        if key in corrs:
            check_correlation(found.correlations(values)[SIGNS[name]], corrs[key])


@pytest.mark.parametrize("case", CASES, ids=[case.get("name", str(place)) for place, case in enumerate(CASES)])
def test_classes_of_a_step(case):
    # Where chance has no say: enough classes in the batch, or as few of positive weight as are needed.
    weight = case.get("weight")
    classes = len(VECTORS["freqs"]) if "freqs" in VECTORS else len(weight or [])
    given = np.ones(classes) if weight is None else np.array(weight)
    sampler = VocabSampler(given, size=case["num_to_sample"], weight="uniform" if weight is None else "linear")
    found = sampler(torch.tensor(case["gt"]), generator=torch.Generator().manual_seed(0))
    assert found.classes.tolist() == case["appeared"]
    assert found.labels.tolist() == case["new_gt"]


@pytest.mark.parametrize("weight", get_args(Weight))
def test_how_often_each_class_is_drawn(weight):
    name = f"inclusion_{weight}"
    VECTORS.need(name, "freqs")
    case = META["inclusion"]
    tolerance = float((re.search(r"absolute ([\d.]+)", case.get("tolerance", "")) or ["", "0.035"])[1])
    sampler = VocabSampler(VECTORS["freqs"], size=case["num_to_sample"], weight=weight)
    labels, generator = torch.tensor(case["gt"]), torch.Generator().manual_seed(0)
    times = np.zeros(len(VECTORS["freqs"]))
    for _ in range(case["draws"]):
        times[sampler(labels, generator=generator).classes] += 1
    np.testing.assert_allclose(times / case["draws"], VECTORS[name], rtol=0, atol=tolerance)


@pytest.mark.skipif(CONCEPT is None, reason="no captions in these vectors")
def test_concept_frequency():
    assert [sorted(set(words_of(text))) for text in CONCEPT["texts"]] == list(map(sorted, CONCEPT["tokens"]))
    negatives = IMAGENET_NEGATIVES if CONCEPT.get("dataset") == "imagenet" else None
    found = concept_frequency(CONCEPT["texts"], class_names=CONCEPT["templates"], negatives=negatives)
    assert found.tolist() == CONCEPT["frequency"]
