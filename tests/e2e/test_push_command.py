"""``tether push`` against a hub on this machine, through huggingface_hub: what is there then, and what is said."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import tether
from fake_hub import READ, WRITE, WRONG, FakeHub, Repo
from tether.models import create

constants = pytest.importorskip("huggingface_hub.constants")
REPO = "ann/birds"
SECRETS = (WRITE, READ, WRONG)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    return tether.save(create(size="tiny"), tmp_path_factory.mktemp("model") / "birds")


@pytest.fixture(scope="module")
def composed(saved, tmp_path_factory):
    """A model that no peer holds, so that a push is quick."""
    from tether.models.compose import compose

    made = compose(image=str(saved), text=str(saved), dim=8)
    return tether.save(made, tmp_path_factory.mktemp("composed") / "joined")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with FakeHub() as one:
        monkeypatch.setattr(constants, "ENDPOINT", one.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", WRITE)
        for name in ("HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
            monkeypatch.delenv(name, raising=False)
        yield one


@pytest.fixture
def push(call, composed):
    def run(*arguments, code=0, model=composed):
        said = call("push", model, REPO, "--license", "apache-2.0", *arguments, code=code)
        assert not any(secret in said.out + said.err for secret in SECRETS)
        return said

    return run


def test_a_push_is_one_commit_that_holds_the_folder(call, hub, saved, tmp_path):
    said = call("push", saved, REPO, "--license", "mit", "--create", "--tag", "v1", "--out", tmp_path / "kept")
    repo = hub.repos[REPO]
    files = repo.files()
    assert [message for _, message in repo.commits.values()] == ["initial commit", "birds v1, by Tether"]
    assert repo.tags == {"v1": repo.branches["main"]}
    assert not repo.private
    assert f"pushed to {hub.url}/{REPO}/commit/{repo.branches['main']}, tag v1" in said.out
    for path in (tmp_path / "kept").iterdir():
        assert files[path.name] == path.read_bytes()
    assert {"README.md", "config.json", "open_clip_config.json", "model.safetensors"} <= files.keys()
    assert hub.seen["upload"] == 2  # the weights by two names


def test_what_was_pushed_is_loaded_from_there(hub, push, saved, composed, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    for model in (saved, composed):
        push("--create", model=model)
        ours, theirs = (tether.load(name).embed("a red apple") for name in (model, f"hf:{REPO}"))
        assert (ours - theirs).abs().max() < 1e-6


def test_files_of_an_earlier_push_do_not_stay_beside_new_ones(hub, push, saved):
    push("--create", model=saved)
    hub.repos[REPO].files()["notes.txt"] = b"mine"
    push()
    files = hub.repos[REPO].files()
    assert "model.json" in files
    assert not {"config.json", "open_clip_config.json", "open_clip_model.safetensors"} & files.keys()
    assert files["notes.txt"] == b"mine"


def test_private_is_for_new_repositories(hub, push):
    push("--create", "--private")
    assert hub.repos[REPO].private
    hub.repos[REPO].private = False
    assert "is there already and is public" in push("--create", "--private", code=2).err
    assert "--private: is for a new repository, which --create makes" in push("--private", code=2).err


def test_a_repository_is_made_only_if_asked(hub, push):
    assert f"{REPO}: no such repository on {hub.url}" in (said := push(code=2).err)
    assert "--create makes it" in said
    assert hub.repos == {}


def test_a_version_that_exists_is_refused_before_anything_is_sent(hub, push, call, composed):
    push("--create", "--tag", "v1")
    before = dict(hub.repos[REPO].commits)
    assert "the version v1 exists already" in push("--tag", "v1", code=2).err
    call("push", composed, REPO, "--license", "mit", "--revision", "wide")
    assert "the revision wide exists already" in push("--revision", "wide", code=2).err
    assert hub.repos[REPO].branches["main"] == list(before)[-1]


def test_a_tag_that_somebody_sets_meanwhile_is_refused_by_the_hub(hub, push):
    hub.repos[REPO] = Repo()
    hub.failing["tag"] = 409
    assert "stands without its tag: run the same command again" in push("--tag", "v1", code=2).err
    del hub.failing["tag"]
    commits = len(hub.repos[REPO].commits)
    push("--tag", "v1")
    assert len(hub.repos[REPO].commits) == commits  # the same files make no new one
    assert hub.repos[REPO].tags == {"v1": hub.repos[REPO].branches["main"]}


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (WRONG, "does not take your token (401)"),
        (READ, "your token may not do this (403): it must be allowed to write to ann"),
        ("hf_b\u00e4d", "has characters that no token has"),
        ("", "no token for the hub; log in with: hf auth login, or set HF_TOKEN"),
    ],
    ids=["wrong", "reads only", "no letters", "none"],
)
def test_a_token_is_never_printed(hub, push, monkeypatch, token, message):
    hub.repos[REPO] = Repo()
    before = len(hub.repos[REPO].commits)
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("TETHER_TRACEBACK", "1")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tether.cli._fail", _shown(hub))
        said = push(code=2).err
    assert message in said
    assert "hf_b" not in said
    assert len(hub.repos[REPO].commits) == before


def _shown(hub):
    """``cli._fail`` with the whole traceback, under a name that the fixture ``call`` does not refuse."""
    import traceback

    from tether.cli import BAD_INPUT, _say

    def fail(error, message):
        whole = "".join(traceback.format_exception(error)).replace("Traceback", "Trace")
        assert "httpx" not in whole
        return _say(f"{whole}\n{message}", code=BAD_INPUT)

    return fail


def test_after_an_error_of_the_server_the_same_command_goes_on(hub, push):
    hub.repos[REPO] = Repo()
    hub.failing["commit"] = 500
    said = push(code=2).err
    assert "answers 500: failed for (token)" in said
    assert "run the same command again" in said
    assert list(hub.repos[REPO].files()) == [".gitattributes"]  # nobody sees a part of it
    assert (hub.seen["upload"], len(hub.lfs)) == (1, 1)
    del hub.failing["commit"]
    push()
    assert hub.seen["upload"] == 1  # not sent again
    assert {"README.md", "model.json", "model.safetensors"} <= hub.repos[REPO].files().keys()


def test_a_commit_of_somebody_else_meanwhile_is_not_overwritten(hub, push, monkeypatch):
    hub.repos[REPO] = Repo()
    answer = FakeHub._preupload

    def meanwhile(self, body, headers, name, revision):
        self.repos[name].commit("main", {"theirs.txt": b""}, "theirs")
        return answer(self, body, headers, name, revision)

    monkeypatch.setattr(FakeHub, "_preupload", meanwhile)
    assert "somebody else changed the repository meanwhile (412)" in push(code=2).err
    assert list(hub.repos[REPO].files()) == ["theirs.txt"]


def test_without_a_network_it_is_said(hub, push, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "the hub is not asked, as HF_HUB_OFFLINE is set" in push(code=2).err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    said = push(code=2).err
    assert "http://127.0.0.1:9 cannot be reached" in said
    assert "nothing changed there" in said


def test_a_process_of_its_own_finds_the_hub_by_its_variable(hub, composed, tmp_path):
    hub.repos[REPO] = Repo()
    given = {"HF_ENDPOINT": hub.url, "HF_TOKEN": WRITE, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf")}
    kept = {key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")}
    command = [sys.executable, "-m", "tether", "push", str(composed), REPO, "--license", "mit"]
    ended = subprocess.run(command, env=kept | given, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert WRITE not in ended.stdout + ended.stderr
    assert "model.safetensors" in hub.repos[REPO].files()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(WRITE.encode() in path.read_bytes() for path in files)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a model card needs one, and none is guessed; give --license apache-2.0"),
        (["--license", "apache2"], "the hub knows no 'apache2'; near ones: apache-2.0"),
        (["--license", "other"], "--license-name: --license other needs it"),
        (["--license", "other", "--license-name", "x", "--license-link", "ftp://x"], "expected an https:// address"),
        (["--license", "mit", "--license-name", "x"], "is for --license other alone"),
        (["--license", "mit", "--tag", "v 1"], "--tag: expected letters, digits, -, _ and dots, such as v1, got 'v 1'"),
        (["--license", "mit", "--revision", "refs/pr/1"], "--revision: expected letters"),
        (["--license", "mit", "--base-model", "x"], "expected OWNER/NAME, such as ann/birds, got 'x'"),
        (["--license", "mit", "--dry-run"], "a dry run writes the folder that would be published; give --out FOLDER"),
        (["--license", "mit", "--results", "no.json"], "no.json: no such file"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_mistakes_of_a_push_are_one_message(call, hub, composed, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    hub.repos[REPO] = Repo()
    assert message in call("push", composed, REPO, *arguments, code=2).err
    assert len(hub.repos[REPO].commits) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_place_for_the_folder_is_never_written_over(call, composed, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    given = ["push", composed, "--dry-run", "--out", tmp_path, "--license", "mit"]
    assert "exists and is not an empty folder" in call(*given, code=2).err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert "OWNER/NAME" in call("push", composed, "birds", "--license", "mit", code=2).err
    assert "For example: tether push " in call("push", composed, "--license", "mit", code=2).err
    assert "For example: tether push " in call("push", code=2).err
