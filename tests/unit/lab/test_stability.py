"""The stability bench without its trainings: faults, spikes, the table, the advice, the page and the guide."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from tether.core.errors import InputError
from tether.core.fingerprint import PACKAGE, SourceTrees, code_of
from tether.workflows.clipper_comparison.costs import Cost
from tether.workflows.clipper_comparison.sections import figure
from tether.workflows.clipper_comparison.trace import RunTrace, spikes
from tether_lab.lab.source_index import LAB, need_checkout
from tether_lab.stability import bench, guide
from tether_lab.stability import result as results
from tether_lab.stability.advice import advice, answers, standings
from tether_lab.stability.bench_curves import bench_curves
from tether_lab.stability.bench_report import bench_report, marked, scale_of
from tether_lab.stability.faults import FAULTS, PLANTED
from tether_lab.stability.guards import guards
from tether_lab.stability.models import subject
from tether_lab.stability.runs import BenchRun
from tether_lab.stability.table import TIE, compare, judge, lost, rows

STEPS = 40
KINDS = {"none": "clipper", "global_norm": "clipper", "zclip": "clipper", "sgd": "optimizer"}
COSTS = {name: Cost(ratio, ratio, ratio) for name, ratio in zip(KINDS, (0.4, 0.4, 0.5, -0.3), strict=True)}


TRACE = RunTrace(
    losses=tuple(4.0 - 0.02 * step for step in range(STEPS)),
    norms=tuple(1.0 + 0.1 * (step % 3) for step in range(STEPS)),
    thresholds=(1.5,) * STEPS,
    scales=(1.0,) * (STEPS - 1) + (0.5,),
    skipped=(),
)


def outcome(guard: str, *, fault: str, seed: int, final: float | None) -> BenchRun:
    looks = ((0, 4.0), (20, 3.0), (STEPS, final)) if fault == "clean" else ()
    return BenchRun("language", fault, guard, seed, final, looks, TRACE, cpu_seconds=1.0)


def outcomes(finals: dict[tuple[str, str], float | None], *, seeds: int = 3) -> list[BenchRun]:
    """One outcome for each seed of each (fault, guard); the seeds differ by a hundredth."""
    return [
        outcome(guard, fault=fault, seed=seed, final=None if final is None else final + 0.01 * seed)
        for (fault, guard), final in finals.items()
        for seed in range(seeds)
    ]


def calm(**finals: float | None) -> dict[tuple[str, str], float | None]:
    """Every guard at 2.5 without a fault, and these losses under a scaled one."""
    return {("clean", name): 2.5 for name in finals} | {("scaled_loss", name): loss for name, loss in finals.items()}


def said(finals: dict[tuple[str, str], float | None]) -> list[str]:
    return advice(rows(outcomes(finals)), kinds=KINDS, costs=COSTS)


class TestFaults:
    def test_all_that_the_issue_names_are_there(self):
        whole = {name for name, fault in FAULTS.items() if fault.where == "run"}
        assert whole == {"clean", "rate_x3", "bf16", "int4"}
        assert FAULTS["scaled_loss"].loss_factor == 100
        assert FAULTS["tensor_x1000"].gradient_factor == 1000
        assert FAULTS["rate_x3"].rate_factor == 3
        assert (FAULTS["noise"].contents, FAULTS["swapped"].contents) == ("noise", "swapped")
        assert {FAULTS[name].precision for name in ("bf16", "int4")} == {"bf16", "int4"}

    def test_steps_are_known_and_leave_room_to_recover(self):
        assert FAULTS["scaled_loss"].planted(120) == (36, 54, 72, 90)
        assert FAULTS["noise"].planted(120) == (36, 37, 38, 54, 55, 56, 72, 73, 74, 90, 91, 92)
        assert FAULTS["bf16"].planted(120) == ()
        assert max(FAULTS["noise"].planted(20)) < 20
        assert max(PLANTED) <= 0.8


class TestSpikes:
    flat = [2.0, 2.02] * 30

    @pytest.mark.parametrize("rise", [0.3, None])
    def test_a_jump_counts_once_however_long(self, rise):
        assert spikes(self.flat, rise=rise) == 0
        assert spikes([*self.flat[:30], 2.4, 2.5, 2.4, *self.flat[33:]], rise=rise) == 1
        assert spikes([*self.flat[:30], 2.4, 2.0, 2.4, *self.flat[33:]], rise=rise) == 2
        assert spikes([*self.flat, None, None, 2.0, None], rise=rise) == 2

    def test_planted_steps_neither_count_nor_raise_the_level(self):
        losses = self.flat.copy()
        losses[20:25] = [9.0] * 5
        assert spikes(losses, rise=0.3) == 1
        assert spikes(losses, rise=0.3, planted=range(20, 25)) == 0
        losses[26] = 2.4
        assert spikes(losses, rise=0.3, planted=range(20, 25)) == 1

    def test_noise_of_the_losses_own_size_is_no_spike(self):
        assert spikes([2.0 + 0.2 * ((7 * step) % 5) for step in range(60)]) == 0


class TestLost:
    looks = ((0, 4.0), (10, 3.0), (20, 2.0))

    @pytest.mark.parametrize(("loss", "steps"), [(2.0, 0), (1.5, 0), (2.5, 5), (3.0, 10), (3.5, 15), (4.5, 20)])
    def test_by_interpolation(self, loss, steps):
        assert lost(loss, self.looks) == steps

    def test_a_look_that_was_ruined_or_higher_is_passed_over(self):
        assert lost(2.5, ((0, 4.0), (10, None), (20, 2.0))) == 5
        assert lost(2.5, ((0, 4.0), (10, 5.0), (20, 2.0))) == 5


class TestTable:
    @pytest.mark.parametrize(
        ("low", "high", "word"),
        [
            (-TIE, TIE, "ties"),
            (-0.04, -0.01, "ties"),
            (-0.3, -0.1, "better"),
            (0.1, 0.2, "worse"),
            (-0.1, 0.3, "unclear"),
        ],
    )
    def test_words(self, low, high, word):
        assert judge(low, high) == word

    def test_paired_by_seed(self):
        found = compare([1.0, 2.0, 3.0], [1.2, 2.2, 3.2])
        assert found.word == "better"
        assert found.mean == pytest.approx(-0.2)
        assert found.high - found.low < 1e-9

    def test_a_ruined_run_counts_as_knowing_nothing(self):
        chance = subject("language").chance
        table = rows(outcomes(calm(none=None, global_norm=chance + 3, zclip=2.0)))
        finals = {row.guard: row.final for row in table if row.fault == "scaled_loss"}
        assert finals["none"] == finals["global_norm"] == (chance,) * 3
        assert [row.lost for row in table if (row.fault, row.guard) == ("scaled_loss", "none")] == [(STEPS,) * 3]
        assert [row.lost for row in table if (row.fault, row.guard) == ("scaled_loss", "zclip")] == [(0,) * 3]

    def test_ties_with_the_usual_clipper_are_shown(self):
        table = rows(outcomes(calm(none=3.0, global_norm=2.6, zclip=2.62)))
        row = next(row for row in table if (row.fault, row.guard) == ("scaled_loss", "zclip"))
        assert (row.against_none.word, row.against_usual.word) == ("better", "ties")
        assert marked(row) == "2.63 ↓ ="


class TestAdvice:
    def test_the_usual_one_is_named_when_it_ties_with_the_best(self):
        lines = said(calm(none=3.0, global_norm=2.6, zclip=2.58))
        assert lines[0].startswith("Start with global_norm.")
        assert any(line.startswith("global_norm is enough") and "scaled_loss" in line for line in lines)

    def test_another_one_is_named_when_it_does_not(self):
        lines = said(calm(none=3.0, global_norm=2.9, zclip=2.5))
        assert lines[0].startswith("Start with zclip.")
        assert lines[1] == (
            "zclip is the one to take where global_norm is not enough. Nats gained: 0.50 under scaled_loss (language)."
        )

    def test_none_is_named_when_nothing_helps(self):
        lines = said(calm(none=2.5, global_norm=2.6, zclip=2.7))
        assert "you need none" in lines[0]
        assert any(line.startswith("Be careful with zclip: worse than none in 1 of 2 cells") for line in lines)
        assert any(line.startswith("No clipper helps, or none is needed: scaled_loss") for line in lines)

    def test_a_clipper_that_does_harm_without_a_fault_is_not_the_one_to_start_with(self):
        finals = calm(none=3.0, global_norm=2.9, zclip=2.3) | {("clean", "zclip"): 2.7}
        assert said(finals)[0].startswith("Start with global_norm.")

    def test_a_clipper_that_helps_is_named_though_a_lower_mean_is_not_sure(self):
        runs = outcomes(calm(none=3.0, global_norm=2.7, zclip=2.4))
        runs[-3:] = [replace(one, final=final) for one, final in zip(runs[-3:], (1.4, 3.4, 2.4), strict=True)]
        assert [(one.guard, one.fault) for one in runs[-3:]] == [("zclip", "scaled_loss")] * 3
        found = answers(rows(runs), kinds=KINDS, costs=COSTS)[-1]
        assert (found.enough, found.best, found.tied) == ("global_norm", "global_norm", ())

    @pytest.mark.parametrize(
        ("sgd", "words_said"), [(2.4, "less than AdamW"), (2.6, "keep AdamW"), (3.0, "keep AdamW")]
    )
    def test_optimisers(self, sgd, words_said):
        assert words_said in said(calm(none=3.0, global_norm=2.6, zclip=2.6, sgd=sgd))[-1]

    def test_harm_leaves_the_calm_runs_out(self):
        table = rows(outcomes(calm(none=3.0, global_norm=2.6, zclip=2.6)))
        ranking = {one.guard: one for one in standings(table, kinds=KINDS, costs=COSTS)}
        assert ranking["none"].harm == pytest.approx(0.5)
        assert ranking["none"].calm == 0
        assert ranking["zclip"].against_none == {"ties": 1, "better": 1}

    def test_enough_is_the_cheapest_near_the_best(self):
        found = answers(rows(outcomes(calm(none=3.0, global_norm=2.9, zclip=2.5))), kinds=KINDS, costs=COSTS)
        assert [(one.fault, one.enough) for one in found] == [("clean", "none"), ("scaled_loss", "zclip")]


@pytest.fixture(scope="module")
def small() -> tuple[bench.BenchPlan, list[BenchRun], dict]:
    wanted = replace(
        bench.plan(models=["language"], only=["zclip", "sgd", "scaled_loss"]),
        guards={name: guards()[name] for name in KINDS},
        steps=STEPS,
    )
    runs = outcomes(calm(none=3.0, global_norm=2.6, zclip=2.5, sgd=2.9))
    return wanted, runs, results.result(wanted, runs, costs=COSTS)


class TestResult:
    def test_comes_back_as_it_was(self, small, tmp_path):
        _, runs, found = small
        results.write(tmp_path / "one.json", found)
        back = results.read(tmp_path / "one.json")
        assert [row.guard for row in results.table_of(back)] == [row.guard for row in rows(runs)]
        assert results.table_of(back)[-1].final == pytest.approx(rows(runs)[-1].final)
        assert results.costs_of(back) == COSTS
        assert len((tmp_path / "one.json").read_text().splitlines()) < 200

    def test_a_word_that_does_not_follow_is_refused(self, small, tmp_path):
        _, _, found = small
        path = tmp_path / "one.json"
        results.write(path, found)
        values = json.loads(path.read_text())
        row = next(row for row in values["rows"] if row["against_none"]["word"] == "better")
        row["against_none"]["word"] = "ties"
        path.write_text(json.dumps(values))
        with pytest.raises(InputError, match=r"one\.json: language, scaled_loss, global_norm against none: says ties"):
            results.read(path)

    @pytest.mark.parametrize("text", ["[]", "{}", '{"bench": "other"}'])
    def test_something_else_is_refused(self, tmp_path, text):
        (tmp_path / "one.json").write_text(text)
        with pytest.raises(InputError, match="not a result of tether-lab bench stability"):
            results.read(tmp_path / "one.json")

    def test_page_holds_everything_and_asks_for_nothing(self, small):
        _, runs, found = small
        html = bench_report(found, runs).html()
        assert "http" not in html.replace("http-equiv", "")
        assert all(name in html for name in (*KINDS, "scaled_loss", "Gradient norm under zclip"))
        assert html.count('class="plot"') == 4
        assert html.count("<details>") == 2
        assert "Curves" not in bench_report(found).html()

    def test_figure_is_well_formed(self, small):
        _, runs, _ = small
        drawn = bench_curves(runs, kinds=KINDS)
        assert [one.title for one in drawn] == ["language, clean", "language, scaled_loss"]
        assert drawn[1].charts[1].title == "Gradient norm under zclip"
        image = ElementTree.fromstring(figure(drawn))
        assert len(image.findall(".//{http://www.w3.org/2000/svg}path")) > 10

    def test_markdown_shows_the_rules_and_the_settings(self, small):
        text = bench_report(small[2]).markdown()
        assert "| `zclip` |" in text
        assert "guard `sgd`: lr=0.03 (language), lr=0.001 (clip)" in text
        assert "unclear: it does not" in text


class TestKept:
    def test_a_row_stands_as_long_as_its_print_and_settings_do(self, small):
        wanted, _, found = small

        def left(**change) -> tuple[str, ...]:
            entries = {name: {**entry, **change.get(name, {})} for name, entry in found["guards"].items()}
            return results.standing({**found, "guards": entries}, wanted)

        assert left() == tuple(KINDS)
        assert left(zclip={"fingerprint": "other"}) == ("none", "global_norm", "sgd")
        assert left(sgd={"rates": {}}) == ("none", "global_norm", "zclip")
        assert left(global_norm={"fingerprint": "other"}) == ()
        assert results.standing({**found, "seeds": [0, 1]}, wanted) == ()
        assert results.standing({**found, "faults": {"clean": ""}}, wanted) == ()

    def test_a_row_from_before_there_were_prints_stands_while_its_settings_do(self, small):
        wanted, _, found = small
        old = {
            name: {key: entry[key] for key in entry if key != "fingerprint"} for name, entry in found["guards"].items()
        }
        assert results.standing({**found, "guards": old}, wanted) == tuple(KINDS)
        old["zclip"]["settings"] = {"alpha": 0.9}
        assert "zclip" not in results.standing({**found, "guards": old}, wanted)

    def test_a_new_guard_is_all_that_is_run(self, small):
        wanted, runs, found = small
        old = {"measured": "2020-01-01"}
        stored = {
            **found,
            **old,
            "guards": {name: entry | old for name, entry in found["guards"].items() if name != "zclip"},
            "rows": [row for row in found["rows"] if row["guard"] != "zclip"],
        }
        again = replace(wanted, kept=results.standing(stored, wanted))
        assert list(again.new) == ["zclip"]
        cells = [(model, fault, guard.name, seed) for model, fault, guard, seed in again.cells()]
        assert {cell[1:3] for cell in cells} == {("clean", "none"), ("clean", "zclip"), ("scaled_loss", "zclip")}
        assert len(again) == len(cells) == 9
        some = [one for one in runs if (one.model, one.fault, one.guard, one.seed) in cells]
        near = [replace(one, final=2.501 + 0.01 * one.seed) if one.guard == "none" else one for one in some]
        both = results.result(again, near, costs={"zclip": COSTS["zclip"]}, stored=stored)
        assert both["rows"] == found["rows"]
        assert both["runs"] == found["runs"]
        assert both["cpu_seconds"] == found["cpu_seconds"] + len(some)
        assert list(both["guards"]) == list(KINDS)
        assert {name: entry for name, entry in both["guards"].items() if name != "zclip"} == stored["guards"]
        assert scale_of(both).endswith(f"measured 2020-01-01, `zclip` {both['guards']['zclip']['measured']}.")

    def test_rows_are_not_mixed_where_the_runs_end_elsewhere(self, small):
        wanted, runs, found = small
        again = replace(wanted, kept=("none", "global_norm", "sgd"))
        moved = [replace(one, final=3.0) for one in runs if (one.fault, one.guard) == ("clean", "none")]
        with pytest.raises(
            InputError, match=r"language, clean, none: its seeds now end at 3\.000, .* anew \(--fresh\)"
        ):
            results.result(again, moved, costs=COSTS, stored=found)


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """Both packages in another folder, to edit."""
    found = tmp_path_factory.mktemp("copy")
    for package in (PACKAGE, LAB):
        shutil.copytree(package, found / package.name, ignore=shutil.ignore_patterns("*.pyc"))
    return found


@pytest.fixture
def copy(copied, monkeypatch):
    """The copy as the package that prints are made of."""
    monkeypatch.setattr(bench.source_index, "sources", lambda: SourceTrees(copied / "tether", copied / "tether_lab"))
    return copied


class TestGuide:
    def test_is_what_the_stored_result_gives(self):
        root = need_checkout("this test")
        text = (root / guide.GUIDE).read_text(encoding="utf-8")
        found = results.read(root / guide.RESULT)
        assert guide.filled(text, found) == text, f"stale: {guide.COMMAND}"
        for model in found["models"]:
            image = guide.figure_path(root, model)
            assert image.name in text
            ElementTree.fromstring(image.read_text(encoding="utf-8"))

    def test_covers_every_guard_and_fault_there_is(self):
        found = results.read(need_checkout("this test") / guide.RESULT)
        assert set(found["guards"]) == set(guards()), (
            "run: tether-lab bench stability --publish (it measures the new ones)"
        )
        assert set(found["faults"]) == set(FAULTS)
        assert len(found["seeds"]) >= 3

    def test_blocks_that_are_missing_or_open_are_named(self, small):
        _, _, found = small
        whole = "\n".join(f"<!-- stability: {title} -->\n<!-- /stability -->" for title in guide.blocks(found))
        assert "Start with" in guide.filled(whole, found)
        assert guide.filled(guide.filled(whole, found), found) == guide.filled(whole, found)
        with pytest.raises(InputError, match="these blocks are missing: Advice"):
            guide.filled(whole.replace("stability: Advice", "stability: Rules"), found)
        with pytest.raises(InputError, match="no block is called 'Advise'"):
            guide.filled(whole.replace("stability: Advice", "stability: Advise"), found)
        with pytest.raises(InputError, match="no <!-- /stability --> after it"):
            guide.filled(whole + "\n<!-- stability: Advice -->", found)


class TestGuards:
    def test_every_clipper_and_optimiser_stands_in_the_bench(self):
        from tether.optim import OPTIMIZERS
        from tether.optim.clip import CLIPPERS

        found = guards()
        assert list(found)[:2] == ["none", "global_norm"]
        assert set(CLIPPERS) | set(OPTIMIZERS) - {"adamw"} <= set(found)
        assert found["zclip_uncapped"].clipper().state_dict() != found["zclip"].clipper().state_dict()

    def test_a_fingerprint_follows_code_and_settings_but_not_comments(self, tmp_path):
        plain, other = tmp_path / "plain.py", tmp_path / "other.py"
        plain.write_text('"""One."""\n\ndef f(x):\n    """Two."""\n    return x + 1\n')
        other.write_text('"""Three."""\ndef f(x):\n    # a comment\n    return (x + 1)\n')
        assert code_of(plain) == code_of(other)
        other.write_text("def f(x):\n    return x + 2\n")
        assert code_of(plain) != code_of(other)

    def test_settings_and_rates_count_and_the_name_does_not(self):
        zclip, sgd = guards()["zclip"], guards()["sgd"]
        some = {
            "zclip": zclip,
            "again": replace(zclip, name="again"),
            "other": replace(zclip, settings={"alpha": 0.9}),
            "sgd": sgd,
            "faster": replace(sgd, rates={"clip": 1.0}),
        }
        found = bench.prints(some)
        assert found["zclip"] == found["again"]
        assert len(set(found.values())) == 4

    @pytest.mark.parametrize(
        ("edited", "stand"),
        [
            ("tether/optim/fused_clip_step.py", ()),
            ("tether/losses/clip.py", ()),
            ("tether/methods/stable_spam/fake_quant.py", ()),
            ("tether_lab/worlds/char_lm.py", ()),
            ("tether/models/towers/vision/tower.py", ()),
            ("tether_lab/stability/faults.py", ()),
            ("tether/methods/zclip/clipper.py", ("none", "global_norm", "sgd")),
            ("tether/optim/clip/__init__.py", tuple(KINDS)),
            ("tether/optim/__init__.py", tuple(KINDS)),
            ("tether_lab/stability/guards.py", tuple(KINDS)),
        ],
    )
    def test_a_print_changes_with_all_that_its_runs_call_and_with_no_other_guard(self, copy, edited, stand):
        some = {name: guards()[name] for name in KINDS}
        before = bench.prints(some)
        path = copy / edited
        text = path.read_text(encoding="utf-8")
        path.write_text(f"{text}\nADDED = 1\n", encoding="utf-8")
        after = bench.prints(some)
        path.write_text(text, encoding="utf-8")
        assert tuple(name for name in some if after[name] == before[name]) == stand


class TestPlan:
    def test_what_others_are_compared_with_is_always_there(self):
        found = bench.plan(only=["zclip", "noise"], models=["clip"], seeds=2)
        assert list(found.guards) == ["none", "global_norm", "zclip"]
        assert found.faults == ("clean", "noise")
        assert len(found) == len(list(found.cells())) == 12

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"models": ["clop"]}, "--models: unknown model 'clop'; did you mean 'clip'"),
            ({"only": ["zclap"]}, "--only: neither a fault nor a guard is called 'zclap'; did you mean 'zclip'"),
            ({"seeds": 1}, "seeds: expected a whole number of at least 2, got 1"),
            ({"steps": 5}, "steps: expected a whole number of at least 20, got 5"),
        ],
    )
    def test_bad_input(self, settings, message):
        with pytest.raises(InputError, match=message):
            bench.plan(**settings)
