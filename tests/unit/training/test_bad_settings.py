"""Settings and data that do not fit, as they are typed into a recipe: what came, what was expected, and the key."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

import tether
from tether.core.errors import InputError
from tether.methods.clip_up.upcycle import upcycle
from tether.models import create
from tether.training import load_config, train
from tether.workflows.edits import EDITS

SETTINGS = ["data=emoji:split=validation,size=32", "size=tiny", "steps=2", "batch_size=4", "threads=1"]
SHORT = "views: {image: {}, text: {}, short: {source: text, rewrite: first_sentence}}"
TAUGHT = (
    "views: {image: {}, text: {}, ti: {source: image, encoder: teacher}, tt: {source: text, encoder: teacher}}, "
    "terms: [objective, {name: similarity, teacher_image: ti, teacher_text: tt}]"
)
BESIDE = "beside: {more: {data: 'emoji:split=validation,size=32', batch_size: 3}}"
PAIRS = (
    "beside: {pairs: {data: {name: text_pairs, path: ROOT/pairs.jsonl, query: q, positive: p, negatives: n}, "
    "contents: {images: false, pairs: {negatives: K}}}}, step: {views: {image: {}, text: {}, pairs_text: {}, "
    "pairs_positive_text: {}, pairs_negative_text: {}}, terms: [objective, {name: LOSS, image: pairs_text, "
    "text: pairs_positive_text, negative_text: pairs_negative_text}]}"
)


def patches(choice: str) -> str:
    return f"step: {{views: {{image: {{patches: {choice}}}, text: {{}}}}}}"


CASES = {
    "a size that the patch does not divide": (
        "model: {image_size: 30}",
        r"model.vision.patch: expected a divisor of the image size \(30, 30\), got 8",
    ),
    "such a size in a stage": (
        "stages: [{share: 0.5, image_size: 30}, {share: 0.5}]",
        "expected a divisor of the image",
    ),
    "such a size of a model that is resized": (
        "model: {load: ROOT/dense, resized: {image_size: 30}}",
        r"model: resized: image_size: expected multiples of 8 \(the patch\), got \(30, 30\)",
    ),
    "an odd grid for windows": (
        "model: {image_size: 24}, " + patches("{name: grid, each: 1, window: 2}"),
        "window: expected a grid whose sides are multiples of 2, got 3 x 3 patches",
    ),
    "more of a window than it has": (
        patches("{name: grid, each: 5, window: 2}"),
        "each: expected at most 4, the patches of a window, got 5",
    ),
    "no patch at all": (patches("{keep: 0, name: random}"), r"view image: patches .*keep: expected .*\(0, 1\], got 0"),
    "more than all": (
        patches("{keep: 1.5, name: random}"),
        r"view image: patches .*keep: expected .*\(0, 1\], got 1.5",
    ),
    "empty texts": ("data: ROOT/empty.csv", "only 0 good rows; .*every caption is empty"),
    "more negatives than there are": (
        PAIRS.replace("K", "3").replace("LOSS", "info_nce"),
        "expected 3 hard negatives of 'q .', got 2",
    ),
    "two negatives for a loss that takes one": (
        PAIRS.replace("K", "2").replace("LOSS", "neg_clip"),
        r"negative_text: expected \(4, 64\) like the pairs, got \(8, 64\)",
    ),
    "views of unequal length": (
        f"{BESIDE}, step: {{views: {{image: {{}}, text: {{}}, more_text: {{}}}}, "
        "terms: [objective, {name: clip, text: more_text}]}",
        "expected as many rows in every view, at least one; got {'image': 4, 'more_text': 3}",
    ),
    "fewer short captions than images": (
        f"{BESIDE}, step: {{views: {{image: {{}}, text: {{}}, more_text: {{}}}}, "
        "terms: [{name: long_clip, k: 2, extra: {short_text: more_text}}]}",
        r"expected as many images as texts, of one width, got image \(4, 64\) and text \(3, 64\)",
    ),
    "dims that fall": (
        "objective: {name: matryoshka, dims: [32, 16]}",
        r"dims: expected widths that rise, got \[32, 16\]",
    ),
    "dims above the model's": (
        "objective: {name: matryoshka, dims: [16, 128]}",
        "dims: expected at most the 64 numbers of an embedding, got 128",
    ),
    "more choices than experts": (
        "model: {load: ROOT/dense, upcycle: {experts: 2, top_k: 3}}",
        "model: upcycle: top_k: expected at most experts=2, got 3",
    ),
    "no capacity": (
        "model: {load: ROOT/dense, upcycle: {capacity_factor: 0}}",
        "model: upcycle: capacity_factor: expected .*, got 0",
    ),
    "dense weights under experts": (
        "model: {load: ROOT/mixed}",
        "another architecture: missing visual.blocks.1.experts",
    ),
    "nearly all positions stay": (
        "model: {load: ROOT/dense, resized: {context: 40, how: {name: stretch, keep: 23}}}",
        "model: resized: how: stretch: keep: expected at most 22 of 24 positions, got 23",
    ),
    "nearly all positions rest": (
        "edits: [{name: kept_positions, keep: 23}]",
        "edits, entry 0: .*keep: expected at most 22 of 24 rows, got 23",
    ),
    "no component": (
        f"step: {{{SHORT}, terms: [{{name: long_clip, k: 0, extra: {{short_text: short}}}}]}}",
        "k: expected",
    ),
    "no vector to hide behind": (
        "edits: [masked_patches], step: {views: {image: {}, text: {}}, terms: [{name: fix_clip}]}",
        r"fix_clip: expected batch.extra\['masked_image'\] .* name one in the term: extra: {masked_image: VIEW}",
    ),
    "shares that are not the whole": (
        "stages: [{share: 0.5}, {share: 0.6}]",
        r"stages: expected shares that add up to 1, got 0.5 \+ 0.6",
    ),
    "a teacher of other images": (
        f"step: {{teacher: {{load: ROOT/large}}, {TAUGHT}}}",
        "step: views: ti: encoder teacher takes images of 64 x 64, got 32 x 32; give the view size: 64",
    ),
    "a teacher of fewer numbers": (
        "step: {views: {image: {}, text: {}, ti: {source: image, encoder: ROOT/narrow}}, "
        "terms: [objective, {name: distill, student: image, teacher: ti}]}",
        "distill: the teacher's embeddings have 32 numbers, the student's 64: give the step heads:",
    ),
    "a teacher that a stage leaves behind": (
        f"step: {{teacher: start, {TAUGHT}}}, stages: [{{share: 0.5, image_size: 16}}, {{share: 0.5}}]",
        "stages, entry 1: image_size, context: the teacher, start, has other sizes; take one of {ema: ...}",
    ),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Models, a table and pairs of texts that the cases name."""
    folder = tmp_path_factory.mktemp("root")
    made = {"dense": {}, "large": {"image_size": 64}, "narrow": {"dim": 32}}
    for name, settings in made.items():
        tether.save(create("tiny", **settings), folder / name)
    tether.save(upcycle(create("tiny"), experts=2), folder / "mixed")
    (folder / "mixed" / "model.safetensors").write_bytes((folder / "dense" / "model.safetensors").read_bytes())
    for number in range(6):
        Image.new("RGB", (32, 32)).save(folder / f"{number}.png")
    with (folder / "empty.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *((f"{number}.png", " ") for number in range(6))])
    rows = [{"q": f"q {number}", "p": f"p {number}", "n": ["one", "two"]} for number in range(8)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.filterwarnings("ignore::tether.losses.long_clip.WholeBatchWarning")
@pytest.mark.filterwarnings("ignore:.*bad rows skipped so far")
@pytest.mark.parametrize("case", CASES)
def test_is_refused(case: str, root: Path, tmp_path: Path) -> None:
    given, said = CASES[case]
    values = yaml.safe_load("{" + given.replace("ROOT", str(root)) + "}")
    with pytest.raises(InputError, match=said):
        train(
            load_config(values=values, overrides=SETTINGS[1 if "data" in values else 0 :]), folder=tmp_path, edits=EDITS
        )
