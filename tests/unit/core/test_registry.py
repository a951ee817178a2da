"""Registries: names without imports, members of methods and of other people's packages, and what of them is broken."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tether.core import method_files as files_module
from tether.core import registry as registry_module
from tether.core.component import build
from tether.core.errors import InputError
from tether.core.method_files import FILE, GROUP, KINDS, MethodWarning
from tether.core.registry import Registry
from tether_lab.lab import part_reference

OWN = {"global_norm": "tether.optim.clip.global_norm:GlobalNorm", "none": "tether.optim.clip.global_norm:NoClip"}
CODE = """
import torch
from tether.adaptation.heads import LinearHead
from tether.optim.clip import GlobalNorm


class MyHead(LinearHead):
    kind = "my_head"


class MyClipper(GlobalNorm):
    \"\"\"Half of the bound.\"\"\"

    def __init__(self, *, bound: float = 1.0) -> None:
        super().__init__(max_norm=bound / 2)
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write packages of other people, each with a ``method.toml``; they are found by an entry point of their name."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(files_module, "FOLDER", tmp_path / "no methods of Tether's own")

    def write(name: str, toml: str | None, code: str = CODE) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        (folder / "parts.py").write_text(code)
        if toml is not None:
            (folder / FILE).write_text(toml)
        install(tmp_path, name)
        clear()
        return folder / FILE

    def clear() -> None:
        importlib.invalidate_caches()
        for name in [name for name in sys.modules if name.partition(".")[0] in ("my_clip", "your_clip")]:
            del sys.modules[name]
        files_module.method_files.cache_clear()
        registry_module._lines.cache_clear()

    clear()
    yield write
    clear()


def install(site: Path, name: str, value: str | None = None, more: str = "") -> None:
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"{more}[{GROUP}]\n{name} = {value or name}\n")


def clippers() -> Registry:
    return Registry("clippers", OWN)


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_names_cost_no_import():
    said = run(
        "import json, sys, tether.losses\n"
        "from tether.losses import OBJECTIVES\n"
        "known = 'align_clip' in OBJECTIVES and 'nothing' not in OBJECTIVES, list(OBJECTIVES)\n"
        "before = sorted(name for name in sys.modules if name.startswith(('tether.losses.', 'tether.methods.')))\n"
        "tether.losses.SigLipLoss, OBJECTIVES['align_clip']\n"
        "after = sorted(name for name in sys.modules if name.startswith(('tether.losses.', 'tether.methods.')))\n"
        "print(json.dumps([known, before, 'torch' in sys.modules, after]))\n"
    )
    (known, names), before, _, after = json.loads(said)
    assert known
    assert len(names) > 5
    assert before == ["tether.losses.registry"]
    assert "tether.methods.alignclip.loss" in after
    assert "tether.methods.tripletclip.loss" not in after


def test_a_mapping_of_names_to_classes(package):
    from tether.optim.clip.global_norm import GlobalNorm

    parts = clippers()
    assert (list(parts), len(parts)) == (["global_norm", "none"], 2)
    assert parts["global_norm"] is GlobalNorm
    assert parts.get("agc") is None
    with pytest.raises(KeyError):
        parts["agc"]
    assert (parts.name_of(GlobalNorm), parts.name_of(int)) == ("global_norm", "int")
    more = Registry("edits", {"int": "builtins:int"}, including=(parts,))
    assert list(more) == ["global_norm", "none", "int"]
    assert (more["none"].__name__, more["int"], more.name_of(GlobalNorm), more.name_of(int)) == (
        "NoClip",
        int,
        "global_norm",
        "int",
    )


def test_a_key_error_inside_a_member_is_no_unknown_name(package, tmp_path):
    (tmp_path / "broken.py").write_text("{}['x']\n")
    parts = Registry("clippers", {"broken": "broken:Part"})
    assert "broken" in parts
    with pytest.raises(ImportError, match="broken: KeyError: 'x'"):
        parts.get("broken")


def test_every_registry_has_a_kind_of_its_own():
    kinds = {one.dotted: one.parts().kind for one in part_reference.registries()}
    assert sorted(kinds.values()) == sorted(KINDS)
    assert all(dotted.rpartition(".")[2].lower() == kind for dotted, kind in kinds.items())


def test_a_package_of_somebody_else_adds_parts(package):
    package(
        "my_clip",
        '[register.clippers]\nmy_clipper = ".parts:MyClipper"\n'
        '[register.adapted_heads]\nmy_head = ".parts:MyHead"\n'
        '[register.objectives]\nplain = "tether.losses.clip:ClipLoss"\n',
    )
    parts = clippers()
    assert list(parts) == ["global_norm", "none", "my_clipper"]
    assert "my_clip.parts" not in sys.modules
    made = build({"name": "my_clipper", "bound": 3.0}, parts, where="recipe: clipper")
    assert (made.max_norm, parts.name_of(type(made))) == (1.5, "my_clipper")
    with pytest.raises(InputError, match="unknown key 'bond'; did you mean 'bound'"):
        build({"name": "my_clipper", "bond": 3.0}, parts, where="recipe: clipper")
    assert Registry("adapted_heads", {})["my_head"].__name__ == "MyHead"
    assert list(Registry("objectives", {})) == ["plain"]


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (
            'new = ".parts:Missing"',
            CODE,
            r"register.clippers.new: 'my_clip.parts:Missing': .* has no 'Missing'; correct",
        ),
        ('new = ".nowhere:Part"', CODE, "cannot be imported: ModuleNotFoundError: No module named 'my_clip.nowhere'"),
        ('new = ".parts:Part"', "import nothing_of_that_name", "No module named 'nothing_of_that_name'; install"),
        ('new = ".parts:Part"', "{}['x']", "cannot be imported: ImportError: my_clip.parts: KeyError: 'x'"),
        ('new = ".parts:Part"', "1 / 0", "cannot be imported: ZeroDivisionError: division by zero; install"),
    ],
)
def test_a_part_that_cannot_be_imported_breaks_nothing_else(package, line, code, said):
    path = package("my_clip", f"[register.clippers]\n{line}\n", code)
    parts = clippers()
    assert list(parts) == ["global_norm", "none", "new"]
    assert parts["global_norm"].__name__ == "GlobalNorm"
    with pytest.raises(InputError, match=said) as caught:
        build("new", parts, where="recipe: clipper")
    assert str(path) in str(caught.value)
    with pytest.warns(MethodWarning, match=said):
        assert list(parts.working()) == ["global_norm", "none"]


def test_a_name_that_two_methods_register_is_neither_s(package):
    first = package("my_clip", '[register.clippers]\nnew = ".parts:MyClipper"\nother = ".parts:MyClipper"\n')
    second = package("your_clip", '[register.clippers]\nnew = ".parts:MyClipper"\n')
    parts = clippers()
    assert parts["other"].__module__ == "my_clip.parts"
    with pytest.raises(InputError, match="'new' is registered 2 times: ") as caught:
        parts["new"]
    assert all(f"{path}: register.clippers.new" in str(caught.value) for path in (first, second))
    assert str(caught.value).endswith("; rename all but one")


def test_tether_s_own_name_stays_what_it_is(package, monkeypatch):
    monkeypatch.setattr(files_module, "FOLDER", registry_module.FOLDER)
    package("my_clip", '[register.clippers]\nzclip = ".parts:MyClipper"\n')
    with pytest.warns(MethodWarning, match=r"register.clippers.zclip: left out: the name is taken"):
        assert clippers()["zclip"].__module__ == "tether.methods.zclip.clipper"


def test_a_name_that_is_taken_stays_what_it_is(package):
    path = package("my_clip", '[register.clippers]\nglobal_norm = ".parts:MyClipper"\nnew = ".parts:MyClipper"\n')
    parts = clippers()
    with pytest.warns(
        MethodWarning, match=r"register.clippers.global_norm: left out: the name is taken; rename it"
    ) as said:
        assert list(parts) == ["global_norm", "none", "new"]
    assert str(path) in str(said[0].message)
    assert parts["global_norm"].__module__ == "tether.optim.clip.global_norm"


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[register.clipper]\n", "no registry 'clipper'; did you mean 'clippers'"),
        ("[register.clippers]\nnew = 1\n", "register: clippers: new: expected str, got 1"),
        ('[register.clippers]\nnew = "parts"\n', "register.clippers.new: expected 'module:Class', got 'parts'"),
        ("[register\n", "not TOML"),
        ("[registers]\n", "unknown key 'registers'; did you mean 'register'"),
        (
            '[register.clippers]\n"a\\nb" = ".parts:MyClipper"\n',
            r"expected letters, digits and _ in a name, got 'a\nb'",
        ),
        ("title = " + "[" * 60_000, "nested too deeply"),
        ("a." * 20_000 + "a = 1\n", "nested too deeply"),
        ("# " + "a" * 100_000, "bytes"),
        ("b" * 60_000, "not TOML"),
        ("title = 0x" + "f" * 5000, "too many digits"),
        ('verdict = "a\\nb"', "verdict: expected one line"),
        (None, "expected a package with a method.toml, found none in 'my_clip'"),
    ],
)
def test_a_file_that_is_wrong_is_left_out(package, toml, said):
    package("my_clip", toml)
    package("your_clip", '[register.clippers]\nnew = ".parts:MyClipper"\n')
    with pytest.warns(MethodWarning, match="entry point my_clip of tether.methods: left out: ") as found:
        assert list(clippers()) == ["global_norm", "none", "new"]
    assert said in str(found[0].message)


@pytest.mark.parametrize("value", ["not_there", "my_clip.below", "tomllib", "../x", "__main__", f"json.{'a' * 300}"])
def test_an_entry_point_that_leads_nowhere_is_left_out_and_imports_nothing(package, tmp_path, value):
    package("my_clip", "", "")
    (tmp_path / "my_clip/__init__.py").write_text("raise SystemExit(7)\n")
    install(tmp_path, "other", value)
    with pytest.warns(MethodWarning, match="package other: entry point other of tether.methods: left out: expected"):
        assert list(clippers()) == ["global_norm", "none"]


def test_damaged_metadata_of_another_package_does_not_matter(package, tmp_path):
    install(tmp_path, "broken", more="garbage\n")
    (tmp_path / "broken-1.0.dist-info/entry_points.txt").write_bytes(b"[x]\n\xff = \xfe\n")
    package("my_clip", '[register.clippers]\nnew = ".parts:MyClipper"\n')
    assert list(clippers()) == ["global_norm", "none", "new"]


def test_what_is_no_class_is_refused(package):
    package("my_clip", '[register.clippers]\nnew = "os:system"\nout = ".parts:Part"\n', "raise SystemExit(0)")
    parts = clippers()
    with pytest.raises(InputError, match="'os:system': expected a class, got builtin_function_or_method"):
        parts["new"]
    with pytest.raises(InputError, match="cannot be imported: SystemExit: "):
        parts["out"]
    with pytest.warns(MethodWarning):
        assert list(parts.working()) == ["global_norm", "none"]


def test_a_registry_that_joins_others_keeps_the_kernel_s_members(package):
    package("my_clip", '[register.quantisers]\nnone = ".parts:MyClipper"\n')
    joined = Registry("compressors", {}, including=(Registry("quantisers", {}), clippers()))
    assert joined["none"].__module__ == "tether.optim.clip.global_norm"


def broken_package(site: Path, name: str, *, init: str, toml: str) -> Path:
    """An installed package of methods, without any part."""
    folder = site / name
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(init)
    (folder / "parts.py").write_text("")
    (folder / FILE).write_text(toml)
    install(site, name)
    return folder / FILE


def asked(site: Path, *words: str) -> tuple[int, str, str]:
    """What ``python`` answers where the packages of a folder are installed."""
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        cwd=site,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_packages_whose_every_part_is_broken_stop_only_what_asks_for_one(tmp_path):
    missing, failing = (
        broken_package(
            tmp_path, name, init=init, toml="".join(f'[register.{kind}]\n{name} = ".parts:A"\n' for kind in KINDS)
        )
        for name, init in (("my_clip", ""), ("your_clip", "raise RuntimeError('no driver')"))
    )
    code, listed, said = asked(tmp_path, "-m", "tether", "methods")
    assert (code, [line.split()[0] for line in listed.splitlines()[-3:-1]], said) == (0, ["my-clip", "your-clip"], "")
    code, helped, said = asked(tmp_path, "-m", "tether", "--help")
    assert (code, said, "methods" in helped) == (0, "", True)
    opened = "import sys, tether; print(tether.load('tiny', random_weights=True).dim); tether.cli.main(sys.argv[1:])"
    words = ("train", "digits", "--recipe", "demo", "size=tiny", "steps=1", "batch_size=4", "evaluate=null")
    code, told, said = asked(tmp_path, "-c", f"import tether.cli; {opened}", *words, "--out", "run")
    assert (code, told.startswith("64\n")) == (0, True), said
    for name, path, reason in (
        ("my_clip", missing, "my_clip.parts has no 'A'; correct the name, or remove the line"),
        ("your_clip", failing, "cannot be imported: RuntimeError: no driver; install what it needs, or uninstall the"),
    ):
        code, _, said = asked(tmp_path, "-m", "tether", *words, f"clipper={name}", "--out", "other")
        assert (code, "Traceback" in said) == (2, False)
        assert f"{path}: register.clippers.{name}: '{name}.parts:A': {reason}" in said


@pytest.mark.slow
def test_one_name_of_two_packages_stops_only_what_asks_for_it(tmp_path):
    toml = '[register.clippers]\nnew = ".parts:Missing"\n'
    paths = [broken_package(tmp_path, name, init="", toml=toml) for name in ("my_clip", "your_clip")]
    code, listed, said = asked(tmp_path, "-m", "tether", "methods")
    assert (code, [line.split()[0] for line in listed.splitlines()[-3:-1]], said) == (0, ["my-clip", "your-clip"], "")
    assert asked(tmp_path, "-m", "tether", "--help")[::2] == (0, "")
    words = ("train", "digits", "--recipe", "demo", "size=tiny", "clipper=new", "--out", "run")
    code, _, said = asked(tmp_path, "-m", "tether", *words)
    keys = " and ".join(f"{path}: register.clippers.new" for path in paths)
    assert (code, f"'new' is registered 2 times: {keys}; rename all but one" in said) == (2, True)


def test_an_installed_package_trains_and_is_listed(tmp_path):
    folder = tmp_path / "site" / "my_clip"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "parts.py").write_text(
        CODE + "\n\nclass MyLoss:\n"
        "    def __init__(self, *, power: float = 2.0) -> None:\n        self.power = power\n\n"
        "    def __call__(self, features, batch, *, gather):\n"
        "        from tether.losses import ClipLoss\n\n"
        "        return ClipLoss()(features, batch, gather=gather)\n"
    )
    (folder / FILE).write_text(
        '[register.objectives]\nmy_loss = ".parts:MyLoss"\n[register.clippers]\nmy_clipper = ".parts:MyClipper"\n'
    )
    info = folder.parent / "my_clip-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-clip\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nmy_clip = my_clip\n")
    said = run(
        "import sys\nfrom pathlib import Path\n"
        "from tether.losses import OBJECTIVES\n"
        "from tether.training import RunConfig, train\n"
        "assert list(OBJECTIVES)[-1] == 'my_loss' and 'my_clip.parts' not in sys.modules\n"
        "settings = dict(steps=2, batch_size=8, objective={'name': 'my_loss', 'power': 3.0}, clipper='my_clipper',\n"
        "    size='tiny', data='digits')\n"
        f"found = train(RunConfig(**settings), folder=Path({str(tmp_path / 'run')!r}))\n"
        "print(type(found).__name__, 'my_clip.parts' in sys.modules)\n",
        PYTHONPATH=os.pathsep.join([str(folder.parent), *filter(None, [os.environ.get("PYTHONPATH")])]),
    )
    assert said.split()[-1] == "True"
