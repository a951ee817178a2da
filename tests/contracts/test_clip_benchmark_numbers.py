"""Every number of ``tether eval --suite`` against the installed clip_benchmark, on the same files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

import tiny_suites
from families import PLAIN, TEXT, filled
from tether.workflows.suite import suite

pytest.importorskip("clip_benchmark")
pytest.importorskip("webdataset")
BATCH = 7
pytestmark = pytest.mark.filterwarnings("ignore")  # of the peer and its libraries


class Peer(NamedTuple):
    """A model of open_clip's own, its tokenizer, and the folder that both sides open."""

    raw: Any
    tokenizer: Any
    folder: Path


@pytest.fixture(autouse=True)
def _of_new_numpy(monkeypatch) -> None:
    """Its ``accuracy`` calls ``float`` on an array of one number, which NumPy 2.4 and later refuse."""
    import clip_benchmark.metrics.zeroshot_classification as module

    def number(value: Any) -> float:
        return float(value) if isinstance(value, str) else float(np.asarray(value).reshape(-1)[0])

    monkeypatch.setattr(module, "float", number, raising=False)


@pytest.fixture(scope="module")
def peer(tmp_path_factory) -> Peer:
    import open_clip
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    raw = filled(open_clip.CLIP(24, PLAIN, TEXT)).eval()
    cfg = {"embed_dim": 24, "vision_cfg": PLAIN, "text_cfg": TEXT}
    preprocess = {"mean": [0.5] * 3, "std": [0.25] * 3}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": preprocess}))
    save_file(
        {name: value.contiguous() for name, value in raw.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    return Peer(raw, open_clip.SimpleTokenizer(context_length=TEXT["context_length"]), folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("suite")
    tiny_suites.classification(place / "wds" / "colours", train=60)
    tiny_suites.classification(place / "wds" / "four", classes=tiny_suites.COLOURS[:4])
    tiny_suites.multilabel(place / "wds" / "marks")
    tiny_suites.retrieval(place / "wds" / "found")
    tiny_suites.sugarcrepe(place / "sugar")
    tiny_suites.winoground(place / "wino")
    tiny_suites.aro(place / "aro")
    tiny_suites.aro_order(place / "orders")
    return place


@pytest.fixture(scope="module")
def ours(peer, folder):
    measures = ["zero_shot", "retrieval", "choice", "linear_probe"]
    return suite(str(peer.folder), folder, measures=measures, bootstrap=50, batch_size=BATCH)


def transform() -> Any:
    from open_clip.transform import image_transform

    return image_transform(32, is_train=False, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def peers(folder: Path, split: str = "test", *, task: str = "zeroshot_classification") -> Any:
    from clip_benchmark.datasets.builder import build_dataset

    found = build_dataset(f"wds/{folder.name}", root=str(folder), transform=transform(), split=split, task=task)
    loader = torch.utils.data.DataLoader(found.batched(BATCH), batch_size=None, shuffle=False, num_workers=0)
    return found, loader


def same(ours: Any, dataset: str, theirs: dict[str, Any], *, prefix: str = "") -> None:
    numbers = ours.numbers[ours.models[0], dataset]
    assert theirs
    for name, value in theirs.items():
        if isinstance(value, float) and math.isnan(value):
            assert name not in numbers
        else:
            assert numbers[name].value == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize("name", ["colours", "four", "marks"])
def test_zero_shot_is_the_same(peer, folder, ours, name):
    from clip_benchmark.metrics.zeroshot_classification import evaluate

    found, loader = peers(folder / "wds" / name)
    theirs = evaluate(peer.raw, loader, peer.tokenizer, found.classes, found.templates, "cpu", amp=False)
    assert set(theirs) >= ({"mean_average_precision"} if name == "marks" else {"acc1", "mean_per_class_recall"})
    same(ours, f"wds/{name}", theirs)


def test_retrieval_is_the_same(peer, folder, ours):
    from clip_benchmark.metrics.zeroshot_retrieval import evaluate

    _, loader = peers(folder / "wds" / "found", task="zeroshot_retrieval")
    theirs = evaluate(peer.raw, loader, peer.tokenizer, "cpu", amp=False, recall_k_list=[1, 5, 10])
    assert len(theirs) == 6
    same(ours, "wds/found", theirs)


def test_choices_are_the_same(peer, folder, ours):
    from clip_benchmark.datasets.builder import image_captions_collate_fn
    from clip_benchmark.datasets.sugar_crepe import SugarCrepe
    from clip_benchmark.metrics.image_caption_selection import evaluate

    sugar = folder / "sugar"
    rows = SugarCrepe(str(sugar / "val2017"), str(sugar / "swap_obj.json"), transform=transform())
    loader = torch.utils.data.DataLoader(rows, batch_size=5, collate_fn=image_captions_collate_fn)
    theirs = evaluate(peer.raw, loader, peer.tokenizer, "cpu", amp=False)
    same(ours, "sugar/swap_obj", {"text_acc": theirs["text_acc"]})

    prepare = transform()
    pairs = []
    for line in (folder / "wino" / "examples.jsonl").read_text().splitlines():
        row = json.loads(line)
        images = [prepare(Image.open(folder / "wino" / "images" / f"{row[f'image_{side}']}.png")) for side in (0, 1)]
        pairs.append((torch.stack(images), [row["caption_0"], row["caption_1"]]))
    loader = torch.utils.data.DataLoader(pairs, batch_size=3, collate_fn=image_captions_collate_fn)
    theirs = evaluate(peer.raw, loader, peer.tokenizer, "cpu", amp=False)
    assert set(theirs) == {"image_acc", "text_acc", "acc"}
    same(ours, "wino", theirs)


def test_aro_is_taken_as_its_repository_takes_it(peer, folder, ours):
    """Crop by Pillow, false caption first, the larger wins; *near* is left out, and no relation for being rare."""
    right = []
    rows = json.loads((folder / "aro" / "visual_genome_relation.json").read_text())
    for row in rows:
        x, y, width, height = (row[f"bbox_{name}"] for name in "xywh")
        image = Image.open(folder / "aro" / "images" / row["image_path"]).convert("RGB")
        pixels = transform()(image.crop((x, y, x + width, y + height)))[None]
        with torch.inference_mode():
            image_row = torch.nn.functional.normalize(peer.raw.encode_image(pixels), dim=-1)
            ids = peer.tokenizer([row["false_caption"], row["true_caption"]])
            texts = torch.nn.functional.normalize(peer.raw.encode_text(ids), dim=-1)
        right.append(bool((image_row @ texts.T).argmax() == 1))
    kinds = [
        np.mean([one for one, row in zip(right, rows, strict=True) if row["relation_name"] == kind])
        for kind in ("on", "under")
    ]
    assert kinds[0] != kinds[1]
    same(
        ours,
        "aro/visual_genome_relation",
        {"text_acc": sum(right) / len(right), "mean_per_kind": float(np.mean(kinds))},
    )


def test_orders_of_words_are_taken_as_aro_takes_them(peer, folder, ours):
    """Five captions, the true one first: the first of the most similar ones is the answer."""
    right = []
    for row in json.loads((folder / "orders" / "coco_order.json").read_text()):
        pixels = transform()(Image.open(folder / "orders" / row["image"]).convert("RGB"))[None]
        with torch.inference_mode():
            image_row = torch.nn.functional.normalize(peer.raw.encode_image(pixels), dim=-1)
            texts = torch.nn.functional.normalize(peer.raw.encode_text(peer.tokenizer(row["caption_options"])), dim=-1)
        right.append(int(np.argmax((image_row @ texts.T).numpy()[0])) == 0)
    assert 0 < sum(right) < len(right)
    same(ours, "orders/coco_order", {"text_acc": float(np.mean(right))})
    assert ours.numbers[ours.models[0], "orders/coco_order"]["text_acc"].chance == 1 / 5


class _CudaByName(str):
    """Passes clip_benchmark's check that the probe runs on CUDA, and is the CPU to torch."""

    def __eq__(self, other: object) -> bool:
        return other in ("cuda", str(self))

    __hash__ = str.__hash__


def test_the_linear_probe_is_the_same(peer, folder, ours, tmp_path, monkeypatch):
    from clip_benchmark.metrics.linear_probe import evaluate

    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda self: self)
    import clip_benchmark.metrics.linear_probe as theirs_module

    plain = torch.utils.data.DataLoader
    monkeypatch.setattr(theirs_module, "DataLoader", lambda *rows, **how: plain(*rows, **(how | {"pin_memory": False})))
    _, train = peers(folder / "wds" / "colours", "train")
    _, test = peers(folder / "wds" / "colours")
    device = _CudaByName("cpu")

    def run() -> dict[str, Any]:
        torch.manual_seed(0)  # as its command line does; the second time nothing else draws before the probe
        return evaluate(peer.raw, train, test, -1, 64, 0, 0.1, 10, "m", 0, str(tmp_path / "f"), device, amp=False)

    run()
    theirs = run()
    same(ours, "wds/colours", {name: value for name, value in theirs.items() if name.startswith("lp_")})


def test_intervals_hold_their_number(ours):
    for found in ours.numbers.values():
        for name, each in found.items():
            assert each.low - 0.25 <= each.value <= each.high + 0.25, name
            assert each.low <= each.high
