"""Running a check over seeds: pairing, resuming, changed code, and refusing results that do not add up."""

from __future__ import annotations

import copy
import dataclasses
import importlib.metadata
import shutil
import types

import pytest
import torch

from tether.core.atomic_io import read_json, write_json
from tether.core.errors import InputError
from tether_lab.lab import reproduce, results, smoke_record, source_index, stored_result
from tether_lab.lab.card import Card, Claim, Condition, Trial
from tether_lab.lab.lab import Lab
from tether_lab.lab.smoke_record import ABSOLUTE, BESIDE, ELSEWHERE, ELSEWHERE_BESIDE, RELATIVE, moved
from tether_lab.lab.stored_result import fixed_before
from tether_lab.worlds.pairs import emoji
from tether_lab.worlds.small_clip import small_clip

CARD = Card(
    slug="made-up",
    title="Made up",
    year=2024,
    arxiv="",
    parts=("tether_lab.lab.card.Card",),
    needs=("pairs",),
    gives="nothing",
    claim=Claim(
        says="It is lower.",
        metric="error",
        better="lower",
        margin=0.25,
        baseline="nothing done",
        scale="three numbers",
    ),
    minutes=0.1,
    guide="",
)


class Paper:
    """A paper whose trials are known; it counts how often it is asked."""

    CARD = CARD

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.smokes = 0
        self.stop_at: int | None = None

    def reproduce(self, lab: Lab) -> Trial:
        self.asked += [] if lab.smoke else [lab.seed]
        self.smokes += lab.smoke
        if lab.seed == self.stop_at:
            raise KeyboardInterrupt
        return Trial(9.0, 8.0) if lab.smoke else Trial(1.0 + lab.seed, 0.5 + lab.seed, {"norm": 2.0})


@pytest.fixture
def paper(monkeypatch, tmp_path):
    made = Paper()
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(reproduce, "commit", lambda: "0123456789ab")
    monkeypatch.setattr(reproduce, "module", lambda slug: made)
    monkeypatch.setattr(reproduce, "find_card", lambda slug: CARD)
    monkeypatch.setattr(source_index, "card_path", lambda slug: tmp_path / "made_up.py")
    (tmp_path / "made_up.py").write_text("STEPS = 1\n")
    return made


def test_a_result_holds_what_was_measured(paper):
    seen = []
    result = reproduce.reproduce("made-up", on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 5) for n in range(1, 6)]
    assert (result["verdict"], result["mean"], result["lower"]) == ("reproduced", 0.5, 0.5)
    assert [run["seed"] for run in result["seeds"]] == [0, 1, 2, 3, 4]
    assert result["seeds"][1] | {"wall_seconds": 0, "cpu_seconds": 0, "measured": ""} == {
        "seed": 1,
        "baseline": 2.0,
        "ours": 1.5,
        "notes": {"norm": 2.0},
        "wall_seconds": 0,
        "cpu_seconds": 0,
        "commit": result["commit"],
        "measured": "",
    }
    assert result["machine"].keys() == {"system", "architecture", "processor", "cores", "kernels"}
    assert result["versions"]["torch"] == importlib.metadata.version("torch")
    stored_result.check(result, where="here")


def test_no_name_of_the_machine_or_user_gets_into_a_result(paper):
    import getpass
    import json
    import platform

    text = json.dumps(reproduce.reproduce("made-up"))
    for name in {platform.node(), getpass.getuser()} - {"", "root", "runner"}:
        assert name not in text


def test_finished_seeds_are_not_measured_again(paper):
    paper.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        reproduce.reproduce("made-up")
    paper.stop_at = None
    result = reproduce.reproduce("made-up")
    assert paper.asked == [0, 1, 2, 2, 3, 4]
    assert [run["ours"] for run in result["seeds"]] == [0.5, 1.5, 2.5, 3.5, 4.5]
    reproduce.reproduce("made-up", fresh=True)
    assert paper.asked == [0, 1, 2, 2, 3, 4, 0, 1, 2, 3, 4]


def test_seeds_of_the_stored_result_are_taken_while_the_source_is_the_same(paper, tmp_path, monkeypatch):
    path = tmp_path / "made-up.json"
    monkeypatch.setattr(source_index, "result_path", lambda slug: path)
    write_json(path, reproduce.reproduce("made-up"))
    shutil.rmtree(tmp_path / "cache")
    assert reproduce.reproduce("made-up")["seeds"] == read_json(path)["seeds"]
    assert paper.asked == [0, 1, 2, 3, 4]
    reproduce.reproduce("made-up", threads=2)
    assert paper.asked == [0, 1, 2, 3, 4] * 2


@pytest.mark.parametrize(
    "edit",
    [
        {"seed": 0},
        {"ours": "1.5"},
        {"ours": float("nan")},
        {"notes": {"norm": None}},
        {"commit": "0123456789ab+"},
        {"commit": None},
        None,
    ],
)
def test_a_kept_seed_that_is_damaged_or_from_changed_source_is_measured_again(paper, tmp_path, monkeypatch, edit):
    monkeypatch.setattr(reproduce, "commit", lambda: "0123456789ab")
    before = reproduce.reproduce("made-up")["seeds"]
    (path,) = (tmp_path / "cache").rglob("seed-1.json")
    write_json(path, edit if edit is None else read_json(path) | edit)
    after = reproduce.reproduce("made-up")["seeds"]
    assert [run["ours"] for run in after] == [run["ours"] for run in before]
    assert paper.asked == [0, 1, 2, 3, 4, 1]


def test_seeds_of_changed_source_are_kept_until_it_is_committed(paper, monkeypatch):
    for name, asked in (("0123456789ab+", 1), ("0123456789ab+", 1), ("0123456789ab", 2)):
        monkeypatch.setattr(reproduce, "commit", lambda name=name: name)
        assert {run["commit"] for run in reproduce.reproduce("made-up")["seeds"]} == {name}
        assert paper.asked == [0, 1, 2, 3, 4] * asked


@pytest.mark.parametrize("name", ["versions", "machine"])
def test_other_libraries_or_another_machine_measure_again(paper, monkeypatch, name):
    reproduce.reproduce("made-up")
    monkeypatch.setattr(reproduce, name, lambda *device: {"torch": "0", "processor": "another"})
    reproduce.reproduce("made-up")
    assert paper.asked == [0, 1, 2, 3, 4] * 2


def test_a_stored_result_that_is_damaged_gives_no_seeds(paper, tmp_path, monkeypatch):
    path = tmp_path / "made-up.json"
    monkeypatch.setattr(source_index, "result_path", lambda slug: path)
    write_json(path, reproduce.reproduce("made-up") | {"seeds": [{"seed": 0}]})
    shutil.rmtree(tmp_path / "cache")
    assert len(reproduce.reproduce("made-up")["seeds"]) == 5
    assert paper.asked == [0, 1, 2, 3, 4] * 2


def test_fresh_seeds_stand_beside_the_verdict_and_are_kept(paper, tmp_path, monkeypatch):
    path = tmp_path / "made-up.json"
    monkeypatch.setattr(source_index, "result_path", lambda slug: path)
    assert reproduce.reproduce("made-up")["fresh"] is None
    result = reproduce.reproduce("made-up", fresh_seeds=True)
    assert [run["seed"] for run in result["fresh"]["seeds"]] == [5, 6, 7]
    assert (result["fresh"]["verdict"], result["fresh"]["mean"]) == ("reproduced", 0.5)
    assert len(result["seeds"]) == 5
    write_json(path, result)
    shutil.rmtree(tmp_path / "cache")
    assert reproduce.reproduce("made-up")["fresh"] == result["fresh"]
    assert paper.asked == [0, 1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("least", "verdict", "holds"), [(-0.5, "reproduced", True), (0.0, "in part", False), (0.5, "in part", False)]
)
def test_a_condition_that_fails_makes_it_in_part(paper, monkeypatch, least, verdict, holds):
    kept = Condition(says="kept", ours="norm", than=2.5, better="higher", least=least)
    card = dataclasses.replace(CARD, claim=dataclasses.replace(CARD.claim, conditions=(kept,)))
    monkeypatch.setattr(reproduce, "find_card", lambda slug: card)
    result = reproduce.reproduce("made-up", fresh_seeds=True)
    assert (result["verdict"], result["fresh"]["verdict"]) == (verdict, verdict)
    assert [(one["mean"], one["holds"]) for one in result["conditions"]] == [(-0.5, holds)]
    stored_result.check(result, where="here")
    result["conditions"][0]["holds"] = not holds
    with pytest.raises(InputError, match="'kept': holds is"):
        stored_result.check(result, where="here")


def test_a_condition_on_a_figure_that_is_not_there_is_refused(paper, monkeypatch):
    odd = Condition(says="kept", ours="recall", than="norm", better="higher")
    card = dataclasses.replace(CARD, claim=dataclasses.replace(CARD.claim, conditions=(odd,)))
    monkeypatch.setattr(reproduce, "find_card", lambda slug: card)
    with pytest.raises(InputError, match="'kept': no figure 'recall'; known: baseline, ours, norm"):
        reproduce.reproduce("made-up")


def test_a_change_of_the_source_measures_again(paper, tmp_path):
    reproduce.reproduce("made-up")
    (tmp_path / "made_up.py").write_text("STEPS = 2\n")
    reproduce.reproduce("made-up")
    assert paper.asked == [0, 1, 2, 3, 4] * 2


@pytest.mark.parametrize(
    ("change", "moved"), [({}, False), ({"ours": 9.0}, True), ({"trace": {"weights": 1.0}}, True), (None, True)]
)
def test_a_result_whose_smoke_trial_has_moved_is_marked_and_keeps_its_verdict(paper, monkeypatch, change, moved):
    result = reproduce.reproduce("made-up")
    today = None if change is None else result["smoke"] | change
    record = {"commit": "0123456789ab", "papers": {"made-up": today} if today else {}} | reproduced_on(result)
    assert smoke_record.has_moved(record, result) == moved
    assert smoke_record.has_moved(record, result | {"smoke": None})
    assert not smoke_record.has_moved(None, result)
    row = results.PaperStatus(CARD, result, moved)
    assert (row.verdict, row.mark) == ("reproduced", "figures moved since measured" if moved else "")
    assert row.as_json()["moved"] == moved


def reproduced_on(result: dict) -> dict:
    return {name: result[name] for name in ("machine", "versions")}


def test_a_result_keeps_whether_its_claim_stood_before(paper, monkeypatch):
    monkeypatch.setattr(reproduce, "was_fixed_before", lambda slug, result: len(result["seeds"]) == 5)
    result = reproduce.reproduce("made-up")
    assert fixed_before(result)
    assert not fixed_before(result | {"margin": result["margin"] / 2})
    kept = result["fixed_before"]
    assert not fixed_before(result | {"fixed_before": kept | {"holds": False}})


def test_a_result_holds_the_smoke_trial_of_seed_0(paper):
    result = reproduce.reproduce("made-up")
    nothing = {"optimizers": 0, "steps": 0, "weights": 0, "scores": 0.0}
    assert result["smoke"] == {"baseline": 9.0, "ours": 8.0, "notes": {}, "trace": nothing}
    assert paper.smokes == 1


@pytest.mark.parametrize(
    ("today", "found"),
    [
        ({"baseline": 1.0, "ours": 2.0, "notes": {"n": 0.0}}, []),
        ({"baseline": 1.0 + 0.9 * RELATIVE, "ours": 2.0, "notes": {"n": 0.9 * ABSOLUTE}}, []),
        ({"baseline": 1.0, "ours": 2.0 - 4 * RELATIVE, "notes": {"n": 0.0}}, ["ours: was 2, is 1."]),
        ({"baseline": 1.0, "ours": 2.0, "notes": {"n": 2 * 0.9 * BESIDE}}, []),
        ({"baseline": 1.0, "ours": 2.0, "notes": {"n": 2 * 1.1 * BESIDE}}, ["n: was 0, is"]),
        ({"baseline": 1.0, "ours": 2.0, "notes": {"m": 0.0}}, ["m: only measured now", "n: only measured before"]),
    ],
)
def test_figures_that_moved_are_named(today, found):
    said = moved({"baseline": 1.0, "ours": 2.0, "notes": {"n": 0.0}}, today)
    assert len(said) == len(found)
    assert all(line.startswith(start) for line, start in zip(said, found, strict=True))


@pytest.mark.parametrize("bounds", [{}, {"relative": ELSEWHERE, "beside": ELSEWHERE_BESIDE}], ids=["here", "elsewhere"])
def test_no_figure_may_turn_its_sign(bounds):
    before = {"baseline": 100.0, "ours": 100.0, "notes": {"small": 0.01}}
    assert moved(before, before | {"notes": {"small": -0.01}}, **bounds) == ["small: was 0.01, is -0.01"]


def test_small_figures_alone_may_differ_by_little():
    before = {"baseline": 0.0, "ours": 0.0, "notes": {}}
    assert not moved(before, before | {"ours": 0.9 * ABSOLUTE})
    assert moved(before, before | {"ours": 2 * ABSOLUTE}) == [f"ours: was 0, is {2 * ABSOLUTE:.6g}"]


def test_a_smoke_run_has_no_verdict_and_is_never_kept(paper):
    for _ in range(2):
        result = reproduce.reproduce("made-up", smoke=True)
    assert (paper.asked, paper.smokes) == ([], 2)
    assert (result["smoke"], result["verdict"], result["mean"]) == (True, None, None)
    with pytest.raises(InputError, match="smoke run"):
        stored_result.check(result, where="results/made-up.json")


def test_what_is_not_a_trial_is_refused(paper, monkeypatch):
    monkeypatch.setattr(reproduce, "module", lambda slug: types.SimpleNamespace(reproduce=lambda lab: (1.0, 2.0)))
    with pytest.raises(InputError, match="must return a Trial, got tuple"):
        reproduce.reproduce("made-up")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"verdict": "contrary"}, "verdict is 'contrary', its seeds give 'reproduced'"),
        ({"mean": 0.75}, "mean is 0.75, its seeds give 0.5"),
        ({"lower": 0.1}, "lower is 0.1, its seeds give 0.5"),
        ({"margin": 0.75}, "its seeds give 'direction only'"),
        ({"upper": 0.75}, "upper is 0.75, its seeds give 0.5"),
        ({"mean": float("nan")}, "mean is nan, its seeds give 0.5"),
        ({"margin": None}, "margin: expected int or float, got None"),
        ({"smoke": {"baseline": 1.0}}, "smoke: key 'ours' is missing"),
        ({"seeds": [{"seed": 0, "baseline": "1"}]}, "seeds: 0: baseline: expected int or float, got '1'"),
        ({"device": "cuda"}, "expected one thread of the CPU, got 1 of 'cuda'"),
        ({"threads": 2}, "expected one thread of the CPU, got 2 of 'cpu'"),
        ({"kind": "odd"}, "kind: expected better, no_worse, property, got 'odd'"),
        ({"better": "sideways"}, "better: expected higher or lower, got 'sideways'"),
        ({"machine": []}, "machine: expected a mapping"),
        ({"smoke": {"baseline": float("inf"), "ours": 1.0, "notes": {}}}, "expected finite numbers"),
    ],
)
def test_a_typed_verdict_is_caught(paper, tmp_path, change, match):
    result = reproduce.reproduce("made-up") | change
    write_json(tmp_path / "made-up.json", result)
    with pytest.raises(InputError, match=match):
        stored_result.stored("made-up", folder=tmp_path)


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda result: result["seeds"].pop(), r"expected the seeds \[0, 1, 2, 3, 4\], got \[0, 1, 2, 3\]"),
        (lambda result: result["seeds"].reverse(), "expected the seeds"),
        (lambda result: result["fresh"]["seeds"].pop(), r"fresh: expected the seeds \[5, 6, 7\]"),
        (lambda result: result["seeds"][1].update(commit="0123456789ab+"), "seed 1: measured from '0123456789ab.'"),
        (lambda result: result["seeds"][1]["notes"].update(ours=1.0), "notes: 'ours' is the name"),
        (lambda result: result["fresh"].update(conditions=[]), "fresh: conditions are not those of the claim"),
        (lambda result: result["conditions"][0].update(better="up"), "better: expected higher or lower, got 'up'"),
        (lambda result: result["conditions"][0].update(least=float("nan")), "conditions: expected finite numbers"),
        (lambda result: result["conditions"][0].pop("ours"), "conditions: 0: key 'ours' is missing"),
    ],
)
def test_a_result_of_other_seeds_or_conditions_is_refused(paper, monkeypatch, edit, match):
    kept = Condition(says="kept", ours="norm", than=2.5, better="higher", least=-1.0)
    card = dataclasses.replace(CARD, claim=dataclasses.replace(CARD.claim, conditions=(kept,)))
    monkeypatch.setattr(reproduce, "find_card", lambda slug: card)
    result = copy.deepcopy(reproduce.reproduce("made-up", fresh_seeds=True))
    stored_result.check(result, where="made-up.json", card=card)
    edit(result)
    with pytest.raises(InputError, match=f"made-up.json: .*{match}"):
        stored_result.check(result, where="made-up.json")


def test_a_result_of_another_claim_is_refused(paper):
    result = reproduce.reproduce("made-up")
    card = dataclasses.replace(CARD, claim=dataclasses.replace(CARD.claim, margin=0.2))
    with pytest.raises(InputError, match=r"margin is 0\.25, the card says 0\.2"):
        stored_result.check(result, where="here", card=card)


def test_a_result_with_a_missing_key_is_refused(paper, tmp_path):
    result = copy.deepcopy(reproduce.reproduce("made-up"))
    del result["fingerprint"]
    with pytest.raises(InputError, match=r"made-up\.json: not a result, these keys are missing: fingerprint"):
        stored_result.check(result, where="made-up.json")
    with pytest.raises(InputError, match="not a result"):
        stored_result.check([], where="made-up.json")
    assert stored_result.stored("made-up", folder=tmp_path) is None


def test_rows_as_json_are_plain(paper):
    row = results.PaperStatus(CARD, None)
    assert row.as_json()["verdict"] == "not run"
    assert row.as_json()["mean"] is None


def test_the_lab_gives_equal_streams_for_equal_names():
    lab = Lab(3)
    a, b = (torch.rand(4, generator=lab.generator("noise")) for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, torch.rand(4, generator=lab.generator("order")))
    assert not torch.equal(a, torch.rand(4, generator=Lab(4).generator("noise")))


def test_the_lab_puts_back_what_it_changed():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    with Lab(5, threads=1):
        first = torch.rand(2)
        assert torch.get_num_threads() == 1
    with Lab(5, threads=1):
        assert torch.equal(torch.rand(2), first)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_the_lab_shrinks_in_a_smoke_run():
    assert (Lab(0).steps(300), Lab(0, smoke=True).steps(300), Lab(0, smoke=True).steps(300, 5)) == (300, 2, 5)


def test_emoji_are_pictures_and_their_names():
    pairs = emoji(Lab(0, smoke=True), split="test", size=16)
    assert len(pairs) == 64
    assert pairs.pixels.shape == (64, 3, 16, 16)
    assert pairs.pixels.dtype == torch.uint8
    assert all(texts and texts[0] for texts in pairs.texts)
    assert len(set(pairs.keys)) == 64
    again = emoji(Lab(1, smoke=True), split="test", size=16)
    assert again.pixels is pairs.pixels


def test_the_small_clip_is_trained_once_and_never_shared(monkeypatch, tmp_path):
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path))
    lab = Lab(0, smoke=True)
    with lab:
        first = small_clip(lab, data="digits")
        trained = sorted(path.name for path in (tmp_path / "lab").iterdir())
        with torch.no_grad():
            for parameter in first.parameters():
                parameter.zero_()
        second = small_clip(lab, data="digits")
        assert sorted(path.name for path in (tmp_path / "lab").iterdir()) == trained
        assert len(trained) == 1
        assert any(parameter.abs().max() > 0 for parameter in second.parameters())
        assert not second.training
        small_clip(lab, data="digits", seed=1)
    assert len(list((tmp_path / "lab").iterdir())) == 2
