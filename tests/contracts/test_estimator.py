"""Every estimator of the space room passes scikit-learn's own suite."""

import pytest
from sklearn.utils.estimator_checks import check_estimator, estimator_checks_generator

from tether.space import ESTIMATORS

# (estimator, check) -> why it may fail. Nothing does today.
EXCEPTIONS: dict[tuple[str, str], str] = {}


def _cases():
    for name, estimator in ESTIMATORS.items():
        excused = {check: reason for (owner, check), reason in EXCEPTIONS.items() if owner == name}
        for instance, check in estimator_checks_generator(estimator(), expected_failed_checks=excused, mark="xfail"):
            yield pytest.param(instance, check, id=f"{name}-{getattr(check, 'func', check).__name__}")


@pytest.mark.parametrize(("estimator", "check"), _cases())
def test_sklearn_check(estimator, check):
    check(estimator)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_suite_is_whole(name):
    """The generator above yields as many checks as check_estimator itself runs."""
    results = check_estimator(ESTIMATORS[name](), on_fail=None, on_skip=None)
    generated = sum(1 for _ in estimator_checks_generator(ESTIMATORS[name]()))
    assert len(results) == generated
    assert {r["status"] for r in results} <= {"passed", "skipped", "xfail"}, [
        (r["check_name"], r["exception"]) for r in results if r["status"] == "failed"
    ]
