"""What every section of the health report owes its reader."""

from __future__ import annotations

import json
import re

import pytest

from tether.cli import verbs
from tether.core.finding import LEVELS, Finding
from tether.core.protocols import Probe
from tether.evaluate.inspect import PROBES
from tether.evaluate.inspect.intervals import range_of, shown
from tether.evaluate.inspect.runner import inspect_model
from tether.models import create

SLUGS = re.compile(r"tether-lab reproduce ([\w-]+)")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """An own model with random weights on the synthetic world: every section has something to look at."""
    from tether.data import open_source

    model = create("tiny", seed=0, image_size=64).eval()
    pairs = open_source("scenes:split=test,rows=160", where="test")
    return inspect_model(model, pairs, out=tmp_path_factory.mktemp("probe"), source_name="scenes:split=test,rows=160")


@pytest.mark.parametrize("name", PROBES)
def test_it_is_a_probe_with_a_title(name):
    probe = PROBES[name]()
    assert isinstance(probe, Probe)
    assert probe.title
    assert not probe.title.endswith(".")
    assert PROBES[name].__doc__


@pytest.mark.parametrize("name", PROBES)
def test_its_finding_is_complete(report, name):
    section = report.section(name)
    if section.finding is None:  # random weights: some sections have nothing to judge, and say so
        assert section.problem
        assert "Error" not in section.problem
        return
    finding = section.finding
    assert finding.level in LEVELS
    assert not finding.sentence[0].islower()
    assert finding.sentence.endswith(".")
    assert "\n" not in finding.sentence
    assert len(finding.sentence) < 400
    assert finding.figures
    assert finding.unsaid.endswith(".")
    for figure in finding.figures:
        assert shown(figure)
        if figure.low is not None:
            assert figure.low - 1e-9 <= figure.value <= figure.high + 1e-9, figure
            assert " to " in range_of(figure)
    assert Finding.from_dict(json.loads(json.dumps(finding.to_dict()))) == finding


@pytest.mark.parametrize("name", PROBES)
def test_its_command_can_be_typed(report, name):
    finding = report.section(name).finding
    for command in re.findall(r"tether ([a-z-]+)", "" if finding is None else finding.command):
        assert command in verbs.names(), f"tether {command}"
    for slug in SLUGS.findall("" if finding is None else finding.command):
        from tether_lab.papers import CARDS

        assert slug in CARDS, slug


def test_random_weights_are_named(report):
    assert {"towers", "retrieval"} <= set(report.alarms)
    assert not {"lettering", "shortcuts", "mismatched", "dimensions"} & set(report.alarms)
