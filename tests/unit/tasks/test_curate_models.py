"""Steps of a recipe that look with a model: the model itself, scores, near-duplicates, text in the picture."""

from __future__ import annotations

import io
import itertools
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tether.core.component import build
from tether.core.errors import InputError, UnsupportedModelError
from tether.data.curate.engine.run import curate
from tether.data.curate.engine.step import PAIR_SCHEMA
from tether.data.curate.pools.opening import open_pool
from tether.data.curate.steps.image_duplicates import kept_greedily
from tether.data.lettering.square import render_text
from tether.methods.parrot_captions import embedding_duplicates as duplicates
from tether.methods.parrot_captions.embedding_duplicates import EmbeddingDuplicates
from tether.methods.parrot_captions.text_spotting import Parrot
from tether.models import create
from tether.models.save import save
from tether.tasks.curate import CURATE_STEPS, text_reader
from tether.tasks.curate.clip_score import ClipScore
from tether.tasks.curate.lazy_encoder import Backbone, _loaded
from tether.tasks.curate.text_reader import Reading


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def noise(seed: int, *, size: int = 32) -> bytes:
    return png(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def batch(texts: list[str | None], pictures: list[bytes | None], keys: list[str] | None = None) -> pa.RecordBatch:
    keys = [f"row {number}" for number in range(len(texts))] if keys is None else keys
    rows = pa.record_batch([keys, pa.array(texts, pa.string())], schema=PAIR_SCHEMA)
    return rows.append_column("image", pa.array(pictures, pa.binary()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("models") / "one"
    save(create("tiny", seed=0), path)
    return str(path)


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("models") / "other"
    save(create("tiny", seed=1), path)
    return str(path)


def test_a_backbone_gives_unit_rows_and_marks_what_it_cannot_see(folder):
    backbone = Backbone(folder)
    pictures = [noise(0), None, b"no picture", noise(1), noise(0), b"", noise(2)[:60]]
    rows, good = backbone.images(pictures)
    assert good.tolist() == [True, False, False, True, True, False, False]
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), good, atol=1e-6)
    np.testing.assert_allclose(rows[0], rows[4], atol=1e-6)  # one picture at two places of a batch
    assert backbone.images([])[0].shape == (0, 64)
    np.testing.assert_allclose(np.linalg.norm(backbone.texts(["a", "", "b"]), axis=1), 1, atol=1e-6)


def test_a_backbone_travels_as_a_name_and_refuses_other_weights(folder, tmp_path):
    backbone = Backbone(folder)
    assert len(pickle.dumps(backbone)) < 1_000
    path = tmp_path / "model"
    save(create("tiny", seed=3), path)
    moved = Backbone(str(path))
    digest = moved.digest
    sent = pickle.dumps(moved)
    shutil.rmtree(path)
    save(create("tiny", seed=4), path)
    _loaded.cache_clear()  # as in another process
    with pytest.raises(InputError, match=f"the step began with {digest[:12]}"):
        pickle.loads(sent).texts(["a"])


def test_a_backbone_refuses_no_name_and_distances(tmp_path):
    with pytest.raises(InputError, match="model: expected what"):
        Backbone("")
    save(create("tiny", geometry="euclidean"), tmp_path / "far")
    with pytest.raises(UnsupportedModelError, match="euclidean"):
        _ = Backbone(str(tmp_path / "far")).digest
    with pytest.raises(InputError):
        _ = Backbone(str(tmp_path / "none")).digest


def test_embeddings_that_are_not_finite_are_no_pictures(folder):
    backbone = Backbone(folder)
    plain = backbone.model.encode_image

    def broken(pixels: torch.Tensor, **rest):
        found = plain(pixels, **rest)
        found.pooled[pixels.float().mean(dim=(1, 2, 3)) < 1] = torch.nan
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone.model, "encode_image", broken)
        _, good = backbone.images([noise(0), png(np.zeros((32, 32, 3), np.uint8)), noise(1)])
    assert good.tolist() == [True, False, True]


TEXTS = ["a red dog", "owl 2019", None, "", "4417", "a blue fox", "no", "12 dogs"]


def rows_of_all_kinds() -> pa.RecordBatch:
    pictures = [noise(number) for number in range(8)]
    pictures[6] = b"no picture"
    return batch(TEXTS, pictures)


def test_scores_are_cosines_after_the_transforms(folder):
    step = ClipScore(model=folder, text_transform=["mask_numbers"])
    rows = rows_of_all_kinds()
    scores = step.scores(rows)
    assert np.isnan(scores).tolist() == [False, False, True, False, False, False, True, False]
    assert scores[[3, 4]].tolist() == [-1, -1]
    shown, _ = step.backbone.images(rows.column("image"))
    np.testing.assert_allclose(scores[1], shown[1] @ step.backbone.texts(["owl"])[0], atol=1e-6)
    plain = ClipScore(model=folder).scores(rows)
    assert plain[0] == scores[0]
    assert plain[3] > -1


def test_a_fraction_is_of_what_could_be_scored(folder):
    rows = rows_of_all_kinds()
    step = ClipScore(model=folder, fraction=0.5).partial_fit(rows)
    kept = step.keep(rows)
    scores = step.scores(rows)
    assert kept.sum() == 3  # of six
    assert set(np.flatnonzero(kept)) == set(np.argsort(-np.nan_to_num(scores, nan=-9))[:3])
    assert step.report()["scored"] == 6
    assert step.report()["not_scored"] == 2
    assert ClipScore(model=folder, fraction=0.1).partial_fit(rows).keep(rows).sum() == 0
    with pytest.raises(InputError, match="1 pairs were not counted, such as else"):
        step.keep(batch(["a"], [noise(0)], ["else"]))


def test_equal_scores_go_to_the_smaller_hash_whatever_the_order(folder):
    keys = [f"k{number}" for number in range(9)]
    rows = batch(["a"] * 9, [noise(0)] * 9, keys)
    kept = set()
    for order in (np.arange(9), np.arange(9)[::-1]):
        some = rows.take(pa.array(order))
        chance = ClipScore(model=folder, fraction=0.34).partial_fit(some).keep(some)
        kept.add(tuple(sorted(key for key, stays in zip(some.column("key").to_pylist(), chance, strict=True) if stays)))
    assert len(kept) == 1
    assert len(next(iter(kept))) == 3


def test_a_threshold_counts_nothing_and_zero_is_one(folder):
    rows = rows_of_all_kinds()
    step = ClipScore(model=folder, threshold=0.0)
    assert step.counts == "nothing"
    np.testing.assert_array_equal(step.keep(rows), np.nan_to_num(step.scores(rows), nan=-1) >= 0)
    assert step.state_dict() == step.report() == {}
    assert "below 0.0" in step.refusal


def test_scores_of_another_model_do_not_mix(folder, other_folder):
    rows = rows_of_all_kinds()
    one, other = ClipScore(model=folder).partial_fit(rows), ClipScore(model=other_folder).partial_fit(rows)
    with pytest.raises(InputError, match="do not fit"):
        one.merge(other)
    with pytest.raises(InputError, match="do not fit"):
        one.load_state_dict(other.state_dict())
    near = [EmbeddingDuplicates(model=name).partial_fit(rows) for name in (folder, other_folder)]
    with pytest.raises(InputError, match=r"cannot add|do not fit"):
        near[0].merge(near[1])
    with pytest.raises(InputError, match="do not fit"):
        near[0].load_state_dict(near[1].state_dict())
    assert one.settings["model_digest"] != other.settings["model_digest"]


def test_wrong_settings_are_refused_before_a_model_is_loaded():
    for settings, word in (
        ({"fraction": 0}, "fraction"),
        ({"fraction": 0.5, "threshold": 0.1}, "fraction or threshold"),
        ({"threshold": float("inf")}, "threshold"),
        ({"text_transform": ["upper"]}, "text_transform"),
        ({"image_transform": ["blur"]}, "image_transform"),
    ):
        with pytest.raises(InputError, match=word):
            ClipScore(model="no such", **settings)
    for threshold in (-1, 1.1, float("nan")):
        with pytest.raises(InputError, match="threshold"):
            EmbeddingDuplicates(model="no such", threshold=threshold)
    for settings, word in (({"drop": "all"}, "drop"), ({"coverage": 1}, "coverage"), ({"fuzzy": 0}, "fuzzy")):
        with pytest.raises(InputError, match=word):
            Parrot(**settings)
    with pytest.raises(InputError, match="text_transform"):
        build({"name": "clip_score", "model": "m", "text_transform": "upper"}, CURATE_STEPS, where="recipe")


def test_pictures_may_lose_their_text_before_they_are_scored(folder, monkeypatch):
    grey = np.full((32, 32, 3), 90, np.uint8)
    lettered = grey.copy()
    lettered[4:9, 3:20] = 255
    found = Reading(("sale",), np.array([[3, 4, 20, 9]]))
    monkeypatch.setattr(text_reader.RapidReader, "__call__", lambda self, image: found)
    monkeypatch.setattr(text_reader, "_weights_digest", lambda: "abc")
    step = ClipScore(model=folder, threshold=0.0, image_transform=["fill_text"])
    rows = batch(["a", "a"], [png(grey), png(lettered)])
    one, other = step.scores(rows)
    assert one == other
    plain = ClipScore(model=folder, threshold=0.0).scores(rows)
    assert plain[0] != plain[1]
    assert step.settings["image_transform"][0]["reader"]["weights_sha256"] == "abc"


def test_those_that_stay_are_apart_and_cover_the_rest():
    rng = np.random.default_rng(0)
    for _ in range(20):
        count = int(rng.integers(1, 30))
        pairs = rng.integers(0, count, (2, int(rng.integers(0, 60))))
        pairs = pairs[:, pairs[0] != pairs[1]]
        better, worse = pairs.min(axis=0), pairs.max(axis=0)
        stays = kept_greedily(count, better=better, worse=worse)
        assert not (stays[better] & stays[worse]).any()
        covered = np.zeros(count, bool)
        covered[worse[stays[better]]] = True
        np.testing.assert_array_equal(stays, ~covered)


def copies(folder: str, *, copies: int = 3, kinds: int = 4) -> tuple[pa.RecordBatch, np.ndarray]:
    """Pictures with slightly brighter copies, and the kind of each."""
    kind = np.tile(np.arange(kinds), copies)
    pictures = []
    for number, which in enumerate(kind):
        pixels = np.zeros((32, 32, 3), np.uint8)
        pixels[:, :, :] = (np.array([[200, 10, 10], [10, 200, 10], [10, 10, 200], [200, 200, 10]])[which]).astype(
            np.uint8
        )
        pixels[:8] += np.uint8(20 * (number // kinds))
        pictures.append(png(pixels))
    return batch(["a"] * len(kind), pictures), kind


def test_one_of_each_kind_stays(folder):
    rows, kind = copies(folder)
    vectors = Backbone(folder).images(rows.column("image"))[0]
    same = (vectors @ vectors.T)[kind[:, None] == kind].min()
    different = (vectors @ vectors.T)[kind[:, None] != kind].max()
    assert different < same  # or the test says nothing
    step = EmbeddingDuplicates(model=folder, threshold=float((same + different) / 2)).partial_fit(rows)
    kept = step.keep(rows).astype(bool)
    assert sorted(kind[kept]) == [0, 1, 2, 3]
    assert step.report() == {"pairs": 12, "images": 12, "stay": 4, "unreadable": 0}
    nothing = EmbeddingDuplicates(model=folder, threshold=1).partial_fit(rows)
    assert nothing.keep(rows).all()


def test_captions_share_the_fate_of_their_picture_and_what_cannot_be_seen_stays(folder):
    keys = ["a#0", "a#1", "b", "c", "d", "d2"]
    rows = batch(["x"] * 6, [noise(0), noise(0), noise(0), None, b"no picture", b"no picture"], keys)
    step = EmbeddingDuplicates(model=folder, threshold=0.999).partial_fit(rows)
    kept = step.keep(rows)
    assert kept[0] == kept[1] != kept[2]
    assert kept[3:].tolist() == [1, 1, 1]
    assert step.report() == {"pairs": 6, "images": 2, "stay": 1, "unreadable": 2}


def test_a_step_sent_to_workers_takes_its_decision_and_no_vectors(folder):
    rows, _ = copies(folder)
    step = EmbeddingDuplicates(model=folder, threshold=0.9).partial_fit(rows)
    sent = pickle.loads(pickle.dumps(step))
    np.testing.assert_array_equal(sent.keep(rows), step.keep(rows))
    assert sent.report() == step.report()
    for call in (lambda: sent.partial_fit(rows), lambda: sent.state_dict(), lambda: step.empty().merge(sent)):
        with pytest.raises(InputError, match="its decision alone"):
            call()
    assert pickle.loads(pickle.dumps(step.empty())).partial_fit(rows).report() == step.report()


def test_cells_find_what_all_pairs_find(folder, monkeypatch):
    rng = np.random.default_rng(0)
    middle = rng.normal(size=(300, 16))
    vectors = np.repeat(middle, 4, axis=0) + 0.02 * rng.normal(size=(1200, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)

    def pairs() -> set[tuple[int, int]]:
        found = np.concatenate(list(duplicates._alike(vectors, least=0.98)), axis=1)
        return set(zip(found.min(axis=0).tolist(), found.max(axis=0).tolist(), strict=True))

    exact = pairs()
    monkeypatch.setattr(duplicates, "EXACT", 100)
    monkeypatch.setattr(duplicates, "_CELL", 100)
    in_cells = pairs()
    assert in_cells <= exact
    assert len(exact) >= 1500
    assert len(in_cells) >= 0.99 * len(exact)


class Counting:
    """A reader that says what its picture's bytes end with, and counts."""

    def __init__(self) -> None:
        self.calls = 0

    @property
    def settings(self) -> dict[str, str]:
        return {"name": "counting"}

    def __call__(self, image) -> Reading:
        self.calls += 1
        if image == b"broken":
            raise InputError("broken")
        return Reading(tuple(image.decode().split()), np.zeros((0, 4)))


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, [1, 0, 0, 1, 1, 1, 1]),
        ({"coverage": 0.25}, [1, 0, 1, 1, 1, 1, 1]),
        ({"fuzzy": 0.5}, [0, 0, 0, 1, 1, 1, 1]),
        ({"drop": "text"}, [0, 0, 0, 1, 1, 1, 0]),
    ],
)
def test_parrots_are_dropped(settings, kept):
    step = Parrot(**settings)
    step.reader = Counting()
    texts = ["a big sail", "SALE", "a red dog, sale", "sale", None, "broken", "..."]
    rows = batch(texts, [b"sale", b"sale", b"sale", b"!", None, b"broken", b"sale"])
    assert step.keep(rows).tolist() == kept
    assert step.reader.calls == 3
    assert step.settings["reader"] == {"name": "counting"}


def test_words_read_before_come_from_a_column():
    rows = batch(["a sale", "a dog", "a dog"], [None] * 3)
    texts = rows.append_column("seen", pa.array(["big SALE", "sale", None], pa.string()))
    lists = rows.append_column("seen", pa.array([["big", "SALE"], [None, "sale"], None], pa.list_(pa.string())))
    for given in (texts, lists):
        step = Parrot(words="seen")
        assert step.columns == ("seen",)
        assert step.keep(given).tolist() == [0, 1, 1]
        assert Parrot(words="seen", drop="text").keep(given).tolist() == [0, 0, 1]
    assert Parrot(words="seen").keep(rows.append_column("seen", pa.nulls(3))).tolist() == [1, 1, 1]
    with pytest.raises(InputError, match="words: expected a column of texts"):
        Parrot(words="seen").keep(rows.append_column("seen", pa.array([1, 2, 3])))
    assert Parrot(words="seen").settings["reader"] is None


def test_rapid_reads_in_a_recipe():
    drawn = render_text("Sale", size=96, points=28)
    rows = batch(["big sale", "a dog"], [png(np.array(drawn))] * 2)
    assert Parrot().keep(rows).tolist() == [0, 1]


def test_a_recipe_with_models_gives_the_same_rows_whatever_the_pieces(folder, tmp_path):
    texts = ["a red dog 2019", "an owl", "12", "a fox sale", "a cat", "a red dog", "no picture", "a hen"]
    pictures: list[bytes | None] = [noise(number // 2) for number in range(8)]
    pictures[6] = b"no picture"
    seen = [None, None, None, "SALE", "tree", None, None, None]
    table = pa.table({"key": [f"k{row}" for row in range(8)], "image": pictures, "text": texts, "seen": seen})
    found = []
    for name, cuts in (("whole", [0, 8]), ("parts", [0, 3, 4, 8])):
        for start, end in itertools.pairwise(cuts):
            pq.write_table(table.slice(start, end - start), tmp_path / f"{name}-{start}.parquet")
        specs: list[dict] = [
            {"name": "parrot", "words": "seen"},
            {"name": "embedding_duplicates", "model": folder, "threshold": 0.9999},
            {"name": "clip_score", "model": folder, "fraction": 0.7, "text_transform": ["mask_numbers"]},
            {"name": "number_mask"},
        ]
        steps = [(str(spec["name"]), build(spec, CURATE_STEPS, where="test")) for spec in specs]
        out = tmp_path / f"out {name}"
        found.append(curate(open_pool(str(tmp_path / f"{name}-*.parquet")), steps=steps, out=out))
        kept = [row for path in sorted(out.glob("part-*.parquet")) for row in pq.read_table(path).to_pylist()]
    first, second = found
    assert first["rows_sha256"] == second["rows_sha256"]
    assert [step["refused"] for step in first["by_step"][:3]] == [1, 2, 3]
    assert first["by_step"][1]["report"] == {"pairs": 7, "images": 6, "stay": 4, "unreadable": 1}
    assert first["by_step"][2]["report"]["not_scored"] == 1
    assert len(kept) == first["pairs"]["kept"] == 2
    assert not any(character.isdigit() for row in kept for character in row["text"])
