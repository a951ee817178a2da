"""Settings and names of places as a page for everyone may have them: no folders of this machine, no credentials."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

_SECRET = re.compile(
    r"(?:^|[_-])(?:api[_-]?key|access[_-]?key|key|token|secret|password|passwd|pwd|credentials?|auth|authorization|"
    r"storage_options|headers|cookies?)(?:$|[_-])",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"[a-zA-Z][\w+.-]*://\S+")
_LOCAL = re.compile(r"(?:~[^/\\,=:]*|[a-zA-Z]:|\.\.)?[/\\][^,=:\]\n]*")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")
HIDDEN = "(left out)"


def place(text: str) -> str:
    """A name, path or address without what belongs to a machine or a person.

    Of a path from a root, of a home folder or above the working directory the last part stays; of an address neither
    user, query nor fragment.

    Examples:
        >>> place("/home/ann/photos/train.csv"), place("photos/train.csv"), place("https://ann:pw@x.org/a.tar?sig=1")
        ('train.csv', 'photos/train.csv', 'https://x.org/a.tar')
    """
    text = _TOKEN.sub(HIDDEN, text)
    pieces, end = [], 0
    for found in _ADDRESS.finditer(text):
        pieces += [_paths(text[end : found.start()]), _address(found[0])]
        end = found.end()
    return "".join([*pieces, _paths(text[end:])])


def _address(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return HIDDEN
    if parts.scheme == "file":
        return parts.path.rstrip("/").rpartition("/")[2]
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2].partition(':')[0]}{port}{parts.path}"


def _paths(text: str) -> str:
    def last(found: re.Match[str]) -> str:
        if found[0][0] in "/\\" and re.search(r"[^\s,=:(\[]$", text[: found.start()]):  # inside a relative path
            return found[0]
        return re.split(r"[/\\]", found[0].rstrip("/\\"))[-1]

    return _LOCAL.sub(last, text)


def settings(value: Any) -> Any:
    """Plain settings likewise: what is empty is left out, and so is what a key says to be secret."""
    if isinstance(value, Mapping):
        found = {}
        for key, one in value.items():
            if _SECRET.search(str(key)):
                found[key] = HIDDEN
            elif (inner := settings(one)) not in (None, "", [], {}):
                found[key] = inner
        return found
    if isinstance(value, list | tuple):
        return [settings(one) for one in value]
    return place(value) if isinstance(value, str) else value
