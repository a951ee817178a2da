"""Embedding a source: every row once whatever happens, bad rows named, models never mixed up."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tether.core.errors import InputError
from tether.core.model_digest import model_digest
from tether.core.types import Block, Row
from tether.data import open_source
from tether.data.sources.columns import numbers_of
from tether.models import create
from tether.models.embed import encode_images
from tether.models.towers.clip import Clip
from tether.tasks.retrieve import index, shards
from tether.tasks.retrieve.embed import EmbeddedFile, embed
from tether.tasks.retrieve.gallery import gallery
from tether.tasks.retrieve.index import build_index
from tether.tasks.retrieve.search import Hit, Searcher
from tether.tasks.retrieve.store import Store


class Pictures:
    """Forty small pictures in blocks of ten; ``stop`` ends the reading there as Ctrl-C would."""

    name, version = "pictures", "1"

    def __init__(self, rows: Sequence[Row], *, stop: int | None = None) -> None:
        self.rows, self.stop = list(rows), stop
        self.given = 0

    def blocks(self) -> Sequence[Block]:
        return [Block(str(i // 10), min(10, len(self.rows) - i)) for i in range(0, len(self.rows), 10)]

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        for row in self.rows[int(block.id) * 10 + start : int(block.id) * 10 + 10]:
            if self.stop is not None and self.given == self.stop:
                raise KeyboardInterrupt
            self.given += 1
            yield row


def drawing(i: int) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def row(i: int, **meta: object) -> Row:
    return Row(f"k{i:02d}", drawing(i), (f"image {i}",), {"label": "even" if i % 2 == 0 else "odd", **meta})


@pytest.fixture(scope="module")
def model() -> Clip:
    return create("tiny").eval()


def run(rows: Sequence[Row], out: Path, model: Clip, *, stop: int | None = None, **settings: object) -> EmbeddedFile:
    settings = {"batch_size": 4, "part_rows": 8, **settings}
    return embed(Pictures(rows, stop=stop), model=model, model_name="tiny", out=out, **settings)  # type: ignore[arg-type]


def test_one_file_in_order_with_everything(tmp_path: Path, model: Clip) -> None:
    seen: list[tuple[int, int | None]] = []
    rows = [row(i) for i in range(21)]
    report = run(rows, tmp_path / "e.parquet", model, on_progress=lambda done, total: seen.append((done, total)))
    table = pq.read_table(report.path)
    assert table["key"].to_pylist() == [one.key for one in rows]
    assert table["texts"].to_pylist()[3] == ["image 3"]
    assert table["label"].to_pylist()[:2] == ["even", "odd"]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), model.dim)
    assert table.schema.metadata[b"tether.digest"].decode() == model_digest(model) == report.digest
    pixels = torch.stack([torch.from_numpy(drawing(i)).permute(2, 0, 1) for i in range(21)])
    vectors = np.stack(table["embedding"].to_numpy())
    assert np.allclose(vectors, encode_images(model, [pixels]).numpy(), atol=1e-5)
    assert (report.rows, report.new, report.bad) == (21, 21, 0)
    assert seen[-1] == (21, 21)
    assert [path.name for path in tmp_path.iterdir()] == ["e.parquet"]


@pytest.mark.parametrize("name", ["e.parquet", "folder"])
def test_stopped_anywhere_it_goes_on(tmp_path: Path, model: Clip, name: str) -> None:
    rows = [row(i) for i in range(40)]
    rows[5] = Row("broken", b"no picture")
    rows.append(row(1))  # a key that comes twice, after the stop
    for stop in (13, 0, 25, 20):  # rows read by that run
        with pytest.raises(KeyboardInterrupt):
            run(rows, tmp_path / name, model, stop=stop)
    report = run(rows, tmp_path / name, model)
    parts = shards.files_of(report.path)
    keys = [key for part in parts for key in pq.read_table(part)["key"].to_pylist()]
    assert keys == report.keys() == [one.key for one in rows[:40] if one.key != "broken"]
    vectors = np.concatenate([np.stack(pq.read_table(part)["embedding"].to_numpy()) for part in parts])
    assert np.allclose(report.unit(), vectors / np.linalg.norm(vectors, axis=1, keepdims=True), atol=1e-6)
    named = [json.loads(line)["key"] for line in report.bad_rows.read_text().splitlines()]
    assert sorted(named) == ["broken", "k01"]
    assert (report.rows, report.bad) == (39, 2)
    assert 0 < report.new < 39
    again = run(rows, tmp_path / name, model)
    assert (again.rows, again.new, again.bad) == (39, 0, 2)
    assert not list(tmp_path.rglob("*.tmp"))


def test_strict_stops_and_names_the_row(tmp_path: Path, model: Clip) -> None:
    rows = [row(0), Row("broken", b"no picture"), row(2)]
    with pytest.raises(InputError, match="broken"):
        run(rows, tmp_path / "e.parquet", model, strict=True)
    assert not (tmp_path / "e.parquet").exists()


class Poisoned(torch.nn.Module):
    """Gives NaN for one picture."""

    def __init__(self, inner: Clip, poison: int) -> None:
        super().__init__()
        self.inner, self.dim, self.image_spec, self.tokenizer = inner, inner.dim, inner.image_spec, inner.tokenizer
        self.poison = torch.from_numpy(drawing(poison)).permute(2, 0, 1)

    @property
    def logit_scale(self) -> torch.Tensor:
        return self.inner.logit_scale

    def encode_image(self, image: torch.Tensor, *, mask: torch.Tensor | None = None):
        found = self.inner.encode_image(image, mask=mask)
        for i, one in enumerate(image):
            if torch.equal(one, self.poison):
                found.pooled[i] = float("nan")
        return found


def test_not_finite_vectors_are_refused(tmp_path: Path, model: Clip) -> None:
    rows = [row(i) for i in range(10)]
    poisoned = Poisoned(model, 6)
    report = run(rows, tmp_path / "e.parquet", poisoned)  # type: ignore[arg-type]
    assert pq.read_table(report.path)["key"].to_pylist() == [f"k{i:02d}" for i in range(10) if i != 6]
    bad = json.loads(report.bad_rows.read_text())
    assert bad["key"] == "k06"
    assert "not finite" in bad["error"]
    with pytest.raises(InputError, match="k06"):
        run(rows, tmp_path / "strict.parquet", poisoned, strict=True)  # type: ignore[arg-type]


def test_another_model_or_source_is_refused(tmp_path: Path, model: Clip) -> None:
    rows = [row(i) for i in range(10)]
    for out in (tmp_path / "e.parquet", tmp_path / "folder"):
        run(rows, out, model)
        with pytest.raises(InputError, match="digest"):
            run(rows, out, create("tiny", seed=1).eval())
        other = Pictures(rows)
        other.version = "2"
        with pytest.raises(InputError, match="version"):
            embed(other, model=model, model_name="tiny", out=out)
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match="something else"):
        run(rows, tmp_path, model)


def test_the_folder_of_the_images_is_no_place_for_parts(tmp_path: Path, model: Clip) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    source = open_source(tmp_path)
    with pytest.raises(InputError, match="holds the data that are read; choose another --out"):
        embed(source, model=model, model_name="tiny", out=tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name[0] != "."] == ["a.png"]
    assert embed(source, model=model, model_name="tiny", out=tmp_path / "vectors").rows == 1


def test_nothing_good_is_an_error(tmp_path: Path, model: Clip) -> None:
    with pytest.raises(InputError, match="empty"):
        run([], tmp_path / "e.parquet", model)
    with pytest.raises(InputError, match="bad"):
        run([Row("a", b"x"), Row("b", b"")], tmp_path / "f.parquet", model)


def test_columns_of_many_kinds(tmp_path: Path, model: Clip) -> None:
    rows = [row(i, year=2000 + i if i > 9 else None, path="mine", odd=i if i % 2 else "even") for i in range(20)]
    table = pq.read_table(run(rows, tmp_path / "e.parquet", model).path)
    assert table["year"].to_pylist() == [None] * 10 + list(range(2010, 2020))
    assert table["meta_path"].to_pylist() == ["mine"] * 20
    assert table["odd"].to_pylist()[:2] == ['"even"', "1"]


def test_thumbnails(tmp_path: Path, model: Clip) -> None:
    table = pq.read_table(run([row(0)], tmp_path / "e.parquet", model, thumbnail=16).path)
    with Image.open(io.BytesIO(table["thumbnail"].to_pylist()[0])) as small:
        assert (small.format, small.size) == ("JPEG", (16, 16))


def test_the_digest_sees_every_weight() -> None:
    one, same, other = create("tiny"), create("tiny"), create("tiny")
    assert model_digest(one) == model_digest(same)
    with torch.no_grad():
        next(other.visual.parameters()).view(-1)[0] += 1e-6
    assert model_digest(one) != model_digest(other)


def test_the_digest_of_an_own_model_stays_as_it_was() -> None:
    """Stores of vectors made by earlier versions hold it."""
    model = create("tiny")
    for value in model.state_dict().values():
        value.fill_(1)
    assert model_digest(model) == "9dac792542715931c6d5593ed5c776a4"


class TestSearching:
    @pytest.fixture
    def searcher(self, tmp_path: Path, model: Clip) -> Searcher:
        report = run([row(i, path=f"/gone/{i}.png") for i in range(20)], tmp_path / "e", model, thumbnail=32)
        return Searcher(build_index(report.path, out=tmp_path / "db"), model=model)

    def test_a_picture_finds_itself(self, searcher: Searcher) -> None:
        found = searcher.image(drawing(7), top=3)
        assert found.keys[0] == "k07"
        assert found.scores[0] == pytest.approx(1.0, abs=1e-5)
        assert "k07" not in searcher.image(drawing(7), where="label = 'even'").keys

    def test_words_give_what_the_vectors_say(self, searcher: Searcher, model: Clip) -> None:
        from tether.models.embed import encode_texts

        text = torch.nn.functional.normalize(encode_texts(model, ["a red apple"]), dim=1)
        pixels = torch.stack([torch.from_numpy(drawing(i)).permute(2, 0, 1) for i in range(20)])
        image = torch.nn.functional.normalize(encode_images(model, [pixels]), dim=1)
        order = (image @ text[0]).argsort(descending=True).tolist()
        assert searcher.text("a red apple", top=20).keys == tuple(f"k{i:02d}" for i in order)

    def test_refusals(self, searcher: Searcher) -> None:
        with pytest.raises(InputError, match="scores between two models mean nothing"):
            Searcher(searcher.store, model=create("tiny", seed=1))
        with pytest.raises(InputError, match="holds vectors of 64 numbers, the model makes 32"):
            Searcher(searcher.store, model=create("tiny", dim=32))
        with pytest.raises(InputError, match="query is empty"):
            searcher.text("  ")
        with pytest.raises(InputError, match="not an image"):
            searcher.image(b"words")

    def test_gallery_stands_alone(self, searcher: Searcher, tmp_path: Path) -> None:
        hits = {"apple <script>": searcher.hits(searcher.image(drawing(7), top=4)), "none": []}
        hits["marked"] = [Hit("a", 0.5, ("x",), drawing(1), right=True), Hit("b", 0.4, right=False)]
        page = gallery(hits, tmp_path / "page.html", title="Found").read_text()
        assert page.count("data:image/jpeg;base64,") == 5
        assert "http" not in page.replace("http-equiv", "")
        assert "apple &lt;script&gt;" in page
        assert "right at place 1" in page
        assert "Nothing passed the filter" in page
        caption = "a long caption " * 20
        long = gallery({"one": [Hit("a", 0.5, (caption,), drawing(1))]}, tmp_path / "long.html").read_text()
        assert f"<q>{caption}</q>" in long
        assert not re.search(r"line-clamp|text-overflow|nowrap", long)  # all of it is shown
        bare = gallery({"one": [Hit("a.png", 0.0, (), drawing(1))]}, tmp_path / "bare.html", scores="", span=(0.0, 1.0))
        shown = bare.read_text().split("</style>")[1]
        assert not re.search(r"0\.000|scores", shown)
        assert "<footer>Click an image" in shown
        with pytest.raises(InputError, match="at least one query"):
            gallery({}, tmp_path / "page.html")

    def test_merge_and_replace(self, searcher: Searcher, tmp_path: Path, model: Clip) -> None:
        rows = [row(i, path=f"/new/{i}.png") for i in range(15, 25)]
        more = run(rows, tmp_path / "more.parquet", model, thumbnail=32)
        with pytest.raises(InputError, match="already holds a store"):
            build_index(more.path, out=tmp_path / "db")
        build_index(more.path, out=tmp_path / "db", existing="merge")
        assert len(searcher.store) == 25
        assert searcher.image(drawing(24), top=1).keys == ("k24",)
        assert searcher.store.records(["k15"])["meta_path"].to_pylist() == ["/new/15.png"]
        other = run([row(0)], tmp_path / "other.parquet", create("tiny", seed=1).eval())
        with pytest.raises(InputError, match="vectors of model"):
            build_index(other.path, out=tmp_path / "db", existing="merge")
        assert len(build_index(other.path, out=tmp_path / "db", existing="replace")) == 1


class TestIndexing:
    def test_vectors_from_elsewhere(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"key": ["a", "b"], "embedding": [[1.0, 0.0], [0.0, 1.0]]}), tmp_path / "e.parquet")
        made = build_index(tmp_path / "e.parquet", out=tmp_path / "db")
        assert made.search(np.array([1.0, 0.1])).keys == ("a", "b")

    def test_refusals(self, tmp_path: Path) -> None:
        cases = {
            "is missing": {"name": ["a"], "embedding": [[1.0]]},
            "expected lists of float32": {"key": ["a"], "embedding": ["x"]},
            "vectors of 2 float32": {"key": ["a", "b"], "embedding": [[1.0, 2.0], [1.0]]},
            "not finite": {"key": ["a"], "embedding": [[1.0, float("nan")]]},
            "comes twice": {"key": ["a", "a"], "embedding": [[1.0], [2.0]]},
            "holds no rows": {"key": pa.array([], pa.string()), "embedding": pa.array([], pa.list_(pa.float32(), 2))},
        }
        for number, (message, columns) in enumerate(cases.items()):
            path = tmp_path / f"{number}.parquet"
            pq.write_table(pa.table(columns), path)
            with pytest.raises(InputError, match=message):
                build_index(path, out=tmp_path / f"db{number}")
            with pytest.raises(InputError, match=r"no such store|not finished|no rows|of shape"):
                Store.open(tmp_path / f"db{number}").search(np.ones(2))
        (tmp_path / "t.parquet").write_bytes(b"PAR1 and no more")
        with pytest.raises(InputError, match="damaged or not a Parquet file"):
            build_index(tmp_path / "t.parquet", out=tmp_path / "dbt")
        with pytest.raises(InputError, match="no such file or folder"):
            build_index(tmp_path / "absent", out=tmp_path / "dba")

    def test_a_failure_leaves_the_store_as_it_was(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(index, "ROWS_PER_COMMIT", 2)
        good = {"key": ["a", "b", "c"], "embedding": [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]}
        pq.write_table(pa.table(good), tmp_path / "good.parquet")
        bad = {"key": ["a", "d", "e", "f"], "embedding": [[3.0, 1.0], [0.0, 1.0], [1.0, 1.0], [1.0, float("inf")]]}
        pq.write_table(pa.table(bad), tmp_path / "bad.parquet")
        with pytest.raises(InputError, match="not finite"):
            build_index(tmp_path / "bad.parquet", out=tmp_path / "db")
        made = build_index(tmp_path / "good.parquet", out=tmp_path / "db")  # what failed is not in the way
        for existing in ("merge", "replace"):
            with pytest.raises(InputError, match="not finite"):
                build_index(tmp_path / "bad.parquet", out=tmp_path / "db", existing=existing)
            for one in (made, Store.open(tmp_path / "db")):
                assert one.search(np.array([1.0, 0.0])).keys == ("a", "c", "b")
                assert one.records(["a"])["embedding"].to_pylist() == [[1.0, 0.0]]
        with pytest.raises(InputError, match="no version 999"):
            made.restore(999)

    def test_parts_of_two_models(self, tmp_path: Path, model: Clip) -> None:
        run([row(0)], tmp_path / "both" / "a.parquet", model)
        run([row(1)], tmp_path / "both" / "b.parquet", create("tiny", seed=1).eval())
        with pytest.raises(InputError, match="made by model"):
            build_index(tmp_path / "both", out=tmp_path / "db")


def test_an_index_is_built_for_many_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    from tether.tasks.retrieve import memory_index

    monkeypatch.setattr(memory_index, "INDEX_ABOVE", 100)
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path / "cache"))
    x = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    columns = {"key": [str(i) for i in range(300)], "embedding": list(x)}
    pq.write_table(pa.table(columns), tmp_path / "e.parquet")
    build_index(tmp_path / "e.parquet", out=tmp_path / "db")
    assert list((tmp_path / "cache").rglob("*.faiss"))
    assert Store.open(tmp_path / "db").search(x[5], top=1).keys == ("5",)


@pytest.mark.parametrize("kind", ["folder", "csv"])
def test_numbers_of_a_csv_are_numbers_in_the_store(kind, model, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    lines = ["file_name,caption,year,stars,id,odd,none"]
    for i in range(5):
        Image.fromarray(drawing(i)).save(photos / f"{i}.png")
        lines.append(f"{i}.png,image {i},{'' if i == 3 else 2015 + i},{('4.5', '3')[i % 2]},00{i},{(i, 'x')[i == 4]},")
    (photos / "captions.csv").write_text("\n".join(lines))
    source = open_source(str(photos) if kind == "folder" else f"csv:path={photos}/captions.csv", where="test")
    embed(source, model=model, model_name="tiny", out=tmp_path / "a.parquet", part_rows=2)
    store = build_index(tmp_path / "a.parquet", out=tmp_path / "a.db")
    kinds = {name: store.schema.field(name).type for name in ("year", "stars", "id", "odd", "none")}
    text = pa.string()
    assert kinds == {"year": pa.int64(), "stars": pa.float64(), "id": text, "odd": text, "none": text}
    query = np.ones(model.dim, dtype=np.float32)
    assert len(store.search(query, top=9, where="year > 2016").keys) == 2
    assert len(store.search(query, top=9, where="stars >= 4.5 AND id = '002'").keys) == 1


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "", "-3", "0"], int),
        (["1", "2.5"], float),
        (["1e-05", ".5", "-0.1"], float),
        (["1", "01"], None),
        (["", ""], None),
        (["nan"], None),
        (["1e999", "1"], None),
        (["1e+999", "1"], None),
        (["9" * 30], None),
        (["1", 2], None),
        (["12e3"], None),
        (["1_000"], None),
        (["\u0661"], None),
    ],
)
def test_which_columns_are_numbers(cells, kind):
    assert numbers_of({"a": cell} for cell in cells).get("a") == kind
