"""Emoji drawings and names: splits that stay put, honest pixels, names in every language."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from tether.core.errors import InputError
from tether.core.protocols import Source
from tether.data.sets import emoji, emoji_sequences
from tether.data.sets.emoji import EmojiSet, render, split_of
from tether.data.sets.emoji_table import LANGUAGES, Emoji, drawings, table

pytestmark = pytest.mark.slow

SPLITS = ("train", "validation", "test", "variants")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path_factory.getbasetemp() / "emoji-cache"))


def named(code: str) -> Emoji:
    return next(row for row in table() if row.code == code)


def bases(split: str) -> set[str]:
    return {row.base for row in table() if split in split_of(row, holdout="base")}


class TestSequences:
    @pytest.mark.parametrize(
        ("code", "base"),
        [
            ("1F44D-1F3FD", "1F44D"),  # thumbs up, medium
            ("1F468-1F3FF-200D-1F4BB", "1F9D1-200D-1F4BB"),  # man technologist, dark
            ("1F469-200D-1F4BB", "1F9D1-200D-1F4BB"),
            ("1F3C3-1F3FB-200D-2640-FE0F-200D-27A1-FE0F", "1F3C3"),  # woman running facing right, light
            ("1F468-1F3FB-200D-2764-FE0F-200D-1F468-1F3FD", "1F491"),  # couple with heart, man, man
            ("1F468-200D-1F469-200D-1F467-200D-1F466", "1F46A"),  # family
            ("1FAF1-1F3FB-200D-1FAF2-1F3FF", "1F91D"),  # handshake of two tones
            ("1F478-1F3FE", "1FAC5"),  # princess
            ("1F1EB-1F1F7", "1F1EB-1F1F7"),  # flag of France
            ("1F3FB", "1F3FB"),  # a tone on its own
            ("2642-FE0F", "2642"),  # the male sign itself
        ],
    )
    def test_base(self, code: str, base: str):
        assert emoji_sequences.spell(emoji_sequences.base(emoji_sequences.parse(code))) == base

    def test_parts(self):
        points = emoji_sequences.parse("1F468-1F3FB-200D-1F91D-200D-1F468-1F3FF")
        assert emoji_sequences.tones(points) == ("light", "dark")
        assert emoji_sequences.gender(points) == "man"
        assert emoji_sequences.gender(emoji_sequences.parse("1F469-200D-2764-FE0F-200D-1F468")) == ""
        assert emoji_sequences.gender(emoji_sequences.parse("2640-FE0F")) == ""

    def test_every_base_of_the_table_has_its_plain_drawing(self):
        assert {row.base for row in table()} == {row.base for row in table() if row.is_base}

    def test_what_the_name_says_is_what_the_sequence_says(self):
        told = 0
        for row in table():
            words = set(row.names["en"].split())
            men = bool({"man", "men", "boy", "prince", "Santa", "merman"} & words)
            women = bool({"woman", "women", "girl", "princess", "Mrs.", "mermaid"} & words)
            if row.gender and men != women:
                told += 1
                assert men == (row.gender == "man"), row.names["en"]
            if len(set(row.tones)) == 1:
                assert f"{row.tones[0]} skin tone" in row.names["en"], row
        assert told > 1200


class TestTable:
    def test_it_has_what_openmoji_draws_and_emoji_names(self):
        assert len(table()) > 3900
        assert len({row.code for row in table()}) == len(table())

    def test_every_emoji_has_a_distinct_name_in_every_language(self):
        for row in table():
            assert set(row.names) == set(LANGUAGES), row.code
            assert all(name and ":" not in name and "_" not in name for name in row.names.values())
        assert len({row.names["en"] for row in table()}) == len(table())

    def test_every_emoji_has_a_group(self):
        assert all(row.group and row.subgroup for row in table())
        assert (named("1F9A9").group, named("1F9A9").subgroup) == ("Animals & Nature", "animal-bird")

    def test_keywords_never_repeat_the_name(self):
        assert "tropical" in named("1F9A9").keywords
        assert all(row.names["en"].casefold() not in map(str.casefold, row.keywords) for row in table())
        assert sum(bool(row.keywords) for row in table()) / len(table()) > 0.9

    def test_flags_say_that_they_are_flags(self):
        assert named("1F1EB-1F1F7").names["en"] == "flag of France"


class TestSplits:
    @pytest.mark.parametrize("holdout", ["base", "sequence"])
    def test_train_validation_and_test_share_nothing(self, holdout: str):
        groups = {split: {row.code for row in table() if split in split_of(row, holdout=holdout)} for split in SPLITS}
        assert not groups["train"] & (groups["validation"] | groups["test"] | groups["variants"])
        assert not groups["validation"] & groups["test"]
        assert 350 <= len(groups["test"]) <= 450

    def test_no_base_straddles_the_base_split(self):
        assert not bases("test") & (bases("train") | bases("validation") | bases("variants"))
        assert not bases("validation") & (bases("train") | bases("variants"))

    def test_variants_combine_what_training_showed_apart(self):
        train = [row for row in table() if "train" in split_of(row, holdout="base")]
        variants = [row for row in table() if "variants" in split_of(row, holdout="base")]
        assert bases("variants") <= {row.base for row in train}
        assert {tone for row in variants for tone in row.tones} <= {tone for row in train for tone in row.tones}
        assert all(not row.is_base for row in variants)
        assert len(variants) > 300

    def test_variants_of_the_sequence_split_are_part_of_its_test(self):
        for row in table():
            splits = split_of(row, holdout="sequence")
            assert ("variants" in splits) == ("test" in splits and not row.is_base)

    @pytest.mark.parametrize(("holdout", "digest"), [("base", "308960b587ffc5c3"), ("sequence", "7bcb6c85f32cb981")])
    def test_the_split_never_moves(self, holdout: str, digest: str):
        """Over made-up rows, so that a new edition of the drawings does not change what is asked here."""
        lines = []
        for point in range(0x1F300, 0x1F800):
            for tone in ("", "-1F3FB", "-1F3FF"):
                row = Emoji(f"{point:04X}{tone}", "", f"{point:04X}", {}, (), "", "", (), "")
                lines.append(f"{row.code} {' '.join(split_of(row, holdout=holdout))}")
        assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == digest


class TestEmojiSet:
    def test_it_is_a_source(self):
        source = EmojiSet(split="test")
        assert isinstance(source, Source)
        rows = [row for block in source.blocks() for row in source.read(block)]
        assert [row.key for row in rows] == [item.code for item in source.rows]
        assert sum(block.rows for block in source.blocks()) == len(source) == len(rows)
        last = source.blocks()[-1]
        assert [row.key for row in source.read(last, start=5)] == [row.key for row in source.read(last)][5:]
        for index, row in enumerate(rows):
            assert row.image.dtype == np.uint8
            assert row.image.shape == (64, 64, 3)
            assert np.array_equal(row.image, source.pixels[index])
            assert row.texts == source.captions[index] == (row.meta["names"]["en"],)

    def test_test_captions_are_distinct(self):
        names = [texts[0] for texts in EmojiSet(split="test").captions]
        assert len(set(names)) == len(names)

    def test_languages_and_keywords_become_captions(self):
        index = next(i for i, row in enumerate(EmojiSet(split="all", size=8).rows) if row.code == "1F9A9")
        texts = EmojiSet(split="all", size=8, languages=["en", "de", "ja"], keywords="joined").captions[index]
        assert texts[0] == "flamingo"
        assert texts[-1] == "animal, flamboyant, tropical"
        assert "フラミンゴ" in texts
        assert len(set(texts)) == len(texts)
        each = EmojiSet(split="all", size=8, keywords="each").captions[index]
        assert each == ("flamingo", "animal", "flamboyant", "tropical")

    def test_pixels_are_mapped_and_read_only(self):
        source = EmojiSet(split="test")
        assert isinstance(source.pixels, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            source.pixels[0, 0, 0, 0] = 1

    def test_a_second_use_draws_nothing(self, monkeypatch: pytest.MonkeyPatch):
        first = EmojiSet(split="validation", size=16)
        monkeypatch.setattr(emoji, "render", None)
        assert np.array_equal(EmojiSet(split="validation", size=16).pixels, first.pixels)

    def test_the_set_is_a_choice_of_rows_and_pixels_that_belong_together(self):
        source = EmojiSet(split="validation", size=32, holdout="sequence")
        for index in (0, len(source) // 2, len(source) - 1):
            drawn = render(drawings() / f"{source.rows[index].code}.svg", size=32)
            assert np.array_equal(source.pixels[index], drawn)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"split": "dev"}, "split.*train.*'dev'"),
            ({"holdout": "random"}, "holdout.*'random'"),
            ({"languages": ("xx",)}, "languages.*'xx'"),
            ({"languages": ()}, "languages"),
            ({"languages": "en"}, "languages"),
            ({"keywords": "some"}, "keywords.*'some'"),
            ({"size": 0}, "size.*0"),
            ({"size": 5000}, "size.*5000"),
            ({"size": 64.0}, "size.*64.0"),
            ({"size": True}, "size.*True"),
            ({"background": "fancy"}, "background.*'fancy'"),
        ],
    )
    def test_bad_settings(self, settings: dict, message: str):
        with pytest.raises(InputError, match=message):
            EmojiSet(**settings)

    def test_a_block_of_another_set(self):
        source = EmojiSet(split="test")
        for block in (type(source.blocks()[0])("000000099999", 1), type(source.blocks()[0])("7", 1)):
            with pytest.raises(InputError, match="no block"):
                list(source.read(block))


class TestRender:
    RED_CIRCLE = "1F534"

    @pytest.mark.parametrize("size", [16, 64, 224])
    def test_sizes(self, size: int):
        image = render(drawings() / f"{self.RED_CIRCLE}.svg", size=size)
        assert image.shape == (size, size, 3)
        assert image.dtype == np.uint8
        red, green, blue = map(int, image[size // 2, size // 2])
        assert red > 180
        assert max(green, blue) < 120

    @pytest.mark.parametrize(("background", "value"), [("#ffffff", (255,) * 3), ("#204060", (32, 64, 96))])
    def test_what_is_not_drawn_is_exactly_the_background(self, background: str, value: tuple[int, int, int]):
        image = render(drawings() / f"{self.RED_CIRCLE}.svg", size=64, background=background)
        assert tuple(map(int, image[0, 0])) == value

    def test_edges_are_smooth_and_half_covered_ones_are_blended(self):
        """A pixel's cover is the same on black and on white: white minus black is (1 - cover) everywhere."""
        path = drawings() / f"{self.RED_CIRCLE}.svg"
        white = render(path, size=64, background="#ffffff").astype(int)
        black = render(path, size=64, background="#000000").astype(int)
        through = white - black
        assert ((through > 20) & (through < 235)).any(axis=2).sum() > 50
        assert (through.max(axis=2) - through.min(axis=2)).max() <= 2
        assert through.min() >= 0

    def test_all_drawings_show_something(self):
        pixels = EmojiSet(split="test").pixels
        assert all(np.ptp(image) > 20 for image in pixels)


def test_the_groups_file_names_its_licence():
    text = (Path(emoji.__file__).parent / "emoji_groups.tsv").read_text(encoding="utf-8")
    assert "Unicode License V3" in text
