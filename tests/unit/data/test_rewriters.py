"""Rewriting by rule: facts stay, wording goes; files that go on; fusing with a guard; counts of words."""

from __future__ import annotations

import random
from pathlib import Path
from typing import ClassVar

import pytest

from tether.core.errors import InputError, LockedError
from tether.core.locks import locked
from tether.data.captions import REWRITERS, Rewriter, TemplateRewriter, caption_stats, lexicon
from tether.data.captions.grammar import taken_apart, with_articles
from tether.data.sets.scenes import HELD_OUT_TEMPLATES, ScenesSet
from tether.data.sets.scenes.world import COLOURS, SHAPES
from tether.methods.laclip import read_rewrites, rewrite_dataset
from tether.methods.laclip.dataset import CHUNK
from tether.methods.paraclip import ParaphrasePairs, RuleParaphraser
from tether.methods.veclip import TemplateFuser, fuse_captions
from tether.methods.veclip.fuse import without_phrases

SCENES = [
    ScenesSet(rows=60, things=(1, 4), details=("colour", "size", "texture"), order="random").sample(index).captions[0]
    for index in range(60)
]


def things(text: str) -> list[tuple[str, str]]:
    """Colour and shape of each thing that a caption names, sorted."""
    words = [word.strip(",.?").replace("disc", "circle").replace("gray", "grey") for word in text.split()]
    return sorted((words[at - 1], word) for at, word in enumerate(words) if word in SHAPES)


@pytest.mark.parametrize("caption", SCENES[:30])
def test_rewrites_keep_colours_shapes_and_who_has_which(caption):
    rewrites = TemplateRewriter().rewrite(caption, count=8, generator=random.Random(0))
    assert len(rewrites) == 8
    for rewrite in rewrites:
        assert things(rewrite) == things(caption)
        assert all(colour in COLOURS for colour, _ in things(rewrite))
    assert len(set(rewrites)) >= 7
    assert caption not in rewrites


def test_a_list_changes_its_order_and_nothing_else_does():
    def orders(text):
        rewriter = TemplateRewriter(synonym=0.0, drop_articles=0.0)
        found = rewriter.rewrite(text, count=60, generator=random.Random(0))
        return {tuple(sorted((one.find(word), word) for word in ("cat", "dog") if word in one)) for one in found}

    def firsts(text):
        return {order[0][1] for order in orders(text)}

    assert firsts("a cat and a dog") == {"cat", "dog"}
    assert firsts("a cat and a dog on grass") == {"cat"}  # whose grass it is would change
    assert firsts("a cat to the left of a dog") == {"cat"}
    assert firsts("cat and dog") == {"cat"}


def test_taken_apart():
    words = lexicon()
    phrase = taken_apart("A  picture of two dogs, a cat and three birds!", lexicon=words)
    assert phrase.things == ("two dogs", "a cat", "three birds")
    assert (phrase.end, phrase.listed) == ("!", True)
    assert taken_apart("There is an owl.", lexicon=words).things == ("an owl",)
    assert taken_apart("", lexicon=words).words == ""
    assert with_articles("a owl and an cat, A apple") == "an owl and a cat, An apple"


def test_articles_go_but_numbers_stay():
    rewriter = TemplateRewriter(synonym=0.0, drop_articles=1.0)
    for text in rewriter.rewrite("two dogs, a cat and the bird", count=20, generator=random.Random(0)):
        assert "two dogs" in text
        assert " the bird" not in text


@pytest.mark.parametrize("text", ["", "   ", "שלום לכולם", "e\u0301te\u0301", "猫が座っている", "🙂🙂", "\ud800 half"])
def test_texts_of_other_languages_come_back(text):
    assert TemplateRewriter().rewrite(text, count=3, generator=random.Random(0)) == [text] * 3
    assert RuleParaphraser().step1(text, generator=random.Random(0)) == text


def test_a_megabyte_is_rewritten():
    text = "a very large cat and " * 50_000
    (found,) = TemplateRewriter(synonym=1.0).rewrite(text, count=1, generator=random.Random(0))
    assert "very big cat" in found


def test_shipped_frames_leave_held_out_wordings_alone():
    held_out = {word for frame in HELD_OUT_TEMPLATES.values() for word in frame.split()}
    common = {"a", "is", "in", "the", "we", "of", "image", "this", "have", "here", "has", "you", "can", "{things}"}
    framed = {word for frame in lexicon().frames for word in frame.split()}
    assert not framed & (held_out - common)
    assert not set(lexicon().synonyms) & {"contains", "drawn", "appears", "spot", "view", "scene"}
    colours = set(COLOURS) - {"grey"}
    assert not set(lexicon().synonyms) & colours  # what must not change is in no group


def test_rewriters_keep_the_protocol_and_their_number():
    for name in ("template", "augment"):
        rewriter = REWRITERS[name]()
        assert isinstance(rewriter, Rewriter)
        assert rewriter.settings
        assert len(rewriter.rewrite("a cat", count=5, generator=random.Random(0))) == 5


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("synonyms: [[a]]", "two or more"),
        ("synonyms: [[a, a]]", "two or more"),
        ("synonyms: [[a, b], [b, c]]", "two groups"),
        ("synonyms: 3", "list of groups"),
        ("frames: ['no place']", "exactly one"),
        ("frames: ['{} {}']", "exactly one"),
        ("stopwords: [1]", "list of words"),
        ("nouns: [a]", "expected some of the keys"),
        ("[", "not valid YAML"),
        ("", "expected some of the keys"),
    ],
)
def test_refused_lexicons(tmp_path, content, says):
    (tmp_path / "words.yaml").write_text(content)
    with pytest.raises(InputError, match=says):
        lexicon(str(tmp_path / "words.yaml"))


def test_a_lexicon_of_another_language(tmp_path):
    (tmp_path / "german.yaml").write_text(
        "synonyms: [[Auto, Wagen]]\nstopwords: ein der\nopenings: [ein bild von]\nframes: ['man sieht {}']\n".replace(
            "Auto, Wagen", "auto, wagen"
        )
    )
    rewriter = TemplateRewriter(words=str(tmp_path / "german.yaml"), synonym=1.0)
    assert rewriter.rewrite("Ein Bild von ein rotes Auto", count=1, generator=random.Random(0)) == [
        "man sieht ein rotes Wagen"
    ]
    with pytest.raises(InputError, match="is a directory"):
        lexicon(str(tmp_path))


def test_an_edited_lexicon_is_another(tmp_path):
    path = tmp_path / "words.yaml"
    path.write_text("synonyms: [[cat, puss]]\n")
    old = TemplateRewriter(words=str(path))
    rewrite_dataset(["a cat"], rewriter=old, path=tmp_path / "out", count=1)
    assert TemplateRewriter(**old.settings).settings == old.settings
    assert TemplateRewriter(**TemplateRewriter().settings).settings == TemplateRewriter().settings
    path.write_text("synonyms: [[cat, tom]]\n")
    new = TemplateRewriter(words=str(path))
    for made in (TemplateRewriter, RuleParaphraser, TemplateFuser):
        assert str(path) in made(words=str(path)).settings["words"]
    with pytest.raises(InputError, match="other settings"):
        rewrite_dataset(["a cat"], rewriter=new, path=tmp_path / "out", count=1)
    with pytest.raises(InputError, match=r"words\.yaml: is not what it was"):
        TemplateRewriter(**old.settings)


def test_paraphrases_change_structure_then_words():
    pairs = ParaphrasePairs(
        ["a picture of a large circle", "red", "word " * 16, "קטן מאוד", "there is a red star"],
        paraphraser=RuleParaphraser(),
    )
    assert [one.row for one in pairs.rows] == [0]  # a red star has no synonym in its second step
    one = pairs[0]
    assert "picture of" not in one.first or one.first != one.caption
    assert "big disc" in one.second
    assert (pairs.too_short_or_long, pairs.unchanged) == (2, 2)
    kept = ParaphrasePairs(["there is a red star", "קטן מאוד"], paraphraser=RuleParaphraser(), unchanged="keep")
    assert len(kept) == 2


def test_second_paraphrases_avoid_what_was_said():
    step = RuleParaphraser().step2
    assert step("a large cat", avoid={"large"}, generator=random.Random(0)) == "a big cat"
    assert step("a large cat", avoid={"big"}, generator=random.Random(0)) == "a large cat"
    assert step("a huge cat", avoid={"enormous"}, generator=random.Random(0)) == "a gigantic cat"


def test_paraphrases_do_not_depend_on_the_rest():
    captions = ["a large circle", "a tiny ship and a small car", "we see a house"]
    whole = ParaphrasePairs(captions, paraphraser=RuleParaphraser(), seed=3)
    again = ParaphrasePairs(captions[:2], paraphraser=RuleParaphraser(), seed=3)
    assert whole.rows[:2] == again.rows
    others = [ParaphrasePairs(captions, paraphraser=RuleParaphraser(), seed=seed).rows for seed in range(5)]
    assert len(set(others)) > 1


def texts(path: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted(path.glob("rewrites-*.txt"))]


class Stops:
    """Rewrites until it was asked a number of times."""

    settings = TemplateRewriter().settings

    def __init__(self, after: int) -> None:
        self.after, self.asked, self.inner = after, 0, TemplateRewriter()

    def rewrite(self, text, *, count, generator):
        self.asked += 1
        if self.asked > self.after:
            raise KeyboardInterrupt
        return self.inner.rewrite(text, count=count, generator=generator)


def test_files_go_on_where_they_stopped(tmp_path):
    captions = [f"a large cat and a dog, number {number}" for number in range(CHUNK + 300)]
    whole = rewrite_dataset(captions, rewriter=TemplateRewriter(), path=tmp_path / "whole", count=2, seed=5)
    Stops.__name__ = "TemplateRewriter"
    with pytest.raises(KeyboardInterrupt):
        rewrite_dataset(captions, rewriter=Stops(CHUNK + 10), path=tmp_path / "parts", count=2, seed=5)
    assert texts(tmp_path / "parts") == []  # nothing half done is there
    (tmp_path / "parts" / "..piece-000001.txt.abcdefgh.tmp").write_text("of a killed process")
    second = Stops(10**9)
    rewrite_dataset(captions, rewriter=second, path=tmp_path / "parts", count=2, seed=5)
    assert second.asked == 300
    assert texts(tmp_path / "parts") == texts(tmp_path / "whole")
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == [
        ".lock",
        "rewrites-1.txt",
        "rewrites-2.txt",
        "rewrites.json",
    ]
    third = Stops(0)
    assert [file.name for file in rewrite_dataset(captions, rewriter=third, path=tmp_path / "parts", count=2, seed=5)]
    rows = read_rewrites(whole, captions=len(captions))
    assert len(rows) == len(captions)
    assert all("cat" in text and f"number {number}" in text for number, row in enumerate(rows[:50]) for text in row)


def test_where_no_piece_was_finished_other_rewrites_may_begin(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        rewrite_dataset(["a cat"], rewriter=Stops(0), path=tmp_path, count=2)
    assert len(rewrite_dataset(["a dog"], rewriter=TemplateRewriter(), path=tmp_path, count=1)) == 1
    with (
        locked(tmp_path, purpose="another"),
        pytest.raises(LockedError, match=r"\(another\) is writing there"),
    ):
        rewrite_dataset(["a dog"], rewriter=TemplateRewriter(), path=tmp_path, count=1)


class InTuples:
    settings: ClassVar = {"kinds": ("a", "b"), "nested": {"sizes": (1, 2)}}

    def rewrite(self, text, *, count, generator):
        return [text] * count


def test_settings_with_a_tuple_go_on(tmp_path):
    first = rewrite_dataset(["a cat"], rewriter=InTuples(), path=tmp_path, count=1)
    assert rewrite_dataset(["a cat"], rewriter=InTuples(), path=tmp_path, count=1) == first


def test_one_line_each_whatever_the_caption(tmp_path):
    captions = ["a\nb", "c\r\nd", "", "e\u2028f", "\ud800", "a cat\x85and a dog"]

    class Echo:
        settings: ClassVar[dict] = {}

        def rewrite(self, text, *, count, generator):
            return [text] * count

    files = rewrite_dataset(captions, rewriter=Echo(), path=tmp_path / "out", count=1)
    rows = read_rewrites(files, captions=6)
    assert [row[0] for row in rows] == ["a b", "c d", "", "e f", "?", "a cat and a dog"]


def test_refused_files(tmp_path):
    captions = ["a cat", "a dog"]
    rewriter = TemplateRewriter()
    files = rewrite_dataset(captions, rewriter=rewriter, path=tmp_path / "out", count=1)
    for other, says in (
        ({"texts": ["a cat", "an owl"]}, "sha256"),
        ({"seed": 1}, "seed"),
        ({"count": 2}, "count"),
        ({"rewriter": TemplateRewriter(synonym=0.1)}, "settings"),
    ):
        keywords = {"texts": captions, "rewriter": rewriter, "count": 1, "path": tmp_path / "out", **other}
        with pytest.raises(InputError, match=says):
            rewrite_dataset(keywords.pop("texts"), **keywords)
    with pytest.raises(InputError, match="expected 3 lines, one for each caption, got 2"):
        read_rewrites(files, captions=3)
    with pytest.raises(InputError, match="no such file"):
        read_rewrites([tmp_path / "nowhere.txt"], captions=3)
    with pytest.raises(InputError, match="at least one"):
        read_rewrites([], captions=3)
    (tmp_path / "latin.txt").write_bytes("é\n".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        read_rewrites([tmp_path / "latin.txt"], captions=1)
    with pytest.raises(InputError):
        rewrite_dataset([], rewriter=rewriter, path=tmp_path / "new")

    class Short:
        settings: ClassVar[dict] = {}

        def rewrite(self, text, *, count, generator):
            return []

    with pytest.raises(InputError, match="expected 4 rewrites of caption 0, got 0"):
        rewrite_dataset(captions, rewriter=Short(), path=tmp_path / "short")


class Says:
    """A fuser that always answers the same."""

    settings: ClassVar[dict] = {}

    def __init__(self, answer: str) -> None:
        self.answer = answer

    def fuse(self, alt: str, *, visual: str) -> str:
        return self.answer


@pytest.mark.parametrize(
    "answer",
    ["", "  \n ", "I cannot see pictures.", "Sorry, but no", "As an AI, I", "I’m sorry", "word " * 29],
)
def test_a_fuser_that_fails_gives_way_to_the_description(answer):
    assert fuse_captions("zorbo", visual="The image shows a cat on a mat", fuser=Says(answer)) == "a cat on a mat"


def test_a_good_answer_passes_and_one_blank_side_needs_no_fuser():
    assert fuse_captions("zorbo", visual="a cat", fuser=Says("zorbo the cat")) == "zorbo the cat"
    assert fuse_captions("a b", visual="c d", fuser=Says("word " * 16)).count("word") == 16
    assert fuse_captions(" ", visual="there is a cat", fuser=Says("never")) == "a cat"
    assert fuse_captions("zorbo  x", visual="", fuser=Says("never")) == "zorbo x"
    with pytest.raises(InputError, match="two blank"):
        fuse_captions(" ", visual="\n", fuser=Says("x"))


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("The image shows a cat", "a cat"),
        ("In this picture, there is a cat", "a cat"),
        ("this photo depicts two dogs", "two dogs"),
        ("An image of a cat", "a cat"),
        ("the image", "the image"),
        ("a cat shows its teeth", "a cat shows its teeth"),
    ],
)
def test_phrases_that_all_share_are_taken_off(text, bare):
    assert without_phrases(text) == bare


def test_the_union_of_names():
    fuser = TemplateFuser()
    assert fuser.fuse("zorbo_star IMG_0231.jpg the Star zorbo", visual="a red star") == "zorbo, a red star"
    assert fuser.fuse("IMG-20240131.jpeg", visual="there is a red star") == "a red star"
    known = TemplateFuser(keep={"green"})
    assert known.fuse("a green zorbo", visual="a star") == "green, a star"
    assert TemplateFuser(keep=()).fuse("a green zorbo", visual="a star") == "a star"
    with pytest.raises(InputError, match="keep"):
        TemplateFuser(keep="none")


def test_counts_of_words():
    found = caption_stats(["A cat", "a dog's dog", "", "A cat"])
    assert (found.texts, found.distinct, found.words, found.vocabulary, found.longest) == (4, 3, 7, 4, 3)
    assert found.mean_length == pytest.approx(7 / 4)
    assert found.type_token_ratio == pytest.approx(4 / 7)
    assert caption_stats([""]).type_token_ratio == 0.0
    with pytest.raises(InputError, match="at least one"):
        caption_stats([])
