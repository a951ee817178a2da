"""Words of captions in images, rendered words, text taken away, clusters; with a reader that knows the truth."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import encoders
from tether.core.errors import InputError, MissingExtraError
from tether.data.curate import mask_numbers
from tether.data.images import decode, load
from tether.data.inpaint import mask_of
from tether.data.lettering.square import STYLES, render_text
from tether.methods.parrot_captions import cluster_overlap, control_boxes, spotting_score, text_removal_effect
from tether.methods.parrot_captions.ocr_overlap import caption_overlap, overlap_report, words_of
from tether.models import create
from tether.tasks.curate import text_reader
from tether.tasks.curate.text_reader import FillText, RapidReader, Reading, TextReader


def test_words_split_at_marks_and_fold_alike():
    assert words_of("Coca-Cola don't STOP_now 3x") == ["coca", "cola", "don", "t", "stop_now", "3x"]
    assert words_of("Straße", case="fold") == words_of("STRASSE", case="fold")
    assert words_of("Straße") != words_of("STRASSE")
    with pytest.raises(InputError, match="case"):
        words_of("a", case="upper")


@given(st.text(max_size=20), st.lists(st.text(max_size=8), max_size=4))
def test_overlap_holds_together(caption, ocr):
    found = caption_overlap(caption, ocr=ocr, fuzzy=0.7)
    assert set(found.exact) <= set(found.fuzzy) <= set(found.words)
    assert 0 <= found.coverage <= found.fuzzy_coverage <= 1
    assert caption_overlap(caption, ocr=ocr, fuzzy=1.0).fuzzy == found.exact
    assert caption_overlap(caption, ocr=[caption]).coverage == bool(found.words)


def test_wrong_overlaps_are_refused():
    for caption, ocr in ((None, []), ("a", [None])):
        with pytest.raises(TypeError):
            caption_overlap(caption, ocr=ocr)
    with pytest.raises(InputError, match="one list for each of 2 captions, got 1"):
        overlap_report(["a", "b"], ocr=[[]])


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidfuzz.distance.Levenshtein", None)
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    text_reader.rapid_engine.cache_clear()
    text_reader._weights_digest.cache_clear()
    for call in (
        lambda: caption_overlap("sail", ocr=["sale"], fuzzy=0.5),
        lambda: RapidReader()(np.zeros((32, 32, 3), np.uint8)),
        lambda: RapidReader().settings,
    ):
        with pytest.raises(MissingExtraError, match=r"tether-clip\[ocr\]"):
            call()
    assert caption_overlap("sale", ocr=["sale"]).coverage == 1


def test_a_caption_of_a_megabyte_is_read_as_any_other():
    long = "word 12 " * 125_000
    found = caption_overlap(long, ocr=["WORD", "wrd"], fuzzy=0.7)
    assert found.coverage == 0.5
    assert mask_numbers("1," * 500_000 + "x") == ",x"


def test_an_empty_set_has_rates_of_zero():
    assert set(overlap_report([], ocr=[]).as_dict().values()) == {0}
    assert overlap_report(["..."], ocr=[["!"]]).image_text_rate == 0  # marks alone are no word


@pytest.mark.parametrize("style", range(len(STYLES)))
def test_rendered_text_is_centred_in_its_two_colours(style):
    image = np.array(render_text("dog", size=64, points=20, style=style).convert("L")).astype(int)
    ground = image[0, 0]
    ink = np.abs(image - ground) > 0
    rows, columns = np.nonzero(ink)
    assert abs(rows.min() + rows.max() - 63) <= 2
    assert abs(columns.min() + columns.max() - 63) <= 2
    drawn = Image.new("L", (2, 1))
    for place, name in enumerate(STYLES[style]):
        drawn.paste(Image.new("L", (1, 1), name), (place, 0))
    assert [ground, image[np.unravel_index(np.abs(image - ground).argmax(), (64, 64))]] == list(drawn.getdata())


def test_long_text_shrinks_and_too_long_text_is_refused():
    wide = np.array(render_text("a long line of text", size=128))
    assert (wide[:, [0, -1]] == 255).all()
    with pytest.raises(InputError, match="does not fit"):
        render_text("word " * 40, size=64)


def test_what_cannot_be_drawn_is_refused():
    for text in ("", "  \n"):
        with pytest.raises(InputError, match="something to draw"):
            render_text(text)
    with pytest.raises(InputError, match="the font has no '京東'"):
        render_text("東京")
    with pytest.raises(InputError, match="cannot read"):
        render_text("a", font="no such font.ttf")
    with pytest.raises(TypeError):
        render_text(3)


@pytest.fixture(scope="module")
def model():
    return create("tiny", seed=0).eval()


def test_spotting_score_is_the_mean_of_all_pairs(model):
    words = ["dog", "cat", "owl"]
    found = spotting_score(model, vocabulary=[*words, "dog", "東"], styles=(1, 3), size=64, points=18)
    assert found.words == tuple(words)
    assert [word for word, _ in found.skipped] == ["東"]
    own, other = [], []
    with torch.inference_mode():
        text = torch.cat([model.encode_text(model.tokenizer([word])).unit for word in words])
        for style in (1, 3):
            drawn = [np.array(render_text(word, size=64, points=18, style=style)) for word in words]
            pixels = torch.stack([load(image, model.image_spec) for image in drawn])
            table = (model.encode_image(pixels).unit @ text.T).double()
            own += table.diag().tolist()
            other += table[~torch.eye(3, dtype=torch.bool)].tolist()
    assert found.mean == pytest.approx(np.mean(own), abs=1e-6)
    assert found.spread == pytest.approx(np.std(own), abs=1e-6)
    assert found.margin == pytest.approx(np.mean(own) - np.mean(other), abs=1e-6)
    assert np.mean([style.margin for style in found.styles]) == pytest.approx(found.margin)


def test_a_vocabulary_without_a_drawable_word_is_refused(model):
    for vocabulary in ([], ["", "東京"]):
        with pytest.raises(InputError, match="vocabulary"):
            spotting_score(model, vocabulary=vocabulary)
    with pytest.raises(InputError, match="prompt"):
        spotting_score(model, vocabulary=["dog"], prompt="dog")
    assert np.isnan(spotting_score(model, vocabulary=["dog"], styles=(0,)).margin)


@given(st.data())
def test_control_boxes_have_the_same_sizes_and_touch_no_text(data):
    boxes = []
    for _ in range(data.draw(st.integers(1, 3))):
        x0, y0 = data.draw(st.integers(0, 18)), data.draw(st.integers(0, 14))
        boxes.append((x0, y0, data.draw(st.integers(x0 + 1, 20)), data.draw(st.integers(y0 + 1, 16))))
    given_boxes = np.array(boxes)
    placed = control_boxes(given_boxes, height=16, width=20, rng=np.random.default_rng(0))
    if placed is None:
        return
    np.testing.assert_array_equal(placed[:, 2:] - placed[:, :2], given_boxes[:, 2:] - given_boxes[:, :2])
    text, other = (mask_of(some, height=16, width=20) for some in (given_boxes, placed))
    assert not (text & other).any()
    assert (placed >= 0).all()
    assert (placed[:, 2:] <= (20, 16)).all()


def test_a_box_that_fills_half_the_image_has_one_place_left():
    placed = control_boxes(np.array([[0, 0, 20, 8]]), height=16, width=20, rng=np.random.default_rng(0))
    assert placed.tolist() == [[0, 8, 20, 16]]
    assert control_boxes(np.array([[0, 0, 20, 9]]), height=16, width=20, rng=np.random.default_rng(0)) is None


@pytest.mark.filterwarnings("ignore")  # those of other libraries
@pytest.mark.parametrize("kind", [encoders.own, encoders.open_clip, encoders.transformers])
def test_text_removal_compares_three_versions(kind, tmp_path):
    model = kind(tmp_path)
    image = np.full((48, 48, 3), 200, np.uint8)
    image[4:12, 8:40] = 0
    plain = np.full((48, 48, 3), 200, np.uint8)
    box = np.array([[8, 4, 40, 12]])
    found = text_removal_effect(
        model,
        images=[image, plain, image, image],
        boxes=[box, box, np.zeros((0, 4)), np.array([[0, 0, 48, 48]])],
        texts=["a dog", "dog", "a", "a"],
        seed=3,
    )
    assert found.rows.tolist() == [0, 1]
    assert (found.no_text, found.no_room) == (1, 1)
    # On a flat image nothing changes; where flat ground is painted over the image stays as it was.
    assert found.whole[1] == found.without_text[1] == found.without_other[1]
    assert found.without_other[0] == found.whole[0] != found.without_text[0]
    assert found.effect == pytest.approx((found.whole[0] - found.without_text[0]) / 2)
    assert found.control_drop == 0
    assert found.falls_more in (0, 0.5)


def test_text_removal_refuses_wrong_input(model):
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(InputError, match="as many boxes and texts"):
        text_removal_effect(model, images=[image], boxes=[], texts=["a"])
    with pytest.raises(InputError, match="none of 1 pairs"):
        text_removal_effect(model, images=[image], boxes=[np.zeros((0, 4))], texts=["a"])


def test_clusters_part_images_with_text_from_those_without():
    rng = np.random.default_rng(0)
    far = np.repeat([[0.0] * 8, [9.0] * 8], 20, axis=0)
    found = cluster_overlap(
        far + rng.normal(size=far.shape),
        captions=["a sale"] * 40,
        ocr=[[]] * 20 + [["SALE"]] * 20,
        clusters=2,
        dimensions=3,
        chunk=7,
        restarts=2,
        digest="abc",
    )
    best = found.most_lettered()[0]
    assert (found.labels[20:] == best).all()
    assert (found.labels[:20] != best).all()
    assert found.reports[best].image_text_rate == found.reports[best].co_text_rate == 1
    assert found.reports[best].caption_word_rate == 0.5
    assert found.reports[1 - best].image_text_rate == 0
    assert found.digest == "abc"


def test_wrong_clusters_are_refused():
    rows = np.zeros((3, 2))
    with pytest.raises(InputError, match="features"):
        cluster_overlap(np.full((3, 2), np.nan), captions=["a"] * 3, ocr=[[]] * 3, clusters=1)
    with pytest.raises(InputError, match="one caption and reading"):
        cluster_overlap(rows, captions=["a"], ocr=[[]] * 3, clusters=1)
    with pytest.raises(InputError, match="clusters: expected 1 to 3"):
        cluster_overlap(rows, captions=["a"] * 3, ocr=[[]] * 3)


class Knowing:
    """A reader that finds one box, whatever it is shown."""

    @property
    def settings(self) -> dict[str, str]:
        return {"name": "knowing"}

    def __call__(self, image) -> Reading:
        return Reading(("sale",), np.array([[2, 2, 6, 4]]))


def test_any_reader_will_do():
    assert isinstance(Knowing(), TextReader)
    pixels = np.full((10, 10, 3), 90, np.uint8)
    pixels[2:4, 2:6] = 255
    assert (FillText(Knowing())(pixels) == 90).all()
    assert FillText(Knowing()).settings["reader"] == {"name": "knowing"}


def test_rapid_reader_reads_and_places_words():
    reader = RapidReader()
    image = render_text("Sale", size=96, points=28)
    found = reader(np.array(image))
    assert [line.lower() for line in found.lines] == ["sale"]
    ink = np.nonzero(np.array(image.convert("L")) < 128)
    x0, y0, x1, y1 = found.boxes[0].tolist()
    middle = (ink[1].min() + ink[1].max()) / 2, (ink[0].min() + ink[0].max()) / 2
    assert x0 < middle[0] < x1
    assert y0 < middle[1] < y1
    assert reader(np.full((64, 64, 3), 200, np.uint8)).lines == ()
    assert RapidReader(least_letters=5)(np.array(image)).lines == ()
    assert len(reader.settings["weights_sha256"]) == 64
    clean = FillText(reader)(np.array(image))
    assert reader(clean).lines == ()
    with pytest.raises(InputError, match="not an image"):
        reader(b"no image")
    with pytest.raises(InputError, match="uint8"):
        reader(decode(np.array(image)).float())
    for wrong in ({"side": 8}, {"least_score": 1.5}, {"least_letters": 0}):
        with pytest.raises(InputError, match=r"expected a (whole )?number"):
            RapidReader(**wrong)


def test_a_line_of_more_letters_than_pixels_is_refused_unmeasured(monkeypatch):
    from tether.data.lettering import square

    monkeypatch.setattr(square, "_face", lambda *_: pytest.fail("measured"))
    with pytest.raises(InputError, match="does not fit 224 pixels, with 99000 characters"):
        render_text("i" * 99_000)


@pytest.mark.parametrize(("features", "chunk"), [(np.ones((1, 4)), 10), (np.eye(4)[:, :1], 1), (np.ones((3, 4)), 10)])
def test_one_cluster_of_few_or_equal_images(features, chunk):
    count = len(features)
    found = cluster_overlap(features, captions=["a dog"] * count, ocr=[["dog"]] * count, clusters=1, chunk=chunk)
    assert found.labels.tolist() == [0] * count
