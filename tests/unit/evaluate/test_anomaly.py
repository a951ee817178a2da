"""Figures of defects: against scikit-learn and a plain curve, their intervals; and thresholds that promise a rate."""

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from tether.core.anomaly_map import AnomalyMap
from tether.core.errors import InputError
from tether.evaluate.anomaly import AnomalyScores
from tether.evaluate.false_alarms import alarm_threshold, least_rate


def images(count=12, *, seed=0, ties=False):
    """Maps that know something of their masks; every third image is normal."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        mask = ndimage.binary_dilation(rng.random((20, 24)) < 0.01, iterations=2) & (number % 3 > 0)
        values = np.clip(rng.random((20, 24)) * 0.7 + 0.2 * mask, 0, 1).astype(np.float32)
        if ties:
            values = (values * 8).round() / np.float32(8)
        yield AnomalyMap(float(values.mean() * 0.9), values, size=(20, 24)), mask


def plain_aupro(found, *, limit):
    """The curve threshold by threshold, and trapezoids under it."""
    pieces = [ndimage.label(mask, structure=np.ones((3, 3))) for _, mask in found]
    normal = sum((~mask).sum() for _, mask in found)
    points = [(0.0, 0.0)]
    for threshold in np.unique(np.concatenate([one.values.ravel() for one, _ in found]))[::-1]:
        false = sum(((one.values >= threshold) & ~mask).sum() for one, mask in found) / normal
        shares = [
            (one.values[labels == piece] >= threshold).mean()
            for (one, _), (labels, number) in zip(found, pieces, strict=True)
            for piece in range(1, number + 1)
        ]
        points.append((false, np.mean(shares)))
    x, y = np.array(points).T
    inside = x <= limit
    last = np.flatnonzero(inside)[-1]
    x_end = [] if x[last] == limit else [limit]
    y_end = [y[last] + (y[last + 1] - y[last]) * (limit - x[last]) / (x[last + 1] - x[last]) for _ in x_end]
    return np.trapezoid([*y[inside], *y_end], [*x[inside], *x_end]) / limit


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_figures_are_those_of_plain_curves(ties, limit):
    found = list(images(ties=ties))
    scores = AnomalyScores(limit=limit)
    for one, mask in found:
        scores.add(one, mask=mask)
    report = scores.report(resamples=50)
    truth, whole = [mask.any() for _, mask in found], [one.score for one, _ in found]
    pixels = np.concatenate([one.values.ravel() for one, _ in found])
    masks = np.concatenate([mask.ravel() for _, mask in found])
    assert report.image_auroc.value == pytest.approx(roc_auc_score(truth, whole), abs=1e-12)
    assert report.average_precision.value == pytest.approx(average_precision_score(truth, whole), abs=1e-12)
    assert report.pixel_auroc.value == pytest.approx(roc_auc_score(masks, pixels), abs=1e-9)
    assert report.aupro.value == pytest.approx(plain_aupro(found, limit=limit), abs=1e-9)
    assert (report.images, report.defective) == (12, sum(truth))
    for one in (report.image_auroc, report.average_precision, report.pixel_auroc, report.aupro):
        assert one.interval[0] <= one.value <= one.interval[1]


def test_intervals_shrink_with_images():
    def width(count):
        scores = AnomalyScores()
        for one, mask in images(count, seed=3):
            scores.add(one, mask=mask)
        low, high = scores.report(resamples=200).aupro.interval
        return high - low

    assert width(90) < 0.6 * width(12)


def test_what_is_not_defined_is_said():
    scores = AnomalyScores()
    (found, mask), *_ = images(1)
    scores.add(found, mask=mask)  # a folder of normals only
    report = scores.report()
    assert (report.image_auroc, report.average_precision, report.pixel_auroc, report.aupro) == (None,) * 4
    assert report.lines()[1] == "image AUROC none"
    assert report.notes == (
        "every image with a label is normal: there is no AUROC and no average precision of images",
        "no mask shows a defect: there are no figures of pixels",
    )
    scores.add(found, defective=True)
    assert scores.report().image_auroc.value == 0.5
    assert scores.report().aupro is None
    scores.add(found, mask=~mask)
    report = scores.report()
    assert report.notes == ("1 defective images have no mask and are not in the figures of pixels",)
    assert report.aupro is not None


def test_more_pixels_than_are_held(monkeypatch):
    monkeypatch.setattr("tether.evaluate.anomaly.MOST_PIXELS", 10 * 20 * 24)
    scores = AnomalyScores()
    for one, mask in images(12):
        scores.add(one, mask=mask)
    report = scores.report(resamples=10)
    assert report.images == 12
    assert report.notes == ("of more than 4,800 pixels the last 2 images are not in the figures of pixels",)
    first = AnomalyScores()
    for one, mask in list(images(12))[:10]:
        first.add(one, mask=mask)
    assert first.report(resamples=10).aupro.value == report.aupro.value


def test_bad_input_is_refused():
    scores, (found, mask) = AnomalyScores(), next(iter(images()))
    with pytest.raises(InputError, match="no image with a label"):
        scores.report()
    with pytest.raises(InputError, match="mask: expected one, or defective, got neither"):
        scores.add(found)
    with pytest.raises(InputError, match=r"mask: expected bool \(20, 24\), got bool \(24, 20\)"):
        scores.add(found, mask=mask.T)
    with pytest.raises(InputError, match="defective: expected False, as the mask says, got True"):
        scores.add(found, mask=mask, defective=True)


@pytest.mark.parametrize(("count", "rate"), [(19, 0.05), (19, 0.5), (40, 0.05), (99, 0.01), (7, 0.125), (1, 0.5)])
def test_a_threshold_keeps_its_promise(count, rate):
    rng = np.random.default_rng(0)
    draws = rng.random((4000, count + 1))
    alarms = [one[-1] > alarm_threshold(one[:-1], rate=rate).value for one in draws]
    spread = (rate * (1 - rate) / len(draws)) ** 0.5
    assert rate - 1 / (count + 1) - 3 * spread <= np.mean(alarms) <= rate + 3 * spread


def test_what_too_few_images_cannot_promise_is_refused():
    with pytest.raises(InputError, match=r"8 good images cannot promise 0\.05; give 19 or more, or a rate of 0\.112"):
        alarm_threshold(range(8), rate=0.05)
    assert alarm_threshold(range(8)).rate == least_rate(8) == 1 / 9
    assert alarm_threshold(range(8)).value == 7
    assert alarm_threshold([3.0] * 30).value == 3
    assert str(alarm_threshold(range(19))) == "threshold 18: at most 5.0% false alarms, from 19 good images"
    for scores in ([], [float("nan")]):
        with pytest.raises(InputError, match="scores: expected finite numbers of one normal image"):
            alarm_threshold(scores)
