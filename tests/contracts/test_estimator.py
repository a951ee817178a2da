"""Every estimator of the rooms that have some passes scikit-learn's own suite."""

import pytest
from sklearn.utils.estimator_checks import check_estimator, estimator_checks_generator

from tether.adapt.debias import DEBIASERS
from tether.space import ESTIMATORS

EVERY = {**ESTIMATORS, **DEBIASERS}
SETTINGS: dict[str, dict[str, object]] = {"fairer_clip": {"n_features": 100, "n_code_features": 100, "random_state": 0}}
"""Settings that keep a fit quick; the others have their defaults."""

# (estimator, check) -> why it may fail. Nothing does today.
EXCEPTIONS: dict[tuple[str, str], str] = {}


def made(name):
    return EVERY[name](**SETTINGS.get(name, {}))


def _cases():
    for name in EVERY:
        excused = {check: reason for (owner, check), reason in EXCEPTIONS.items() if owner == name}
        for instance, check in estimator_checks_generator(made(name), expected_failed_checks=excused, mark="xfail"):
            yield pytest.param(instance, check, id=f"{name}-{getattr(check, 'func', check).__name__}")


@pytest.mark.parametrize(("estimator", "check"), _cases())
def test_sklearn_check(estimator, check):
    check(estimator)


@pytest.mark.parametrize("name", EVERY)
def test_suite_is_whole(name):
    """The generator above yields as many checks as check_estimator itself runs."""
    results = check_estimator(made(name), on_fail=None, on_skip=None)
    generated = sum(1 for _ in estimator_checks_generator(made(name)))
    assert len(results) == generated
    assert {r["status"] for r in results} <= {"passed", "skipped", "xfail"}, [
        (r["check_name"], r["exception"]) for r in results if r["status"] == "failed"
    ]
