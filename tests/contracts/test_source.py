"""What every source promises: fixed blocks, fixed order, reading from the middle, unique keys, images that open."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from tables import encoded, tarred
from tether.core.component import build
from tether.core.errors import InputError
from tether.core.protocols import Source
from tether.core.types import Block, Row
from tether.data import SOURCES, open_source
from tether.data.decisions import Decision, write_decisions
from tether.data.images import decode
from tether.data.sources.decided import DecidedSource
from tether.data.sources.split import SplitSource

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of datasets' own files
]

EXCEPTIONS: dict[str, str] = {}
"""Sources that cannot be tried here, each with its reason."""

COUNT = 30


def image(number: int) -> bytes:
    return encoded(Image.fromarray(np.full((9, 7, 3), number * 8, np.uint8)))


def _parquet(folder):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"image": [image(i) for i in range(COUNT)], "caption": [f"text {i}" for i in range(COUNT)]})
    pq.write_table(table, folder / "a.parquet", row_group_size=11)
    return {"path": str(folder)}


def _folder_of_images(folder):
    for number in range(COUNT):
        (folder / f"{number:03d}.png").write_bytes(image(number))


def _images(folder):
    _folder_of_images(folder)
    for number in range(COUNT):
        (folder / f"{number:03d}.txt").write_text(f"text {number}")
    return {"path": str(folder)}


def _csv(folder):
    _folder_of_images(folder)
    with (folder / "table.tsv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerows([["filepath", "title"], *([f"{i:03d}.png", f"text {i}"] for i in range(COUNT))])
    return {"path": str(folder / "table.tsv")}


def _webdataset(folder):
    for shard in range(2):
        pairs = [(f"{n:03d}", image(n), f"text {n}".encode()) for n in range(shard, COUNT, 2)]
        members = [each for key, data, text in pairs for each in ((f"{key}.png", data), (f"{key}.txt", text))]
        tarred(folder / f"{shard:04d}.tar", members)
    return {"path": str(folder / "{0000..0001}.tar")}


def _hf(folder):
    import datasets

    rows = {"image": [{"bytes": image(i), "path": None} for i in range(COUNT)]}
    data = datasets.Dataset.from_dict(rows | {"text": [f"text {i}" for i in range(COUNT)]})
    data.cast_column("image", datasets.Image()).save_to_disk(folder / "saved")
    return {"path": str(folder / "saved")}


def _figures(folder):
    for paper in range(2):
        files = {f"{i:03d}.png": image(i) for i in range(paper, COUNT, 2)}
        figure = r"\begin{figure}\includegraphics{%s}\caption{text %d}\end{figure}"
        latex = "".join(figure % (name, int(name[:3])) for name in files)
        tarred(folder / f"{paper:04d}.tar.gz", {**files, "main.tex": latex.encode()}.items(), mode="w:gz")
    return {"path": str(folder)}


def _mixture(folder):
    path = _images(folder)["path"]
    return {"sources": (path, {"name": "images", "path": path}), "weights": (0.5, 1.0), "rows": 75}


def _text_pairs(folder):
    lines = [{"query": f"text {i}", "positive": f"answer {i}"} for i in range(COUNT)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return {"path": str(folder / "pairs.jsonl")}


def _windowed(folder):
    return {"source": _images(folder)["path"], "center": 100.0, "width": 200.0}


def _split(folder):
    return {"source": _images(folder)["path"], "part": "train", "share": 0.25}


def _decided(folder):
    path, file = _images(folder)["path"], folder / "decisions.csv"
    write_decisions(file, [Decision("003.png", "outlier", "drop"), Decision("004.png", "label", "relabel", "", "cat")])
    return {"source": path, "decisions": str(file)}


SMALL = {
    "decided": _decided,
    "parquet": _parquet,
    "images": _images,
    "csv": _csv,
    "webdataset": _webdataset,
    "hf": _hf,
    "windowed": _windowed,
    "figures": _figures,
    "mixture": _mixture,
    "split": _split,
    "text_pairs": _text_pairs,
}
"""How to make a small instance of the sources that read files."""
TEXT_ALONE = ("text_pairs",)
"""Sources whose rows have no image."""
SETTINGS = {
    "people": {"rows": 40},
    "scenes": {"rows": 40},
    "scene_twins": {"quadruples": 40},
    "solids": {"rows": 40, "size": 16},
}


@pytest.fixture(scope="module", params=sorted(SOURCES))
def source(request, tmp_path_factory):
    name = request.param
    if name in EXCEPTIONS:
        pytest.skip(EXCEPTIONS[name])
    keywords = SMALL[name](tmp_path_factory.mktemp(name)) if name in SMALL else SETTINGS.get(name, {})
    return build({"name": name, **keywords}, SOURCES, where="test")


@pytest.fixture
def images(source, request):
    """How an image of a row is opened: not at all where there is none."""
    if request.node.callspec.params["source"] in TEXT_ALONE:
        return lambda row: np.zeros((3, 1, 1), np.uint8) if row.image is None else None
    return lambda row: decode(row.image, name=row.key)


def test_it_is_a_source(source):
    assert isinstance(source, Source)
    assert isinstance(source.name, str)
    assert source.name
    assert isinstance(source.version, str)
    assert source.version


def test_blocks_are_fixed_and_have_distinct_ids(source):
    blocks = list(source.blocks())
    assert blocks == list(source.blocks())
    assert blocks
    assert all(isinstance(block, Block) for block in blocks)
    assert len({block.id for block in blocks}) == len(blocks)


def test_reading_twice_gives_the_same_and_as_many_as_was_said(source, images):
    block = source.blocks()[0]
    once, twice = list(source.read(block)), list(source.read(block))
    assert [row.key for row in once] == [row.key for row in twice]
    assert [row.texts for row in once] == [row.texts for row in twice]
    assert all(np.array_equal(images(a), images(b)) for a, b in zip(once[:5], twice[:5], strict=True))
    assert once
    assert block.rows in (None, len(once))


@pytest.mark.parametrize("start", [1, 3, 7])
def test_reading_from_the_middle(source, start):
    block = source.blocks()[-1]
    whole = [row.key for row in source.read(block)]
    assert [row.key for row in source.read(block, start=start)] == whole[start:]
    assert list(source.read(block, start=len(whole))) == []


def test_rows_are_whole(source, images):
    keys = set()
    for block in source.blocks()[:3]:
        for number, row in enumerate(source.read(block)):
            assert isinstance(row, Row)
            assert row.key not in keys
            keys.add(row.key)
            assert all(isinstance(text, str) and text.strip() for text in row.texts)
            assert not row.bad
            if number < 5:
                assert images(row).shape[0] == 3


def test_an_unknown_block_is_refused(source):
    with pytest.raises(InputError):
        list(source.read(Block("no such block", 3)))


def test_files_give_their_texts(source):
    if source.name.rpartition("/")[0]:
        texts = {text for block in source.blocks() for row in source.read(block) for text in row.texts}
        every = {f"text {i}" for i in range(COUNT)}
        assert texts < every if isinstance(source, SplitSource | DecidedSource) else texts == every


def test_a_source_opens_by_name_with_settings():
    assert json.dumps(sorted(SOURCES))
    source = open_source("emoji:split=test,size=32,languages=[en,de]")
    assert source.size == 32
    assert source.languages == ("en", "de")
    assert open_source({"name": "emoji", "split": "test", "size": 32}).split == "test"


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ("emoij", "did you mean 'emoji'"),
        ("emoji:spilt=test", "did you mean 'split'"),
        ("emoji:split=nothing", "split"),
        ("emoji:size=huge", "size"),
        ("emoji:test", "key=value"),
        ("emoji:languages=[en", "brackets"),
        ("nowhere/at/all.parquet", "no such file"),
        ("nowhere/at/all", "no such file or folder"),
        ("nowhere", "no such file or folder, and no data set"),
        ("", "expected a data set's name"),
        ({"split": "test"}, "name"),
        ({"name": "parquet"}, "path"),
        ("odd://place/x.csv", "odd"),
    ],
)
def test_what_cannot_be_opened_says_so(spec, what):
    with pytest.raises(InputError, match=what) as caught:
        open_source(spec, where="recipe.yaml: data")
    assert isinstance(caught.value, ValueError)
