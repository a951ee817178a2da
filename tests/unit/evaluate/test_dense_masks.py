"""IoU, accuracy and boundary F1 of masks: against torchmetrics and by hand, and their intervals."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from tether.core.errors import InputError
from tether.evaluate.dense import MaskScores, boundary_f1

CLASSES = ("a", "b", "c", "d")


def pairs(count=5, *, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        truth = rng.choice([0, 1, 2, 255], (20, 30)).astype(np.uint8)
        labels = np.where(rng.random((20, 30)) < 0.6, truth, rng.integers(0, 3, (20, 30))).astype(np.uint8)
        labels[labels == 255] = 0
        yield labels, truth


def test_iou_and_accuracy_are_those_of_torchmetrics():
    from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

    scores = MaskScores(CLASSES)
    each = MulticlassJaccardIndex(4, average="none", ignore_index=255)
    mean = MulticlassJaccardIndex(4, average="macro", ignore_index=255)
    accuracy = MulticlassAccuracy(4, average="micro", ignore_index=255)
    for labels, truth in pairs():
        scores.add(labels, truth=truth)
        for metric in (each, mean, accuracy):
            metric.update(torch.tensor(labels).long(), torch.tensor(truth).long())
    found = scores.report()
    assert list(found.iou) == ["a", "b", "c"]  # of d there is nothing
    assert [one.value for one in found.iou.values()] == pytest.approx(each.compute()[:3].tolist())
    assert found.miou.value == pytest.approx(float(mean.compute()))
    assert found.accuracy.value == pytest.approx(float(accuracy.compute()))
    assert found.images == 5
    for figure in (found.miou, found.accuracy, found.boundary_f1, *found.iou.values()):
        assert figure.interval[0] <= figure.value <= figure.interval[1]
        assert figure.interval[0] < figure.interval[1]
    assert found == scores.report()


def test_pixels_without_a_class_are_wrong_and_without_a_label_nothing():
    scores = MaskScores(("a", "b"), tolerance=0)
    scores.add(np.array([[255, 0], [1, 0]], dtype=np.uint8), truth=np.array([[0, 0], [1, 255]], dtype=np.uint8))
    found = scores.report()
    assert found.accuracy.value == pytest.approx(2 / 3)
    assert found.iou["a"].value == pytest.approx(1 / 2)
    assert found.pixels == 3


def square(at, *, side=6, size=20):
    found = np.zeros((size, size), dtype=np.uint8)
    found[at : at + side, at : at + side] = 1
    return found


def test_boundaries_by_hand():
    assert boundary_f1(square(5), square(5), classes=2) == 1
    assert boundary_f1(square(6), square(5), classes=2, tolerance=2) == 1  # one down and one right
    assert 0 < boundary_f1(square(6), square(5), classes=2, tolerance=0) < 1
    assert boundary_f1(square(14), square(0), classes=2) == 0
    assert boundary_f1(square(5) * 0, square(5), classes=2) == 0
    assert np.isnan(boundary_f1(square(5) * 0, square(5) * 0, classes=2))


def test_boundaries_beside_ignored_pixels_do_not_count():
    truth = square(5)
    truth[truth == 1] = 255
    assert np.isnan(boundary_f1(square(5), truth, classes=2))


def test_a_shift_is_forgiven_by_the_tolerance_as_the_crow_flies():
    line, far = (np.zeros((30, 30), dtype=np.uint8) for _ in range(2))
    line[:, 15:], far[:, 18:] = 1, 1
    assert boundary_f1(far, line, classes=2, tolerance=3) == 1
    assert boundary_f1(far, line, classes=2, tolerance=1) == 0


def test_what_does_not_fit_is_refused():
    scores = MaskScores(("a", "b"))
    ones = np.ones((2, 3), dtype=np.uint8)
    with pytest.raises(InputError, match=r"truth: expected \(2, 3\), got \(3, 2\)"):
        scores.add(ones, truth=ones.T)
    with pytest.raises(InputError, match="truth: expected 0 to 1, or 255 for none, got 7"):
        scores.add(ones, truth=7 * ones)
    with pytest.raises(InputError, match="no image with a labelled pixel"):
        scores.report()
    scores.add(ones, truth=np.full_like(ones, 255))
    with pytest.raises(InputError, match="no image with a labelled pixel"):
        scores.report()
    scores.add(ones, truth=ones)
    assert scores.report().boundary_f1 is None
    assert scores.report().lines()[3] == "boundary F1 at 2 pixels none: no image has a boundary"


@pytest.mark.parametrize("tolerance", [0, 1, 2, 5, 13])
def test_boundaries_are_those_of_a_disc_around_each_pixel(tolerance):
    rng = np.random.default_rng(tolerance)
    labels, truth = (np.kron(rng.integers(0, 3, (9, 11)), np.ones((4, 3))).astype(np.uint8) for _ in range(2))
    truth[rng.random(truth.shape) < 0.05] = 255
    y, x = np.mgrid[-tolerance : tolerance + 1, -tolerance : tolerance + 1]
    disc, known, figures = y**2 + x**2 <= tolerance**2, truth != 255, []

    def border(one):
        apart = np.zeros(one.shape, dtype=bool)
        down, across = ((one[1:] != one[:-1]) & known[1:] & known[:-1], (one.T[1:] != one.T[:-1]).T)
        across &= known[:, 1:] & known[:, :-1]
        apart[1:] |= down
        apart[:-1] |= down
        apart[:, 1:] |= across
        apart[:, :-1] |= across
        return apart

    for number in range(3):
        given, true = ((one == number) & border(one) for one in (labels, truth))
        precision = (given & ndimage.binary_dilation(true, disc)).sum() / given.sum()
        recall = (true & ndimage.binary_dilation(given, disc)).sum() / true.sum()
        figures.append(2 * precision * recall / (precision + recall))
    assert boundary_f1(labels, truth, classes=3, tolerance=tolerance) == np.mean(figures)
