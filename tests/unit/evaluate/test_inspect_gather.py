"""Which rows the health report looks at, and what of them is kept, tried again, or told as missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch

from tether.core.errors import InputError
from tether.core.types import Block, Row
from tether.data.features import parquet
from tether.evaluate.inspect.embedding_cache import gather
from tether.evaluate.inspect.runner import inspect_model

from test_inspect import Counts, Rows, Stub, rows  # isort: skip - a neighbour


class Breaks(Rows):
    """Its first block breaks after 10 rows."""

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        for at, row in enumerate(super().read(block, start=start), start):
            if block.id == "0" and at == 10:
                raise InputError("the tar is broken")
            yield row


def test_behind_a_broken_block_the_next_one_follows(tmp_path):
    report = inspect_model(Stub(), Breaks(rows(120), known=False), out=tmp_path, probes=["about"])
    assert report.rows == 90
    assert report.section("about").finding.figure("rows that could not be read").value == 1


@pytest.mark.parametrize("known", [True, False])
def test_parts_of_any_source_are_bounded_and_resumable(tmp_path, monkeypatch, known):
    monkeypatch.setattr("tether.evaluate.inspect.embedding_cache.PART_ROWS", 40)
    monkeypatch.setattr("tether.evaluate.inspect.embedding_cache.SAMPLE", 30)
    source, model = Rows(rows(200), known=known, block=200), Stub()

    def stop(what, done, total):
        if done == 80:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        inspect_model(model, source, out=tmp_path, probes=["about"], on_progress=stop)
    seen = model.seen
    report = inspect_model(model, source, out=tmp_path, probes=["about", Counts()])
    assert (report.rows, model.seen - seen) == (200, 120)
    parts = [parquet.read(path) for path in sorted(tmp_path.glob("kept/*/*.parquet"))]
    assert [len(part) for part in parts] == [len(part) - part["thumbnail"].null_count for part in parts] == [40] * 5
    # Where nobody knows how many parts there will be, the first ones keep more images than the sample takes of them.
    assert [len(part) - part["pixels"].null_count for part in parts] == ([6] * 5 if known else [30, 15, 10, 8, 6])


def subject(source, folder, **settings):
    facts = {"model_name": "m", "source_name": "s", "digest": "d", "eval_command": "tether eval m s"}
    return gather(Stub(**settings), source, folder=folder, limit=10_000, facts=facts)


def test_the_sample_takes_its_share_of_each_part(tmp_path, monkeypatch):
    monkeypatch.setattr("tether.evaluate.inspect.embedding_cache.PART_ROWS", 40)
    monkeypatch.setattr("tether.evaluate.inspect.embedding_cache.SAMPLE", 30)
    by_length = [
        subject(Rows(rows(200), known=known), tmp_path / str(known), spoilt="some").sample for known in (True, False)
    ]
    assert [len(sample) for sample in by_length] == [30, 30]
    assert torch.equal(by_length[0].rows, by_length[1].rows)
    assert torch.equal(by_length[0].pixels, by_length[1].pixels)
    whole = subject(Rows(rows(200)), tmp_path / "True", spoilt="some")
    colours = whole.sample.pixels.float().mean(dim=(2, 3)) / 255 @ Stub().project
    assert torch.allclose(colours, whole.seen.image[whole.sample.rows], atol=1e-3)


def test_the_bytes_of_a_row_are_not_held(tmp_path, monkeypatch):
    """Of a part only the images that are written stay in memory."""
    from tether.evaluate.inspect.embedding_cache import _Drawn

    monkeypatch.setattr("tether.evaluate.inspect.embedding_cache.SAMPLE", 10)
    held = []
    add = _Drawn.add

    def watched(self, *arguments, **named):
        add(self, *arguments, **named)
        held.append(len(self.pixels))

    monkeypatch.setattr(_Drawn, "add", watched)
    inspect_model(Stub(), Rows(rows(120)), out=tmp_path, probes=["about"], batch_size=16)
    assert len(held) == 8
    assert max(held) == 10


class Lossy(Rows):
    """Images of some rows cannot be opened while ``lost`` names them."""

    def __init__(self, *arguments, lost: Sequence[int], **settings) -> None:
        super().__init__(*arguments, **settings)
        self.lost = {f"row {number}" for number in lost}

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        for row in super().read(block, start=start):
            yield Row(row.key, b"no image", row.texts, row.meta) if row.key in self.lost else row


@pytest.mark.parametrize("known", [True, False])
def test_rows_that_were_bad_are_tried_again(tmp_path, monkeypatch, known):
    monkeypatch.setattr("tether.evaluate.inspect.embedding_cache.PART_ROWS", 40)
    source, model = Lossy(rows(120), lost=[50, 60], known=known), Stub()
    probes = ["about", "duplicates", Counts()]
    report = inspect_model(model, source, out=tmp_path, probes=probes)
    assert report.rows == 118
    assert report.section("about").finding.figure("rows that could not be read").value == 2
    seen = model.seen
    source.lost.clear()
    report = inspect_model(model, source, out=tmp_path, probes=probes)
    assert report.rows == 120
    assert report.section("about").finding.figure("rows that could not be read").value == 0
    assert report.section("counts").finding.figure("images").value == 120
    assert model.seen == seen + 2  # no good row again


@pytest.mark.parametrize("known", [True, False])
def test_a_part_that_failed_and_comes_back_moves_no_finding(tmp_path, monkeypatch, known):
    """Kept sections know rows by number; when a part before them comes back, they are made anew."""
    monkeypatch.setattr("tether.evaluate.inspect.embedding_cache.PART_ROWS", 40)
    source = Lossy(rows(120), lost=range(40, 80), known=known)
    report = inspect_model(Stub(), source, out=tmp_path, probes=["common", Counts()])
    assert report.rows == 80
    source.lost.clear()
    again = inspect_model(Stub(), source, out=tmp_path, probes=["common", Counts()])
    assert again.rows == 120
    fresh = inspect_model(Stub(), source, out=tmp_path / "fresh", probes=["common", Counts()])
    assert [one.finding for one in again.sections] == [one.finding for one in fresh.sections]


def test_a_stopped_run_keeps_parts_with_bad_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("tether.evaluate.inspect.embedding_cache.PART_ROWS", 40)
    source, model = Lossy(rows(120), lost=[3, 50]), Stub()

    def stop(what, done, total):
        if done == 80:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        inspect_model(model, source, out=tmp_path, probes=["about"], on_progress=stop)
    seen = model.seen
    inspect_model(model, source, out=tmp_path, probes=["about"])
    assert model.seen == seen + 40


def test_strict_stops_at_what_another_run_passed_over(tmp_path):
    source = Lossy(rows(60), lost=[7])
    assert inspect_model(Stub(), source, out=tmp_path, probes=["about"]).rows == 59
    with pytest.raises(InputError, match="row 7"):
        inspect_model(Stub(), source, out=tmp_path, probes=["about"], strict=True)


@pytest.mark.parametrize("known", [True, False])
def test_a_part_of_which_nothing_is_finite_costs_only_itself(tmp_path, monkeypatch, known):
    monkeypatch.setattr("tether.evaluate.inspect.embedding_cache.PART_ROWS", 40)
    changed = rows(120)
    for at in range(40, 80):
        changed[at].image[0, 0, 0] = 7  # the shade that spoils the model
    for at in (*range(40), *range(80, 120)):
        changed[at].image[0, 0, 0] = 6
    report = inspect_model(Stub(spoilt="some"), Rows(changed, known=known), out=tmp_path)
    assert report.rows == 80
    assert report.section("about").level == "alarm"
    assert report.section("about").finding.figure("embeddings left out because they were not finite").value == 40
    assert report.section("retrieval").finding is not None
    with pytest.raises(InputError, match="embeddings are not finite; the weights"):
        inspect_model(Stub(spoilt="all"), Rows(changed, known=known), out=tmp_path / "all")


def test_the_words_of_an_error_decide_nothing(tmp_path, monkeypatch):
    """A model that refuses its settings is no NaN, and a broken block is no missing column, whatever they say."""

    class Refuses(Stub):
        def encode_image(self, image, *, mask=None):
            raise InputError("scale: expected a number, got one that is not finite")

    with pytest.raises(InputError, match="scale: expected a number"):
        inspect_model(Refuses(), Rows(rows(10)), out=tmp_path / "refuses")

    class Broken(Rows):
        def read(self, block, *, start=0):
            if block.id == "40":
                raise InputError("block 40: no 'side' of it can be read")
            yield from super().read(block, start=start)

    monkeypatch.setattr("tether.evaluate.inspect.embedding_cache.PART_ROWS", 40)
    found = inspect_model(Stub(), Broken(rows(120)), out=tmp_path / "broken", label="side", probes=["about"])
    assert found.rows == 80
