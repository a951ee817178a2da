"""Tasks with predictions for Label Studio, and its export read back as decisions.

The format: https://labelstud.io/guide/task_format and https://labelstud.io/guide/predictions. Written and read without
Label Studio; ``tests/unit/data/test_label_exchange.py`` holds tasks to its rules, and to its SDK where it is installed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from tether.core.atomic_io import parse_json, read_text, write_json, write_text
from tether.core.errors import InputError
from tether.core.printable import quoted
from tether.data.decision import KINDS, Decision
from tether.data.exchange.suspect import Suspect

_LARGEST = 2**30
_DECISION, _LABEL, _CAPTION, _IMAGE = "decision", "label", "caption", "image"
_NEEDED = ("key", "kind", "given")
_SHOWN = 8


def write_tasks(
    folder: Path, suspects: Sequence[Suspect], *, images: Mapping[str, str], classes: Sequence[str] = ()
) -> list[Path]:
    """Write ``KIND.json`` (tasks to import) and ``KIND.xml`` (the labelling interface) for each kind there is.

    Args:
        folder: to write to.
        suspects: what to look at.
        images: a URI by key.
        classes: names that a label may have.

    Returns:
        The files. The score of a prediction is 1 for the most suspect and falls with the rank, since Label Studio takes
        scores from 0 to 1 alone.
    """
    written = []
    for kind in KINDS:
        some = [one for one in suspects if one.kind == kind]
        if some:
            tasks = [
                _task(one, number, image=images.get(one.key, ""), score=1 - (number - 1) / len(some))
                for number, one in enumerate(some, start=1)
            ]
            written += [folder / f"{kind}.json", folder / f"{kind}.xml"]
            write_json(written[-2], tasks)
            write_text(written[-1], interface(kind, classes=classes))
        else:  # those of an earlier audit in this folder
            for ending in (".json", ".xml"):
                (folder / f"{kind}{ending}").unlink(missing_ok=True)
    return written


def interface(kind: str, *, classes: Sequence[str] = ()) -> str:
    """The labelling interface of one kind: keep or drop, and a class or a caption where there can be a new one."""
    more = ""
    if kind == "label":
        choices = "".join(f"\n    <Choice value={_attribute(name)}/>" for name in classes)
        more = f'\n  <Choices name="{_LABEL}" toName="{_IMAGE}" choice="single">{choices}\n  </Choices>'
    elif kind == "caption":
        more = f'\n  <TextArea name="{_CAPTION}" toName="{_IMAGE}" maxSubmissions="1" editable="true"/>'
    return (
        f'<View>\n  <Header value="$reason"/>\n  <Text name="given" value="$given"/>\n'
        f'  <Image name="{_IMAGE}" value="$image"/>\n'
        f'  <Choices name="{_DECISION}" toName="{_IMAGE}" choice="single">\n'
        f'    <Choice value="keep"/>\n    <Choice value="drop"/>\n  </Choices>{more}\n</View>\n'
    )


def _attribute(text: str) -> str:
    return quoteattr(text)


def _task(one: Suspect, number: int, *, image: str, score: float) -> dict[str, Any]:
    data = {"image": image, "key": one.key, "kind": one.kind, "given": one.given or "(none)", "reason": one.reason}
    data["had"] = one.given
    result = []
    if one.suggested and one.kind == "label":
        value: dict[str, Any] = {"choices": [one.suggested]}
        result = [
            {"id": f"r{number}", "from_name": _LABEL, "to_name": _IMAGE, "type": "choices", "value": value},
        ]
    predictions = [{"model_version": "tether audit", "score": score, "result": result}]
    return {"id": number, "data": data, "predictions": predictions}


def read_annotations(path: Path) -> list[Decision]:
    """What was decided in Label Studio, from its export in the format JSON.

    The last annotation of a task that was not cancelled counts. *keep* and *drop* go before a class, which may be what
    was suggested and stands there unless it is taken away. Without them a class or caption that differs from the given
    one is a new one, an equal one keeps it; a task without an annotation is left out.

    Raises:
        InputError: not such an export, or tasks that ``tether audit`` did not write; the task and its keys are named.
    """
    tasks = parse_json(read_text(path, limit=_LARGEST), where=str(path))
    if not isinstance(tasks, list):
        raise InputError(f"{path}: expected a list of tasks, as Label Studio exports in the format JSON")
    found = []
    for number, task in enumerate(tasks, start=1):
        if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
            raise InputError(
                f"{path}: task {number}: no 'data'; expected the format JSON of Label Studio, not JSON-MIN"
            )
        where = f"{path}: task {task.get('id', number)}"
        data = task["data"]
        if lost := [name for name in _NEEDED if not isinstance(data.get(name), str)]:
            known = ", ".join(sorted(map(str, data))[:_SHOWN]) or "none"
            raise InputError(
                f"{where}: its data has no {lost[0]!r} (it has: {known}); expected tasks that tether audit wrote, "
                "is this the export of another project?"
            )
        annotations = task.get("annotations", [])
        if not isinstance(annotations, list):
            raise InputError(f"{where}: annotations: expected a list")
        valid = [one for one in annotations if isinstance(one, dict) and not one.get("was_cancelled")]
        if valid and (decision := _decision(data, valid[-1].get("result"), where=where)):
            found.append(decision)
    return found


def _decision(data: Mapping[str, Any], result: object, *, where: str) -> Decision | None:
    if not isinstance(result, list):
        raise InputError(f"{where}: result: expected a list")
    said: dict[str, str] = {}
    for one in result:
        name = one.get("from_name") if isinstance(one, dict) else None
        value = one.get("value") if isinstance(one, dict) else None
        kind = {_DECISION: "choices", _LABEL: "choices", _CAPTION: "text"}.get(str(name))
        if kind is None:
            raise InputError(f"{where}: unknown control {quoted(name)}; expected {_DECISION}, {_LABEL} or {_CAPTION}")
        words = value.get(kind) if isinstance(value, dict) else None
        words = [words] if isinstance(words, str) else words
        if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
            raise InputError(f"{where}: {name}: expected {kind}, a list of text, got {quoted(value)}")
        said[str(name)] = words[-1]
    had = data.get("had")
    given = had if isinstance(had, str) else data["given"]
    key, about = data["key"], data["kind"]
    new = said.get(_LABEL, said.get(_CAPTION))
    if said.get(_DECISION) == "drop":
        return _made(key, about, "drop", given, "", where=where)
    if said.get(_DECISION) not in (None, "keep"):
        raise InputError(f"{where}: decision: expected keep or drop, got {quoted(said[_DECISION])}")
    if said.get(_DECISION) == "keep" or new == given:
        return _made(key, about, "keep", given, "", where=where)
    return None if new is None else _made(key, about, "relabel", given, new, where=where)


def _made(key: str, kind: str, choice: Any, given: str, new: str, *, where: str) -> Decision:
    try:
        return Decision(key, kind, choice, given, new)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
