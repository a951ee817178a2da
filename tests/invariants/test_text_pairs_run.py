"""Images with captions beside text pairs, in jina-clip's three stages: a stop changes nothing."""

from __future__ import annotations

import functools
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from tether.core.errors import InputError, StoppedError
from tether.training import RunConfig, train
from tether.training.checkpoints import list_checkpoints, load_checkpoint
from tether.training.metrics_log import read_metrics

TEXTS = {"name": "info_nce", "image": "pairs_text", "text": "pairs_positive_text", "tau": 0.05, "as": "texts"}
IMAGES = {"name": "objective"}
VIEWS = {"image": {}, "text": {}, "pairs_text": {}, "pairs_positive_text": {}}
THIRD = {
    "views": {**VIEWS, "pairs_negative_text": {}},
    "terms": [IMAGES, {**TEXTS, "negative_text": "pairs_negative_text"}],
}
STEPS, BORDER = 12, 4


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> RunConfig:
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    lines = [
        {"query": f"red {i}", "positive": f"a red {i}", "negatives": [f"blue {i}", f"no red {i}"]} for i in range(7)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    pairs = {"images": False, "pairs": {"negatives": 2}}
    values = {
        "data": {"name": "scenes", "rows": 10, "size": 64, "captions": "short"},
        "size": "tiny",
        "model": {"image_size": 64, "context": 32},
        "beside": {"pairs": {"data": {"name": "text_pairs", "path": str(path)}, "contents": pairs, "batch_size": 3}},
        "objective": {"name": "clip", "directions": "sum"},
        "step": {"views": VIEWS, "terms": [IMAGES, TEXTS]},
        "stages": [
            {"steps": 4},
            {"steps": 4, "data": {"name": "scenes", "rows": 10, "size": 64, "captions": "long"}},
            {"steps": 4, "step": THIRD},
        ],
        "steps": STEPS,
        "batch_size": 4,
        "precision": "fp32",
        "threads": 1,
        "vocabulary": "used",
        "save_every": STEPS - 1,
        "optimizer": {"name": "adamw", "lr": 1e-3},
    }
    # the third stage has the data of the second: a stage says what is other than in the recipe
    values["stages"][2]["data"] = values["stages"][1]["data"]
    return RunConfig.model_validate(values)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, config):
    """The folder of a run that was stopped after so many steps, and its checkpoint."""

    @functools.cache
    def at(after: int):
        folder, asked = tmp_path_factory.mktemp("stopped") / "run", []

        def stop() -> bool:
            asked.append(None)
            return len(asked) == after

        with pytest.raises(StoppedError):
            train(config, folder=folder, should_stop=stop)
        return folder, load_checkpoint(list_checkpoints(folder / "checkpoints")[-1])

    return at


@pytest.fixture(scope="module")
def whole(tmp_path_factory, config):
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(config, folder=folder)
    return folder, load_checkpoint(list_checkpoints(folder / "checkpoints")[-1])


pytestmark = pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")


@pytest.mark.parametrize("after", [3, BORDER, 9])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path, config, whole, stopped, after):
    shutil.copytree(stopped(after)[0], tmp_path / "run")
    train(config, folder=tmp_path / "run", resume=True)
    again = load_checkpoint(list_checkpoints(tmp_path / "run" / "checkpoints")[-1])
    assert again.state["data"] == whole[1].state["data"]
    for group, tensors in whole[1].tensors.items():
        assert all(torch.equal(again.tensors[group][name], tensor) for name, tensor in tensors.items())
    mine, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "run", whole[0]))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    records = [list(read_metrics(folder / "metrics.jsonl")) for folder in (tmp_path / "run", whole[0])]
    assert len(records[1]) == STEPS
    for key in ("loss", "objective", "texts", "forward", "backward"):
        assert [record[key] for record in records[0]] == [record[key] for record in records[1]]


def test_each_stream_cycles_for_itself_and_goes_on_across_a_border_where_its_data_are_the_same(stopped, whole):
    """The pairs make an epoch in two steps, the images in two of four rows; only the images' data change, at step 4."""
    positions = {after: stopped(after)[1].state["data"] for after in (3, 4, 9)}
    positions[STEPS - 1] = whole[1].state["data"]
    found = {
        after: [(state[stream]["epoch"], state[stream]["batch"]) for stream in ("first", "second")]
        for after, state in positions.items()
    }
    assert found == {
        3: [(1, 1), (1, 1)],
        4: [(2, 0), (2, 0)],
        9: [(2, 1), (4, 1)],  # the images began anew at step 4, the pairs did not
        STEPS - 1: [(3, 1), (5, 1)],
    }


def test_the_loss_is_the_sum_of_both_and_hard_negatives_make_the_third_stage_harder(whole):
    records = list(read_metrics(whole[0] / "metrics.jsonl"))
    for record in records:
        assert record["loss"] == pytest.approx(record["objective"] + record["texts"], rel=1e-5)
        assert record["texts"] == pytest.approx(record["forward"] + record["backward"], rel=1e-5)
    assert records[8]["forward"] > records[7]["forward"]


def test_a_term_that_looks_at_one_negative_a_pair_refuses_several(tmp_path, config):
    step = {"views": THIRD["views"], "terms": [IMAGES, {**THIRD["terms"][1], "name": "neg_clip", "tau": None}]}
    del step["terms"][1]["tau"]
    with pytest.raises(InputError, match=r"negative_text: expected \(3, .*\) like the pairs, got \(6, "):
        train(config.model_copy(update={"stages": [], "step": step, "steps": 1}), folder=tmp_path / "run")
