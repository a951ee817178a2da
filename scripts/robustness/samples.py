"""A small sound input for every public reader, to be changed."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from change import EVIL
from reading import READS

WORDS = ["a", "small", "red", "cat", "sits", "the", "dog", "in", "sun"]
TEX = r"\begin{figure}\includegraphics{a.png}\caption{A red {\em square}.}\end{figure}"
JATS = (
    '<article xmlns:xlink="http://www.w3.org/1999/xlink"><front><article-meta>'
    '<article-id pub-id-type="pmc">PMC7</article-id></article-meta></front><body><fig><caption><title>Growth.</title>'
    '<p>Over time.</p></caption><graphic xlink:href="f1"/></fig></body></article>'
)
SIGLIP = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


@dataclass(frozen=True, slots=True)
class Sample:
    """What is made, what reads it, and how many inputs it gets in comparison with others."""

    reader: str
    place: str
    share: float
    make: Callable[[Path], object]


SAMPLES: dict[str, Sample] = {}


def sample(name: str, reader: str, place: str = "", share: float = 1.0) -> Callable[[Callable], Callable]:
    """Register what fills a folder; ``place`` is what the reader is given of it."""
    assert reader in READS

    def register(make: Callable[[Path], object]) -> Callable[[Path], object]:
        SAMPLES[name] = Sample(reader, place, share, make)
        return make

    return register


def image(kind: str = "PNG", *, mode: str = "RGB", side: int = 24, **settings: object) -> bytes:
    """Bytes of a small image of noise."""
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    deep = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    buffer = io.BytesIO()
    (deep if mode == "I;16" else Image.fromarray(noise).convert(mode)).save(buffer, kind, **settings)
    return buffer.getvalue()


def images(folder: Path, names: tuple[str, ...] = ("a.png", "b.png", "c.jpg")) -> None:
    """Files with small images."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(image("JPEG" if name.endswith("jpg") else "PNG"))


# Models


def _tokenizer(folder: Path, end: str) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {word: 3 + row for row, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=words, pad_token=end, eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(folder)
    (folder / "evil.py").write_text(EVIL, encoding="utf-8")


@sample("model, own", "model")
def _(folder: Path) -> None:
    import tether
    from tether.models import create

    small = {"width": 16, "layers": 1, "heads": 2, "hidden": 16}
    tether.save(create("tiny", dim=8, vision=small, text=small), folder)
    (folder / "evil.py").write_text(EVIL, encoding="utf-8")


@sample("model, SigLIP of transformers", "model")
def _siglip(folder: Path) -> None:
    from transformers import SiglipConfig, SiglipModel

    text = SIGLIP | {"vocab_size": 64, "max_position_embeddings": 16, "projection_size": 32}
    vision = SIGLIP | {"image_size": 32, "patch_size": 16}
    SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    _tokenizer(folder, "</s>")


@sample("model, CLIP of transformers", "model")
def _(folder: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    text = SIGLIP | {"vocab_size": 64, "max_position_embeddings": 16, "eos_token_id": 1}
    vision = SIGLIP | {"image_size": 32, "patch_size": 16}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)).save_pretrained(folder)
    _tokenizer(folder, "</s>")
    values = {"size": {"shortest_edge": 32}, "crop_size": 32, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(values), encoding="utf-8")


def _open_clip(folder: Path, vision: dict, text: dict) -> None:
    import open_clip
    from safetensors.torch import save_file

    from tether.models.convert.saved_files import separate

    config = {"embed_dim": 24, "vision_cfg": {"image_size": 32} | vision, "text_cfg": {"context_length": 16} | text}
    preprocess = {"mean": [0.5] * 3, "std": [0.25] * 3, "resize_mode": "squash"}
    values = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(values), encoding="utf-8")
    built = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
    save_file(separate(built.state_dict()), folder / "open_clip_model.safetensors")
    _tokenizer(folder, "<pad>")


@sample("model, CLIP of open_clip", "model")
def _(folder: Path) -> None:
    vision = {"width": 32, "layers": 1, "head_width": 16, "patch_size": 16}
    _open_clip(folder, vision, {"vocab_size": 49408, "width": 8, "heads": 2, "layers": 1})


@sample("model, ConvNeXt of open_clip", "model", share=0.5)
def _convnext(folder: Path) -> None:
    vision = {"timm_model_name": "test_convnext", "timm_pool": "avg", "timm_proj": "linear"}
    text = {"vocab_size": 64, "width": 8, "heads": 2, "layers": 1, "hf_tokenizer_name": str(folder)}
    _open_clip(folder, vision, text)


@sample("model, wrapped and saved", "model", share=0.5)
def _(folder: Path) -> None:
    import tether

    _siglip(folder / "source")
    tether.save(tether.load(folder / "source"), folder)
    shutil.rmtree(folder / "source")
    (folder / "tokenizer" / "evil.py").write_text(EVIL, encoding="utf-8")


# Images

for _name, _mode, _settings in (
    ("PNG", "RGB", {}), ("PNG", "P", {}), ("PNG", "I;16", {}), ("JPEG", "RGB", {}),
    ("JPEG", "CMYK", {"progressive": True}), ("GIF", "P", {}), ("WEBP", "RGBA", {"lossless": True}),
    ("TIFF", "F", {}), ("TIFF", "RGB", {"compression": "tiff_lzw"}), ("BMP", "RGB", {}), ("AVIF", "RGB", {}),
    ("JPEG2000", "RGB", {}), ("PPM", "RGB", {}),
):  # fmt: skip

    def _make(folder: Path, kind: str = _name, mode: str = _mode, settings: dict = _settings) -> None:
        (folder / "a.img").write_bytes(image(kind, mode=mode, **settings))

    if _mode != "F":
        sample(f"image, {_name} {_mode}", "decode", "a.img", 3)(_make)
    if _name in ("PNG", "TIFF", "GIF"):
        sample(f"deep image, {_name} {_mode}", "deep", "a.img")(_make)

for _name in ("CT_small", "MR_small_RLE", "image_dfl", "JPEG2000", "SC_rgb_jpeg", "SC_rgb_rle_16bit_2frame"):

    def _dicom(folder: Path, name: str = _name) -> None:
        import pydicom

        files = Path(pydicom.__file__).parent / "data" / "test_files"
        shutil.copy(files / f"{name}.dcm", folder / "a.dcm")

    sample(f"DICOM, {_name}", "deep", "a.dcm", 1.5)(_dicom)


@sample("PDF", "figure", "a.pdf", 0.25)
def _pdf(folder: Path) -> None:
    (folder / "a.pdf").write_bytes(image("PDF"))


# Tables and archives


def _pairs(mark: str) -> str:
    lines = [["filepath", "title", "label"], ["a.png", "a cat", "1"], ["b.png", "a dog", "2"], ["c.jpg", "sun", "3"]]
    return "\n".join(mark.join(line) for line in lines) + "\n"


@sample("CSV", "source", "pairs.csv", 2)
def _csv(folder: Path) -> None:
    images(folder)
    (folder / "pairs.csv").write_text(_pairs(","), encoding="utf-8")


@sample("TSV", "source", "pairs.tsv")
def _(folder: Path) -> None:
    images(folder)
    (folder / "pairs.tsv").write_text(_pairs("\t"), encoding="utf-8")


sample("CSV, windowed", "windowed", "pairs.csv")(lambda folder: _csv(folder))


@sample("folder of images", "source", "images")
def _(folder: Path) -> None:
    images(folder / "images")
    images(folder / "images" / "x", ("d.png",))
    (folder / "images" / "a.txt").write_text("a cat\nred\n", encoding="utf-8")
    (folder / "images" / "metadata.csv").write_text("file_name,text,label\nb.png,a dog,2\n", encoding="utf-8")


@sample("folder of images, JSON lines", "source", "images")
def _(folder: Path) -> None:
    images(folder / "images")
    lines = [
        {"file_name": "a.png", "text": "a cat", "n": 1},
        {"file_name": "b.png", "text": ["a", "b"], "n": {"x": [1]}},
    ]
    text = "\n".join(map(json.dumps, lines))
    (folder / "images" / "metadata.jsonl").write_text(text, encoding="utf-8")


def _parquet(folder: Path, **settings: object) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"bytes": image(), "path": f"{n}.png"} for n in range(12)]
    captions = [["a cat", f"cat {n}"] for n in range(12)]
    found = pa.table({"image": rows, "captions": captions, "key": [f"k{n}" for n in range(12)], "n": list(range(12))})
    pq.write_table(found, folder / "pool.parquet", row_group_size=4, **settings)


sample("Parquet", "source", "pool.parquet", 2)(lambda folder: _parquet(folder, compression="none"))
sample("Parquet, a pool", "pool", "pool.parquet")(
    lambda folder: _parquet(folder, compression="none", use_dictionary=False)
)


def members(count: int = 3) -> dict[str, bytes]:
    """Of a WebDataset tar."""
    found: dict[str, bytes] = {}
    for n in range(count):
        about = json.dumps({"caption": "a cat", "n": n, "x": {"y": [1, 2.5, None]}}).encode()
        found |= {f"{n}.png": image(), f"{n}.txt": b"a cat\nred", f"{n}.json": about, f"{n}.cls": b"7"}
    return found


def tar(path: Path, files: dict[str, bytes], mode: str = "w") -> None:
    """A tar of these files."""
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


sample("tar", "source", "a.tar", 2)(lambda folder: tar(folder / "a.tar", members()))
sample("tgz", "source", "a.tgz")(lambda folder: tar(folder / "a.tgz", members(), "w:gz"))
sample("tar, a pool", "pool", "a.tar")(lambda folder: tar(folder / "a.tar", members()))


@sample("hf data set", "hf", "saved", 0.5)
def _(folder: Path) -> None:
    import datasets

    rows = {"image": [{"bytes": image(), "path": None}] * 3, "text": ["a", "b", "c"], "label": [0, 1, 0]}
    kinds = {
        "image": datasets.Image(),
        "text": datasets.Value("string"),
        "label": datasets.ClassLabel(names=["x", "y"]),
    }
    datasets.Dataset.from_dict(rows, features=datasets.Features(kinds)).save_to_disk(folder / "saved")


sample("paper, LaTeX", "figures", "p.tar.gz")(
    lambda folder: tar(folder / "p.tar.gz", {"main.tex": TEX.encode(), "a.png": image()}, "w:gz")
)


@sample("paper, JATS", "figures", "p.zip")
def _(folder: Path) -> None:
    with zipfile.ZipFile(folder / "p.zip", "w") as archive:
        archive.writestr("p/p.nxml", JATS)
        archive.writestr("p/f1.jpg", image("JPEG"))


# Settings and lists

_RECIPE = """size: tiny
data: {name: mixture, sources: [{name: emoji, split: train}, pairs.csv], weights: [0.5, 0.5]}
optimizer: {name: adamw, lr: 1.0e-3}
schedule: {name: cosine, warmup: 20}
clipper: {name: zclip, max_grad_norm: null}
evaluate: {source: emoji, every: 2}
seed: 3
"""
_STEPS = """steps:
- tidy_text
- {name: image_size, least_side: 32, most_aspect: 3.0}
- {name: exact_duplicates, of: [text, image]}
- {name: metaclip, entries: [a, cat], t: 3}
"""
_LEXICON = """synonyms: [[cat, kitten], [big, large]]
stopwords: a the
openings: [a photo of]
frames: ["this is {}"]
"""
_GROUPS = {
    "format": "tether-attribute-lexicon-1", "groups": {"a": ["kitten"], "b": ["puppy"]},
    "neutral": {"kitten": "cub", "puppy": "cub"}, "place": "end",
}  # fmt: skip
_BAD = '{"source": "s", "key": "a", "error": "x"}\n{"source": "s", "key": "b", "error": "x"}\n'
_TEXTS: dict[str, tuple[str, str, str]] = {
    "recipe": ("recipe", "a.yaml", _RECIPE),
    "overrides": ("overrides", "a.txt", "steps=3\noptimizer.lr=0.1\nclipper={name: zclip}\nevaluate.source=emoji\n"),
    "curation recipe": ("curate_recipe", "a.yaml", _STEPS),
    "lexicon": ("lexicon", "a.yaml", _LEXICON),
    "attribute lexicon": ("attribute_lexicon", "a.json", json.dumps(_GROUPS)),
    "classes": ("classes", "a.txt", "cat\ndog\nred fox\n"),
    "bad rows": ("bad_rows", "a.jsonl", _BAD),
}
for _name, (_reader, _place, _text) in _TEXTS.items():

    def _written(folder: Path, place: str = _place, text: str = _text) -> None:
        (folder / place).write_text(text, encoding="utf-8")

    sample(_name, _reader, _place, 2 if _name in ("recipe", "curation recipe") else 1)(_written)


# States


@sample("decomposition", "decomposition", "a.npz")
def _(folder: Path) -> None:
    import torch

    from tether.core.decomposition import Decomposition

    made = Decomposition(torch.ones(2, 3, 4, 2, 5), torch.ones(2, 4, 5), torch.ones(2, 5))
    made.save(folder / "a.npz")


@sample("state of a space", "space_state", "a.safetensors")
def _(folder: Path) -> None:
    from tether.space.whiten import Whitener

    Whitener().fit(np.random.default_rng(0).standard_normal((50, 4))).save(folder / "a.safetensors")


def _run(folder: Path) -> None:
    from tether.training import load_config, train

    with contextlib.chdir(folder):
        _csv(Path())
        small = "{width: 16, layers: 1, heads: 2, hidden: 16}"
        model = f"model={{dim: 8, vision: {small}, text: {small}}}"
        keys = ["data=pairs.csv", "size=tiny", "steps=3", "batch_size=2", "save_every=1", "keep=1", "threads=1", model]
        train(load_config(overrides=[*keys, "clipper=zclip", "ema=0.9"]), folder=Path("run"))
        for name in ("summary.json", "model.safetensors"):
            Path("run", name).unlink()
    (folder / "c.jpg").unlink()  # fewer files that are not the run's


@sample("checkpoint", "checkpoint", "", 0.5)
def _(folder: Path) -> None:
    _run(folder)
    newest = sorted(folder.glob("run/checkpoints/step-*"))[-1]
    for path in newest.iterdir():
        path.rename(folder / path.name)
    shutil.rmtree(folder / "run")
    for name in ("pairs.csv", "a.png", "b.png"):
        (folder / name).unlink()


sample("run that goes on", "resumed", "", 0.25)(lambda folder: _run(folder))


@sample("run, reported", "report", "run", 0.5)
def _(folder: Path) -> None:
    _run(folder)
    for name in ("pairs.csv", "a.png", "b.png", "run/model.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "run" / "checkpoints")
    (folder / "run" / "summary.json").write_text('{"steps": 3, "loss": 1.5, "images": 3}', encoding="utf-8")


def _curation(folder: Path, *, passes: int) -> None:
    from tether.data.curate.engine.recipe import read_recipe
    from tether.data.curate.engine.run import curate
    from tether.data.curate.pools.opening import open_pool

    def stop(done: int, _: int | None) -> None:
        if done == passes:
            raise KeyboardInterrupt

    with contextlib.chdir(folder), contextlib.suppress(KeyboardInterrupt):
        _parquet(Path())
        Path("recipe.yaml").write_text(_STEPS, encoding="utf-8")
        steps = read_recipe(Path("recipe.yaml"))
        curate(open_pool("pool.parquet"), steps=steps, out=Path("out"), on_progress=stop)


sample("curation that goes on", "curated", "", 0.5)(lambda folder: _curation(folder, passes=4))
sample("curation, its datasheet", "datasheet", "", 0.5)(lambda folder: _curation(folder, passes=99))


@sample("embedding that goes on", "embedded", "", 0.25)
def _(folder: Path) -> None:
    with contextlib.chdir(folder):
        _csv(Path())
        READS["embedded"](Path())
        next(iter(sorted(Path("out").glob("part-*.parquet"), reverse=True))).unlink()


def _vectors(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    x = pa.array(np.random.default_rng(0).standard_normal(160).astype(np.float32))
    columns = {"key": [f"k{n}" for n in range(20)], "label": ["cat", "dog"] * 10, "n": list(range(20))}
    columns |= {"texts": [["a cat"]] * 20, "embedding": pa.FixedSizeListArray.from_arrays(x, 8)}
    metadata = {"tether.digest": "abc", "tether.model": "tiny", "tether.format": "1"}
    pq.write_table(pa.table(columns, metadata=metadata), folder / "e.parquet", compression="none")


sample("embeddings, indexed", "index", "e.parquet", 0.25)(lambda folder: _vectors(folder))


@sample("store", "store", "store", 0.25)
def _(folder: Path) -> None:
    _vectors(folder)
    READS["index"](folder / "e.parquet")
    (folder / "e.parquet").unlink()
