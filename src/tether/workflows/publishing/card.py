"""The model card: facts of a run as Markdown with YAML in front, as the Hugging Face hub reads it.

Everything that comes from files is escaped: it is text, never Markdown, HTML or YAML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import yaml
from torch import nn

from tether.core.errors import MissingExtraError
from tether.core.printable import printable
from tether.core.protocols import DualEncoder
from tether.evaluate.html.text import escaped, table
from tether.workflows.publishing.facts import RunFacts
from tether.workflows.publishing.layouts import Opened
from tether.workflows.publishing.licences import Licence
from tether.workflows.publishing.peers import padding_of
from tether.workflows.publishing.results import PublishedNumber

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

CARD = "README.md"
_PIPELINE = "zero-shot-image-classification"
_LEVELS = {"alarm": "**alarm**", "note": "note", "good": "good", "unknown": "not told"}
_MOST = 80
"""Rows of a table of results; the others stay in the front matter."""


def model_card(
    model: nn.Module, facts: RunFacts, *, opened: Sequence[Opened], licence: Licence, repo: str | None, name: str
) -> str:
    """The whole text of a ``README.md``.

    Args:
        model: which is published.
        facts: what is known of it.
        opened: who opens the folder.
        licence: under which it is published.
        repo: on the hub; None for a folder alone.
        name: of the model; of a folder alone its own name.
    """
    data = card_data(facts, opened=opened, licence=licence, name=name)
    encoder = cast(DualEncoder, model)
    height, width = encoder.image_spec.size
    lines = [
        f"# {_text(name)}",
        "",
        f"A dual encoder: images ({height} x {width}) and texts (up to {encoder.tokenizer.context_length} tokens) "
        f"become rows of {encoder.dim} numbers that can be compared. Published with "
        "[Tether](https://pypi.org/project/tether-clip).",
        "",
        *_use(opened, repo=repo, name=name, padding=padding_of(model)),
        *_results(facts),
        *_findings(facts),
        *_made(facts),
        *_data(facts),
        *_licence(licence),
        *_limits(facts, encoder),
    ]
    return f"---\n{data.to_yaml().strip()}\n---\n\n" + "\n".join(lines).rstrip("\n") + "\n"


def card_data(facts: RunFacts, *, opened: Sequence[Opened], licence: Licence, name: str) -> Any:
    """The front matter as ``huggingface_hub.ModelCardData``.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import ModelCardData
    except ImportError:
        raise MissingExtraError("huggingface_hub", extra="hf") from None
    able = [one.library for one in opened if one.opens]
    results = list(_eval_results(facts.found.numbers))
    kinds = {"recall" if one.metric_type.startswith("recall") else "accuracy" for one in results if _usual(one)}
    data = ModelCardData(
        license=licence.identifier,
        license_name=licence.name or None,
        license_link=licence.link or None,
        library_name=next((one for one in ("transformers", "open_clip") if one in able), "tether"),
        pipeline_tag=_PIPELINE,
        tags=["clip", "image-text", "tether", *(one for one in able if one not in ("Tether", "transformers"))],
        base_model=facts.base or None,
        metrics=sorted(kinds) or None,
        model_name=name if results else None,
        eval_results=results or None,
    )
    if facts.base and facts.tuned:
        data["base_model_relation"] = "finetune"
    return data


def _usual(one: EvalResult) -> bool:
    return one.metric_type.startswith("recall") or "accuracy" in one.metric_type


def _eval_results(numbers: Sequence[PublishedNumber]) -> Iterator[EvalResult]:
    from huggingface_hub import EvalResult

    for one in numbers:
        if not one.task:
            continue
        about = {"interval_95": None if one.low is None else [one.low, one.high], "chance": one.chance, "n": one.images}
        dataset = _line(one.dataset)
        kind = re.sub(r"[^a-z0-9._/-]+", "-", dataset.removeprefix("hf:").lower()).strip("-/.")
        yield EvalResult(
            task_type=one.task,
            task_name=one.task.replace("-", " "),
            dataset_type=kind or "data",
            dataset_name=dataset,
            dataset_revision=_line(one.version) or None,
            metric_type=one.metric,
            metric_name=_line(one.name),
            metric_value=one.value,
            metric_args={key: value for key, value in about.items() if value is not None} or None,
        )


def _use(opened: Sequence[Opened], *, repo: str | None, name: str, padding: bool | str) -> list[str]:
    found = ["## Use it", ""]
    for one in opened:
        if one.opens:
            found += [f"With {one.library} (`pip install {_PACKAGES[one.library]}`):", "", "```python"]
            found += [*_snippet(one.library, repo=repo, name=name, padding=padding), "```", ""]
    found += ["`photo.jpg` is an image of yours. Who was asked to open this folder, without a network, and the largest"]
    found += ["difference of one number of a unit embedding from Tether's, on drawn images and short texts:", ""]
    rows = []
    for one in opened:
        far = ("", "", "") if one.apart is None else (one.apart.texts, one.apart.images, one.apart.prepared)
        said = [value if isinstance(value, str) else f"{value:.1e}" for value in far]
        rows.append((f"{one.library} {one.version}".strip(), "yes" if one.opens else "no", *said, one.why))
    head = ("library", "opens it", "texts", "images", "images of other sizes", "why not, or not tried")
    return [*found, *_table(head, rows)]


_PACKAGES = {
    "Tether": "'tether-clip[hf]'",
    "open_clip": "open_clip_torch",
    "transformers": "transformers pillow",
    "sentence-transformers": "'sentence-transformers[image]>=6'",
}
_TEXTS = '["a photo of a cat", "a photo of a dog"]'


def _snippet(library: str, *, repo: str | None, name: str, padding: bool | str) -> list[str]:
    """Lines of Python that embed an image and two texts."""
    where = json.dumps(repo or name)
    if library == "Tether":
        load = json.dumps(f"hf:{repo}") if repo else where
        return [
            "import tether",
            "",
            f"model = tether.load({load})",
            'rows = model.embed(["photo.jpg", "a photo of a cat", "a photo of a dog"])',
            "print(rows[0] @ rows[1:].T)",
        ]
    if library == "open_clip":
        folder = json.dumps(f"hf-hub:{repo}" if repo else f"local-dir:{name}")
        return [
            "import open_clip",
            "import torch",
            "from PIL import Image",
            "",
            f"name = {folder}",
            "model, prepare = open_clip.create_model_from_pretrained(name)",
            f"ids = open_clip.get_tokenizer(name)({_TEXTS})",
            'pixels = prepare(Image.open("photo.jpg")).unsqueeze(0)',
            "with torch.inference_mode():",
            "    image = model.encode_image(pixels, normalize=True)",
            "    texts = model.encode_text(ids, normalize=True)",
            "print(image @ texts.T)",
        ]
    if library == "transformers":
        return [
            "import torch",
            "from PIL import Image",
            "from transformers import AutoModel, AutoProcessor",
            "",
            f"name = {where}",
            "model, processor = AutoModel.from_pretrained(name), AutoProcessor.from_pretrained(name)",
            f"words = {_TEXTS}",
            'image = Image.open("photo.jpg")',
            f'inputs = processor(text=words, images=image, return_tensors="pt", padding={padding!r})',
            "with torch.inference_mode():",
            "    print(model(**inputs).logits_per_image)",
        ]
    return [
        "from PIL import Image",
        "from sentence_transformers import SentenceTransformer",
        "",
        f"model = SentenceTransformer({where})",
        'image = model.encode([Image.open("photo.jpg")])',
        f"texts = model.encode({_TEXTS})",
        "print(model.similarity(image, texts))",
    ]


def _results(facts: RunFacts) -> list[str]:
    numbers = facts.found.numbers
    if not numbers:
        return ["## Results", "", "No results came with this model: nothing is known of how good it is.", ""]
    rows = [
        (one.dataset, one.name, one.text, one.interval, one.luck, "" if one.images is None else f"{one.images:,}")
        for one in numbers
    ]
    more = [f"{len(rows) - _MOST:,} more are in the front matter of this page.", ""] if len(rows) > _MOST else []
    head = ("data", "measure", "value", "95 % interval", "chance", "images")
    return ["## Results", "", *_table(head, rows[:_MOST]), *more]


def _findings(facts: RunFacts) -> list[str]:
    found = []
    for one in facts.found.inspected:
        found += [f"## Health report on {_text(one.pairs)} ({one.images:,} images)", ""]
        lines = ["| section | level | finding |", "| --- | --- | --- |"]
        for title, level, sentence, unsaid in one.sections:
            said = " ".join(filter(None, (sentence, unsaid and f"Untold: {unsaid}")))
            lines.append(f"| {_text(title)} | {_LEVELS.get(level, 'not told')} | {_text(said)} |")
        found += [*lines, ""]
    return found


def _made(facts: RunFacts) -> list[str]:
    found = ["## How it was made", ""]
    found += [_text(one) for one in (facts.base_said, *facts.trained) if one]
    found += [_text(one) for one in facts.worth]
    if len(found) == 2:
        found += ["The folder that it was published from does not say."]
    found += ["", f"Digest of the weights (Tether's): `{facts.digest}`.", ""]
    if facts.settings:
        text = yaml.safe_dump(_plain(facts.settings), sort_keys=False, allow_unicode=True, width=110).rstrip("\n")
        fence = "`" * max(3, 1 + max((len(one) for one in re.findall(r"`+", text)), default=0))
        found += ["Settings of the run, without those that are empty and places of the machine:", ""]
        found += [f"{fence}yaml", text, fence, ""]
    return found


def _data(facts: RunFacts) -> list[str]:
    found = ["## Data", ""]
    if not facts.sheet:
        return [*found, "No datasheet came with this model (`tether curate` writes one).", ""]
    found += ["From the manifest of the curated set (`tether curate`), whose datasheet lies beside it:", ""]
    found += _table(("what", "value"), facts.sheet)
    if facts.licences is None:
        return [
            *found,
            "The set has no column that names a licence: terms of use of its images and texts are unknown.",
            "",
        ]
    return [*found, "Licences of its rows:", "", *_table(("licence", "rows kept"), facts.licences)]


def _licence(licence: Licence) -> list[str]:
    said = f"{_text(licence.name)}: <{_address(licence.link)}>" if licence.name else f"`{licence.identifier}`"
    return ["## Licence", "", f"Of the weights, as stated by who published them: {said}.", ""]


def _address(link: str) -> str:
    return re.sub(r"[<>\s\"`\\]", lambda found: f"%{ord(found[0]):02X}", printable(link))


def _limits(facts: RunFacts, encoder: DualEncoder) -> list[str]:
    found = [
        f"Texts past {encoder.tokenizer.context_length} tokens are cut; details smaller than a few pixels of a "
        f"{encoder.image_spec.size[0]} x {encoder.image_spec.size[1]} image are not seen.",
        *facts.remarks,
    ]
    weak = [one for one in facts.found.numbers if one.low is not None and one.chance is not None]
    weak = [one for one in weak if one.task and cast(float, one.low) <= cast(float, one.chance)]
    if weak:
        names = "; ".join(f"{one.name} on {one.dataset}" for one in weak[:10])
        found.append(f"Not shown to be above chance: {names}{' and others' if len(weak) > 10 else ''}.")
    for report in facts.found.inspected:
        found += [f"{title}: {said}" for title, level, said, _ in report.sections if level == "alarm"]
    if not facts.found.inspected:
        found.append("Nobody looked for shortcuts, order and size bias or duplicates here (`tether inspect` does).")
    found.append("Not measured unless told above: how it treats groups of people. Do not decide on people with it.")
    return ["## Limits", "", *(f"- {_text(one)}" for one in found), ""]


def _plain(value: Any) -> Any:
    """Text of settings on one line each."""
    if isinstance(value, dict):
        return {_line(str(key)): _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return _line(value) if isinstance(value, str) else value


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return table(head, [[_line(cell) for cell in row] for row in rows])


def _line(text: str) -> str:
    return printable(" ".join(text.split()))


def _text(text: str) -> str:
    return escaped(_line(text))
