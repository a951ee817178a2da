"""What a smoke run leaves behind of its trainings, and the record that later runs are compared with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tether.core.errors import InputError
from tether_lab.lab import smoke_record
from tether_lab.lab.model_cache import cached_model
from tether_lab.lab.stored_result import Figures
from tether_lab.lab.trace import SmokeTrace, saw


def train(*, rate: float = 1e-5, steps: int = 2) -> None:
    weight = torch.nn.Parameter(torch.nn.functional.normalize(torch.arange(1.0, 5), dim=0))
    optimizer = torch.optim.SGD([weight], lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        weight[0].backward()
        optimizer.step()


def traced(*trainings: dict[str, float]) -> dict[str, float]:
    with SmokeTrace().open() as trace:
        for settings in trainings:
            train(**settings)
    return trace.figures()


def test_the_same_training_gives_the_same_and_a_slightly_other_one_does_not():
    assert traced({}, {}) == traced({}, {})
    assert traced({})["weights"] != traced({"rate": 1.1e-5})["weights"]
    assert (traced({}, {"steps": 3})["optimizers"], traced({}, {"steps": 3})["steps"]) == (2, 5)


def test_trainings_that_change_places_are_told_apart():
    one, other = traced({}, {"rate": 0.1}), traced({"rate": 0.1}, {})
    assert one["weights"] != other["weights"]


def test_nothing_is_seen_outside_and_scores_are():
    with SmokeTrace().open() as trace:
        saw(torch.tensor([-1.0, 2.0]))
    train()
    saw(torch.ones(3))
    assert trace.figures() == {"optimizers": 0, "steps": 0, "weights": 0, "scores": 3.0}


def test_a_model_from_the_cache_counts_as_if_it_were_trained_again(tmp_path, monkeypatch):
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path))

    def make(folder: Path) -> None:
        train()
        folder.mkdir()

    figures = []
    for _ in range(2):
        with SmokeTrace().open() as trace:
            cached_model("small", made_by=Path(__file__), facts=[1], make=make)
        figures.append(trace.figures())
    assert figures[0] == figures[1]
    assert (figures[0]["optimizers"], figures[0]["steps"]) == (1, 2)


class TestRecord:
    FIGURES = Figures(baseline=1.0, ours=2.0, notes={"loss": 0.1}, trace={"weights": 50.0})

    @pytest.fixture
    def path(self, tmp_path):
        smoke_record.store({"zclip": self.FIGURES}, path=tmp_path / "record.json")
        return tmp_path / "record.json"

    def test_nothing_differs_from_itself(self, path):
        record = smoke_record.stored_record(path)
        assert record is not None
        assert smoke_record.is_this_machine(record)
        assert smoke_record.differences(record, "zclip", self.FIGURES) == []

    @pytest.mark.parametrize("changed", [{"ours": 2 + 2e-15}, {"notes": {}}, {"trace": {"weights": 50 + 1e-13}}])
    def test_on_this_machine_the_last_bit_counts(self, path, changed):
        record = smoke_record.stored_record(path)
        assert record is not None
        (found,) = smoke_record.differences(record, "zclip", Figures(**(self.FIGURES | changed)))
        assert found.split(":")[0] in ("ours", "loss", "trace weights")

    def test_on_another_machine_it_does_not(self, path):
        values = json.loads(path.read_text())
        values["machine"]["processor"] = "Another one"
        path.write_text(json.dumps(values))
        record = smoke_record.stored_record(path)
        assert record is not None
        assert not smoke_record.is_this_machine(record)
        assert smoke_record.differences(record, "zclip", self.FIGURES | {"ours": 2.001}) == []
        assert smoke_record.differences(record, "zclip", self.FIGURES | {"ours": -2.0}) == ["ours: was 2, is -2"]

    def test_a_paper_that_is_not_there_is_named(self, path):
        record = smoke_record.stored_record(path)
        assert record is not None
        assert smoke_record.differences(record, "w-clip", self.FIGURES) == ["not on record"]

    def test_one_that_is_stored_by_itself_leaves_the_others(self, path):
        values = json.loads(path.read_text())
        values["machine"]["processor"] = "Another one"
        path.write_text(json.dumps(values))
        others = smoke_record.stored_record(path)
        smoke_record.store({"w-clip": self.FIGURES}, path=path, beside=others)
        record = smoke_record.stored_record(path)
        assert others is not None
        assert record is not None
        assert record["papers"] == {"w-clip": self.FIGURES, "zclip": self.FIGURES}
        assert (record["machine"], record["commit"]) == (others["machine"], others["commit"])
        assert smoke_record.is_this_machine(smoke_record.origin_of(record, "w-clip"))
        assert not smoke_record.is_this_machine(smoke_record.origin_of(record, "zclip"))
        changed = Figures(**(self.FIGURES | {"ours": 2 + 2e-15}))
        assert [len(smoke_record.differences(record, slug, changed)) for slug in ("w-clip", "zclip")] == [1, 0]
        smoke_record.store({"zclip": self.FIGURES}, path=path)
        assert "apart" not in json.loads(path.read_text())

    def test_none_and_a_malformed_one(self, tmp_path):
        assert smoke_record.stored_record(tmp_path / "none.json") is None
        (tmp_path / "bad.json").write_text('{"commit": 1}')
        with pytest.raises(InputError, match=r"bad\.json: commit: expected str, got 1"):
            smoke_record.stored_record(tmp_path / "bad.json")


def test_every_trial_on_record_can_tell_the_method_from_its_baseline():
    """By its metric, by weights that were trained, or by the scores that its metric is made of."""
    record = smoke_record.stored_record()
    assert record is not None
    blind = {
        slug
        for slug, one in record["papers"].items()
        if one["baseline"] == one["ours"] and one["trace"]["optimizers"] < 2 and not one["trace"]["scores"]
    }
    assert blind == set()
