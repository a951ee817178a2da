from __future__ import annotations

import pytest

from tether.core.errors import InputError
from tether.core.types import Block, Row
from tether.data.words import FILE, count_words, read_words


class Captions:
    name, version = "captions", "1"

    def __init__(self, *texts: tuple[str, ...]) -> None:
        self.texts = texts

    def blocks(self):
        return [Block("0", len(self.texts))]

    def read(self, block, *, start=0):
        yield from (Row(str(at), b"image", texts) for at, texts in enumerate(self.texts))


def counted(*, scratch: bool):
    source = Captions(("Two Dogs run, run on grass.", "a dog"), ("a bus", "狗在草地上"), ("",), ())
    return count_words(source, digest="d", scratch=scratch)


def test_captions_are_counted_by_their_words():
    found = counted(scratch=True)
    assert (found.images, found.captions) == (2, 4)
    assert (found.words["run"], found.words["a"]) == (1, 2)
    assert "狗在草地上" not in found.words
    assert list(found.words) == ["a", "bus", "dog", "dogs", "grass", "on", "run", "two"]


def test_words_in_either_number_and_in_scripts_without_spaces_are_not_called_unseen():
    found = counted(scratch=True)
    assert found.unseen("A DOG and two buses, 3 airplanes") == ["and", "airplanes"]
    assert found.unseen("猫") == []


def test_a_model_from_scratch_is_warned_of_and_one_with_a_trained_text_tower_remarked_on():
    texts = ["dog", "cat", "red ship"]
    hard = counted(scratch=True).warnings(texts)
    assert [line.partition(":")[0] for line in hard] == ["cat", "red ship"]
    assert all("is a guess" in line for line in hard)
    (soft,) = counted(scratch=False).warnings(texts)
    assert "cat, red, ship" in soft
    assert "guess" not in soft
    assert counted(scratch=False).warnings(["dog"]) == []


def test_saved_and_read(tmp_path):
    assert read_words(tmp_path) is None
    counted(scratch=True).save(tmp_path)
    assert read_words(tmp_path) == counted(scratch=True)
    (tmp_path / FILE).write_text('{"digest": "d", "images": 1, "captions": 1, "scratch": true, "words": {"a": "x"}}')
    with pytest.raises(InputError, match="words: a: expected int"):
        read_words(tmp_path)
