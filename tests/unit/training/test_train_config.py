from pathlib import Path

import pytest

from tether.core.errors import InputError
from tether.training import train
from tether.training.config import dump_config, load_config


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_one_dial_sets_batch_and_steps_and_a_given_key_wins(tmp_path):
    recipe = write(tmp_path / "r.yaml", "data: emoji\nsize: tiny\nsteps: 7\n")
    config = load_config(recipe)
    assert (config.size, config.batch_size, config.steps) == ("tiny", 64, 7)


def test_an_override_reaches_into_a_part_given_by_name(tmp_path):
    recipe = write(tmp_path / "r.yaml", "data: emoji\nclipper: zclip\n")
    assert load_config(recipe, overrides=["clipper.alpha=0.9"]).clipper == {"name": "zclip", "alpha": 0.9}


def test_an_override_of_a_default_part_keeps_its_name():
    config = load_config(overrides=["data=emoji", "optimizer.lr=0.01"])
    assert config.optimizer == {"name": "adamw", "lr": 0.01}


def test_the_dumped_configuration_reads_back_equal(tmp_path):
    config = load_config(overrides=["data=emoji:split=train", "evaluate.source=emoji:split=test", "ema=0.99"])
    assert load_config(write(tmp_path / "c.yaml", dump_config(config))) == config


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        ("data: emoji\nclippper: zclip\n", [], "unknown key 'clippper'; did you mean 'clipper'?"),
        ("data: emoji\nsteps: many\n", [], "steps: Input should be a valid integer"),
        ("steps: 3\n", [], "key 'data' is required"),
        ("data: emoji\nsize: huge\n", [], "size:"),
        ("- emoji\n", [], "expected a mapping"),
        ("data: [\n", [], "not valid YAML"),
        ("data: emoji\n", ["steps"], "expected key=value"),
        ("data: emoji\nfit: {name: f, rounds: 3}\n", ["rounds=5"], "unknown key 'rounds'; did you mean fit.rounds?"),
        ("data: emoji\n", ["schedul=3"], "unknown key 'schedul'; did you mean 'schedule'?"),
        ("data: emoji\n", ["batch_size=0"], "batch_size"),
        ("data: emoji\nseed: 100000000000000000000000\n", [], "seed: Input should be less than"),
        ("data: emoji\n", ["seed=-1"], "seed: Input should be greater than or equal to 0"),
        ("data: emoji\n", ["weight_decay=.nan"], "weight_decay: Input should be a finite number"),
        ("data: emoji\n", ["weight_decay=inf"], "weight_decay: Input should be a finite number"),
        ("data: emoji\n", ["ema=nan"], "ema: Input should be a finite number"),
        ("data: emoji\n", ["steps=100000000"], "steps: Input should be less than"),
        ("data: emoji\n", ["accumulate=1e23"], "accumulate"),
        ("data: emoji\n", ["workers=100000"], "workers: Input should be less than or equal to 1024"),
        ("data: emoji\n", ["threads=100000"], "threads: Input should be less than or equal to 1024"),
        ("data: emoji\nclipper: {1: 2}\n", [], "clipper"),
        ("data: emoji\nclipper: [zclip]\n", ["clipper.alpha=1"], "clipper is ['zclip'], which has no keys"),
        ("data: emoji\nclipper: [zclip]\n", [], "clipper"),
        ("1: 2\nnull: emoji\n", [], "data"),
        ("data: {name: emoji, size: !!binary aGVsbG8=}\n", [], "line 1: unknown tag"),
        ("data: emoji\n", ["data." + "a." * 1000 + "b=1"], "nested deeper than"),
        ("data: emoji\n", ['data="a\\0b"'], "text with a NUL"),
        ("data: emoji\nevaluate: {sorce: emoji}\n", [], "evaluate.sorce"),
        (
            "data: emoji\n",
            ["step=20"],
            "override 'step=20': step: Input should be a valid string or a valid dictionary, got 20; "
            "did you mean 'steps'?",
        ),
        ("data: emoji\n", ["evaluate.source=3"], "override 'evaluate.source=3': evaluate.source: Input should be"),
        ("data: emoji\n", ["x" * 10**5 + "=1"], "x... (100,004 characters): unknown key 'xxx"),
        ("data: emoji\n", ["steps=" + "x" * 10**5], "as an integer, got 'xxx"),
    ],
)
def test_a_wrong_recipe_names_the_file_or_the_key(tmp_path, text, overrides, expected):
    with pytest.raises(InputError) as caught:
        load_config(write(tmp_path / "recipe.yaml", text), overrides=overrides)
    assert expected in str(caught.value)


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml: no such file"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optimizer.lr=nan", "optimizer (adamw): lr: expected a number in [0, 1e+30)"),
        ("optimizer.lr=inf", "optimizer (adamw): lr: expected a number in [0, 1e+30)"),
        ("optimizer.lr=-1", "optimizer (adamw): lr: expected a number in [0, 1e+30), got -1"),
        ("optimizer.betas=[.nan, 0.9]", "betas: expected 2 values, each a number in [0, 1)"),
        ("schedule.floor=inf", r"schedule (cosine): floor: expected a number in [0, 1]"),
        ("schedule.warmup=10000000000000000000", "warmup: "),
        ("clipper={name: zclip, alpha: nan}", "clipper (zclip): alpha: expected a number in [0, 1)"),
        ("objective=[clip]", "objective"),
        ("caption={name: first_often, chance: nan}", "caption (first_often): chance: expected a number in"),
        ("model.image_size=[x, 32]", "image_size"),
        ("model.vision=3", "vision: expected a mapping"),
        ("model.seed=x", "a seed of 0 to 2**63 - 1"),
        ("model.load=3", "load: expected a name or a folder"),
        ("objective=" + "x" * 10**5, "... (100,002 characters); known: "),
        ("objective={name: clip, directions: %s}" % ("x" * 10**5), "... (100,002 characters)"),
    ],
)
def test_a_wrong_setting_of_a_part_is_named_before_any_data_are_read(tmp_path, monkeypatch, override, said):
    monkeypatch.setattr("tether.data.open_source", lambda *_, **__: pytest.fail("the data were read"))
    with pytest.raises(InputError) as caught:
        train(load_config(overrides=["data=emoji", "size=tiny", override]), folder=tmp_path / "run")
    assert said in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert not (tmp_path / "run").exists()
