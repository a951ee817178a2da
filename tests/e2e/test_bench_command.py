"""``tether-lab bench stability`` and ``tether train --clipper`` as a user types them."""

import json
import signal

import pytest

from processes import run_tether, tether, wait_for
from tether_lab.stability import guide

TINY = ["size=tiny", "data=emoji:size=32", "batch_size=8", "steps=24", "precision=fp32", "threads=1"]


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """Finished runs of this test only; the emoji stay where they are."""
    from tether_lab.stability import bench

    monkeypatch.setattr(bench, "cache_dir", lambda: tmp_path / "cache")


def test_a_small_bench_leaves_page_json_and_markdown(lab, tmp_path, cache):
    some = ["--quick", "--only", "global_norm", "--only", "scaled_loss"]
    out, err = lab("bench", "stability", *some, "--out", tmp_path / "out")
    assert "8 of 8 runs" in err
    assert f"page: {tmp_path / 'out' / 'stability.html'}" in out
    found = json.loads((tmp_path / "out" / "stability.json").read_text())
    assert (found["runs"], list(found["faults"])) == (8, ["clean", "scaled_loss"])
    assert out.startswith("- ")
    for ending in ("html", "md"):
        assert "scaled_loss" in (tmp_path / "out" / f"stability.{ending}").read_text()
    again = lab("bench", "stability", *some, "--out", tmp_path / "out").err
    assert "8 of 8 runs" in again
    assert "0 of 8 runs" not in again  # all of them were kept


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed"], "stability"),
        (["stability", "--only", "zclap"], "did you mean 'zclip'"),
        (["stability", "--models", "vit"], "--models: unknown model 'vit'"),
        (["stability", "--seeds", "1"], "seeds: expected a whole number of at least 2"),
        (["stability", "--publish", "--quick"], "only the whole bench is published"),
    ],
)
def test_bad_input(lab, arguments, message):
    assert message in lab("bench", *arguments, code=2).err


def test_the_guide_is_written_from_the_stored_result(lab):
    from tether_lab.lab.source_index import need_checkout

    path = need_checkout("this test") / guide.GUIDE
    before = path.read_text()
    out = lab("bench", "stability", "--guide").out
    assert (out.strip(), path.read_text()) == (guide.GUIDE, before)


def test_publishing_runs_only_what_the_stored_result_lacks(lab, tmp_path, monkeypatch, cache):
    from tether.workflows.clipper_comparison.trace import RunTrace
    from tether_lab.lab import source_index
    from tether_lab.stability import bench, guard_costs, result
    from tether_lab.stability.runs import BenchRun

    here, root = source_index.need_checkout("this test"), tmp_path / "checkout"
    whole = result.read(here / guide.RESULT)
    whole["guards"] = {  # rows without a fingerprint stay whatever is edited
        name: {key: value for key, value in entry.items() if key != "fingerprint"}
        for name, entry in whole["guards"].items()
    }
    guards = {name: entry for name, entry in whole["guards"].items() if name != "zclip"}
    result.write(
        root / guide.RESULT, {**whole, "guards": guards, "rows": [r for r in whole["rows"] if r["guard"] != "zclip"]}
    )
    (root / guide.GUIDE).parent.mkdir(parents=True)
    (root / guide.GUIDE).write_text((here / guide.GUIDE).read_text())
    finals = {(row["model"], row["fault"], row["guard"]): row["final"] for row in whole["rows"]}
    trace = RunTrace(losses=(1.0,) * 120, norms=(1.0,) * 120, thresholds=(1.0,) * 120, scales=(1.0,) * 120, skipped=())

    asked = []

    def outcomes(wanted, **settings):
        asked.append(list(wanted.new))
        return [
            BenchRun(
                model, fault, guard.name, seed, end := finals[model, fault, guard.name][seed], ((120, end),), trace, 1.0
            )
            for model, fault, guard, seed in wanted.cells()
        ]

    monkeypatch.setattr(source_index, "need_checkout", lambda purpose: root)
    monkeypatch.setattr(bench, "outcomes", outcomes)
    monkeypatch.setattr(
        guard_costs, "guard_costs", lambda some, rounds: dict.fromkeys(some, guard_costs.Cost(0.5, 0.5, 0.5))
    )
    out, err = lab("bench", "stability", "--publish", "--out", tmp_path / "out")
    assert "kept from reproduction/results/stability.json: none, global_norm, adagc" in err
    assert "with the figures as they were" in out
    found = result.read(root / guide.RESULT)
    words = [sorted((row["guard"], row["against_none"]["word"]) for row in one["rows"]) for one in (found, whole)]
    assert words[0] == words[1]
    assert "fingerprint" in found["guards"]["zclip"]
    assert guide.filled((root / guide.GUIDE).read_text(), found) == (root / guide.GUIDE).read_text()
    assert "every row of reproduction/results/stability.json stands" in lab("bench", "stability", "--publish").out
    assert asked == [["zclip"]]
    result.write(root / guide.RESULT, {**found, "guards": {**found["guards"], "gone": found["guards"]["zclip"]}})
    lab("bench", "stability", "--publish", "--out", tmp_path / "out")  # one that is no longer there leaves the table
    assert asked == [["zclip"], []]
    assert "gone" not in result.read(root / guide.RESULT)["guards"]


def test_the_name_of_a_clipper_is_short_for_the_setting(call):
    out = call("train", *TINY, "--clipper", "zclip", "--dry-run").out
    assert "clipper: zclip" in out
    assert "# view image: 17 tokens, " in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--clipper", "zclap"], "unknown clipper 'zclap'; did you mean 'zclip'"),
        (["--clipper", "zclip", "--compare-steps", "30"], "goes with --clipper compare only"),
        (["--clipper", "compare", "--compare-steps", "3"], "--compare-steps: expected at least 20"),
        (["--clipper", "compare", "clipper=zclop"], "unknown part 'zclop'"),
        (["--clipper", "compare", "clipper.alfa=1"], "unknown key 'alfa'"),
    ],
)
def test_bad_words_for_a_clipper(call, tmp_path, arguments, message):
    assert message in call("train", *TINY, "--out", tmp_path / "run", *arguments, code=2).err
    assert not (tmp_path / "run").exists()


@pytest.mark.nightly
def test_compare_stops_on_ctrl_c_and_goes_on(tmp_path):
    run = tmp_path / "run"
    command = ["train", *TINY, "--out", run, "--clipper", "compare"]
    going = tether(*command)
    log = run / "compare" / "global_norm" / "metrics.jsonl"
    wait_for(lambda: log.exists() and log.read_text().count("\n") > 1, going)  # the first step is over
    going.signal(signal.SIGINT)
    _, err = going.communicate()
    assert going.returncode == 130
    assert "go on with the same command with --resume" in err
    assert not (run / "compare.json").exists()
    said, _ = run_tether(*command, "--resume")
    assert "24 steps each" in said
    assert f"page: {run / 'compare.html'}" in said
    seen = json.loads((run / "compare.json").read_text())["seen"]
    assert {one["steps"] for one in seen} == {24}
    assert (run / "compare.html").is_file()
