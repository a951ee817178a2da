"""A CLIP that reads words, alone and with the scene."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from forged_state import forge
from tether.core.errors import InputError
from tether.data.sets.lettering import LetteringSet
from tether.models import create
from tether.tasks.read import Charset, DualReader, SceneReader
from tether.tasks.read.reader import READER_FILE

pytestmark = pytest.mark.slow

LETTERS = Charset("abcdefghijklmnopqrstuvwxyz")


def reader(**settings) -> DualReader:
    return DualReader(create("tiny", seed=0).eval(), charset=LETTERS, max_length=8, heads=4, **settings)


def signs(count: int) -> tuple[list[np.ndarray], list[str]]:
    rows = [LetteringSet(lexicon=6).row(index) for index in range(count)]
    return [np.asarray(row.image) for row in rows], [row.texts[0] for row in rows]


def test_it_learns_a_few_signs_by_heart_and_is_kept(tmp_path):
    crops, words = signs(8)
    given = create("tiny", seed=0).eval()
    made = DualReader(given, charset=LETTERS, max_length=8, heads=4, decoder_rate=3.0, dropout=0.0)
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    losses = []
    made.fit(
        crops, words, steps=60, batch_size=8, learning_rate=1e-3, on_step=lambda report: losses.append(report.loss)
    )
    assert losses[-1] < 0.5 * losses[0]
    assert not made.training
    moved = {name for name, value in made.model.state_dict().items() if not torch.equal(value, before[name])}
    assert any("image" in name or "visual" in name or "vision" in name for name in moved)
    assert "logit_scale" not in " ".join(moved)
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())
    found = made.read(crops)
    assert len(found) == 8
    again = DualReader.load(made.save(tmp_path / "reader")).read(crops, batch_size=3)
    assert again.words == found.words
    np.testing.assert_allclose(again.confidence, found.confidence, rtol=1e-3)
    alone = made.read(crops[3:4])
    assert alone.words == found.words[3:4]
    assert made.read(crops, refine=0).confidence.shape == (8,)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"depth": 10**6}, r"depth: expected a whole number in \[1, 256\]"),
        ({"depth": 3}, "weights of another architecture: missing visual.layers.1"),
        ({"max_length": 10**12}, r"weights of another architecture: visual.positions is \(1, 9, 64\)"),
        ({"mlp_ratio": 10**9}, "weights of another architecture"),
        ({"characters": ["a", "b"]}, r"characters: expected a text of them, got \['a', 'b'\]"),
        ({"characters": "a\x1b\u202e"}, "characters: expected letters, got .* among them"),
        ({"heads": "x"}, "heads: expected a whole number"),
        ({"perms": 3}, "perms|n: "),
    ],
)
def test_a_forged_file(tmp_path, changed, told):
    path = reader().save(tmp_path) / READER_FILE
    forge(path, changed)
    with pytest.raises(InputError, match=f"^{path}: .*({told})"):
        DualReader.load(tmp_path)


def test_the_first_text_blocks_rest():
    whole, half, none = (reader(frozen_text_blocks=frozen).moving() for frozen in (0, None, 99))
    assert len(whole) > len(half) > len(none)


def test_a_guess_of_many_tokens_keeps_its_end():
    made = reader(text_length=4)
    ids = LETTERS.encode(["abcdefgh", "a"], longest=8)[:, 1:]
    assert made.text_memory(ids).shape == (2, 4, made.dim)
    torch.testing.assert_close(made.text_memory(ids[1:]), made.text_memory(ids)[1:])


def test_a_smaller_charset_is_what_the_text_tower_sees_and_what_comes_out(monkeypatch):
    both = Charset("abcABC")
    made = DualReader(create("tiny", seed=0).eval(), charset=both, max_length=4, heads=4).eval()
    with torch.no_grad():  # both branches read the same letter everywhere
        for branch, letter in ((made.decoder.visual, "B"), (made.decoder.cross, "C")):
            branch.head.weight.zero_()
            branch.head.bias.zero_()
            branch.head.bias[1 + both.characters.index(letter)] = 5.0
    given, tokenizer = [], made.model.tokenizer
    monkeypatch.setattr(made.model, "tokenizer", Told(tokenizer, given))
    crops = signs(2)[0]
    plain, spelt = made.read(crops), made.read(crops, charset=Charset("abc"))
    assert (plain.words, spelt.words) == (("CCCCC",) * 2, ("ccccc",) * 2)  # no place has an end
    assert given == [["BBBBB"] * 2] * 2 + [["bbbbb"] * 2] * 2  # the first guess, and the refined one
    np.testing.assert_array_equal(plain.confidence, spelt.confidence)
    assert made.read(crops, charset=Charset("x")).words == ("", "")


class Told:
    """A tokenizer that keeps what it was given."""

    def __init__(self, inner, given):
        self.inner, self.given = inner, given

    def __call__(self, texts):
        self.given.append(list(texts))
        return self.inner(texts)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["abc", "abcdefghi"], "word 1, 'abcdefghi': expected at most 8"),
        (["abc", "a1"], "word 1, 'a1': unknown characters '1'"),
        (["abc"], "words: expected one for each of 2 crops"),
    ],
)
def test_words_it_cannot_learn(words, told):
    with pytest.raises(InputError, match=told):
        reader().fit(signs(2)[0], words, steps=1)


def test_images_it_cannot_read(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"broken\.png"):
        reader().read([signs(1)[0][0], broken])
    with pytest.raises(InputError, match="crop 1"):
        reader().read([signs(1)[0][0], b"no image"])
    with pytest.raises(InputError, match="at least one"):
        reader().read([])
    with pytest.raises(InputError, match="no such file"):
        DualReader.load(tmp_path)
    with pytest.raises(InputError, match="even"):
        reader(perms=3)


def test_a_scene_changes_nothing_before_it_is_learnt(tmp_path):
    crops, words = signs(4)
    plain, clip = reader(), create("tiny", seed=1).eval()
    made = SceneReader(plain, clip, heads=4)
    scenes = [np.full((64, 64, 3), grey, np.uint8) for grey in (0, 200)]
    read = plain.read(crops)
    same = made.read(crops, scenes=scenes, scene_index=[0, 1, 1, 0])
    assert same.words == read.words
    np.testing.assert_array_equal(same.confidence, read.confidence)
    before = [one.clone() for one in clip.parameters()]
    made.fit(crops, words, scenes=scenes, scene_index=[0, 1, 1, 0], steps=3, batch_size=4, learning_rate=1e-3)
    assert float(made.fusion.alpha.detach()) != 0
    assert all(torch.equal(one, was) for one, was in zip(clip.parameters(), before, strict=True))
    first, second = (made.read(crops, scenes=scenes, scene_index=[at] * 4).confidence for at in (0, 1))
    assert not np.array_equal(first, second)
    assert np.array_equal(plain.read(crops).confidence, read.confidence)
    again = SceneReader.load(made.save(tmp_path / "reader"), scene_encoder=clip)
    np.testing.assert_allclose(again.read(crops, scenes=scenes, scene_index=[0] * 4).confidence, first, rtol=1e-4)
    with pytest.raises(InputError, match="was fitted on an encoder"):
        SceneReader.load(tmp_path / "reader", scene_encoder=create("tiny", seed=2).eval())


def test_scenes_that_do_not_fit():
    crops, words = signs(2)
    made = SceneReader(reader(), create("tiny", seed=1).eval(), heads=4)
    scene = np.zeros((64, 64, 3), np.uint8)
    for arguments, told in (
        ({"scenes": [scene]}, "scenes: expected one for each of 2 crops, got 1"),
        ({"scenes": [scene], "scene_index": [0, 1]}, "scene_index: expected 2 numbers from 0 to 0"),
        ({"scenes": []}, "scenes: expected at least one"),
        ({"scenes": [scene, b"no image"]}, "scene 1"),
    ):
        with pytest.raises(InputError, match=told):
            made.read(crops, **arguments)
    with pytest.raises(InputError, match="words"):
        made.fit(crops, words[:1], scenes=[scene])
    placed = SceneReader(reader(), create("tiny", seed=1).eval(), heads=4, position=True)
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.2, 0.2, 0.9, 0.9]])
    assert len(placed.fit(crops, words, scenes=[scene, scene], boxes=boxes, steps=1).read(crops)) == 2
