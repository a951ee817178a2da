"""A reader of words learnt from crops by ``tether adapt``; resumable."""

from __future__ import annotations

from tether.core.errors import InputError
from tether.core.printable import quoted
from tether.core.protocols import DualEncoder, Source
from tether.tasks.read import DualReader, ReadWords
from tether.tasks.read.charset import unreadable
from tether.tasks.read.reader import word_spec
from tether.workflows.adaptation.learnt import LearntReport, LearntRun
from tether.workflows.adaptation.run import named
from tether.workflows.reading.learn import WordCrops, captioned, taught


def learn_words(
    base: DualEncoder, title: str, source: Source, recipe: ReadWords, *, run: LearntRun
) -> tuple[DualReader, LearntReport]:
    """Learn a reader from images that are the crop of a word each, which is their first caption."""
    with named(str(run.spec["name"])):
        found = captioned(source, word_spec(base), run=run)
        words = [recipe.spelt(text) for text in found.texts]
        every = WordCrops(found.keys, found.keys, found.pixels, words, bad=found.bad)
        if recipe.characters is None:
            _check_readable(every, source=source)
        reader = recipe.start(base, words, seed=run.seed)
    report = taught(
        reader,
        every,
        recipe,
        inner=reader,
        hint="longest=N and characters=ABC say what is read",
        base=base,
        title=title,
        source=source,
        use="tether read IMAGES --head {folder} --out words.csv --html words.html",
        run=run,
        deciding={},
        said=[],
    )
    return reader, report


def _check_readable(every: WordCrops, *, source: Source) -> None:
    """Refuse a word whose characters cannot be learnt, by its row."""
    for name, word in zip(every.names, every.words, strict=True):
        if wrong := unreadable(word):
            lines = "; the recipe read_page learns texts of several lines" if wrong == "\n" else ""
            raise InputError(
                f"{source.name}: {name}: {quoted(word)}: expected letters, got {quoted(wrong)} among them{lines}"
            )
