"""The Hugging Face hub through its own client: checks, one commit, a tag after it; no message holds the token."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tether.core.errors import InputError, MissingExtraError, reason_of
from tether.core.printable import quoted
from tether.models.convert.open_clip import CONFIG_FILE as OPEN_CLIP_CONFIG
from tether.models.convert.open_clip import WEIGHTS_FILES
from tether.models.convert.tokenizer_folder import COPIED

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_NAME = re.compile(r"[A-Za-z0-9](?:[\w+-]|\.(?!\.))*(?:/[A-Za-z0-9](?:[\w+-]|\.(?!\.))*)*")
MAIN = "main"
_OURS = {
    OPEN_CLIP_CONFIG, *WEIGHTS_FILES, *COPIED, *(f"tokenizer/{name}" for name in COPIED), "model.json", "config.json",
    "preprocessor_config.json", "model.safetensors.index.json", "parity.json",
}  # fmt: skip
"""Files that a push writes, of which those of an earlier push must not stay beside those of a new one."""


@dataclass(frozen=True, slots=True)
class PushTarget:
    """Where a push goes.

    Attributes:
        repo: ``OWNER/NAME``.
        branch: that the commit goes to.
        tag: of the commit; may be empty.
        create: make the repository if it is not there.
        private: make it for its owner alone.
    """

    repo: str
    branch: str = MAIN
    tag: str = ""
    create: bool = False
    private: bool = False


@dataclass(frozen=True, slots=True)
class OnHub:
    """What is on the hub before a push.

    Attributes:
        exists: whether the repository is there.
        head: of the branch; None for one that is not there.
        main: the newest commit of ``main``; None for an empty repository.
        files: on the branch.
    """

    exists: bool
    head: str | None = None
    main: str | None = None
    files: frozenset[str] = frozenset()


def check_target(target: PushTarget) -> None:
    """Refuse what the hub could not take, before anything is read.

    Raises:
        InputError: no ``OWNER/NAME``, a tag or branch that git does not allow, ``private`` without ``create``.
    """
    if not _REPO.fullmatch(target.repo) or ".." in target.repo or "--" in target.repo or target.repo.endswith(".git"):
        raise InputError(f"REPO_ID: expected OWNER/NAME, such as ann/birds, got {quoted(target.repo)}")
    for option, name in (("--tag", target.tag), ("--revision", target.branch)):
        odd = name.startswith("refs/") or name.endswith((".lock", ".")) or len(name) > 200
        if name and (odd or not _NAME.fullmatch(name)):
            raise InputError(f"{option}: expected letters, digits, -, _ and dots, such as v1, got {quoted(name)}")
    if target.private and not target.create:
        raise InputError("--private: is for a new repository, which --create makes")


class HubRepository:
    """One repository on the hub, with the token of the environment or of ``hf auth login``.

    The token is never an argument: what is typed is kept by shells.
    """

    def __init__(self, target: PushTarget) -> None:
        """Args: target: checked by ``check_target``."""
        try:
            import huggingface_hub
            from huggingface_hub import HfApi, constants
        except ImportError:
            raise MissingExtraError("huggingface_hub", extra="hf") from None
        self._target, self._api = target, HfApi()
        self.endpoint = constants.ENDPOINT
        self._token = ""
        with self._said("its token"):
            self._token = (huggingface_hub.get_token() or "").strip()
        if constants.HF_HUB_OFFLINE:
            raise InputError(
                "the hub is not asked, as HF_HUB_OFFLINE is set; unset it, or write the folder alone: "
                "--dry-run --out FOLDER"
            )
        if not (self._token.isascii() and self._token.isprintable()):
            raise InputError(
                "the token for the hub (HF_TOKEN or that of hf auth login) has characters that no token has"
            )
        if not self._token:
            raise InputError(
                "no token for the hub; log in with: hf auth login, or set HF_TOKEN, to one that may write; "
                "--dry-run --out FOLDER needs none"
            )

    def look(self) -> OnHub:
        """Read what is there, and refuse a version that exists.

        Raises:
            InputError: no such repository (without ``create``), a tag that exists, a branch with commits of its own, a
                public repository where a private one was asked for, a token that the hub does not take, or no answer.
        """
        target = self._target
        try:
            with self._said("the repository", absent=True):
                info = self._api.model_info(target.repo, token=self._token)
        except _AbsentError:
            if target.create:
                return OnHub(False)
            raise InputError(
                f"{target.repo}: no such repository on {self.endpoint}, or not one that your token sees; "
                "--create makes it (with --private for its owner alone)"
            ) from None
        if target.private and not getattr(info, "private", False):
            raise InputError(f"{target.repo}: is there already and is public; --private is for a new one")
        with self._said("its versions"):
            refs = self._api.list_repo_refs(target.repo, token=self._token)
        if target.tag and any(one.name == target.tag for one in refs.tags):
            raise InputError(
                f"{target.repo}: the version {target.tag} exists already, and is not replaced; give another --tag"
            )
        heads = {one.name: one.target_commit for one in refs.branches}
        main, head = heads.get(MAIN), heads.get(target.branch)
        if target.branch != MAIN and head is not None and head != main:
            raise InputError(
                f"{target.repo}: the revision {target.branch} exists already, with commits of its own, and is not "
                "replaced; give another --revision"
            )
        files = frozenset(one.rfilename for one in getattr(info, "siblings", None) or ())
        return OnHub(True, head, main, files)

    def push(self, folder: Path, seen: OnHub, *, message: str) -> tuple[str, str]:
        """Make the repository and the branch where they are missing, put the whole folder there in one commit, tag it.

        Nobody sees a part of it: large files are uploaded first, under their digests, and appear with the commit.
        After a failure the same call goes on; what is on the hub by then is not uploaded again.

        Args:
            folder: what to publish.
            seen: what ``look`` gave.
            message: first line of the commit.

        Returns:
            Address of the commit, and its digest.

        Raises:
            InputError: the hub refuses, or does not answer; it says what stands.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        target, head = self._target, seen.head
        if not seen.exists:
            with self._said("making the repository"):
                self._api.create_repo(target.repo, private=target.private, exist_ok=True, token=self._token)
        if head is None and target.branch != MAIN:
            with self._said("making the revision"):
                self._api.create_branch(target.repo, branch=target.branch, exist_ok=True, token=self._token)
            head = seen.main
        names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
        stale = sorted((seen.files & _OURS) - set(names))
        operations: list[Any] = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in names]
        operations += [CommitOperationDelete(path_in_repo=name) for name in stale]
        safe = "nothing changed there, and what was uploaded is kept for the next try: run the same command again"
        with self._said("the upload", safe=safe), _still():
            commit = self._api.create_commit(
                target.repo,
                operations=operations,
                commit_message=message,
                revision=target.branch,
                parent_commit=head,
                token=self._token,
            )
        if target.tag:
            again = "run the same command again" if target.branch == MAIN else f"set it there, on {target.branch}"
            safe = f"the commit {commit.oid[:12]} stands without its tag: {again}"
            with self._said(f"the tag {target.tag}", safe=safe):
                self._api.create_tag(target.repo, tag=target.tag, revision=commit.oid, token=self._token)
        return str(commit.commit_url), str(commit.oid)

    @contextlib.contextmanager
    def _said(self, what: str, *, safe: str = "nothing changed there", absent: bool = False) -> Iterator[None]:
        """Whatever goes wrong on the way is one message, without the token and without what led to it.

        Args:
            what: is asked for.
            safe: what stands.
            absent: a repository that is not there is an ``_AbsentError``.
        """
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            response = getattr(error, "response", None)
            status = getattr(response, "status_code", None)
            code = "" if response is None else str(response.headers.get("X-Error-Code", ""))
            said = "" if response is None else str(response.headers.get("X-Error-Message", ""))
            kind, reason = type(error).__name__, self._clean(reason_of(error))
            told = self._clean(said)
            wrong = "credentials" in said.lower() or "token" in said.lower()
            if absent and (status == 404 or code == "RepoNotFound" or (status == 401 and not wrong)):
                raise _AbsentError from None
            message = self._message(status, kind, told or reason)
            raise InputError(f"{self._target.repo}: {what}: {message}; {safe}") from None

    def _message(self, status: int | None, kind: str, reason: str) -> str:
        """What went wrong, in words."""
        if status == 401:
            return (
                f"{self.endpoint} does not take your token (401); make a new one that may write, then hf auth login or "
                "HF_TOKEN"
            )
        if status == 403:
            owner = self._target.repo.partition("/")[0]
            return f"your token may not do this (403): it must be allowed to write to {owner}; {reason}"
        if status in (409, 412):
            return f"somebody else changed the repository meanwhile ({status}); {reason}"
        if status is not None:
            return f"{self.endpoint} answers {status}: {reason}"
        return f"{self.endpoint} cannot be reached or failed in between: {kind}: {reason}"

    def _clean(self, text: str) -> str:
        """Without the token, wherever it came from."""
        text = text.replace(self._token, "(token)") if self._token else text
        return re.sub(r"hf_[A-Za-z0-9]{4,}|(?i:bearer)\s+\S+", "(token)", text)[:400]


class _AbsentError(Exception):
    """The repository is not there."""


@contextlib.contextmanager
def _still() -> Iterator[None]:
    """The hub's client draws bars and warns of what is meant; a verb says what it did in a line."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging

    hidden, level = are_progress_bars_disabled(), logging.get_verbosity()
    if not hidden:
        disable_progress_bars()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if not hidden:
            enable_progress_bars()
