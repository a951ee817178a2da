"""Imbalance report, neural collapse, cosine head, and the classes that a step looks at."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tether.core.errors import InputError
from tether.evaluate.imbalance import imbalance_report
from tether.losses.sub_vocabulary import VocabSampler
from tether.methods.beyond_tail.cosine_head import CosineHead
from tether.methods.beyond_tail.neural_collapse import neural_collapse


def test_report_by_hand():
    truth = [0, 0, 1, 1, 2, 2]
    report = imbalance_report([0, 0, 0, 1, 0, 2], truth=truth, frequencies=[100, 10, 1], edge=1 / 3)
    assert report.confusion.tolist() == [[2, 0, 0], [1, 1, 0], [1, 0, 1]]
    assert report.accuracy.tolist() == [1, 0.5, 0.5]
    assert report.predictions.tolist() == [4, 1, 1]
    assert report.rho_accuracy == pytest.approx(math.sqrt(3) / 2)  # two tied ranks of three
    assert report.rho_predictions == pytest.approx(math.sqrt(3) / 2)
    assert (report.head.accuracy, report.head.predictions, report.head.classes) == (1, 4, 1)
    assert (report.tail.accuracy, report.tail.predictions) == (0.5, 1)
    assert report.mean_accuracy == pytest.approx(2 / 3)


def test_perfect_and_opposite_order():
    predicted = np.repeat(np.arange(4), [1, 2, 3, 4])
    truth = np.arange(10) % 4
    assert imbalance_report(predicted, truth=truth, frequencies=[1, 2, 3, 4]).rho_predictions == pytest.approx(1)
    assert imbalance_report(predicted, truth=truth, frequencies=[4, 3, 2, 1]).rho_predictions == pytest.approx(-1)


def test_constant_accuracy_has_no_correlation():
    report = imbalance_report([0, 1, 2], truth=[0, 1, 2], frequencies=[5, 3, 1])
    assert report.rho_accuracy is None
    assert report.rho_predictions is None
    assert imbalance_report([0, 1], truth=[0, 1], frequencies=[5, 5]).rho_predictions is None


def test_class_without_test_rows_is_left_out():
    report = imbalance_report([0, 0, 1, 2], truth=[0, 0, 1, 0], frequencies=[9, 3, 1, 1])
    assert report.accuracy.tolist()[:2] == [pytest.approx(2 / 3), 1]
    assert np.isnan(report.accuracy[2:]).all()
    assert report.rho_accuracy == pytest.approx(-1)
    assert math.isnan(report.tail.accuracy)
    assert report.mean_accuracy == pytest.approx(5 / 6)


def test_ties_at_the_edges_go_to_the_first_class():
    report = imbalance_report([0, 1, 2, 3], truth=[0, 2, 1, 3], frequencies=[7, 7, 7, 7], edge=0.25)
    assert report.head.accuracy == report.tail.accuracy == 1
    assert imbalance_report([0, 1], truth=[0, 1], frequencies=[1, 2], edge=1).head.classes == 2


def test_report_takes_tensors():
    arrays = imbalance_report(np.array([0, 1, 1]), truth=np.array([0, 1, 0]), frequencies=np.array([2.0, 1.0]))
    tensors = imbalance_report(torch.tensor([0, 1, 1]), truth=torch.tensor([0, 1, 0]), frequencies=torch.tensor([2, 1]))
    assert tensors.confusion.tolist() == arrays.confusion.tolist()


@pytest.mark.parametrize(
    ("predicted", "settings", "message"),
    [
        ([], {"truth": [], "frequencies": [1]}, "at least one row"),
        ([0], {"truth": [0, 1], "frequencies": [1, 1]}, "differ in length: 1 and 2"),
        ([0, 2], {"truth": [0, 1], "frequencies": [1, 1]}, "predicted: expected classes 0 to 1"),
        ([0, 1], {"truth": [0, -1], "frequencies": [1, 1]}, "truth: expected classes 0 to 1"),
        ([0.5], {"truth": [0], "frequencies": [1]}, "predicted: expected whole numbers"),
        ([0], {"truth": [0], "frequencies": [1, -2]}, r"frequencies\[1\]: expected a finite number of at least 0"),
        ([0], {"truth": [0], "frequencies": [float("nan")]}, r"frequencies\[0\]"),
        ([0], {"truth": [0], "frequencies": []}, "one for each class"),
    ],
)
def test_refused_reports(predicted, settings, message):
    with pytest.raises(InputError, match=message):
        imbalance_report(predicted, **settings)


def simplex(classes: int, dim: int) -> torch.Tensor:
    centred = torch.eye(classes, dtype=torch.float64) - 1 / classes
    return F.pad(F.normalize(centred, dim=1), (0, dim - classes))


def test_complete_collapse_is_zero_everywhere():
    corners = 3 * simplex(5, 7)
    labels = torch.arange(5).repeat(4)
    found = neural_collapse(corners[labels] + 2.0, labels=labels, head=corners)
    for name in ("within_between", "means_all", "means_nearest", "head_all", "head_nearest"):
        assert getattr(found, name).abs().max() < 1e-12


def test_scatter_against_the_definition():
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(60, 9, generator=rng, dtype=torch.float64)
    labels = torch.randint(4, (60,), generator=rng)
    means = torch.stack([features[labels == k].mean(0) for k in range(4)])
    centred = means - means.mean(0)
    inverse = torch.linalg.pinv(centred.T @ centred / 4)
    found = neural_collapse(features, labels=labels)
    for k in range(4):
        away = features[labels == k] - means[k]
        assert found.within_between[k] == pytest.approx(float(torch.trace(away.T @ away / 60 @ inverse)), rel=1e-9)
    assert found.head_all is found.head_nearest is None
    assert not neural_collapse(
        features.requires_grad_(), labels=labels, head=CosineHead(4, dim=9).weight
    ).head_all.requires_grad
    assert neural_collapse(features.float(), labels=labels).within_between.dtype == torch.float64


def test_absent_class_changes_nothing_for_the_others():
    rng = torch.Generator().manual_seed(1)
    features, labels = torch.randn(30, 5, generator=rng), torch.arange(30) % 3
    plain = neural_collapse(features, labels=labels)
    gap = torch.tensor([0, 1, 3])
    found = neural_collapse(features, labels=gap[labels], classes=5)
    for name in ("within_between", "means_all", "means_nearest"):
        values = getattr(found, name)
        assert torch.isnan(values[[2, 4]]).all()
        torch.testing.assert_close(values[gap], getattr(plain, name))
    assert set(found.correlations([5.0, 4.0, 3.0, 2.0, 1.0])) == {"within_between", "means_all", "means_nearest"}
    assert found.correlations([1.0] * 5)["means_all"] is None


@pytest.mark.parametrize(
    ("features", "settings", "message"),
    [
        (torch.ones(3, 2), {"labels": torch.tensor([0, 1])}, "labels: expected 3 whole numbers"),
        (torch.ones(2, 2), {"labels": torch.tensor([0, 2]), "classes": 2}, "labels: expected 0 to 1"),
        (torch.ones(2, 2), {"labels": torch.tensor([1, 1])}, "at least two classes, got 1"),
        (torch.ones(2, 2), {"labels": torch.tensor([0, 1]), "head": torch.ones(2, 3)}, r"head: expected \(2, 2\)"),
        (torch.full((2, 2), torch.nan), {"labels": torch.tensor([0, 1])}, "NaN or infinity"),
        (torch.ones(2), {"labels": torch.tensor([0, 1])}, "float embeddings"),
    ],
)
def test_refused_collapse(features, settings, message):
    with pytest.raises(InputError, match=message):
        neural_collapse(features, **settings)


def test_correlations_need_one_value_for_each_class():
    found = neural_collapse(torch.randn(8, 3), labels=torch.arange(8) % 4)
    with pytest.raises(InputError, match=r"values: expected \(4,\), got \(3,\)"):
        found.correlations([1, 2, 3])


def test_head_is_scaled_cosines():
    head = CosineHead(6, dim=4, generator=torch.Generator().manual_seed(0))
    features = torch.randn(3, 4)
    whole = head(features)
    expected = torch.cosine_similarity(features[:, None], head.weight[None], dim=-1) / 0.07
    torch.testing.assert_close(whole, expected)
    torch.testing.assert_close(head(features * 7), whole)
    classes = torch.tensor([4, 0])
    torch.testing.assert_close(head(features, classes=classes), whole[:, classes])


def test_head_learns_only_the_classes_of_the_step():
    head = CosineHead(6, dim=4)
    classes = torch.tensor([1, 5])
    F.cross_entropy(head(torch.randn(3, 4), classes=classes), torch.tensor([0, 1, 1])).backward()
    assert head.weight.grad is not None
    moved = head.weight.grad.abs().sum(1) > 0
    assert moved.tolist() == [False, True, False, False, False, True]


def test_frozen_head_learns_its_scale_alone():
    start = torch.randn(6, 4)
    head = CosineHead(6, dim=4, start=start, prototypes="frozen")
    assert head.prototypes == "frozen"
    assert [name for name, _ in head.named_parameters()] == ["log_scale"]
    assert set(head.state_dict()) == {"weight", "log_scale"}
    torch.testing.assert_close(head.weight, start)
    start.zero_()
    assert head.weight.abs().sum() > 0
    assert CosineHead(6, dim=4).prototypes == "learned"


def test_scale_is_held_between_one_and_a_hundred():
    head = CosineHead(2, dim=2)
    assert float(head.log_scale.detach().exp()) == pytest.approx(1 / 0.07)
    for value, kept in ((9.0, math.log(100)), (-1.0, 0.0), (2.0, 2.0)):
        with torch.no_grad():
            head.log_scale.fill_(value)
        head.clamp_scale_()
        assert float(head.log_scale.detach()) == pytest.approx(kept)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": 2, "dim": 3, "start": torch.ones(3, 2)}, r"start: expected \(2, 3\), got \(3, 2\)"),
        ({"classes": 1, "dim": 1, "start": torch.full((1, 1), torch.inf)}, "finite class vectors"),
        ({"classes": 2, "dim": 3, "prototypes": "frozen"}, "frozen ones need a start"),
        ({"classes": 2, "dim": 3, "prototypes": "fixed"}, "expected 'learned' or 'frozen'"),
    ],
)
def test_refused_heads(settings, message):
    classes = settings.pop("classes")
    with pytest.raises(InputError, match=message):
        CosineHead(classes, **settings)


def test_every_class_of_the_batch_is_there_and_labels_follow():
    generator = torch.Generator().manual_seed(0)
    sampler = VocabSampler(np.arange(1, 101), size=20)
    for _ in range(50):
        labels = torch.randint(100, (8,), generator=generator)
        found = sampler(labels, generator=generator)
        assert len(found.classes) == 20
        assert (found.classes.diff() > 0).all()
        torch.testing.assert_close(found.classes[found.labels], labels)


def test_full_size_is_the_plain_classifier():
    labels = torch.tensor([3, 1, 4])
    found = VocabSampler([1.0] * 6, size=6)(labels)
    assert found.classes.tolist() == list(range(6))
    assert found.labels.tolist() == labels.tolist()


def test_a_batch_with_more_classes_than_the_size_is_taken_as_it_is():
    found = VocabSampler([1.0] * 6, size=2)(torch.tensor([5, 0, 3, 5]))
    assert found.classes.tolist() == [0, 3, 5]
    assert found.labels.tolist() == [2, 0, 1, 2]


def test_too_few_classes_of_positive_weight_are_all_taken():
    found = VocabSampler([0, 0, 5, 0, 1], size=4, weight="linear")(torch.tensor([0]))
    assert found.classes.tolist() == [0, 2, 4]
    assert VocabSampler([0, 0, 0], size=2)(torch.tensor([1])).classes.tolist() == [1]


def test_prototypes_without_labels():
    found = VocabSampler([1.0] * 50, size=7, weight="uniform")(torch.tensor([], dtype=torch.int64))
    assert len(found.classes) == 7
    assert len(found.labels) == 0


@pytest.mark.parametrize("weight", ["uniform", "linear", "sqrt"])
def test_one_more_class_is_drawn_by_its_weight(weight):
    frequencies = np.array([1.0, 4.0, 9.0, 100.0])
    sampler = VocabSampler(frequencies, size=2, weight=weight)
    generator, draws = torch.Generator().manual_seed(2), 2000
    times = np.zeros(4)
    for _ in range(draws):
        times[sampler(torch.tensor([3]), generator=generator).classes] += 1
    power = {"uniform": frequencies**0, "linear": frequencies, "sqrt": np.sqrt(frequencies)}[weight][:3]
    np.testing.assert_allclose(times[:3] / draws, power / power.sum(), atol=0.05)
    assert times[3] == draws


def test_draws_go_on_from_a_saved_state():
    sampler, generator = VocabSampler(np.arange(1, 31), size=9), torch.Generator().manual_seed(5)
    labels = torch.tensor([2, 7])
    sampler(labels, generator=generator)
    state = sampler.state_dict(generator=generator)
    expected = [sampler(labels, generator=generator).classes.tolist() for _ in range(3)]
    other = torch.Generator()
    VocabSampler(np.arange(1, 31), size=9).load_state_dict(state, generator=other)
    assert [sampler(labels, generator=other).classes.tolist() for _ in range(3)] == expected
    for changed in (VocabSampler(np.arange(1, 31), size=8), VocabSampler(np.ones(30), size=9)):
        with pytest.raises(InputError, match="does not fit a sampler of size="):
            changed.load_state_dict(state, generator=other)


@pytest.mark.parametrize(
    ("frequencies", "settings", "message"),
    [
        ([1, 2], {"size": 3}, "size: expected 1 to 2, the number of classes, got 3"),
        ([1, 2], {"size": 0}, "size: expected 1 to 2"),
        ([1, -2], {"size": 1}, r"frequencies\[1\]: expected a finite number of at least 0, got -2"),
        ([], {"size": 1}, "one for each class"),
        ([[1]], {"size": 1}, "one for each class"),
    ],
)
def test_refused_samplers(frequencies, settings, message):
    with pytest.raises(InputError, match=message):
        VocabSampler(frequencies, **settings)


@pytest.mark.parametrize("labels", [torch.tensor([0, 3]), torch.tensor([-1]), torch.tensor([0.0]), torch.tensor([[0]])])
def test_refused_labels(labels):
    with pytest.raises(InputError, match="labels: expected"):
        VocabSampler([1, 1, 1], size=2)(labels)
