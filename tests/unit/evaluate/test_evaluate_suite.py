"""One call over any model and source: what it gives, what it leaves out, what it refuses."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from tether.core.errors import InputError
from tether.core.types import Block, Features, ImageSpec, Row
from tether.evaluate import evaluate, recall_at_k
from tether.evaluate.bootstrap import interval
from tether.evaluate.embeddings import embed_source
from tether.evaluate.metric_names import describe, interval_of, shown

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class ColourModel:
    """Sees an image's mean colour and reads colour words: a perfect encoder of a tiny world."""

    dim = 3
    image_spec = ImageSpec((8, 8))
    logit_scale = torch.tensor(10.0)
    logit_bias = None
    damage = 1.0

    def tokenizer(self, texts: Sequence[str]) -> torch.Tensor:
        names = list(COLOURS)
        return torch.tensor([[1 + next((i for i, n in enumerate(names) if n in text), 3)] for text in texts])

    def encode_image(self, image: torch.Tensor, *, mask=None) -> Features:
        return Features(self.damage * image.float().mean(dim=(2, 3)) + 1)

    def encode_text(self, text: torch.Tensor, *, mask=None) -> Features:
        return Features(torch.eye(4)[text[:, 0] - 1][:, :3] + 0.01)


class Rows:
    name = "colours"
    version = "1"

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def blocks(self) -> Sequence[Block]:
        return [Block("0", len(self.rows))]

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        return iter(self.rows[start:])


def colour_rows(*, texts=lambda name: (f"a {name} thing",), meta=lambda name: {}) -> Rows:
    return Rows(
        [
            Row(name, np.full((8, 8, 3), colour, dtype=np.uint8), texts(name), meta(name))
            for name, colour in COLOURS.items()
        ]
    )


def test_perfect_model_scores_perfectly():
    source = colour_rows(texts=lambda n: (f"a {n} thing", f"{n}!"), meta=lambda n: {"label": n})
    result = evaluate(ColourModel(), source, bootstrap=50)
    assert (result["images"], result["texts"], result["classes"]) == (3, 6, 3)
    assert result["text_to_image_r1"] == result["zero_shot_top1"] == result["zero_shot_mean_per_class"] == 1
    assert result["image_to_text_r1_low"] < result["image_to_text_r1_high"] == 1  # three images do not say more
    assert 0 < result["clip_score"] <= 2.5
    assert result["clip_score_low"] <= result["clip_score"] <= result["clip_score_high"]
    assert result["gap_squared"] == pytest.approx(result["gap_distance"] ** 2, rel=1e-5)
    assert all(isinstance(value, float) for value in result.values())


def test_numbers_are_those_of_the_parts():
    model, source = ColourModel(), colour_rows(texts=lambda n: ("a red thing", n))
    seen = embed_source(model, source)
    unit = [torch.nn.functional.normalize(rows, dim=-1) for rows in (seen.image, seen.text)]
    expected = recall_at_k(*unit, text_to_image=seen.text_to_image)
    assert {key: evaluate(model, source)[key] for key in expected} == expected


def test_only_what_the_rows_allow():
    captions = evaluate(ColourModel(), colour_rows())
    assert not any(key.startswith("zero_shot") for key in captions)
    labels = evaluate(ColourModel(), colour_rows(texts=lambda n: (), meta=lambda n: {"label": n}))
    assert labels["zero_shot_top1"] == 1
    assert not any(key.startswith(("text_to_image", "gap", "clip")) for key in labels)
    with pytest.raises(InputError, match="neither captions nor a label"):
        evaluate(ColourModel(), colour_rows(texts=lambda n: ()))


def test_only_what_is_asked():
    result = evaluate(ColourModel(), colour_rows(), measures=("retrieval",), k=(2,))
    assert set(result) == {
        "images",
        "texts",
        "seconds",
        *(
            f"{way}_{what}"
            for way in ("text_to_image", "image_to_text")
            for what in ("r2", "r2_chance", "mean_rank", "median_rank")
        ),
    }


def test_label_column_by_name():
    source = colour_rows(meta=lambda n: {"kind": n} if n != "blue" else {"other": 1})
    with pytest.raises(
        InputError, match=r"colours: 1 of 3 rows have no 'kind', the first is 'blue'; its columns: other"
    ):
        evaluate(ColourModel(), source, label="kind")
    good = colour_rows(meta=lambda n: {"kind": n})
    assert evaluate(ColourModel(), good, label="kind", templates=("{}", "a {}"))["zero_shot_top1"] == 1


def test_damaged_model_is_named_with_its_source():
    model = ColourModel()
    model.damage = float("nan")
    with pytest.raises(InputError, match=r"colours: image 0 .* not finite"):
        evaluate(model, colour_rows())


def test_empty_source():
    with pytest.raises(InputError, match="colours: the data set is empty"):
        evaluate(ColourModel(), Rows([]))


def test_limit_and_thumbnails():
    seen = embed_source(ColourModel(), colour_rows(), limit=2, thumbnail=4)
    assert seen.keys == ("red", "green")
    assert seen.thumbnails is not None
    assert seen.thumbnails.shape == (2, 3, 4, 4)
    assert seen.thumbnails[0, :, 0, 0].tolist() == [255, 0, 0]


def test_classes_are_sorted_numbers_by_value():
    rows = Rows([Row(str(n), np.zeros((8, 8, 3), np.uint8), (), {"label": n}) for n in (10, 9, 2)])
    assert embed_source(ColourModel(), rows).classes == ("2", "9", "10")


def test_interval_covers_the_mean_and_depends_on_its_seed_only():
    rng = np.random.default_rng(0)
    sums = rng.binomial(1, 0.3, (400, 1)).astype(float)
    one, again, other = (interval(sums, counts=np.ones_like(sums), seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    half = 1.96 * np.sqrt(0.3 * 0.7 / 400)
    assert abs((one[0, 1] - one[0, 0]) / 2 - half) < 0.3 * half
    assert one[0, 0] < sums.mean() < one[0, 1]


def test_interval_draws_an_image_with_all_its_captions():
    """Ten captions that stand or fall together carry the information of one."""
    hits = np.random.default_rng(3).binomial(1, 0.5, (200, 1)).astype(float)
    single = interval(hits, counts=np.ones_like(hits))
    repeated = interval(10 * hits, counts=np.full_like(hits, 10))
    np.testing.assert_allclose(single, repeated)


def test_interval_bad_arguments():
    with pytest.raises(InputError, match="bootstrap"):
        interval(np.ones((4, 1)), counts=np.ones((3, 1)))


def test_words():
    assert describe("text_to_image_r10") == "text to image R@10"
    assert describe("image_to_text_mean_rank") == "image to text mean rank"
    assert shown("text_to_image_r10", 0.7012) == "70.1 %"
    assert shown("gap_distance", 0.07612) == "0.076"
    assert shown("image_to_text_mean_rank", 38.04) == "38.0"
    assert interval_of("a_r1", {"a_r1_low": 0.1, "a_r1_high": 0.25}) == "10.0 to 25.0"
    assert interval_of("a_r1", {}) == ""
