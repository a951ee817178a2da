"""``tether adapt --recipe caption_reward``: a captioner goes on by reward."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tether
from tether.core.errors import InputError, StoppedError
from tether.models import create

pytestmark = pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")
DATA = "scenes:rows=40,size=64"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rewarded")
    for seed, name in enumerate(("base", "other")):
        tether.save(create("tiny", seed=seed), folder / name)
    texts = {"name": "caption_from_texts", "width": 16, "n_queries": 2, "steps": 30}
    tether.adapt(folder / "base", DATA, recipe=texts, out=folder / "captioner")
    return folder


def recipe(place: Path, **settings: Any) -> dict[str, Any]:
    small = {"steps": 4, "grammar_steps": 4, "longest": 6, "samples": 2, "grammar_rate": 1e-3}
    return {"name": "caption_reward", "captioner": str(place / "captioner"), **small, **settings}


class TestCaptionReward:
    def test_learns_and_tells_what_became_of_it(self, place: Path, tmp_path: Path, call: Any) -> None:
        settings = [f"{key}={value}" for key, value in recipe(place, judge2=str(place / "other"), cider=0.1).items()]
        made = tmp_path / "made"
        asked = ["--recipe", "caption-reward", *settings[1:], "--out", str(made)]
        said = call("adapt", str(place / "base"), DATA, *asked).out
        for figure in ("reward model", "second judge", "repeated bigram", "words of a caption", "well formed", "CIDEr"):
            assert figure in said
        report = json.loads((made / "report.json").read_text())
        assert [one["n"] for one in report["own"]] == [report["own"][0]["n"]] * 6
        found = tether.caption("scenes:rows=2,size=64", model=str(place / "base"), captioner=made, longest=4)
        assert len(found.captions) == 2

    @pytest.mark.parametrize("stop", [3, 7])
    def test_goes_on_where_it_stopped(self, place: Path, tmp_path: Path, stop: int) -> None:
        """In the tuning of the judge, and in that of the captioner."""

        def learn(out: Path, *, stop: int | None = None) -> Path:
            asked = iter(range(1, 99))
            tether.adapt(place / "base", DATA, recipe=recipe(place), out=out, should_stop=lambda: next(asked) == stop)
            return out

        whole = learn(tmp_path / "whole")
        with pytest.raises(StoppedError):
            learn(tmp_path / "stopped", stop=stop)
        again = learn(tmp_path / "stopped")
        for name in ("captioner.safetensors", "language_model/model.safetensors"):
            assert (whole / name).read_bytes() == (again / name).read_bytes()
        before = (place / "captioner" / "captioner.safetensors").read_bytes()
        assert (whole / "captioner.safetensors").read_bytes() != before

    def test_images_alone_and_models_at_rest(self, place: Path, tmp_path: Path) -> None:
        from PIL import Image

        for number in range(12):
            Image.new("RGB", (40, 30), (20 * number, 0, 0)).save(tmp_path / f"{number}.png")
        model = tether.load(place / "base")
        done = tether.adapt(model, tmp_path, recipe=recipe(place))
        assert "no captions" in str(done)
        assert "judge2=MODEL" in str(done)
        assert all(one.requires_grad for one in model.parameters())
        assert torch.equal(model.logit_scale, tether.load(place / "base").logit_scale)
        for setting in ({"grammar": "fit"}, {"score": "ref_clip_s"}, {"cider": 1.0}):
            with pytest.raises(InputError, match=r"png: expected a caption of each image"):
                tether.adapt(model, tmp_path, recipe=recipe(place, **setting))

    def test_refuses(self, place: Path) -> None:
        with pytest.raises(InputError, match="samples"):
            tether.adapt(place / "base", DATA, recipe=recipe(place, samples=0))
        with pytest.raises(InputError, match="captioner"):
            tether.adapt(place / "base", DATA, recipe="caption_reward")
        with pytest.raises(InputError, match="digest"):
            tether.adapt(place / "other", DATA, recipe=recipe(place))
        with pytest.raises(InputError, match="nowhere holds no captioner"):
            tether.adapt(place / "base", DATA, recipe=recipe(place, captioner="nowhere"))
        with pytest.raises(InputError, match="--shots: does not go with --recipe caption_reward"):
            tether.adapt(place / "base", DATA, recipe=recipe(place), shots=2)
