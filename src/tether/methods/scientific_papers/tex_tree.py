"""LaTeX as a tree, read tolerantly and in one pass: commands with their arguments, environments, groups, mathematics.

The tree is the one that TexSoup (c91a14a, tolerance 1) makes, whose choices decide what the paper's extraction finds:
groups that follow a command are its arguments, an environment that is not closed ends where its parent does,
mathematics that is not closed spoils the file. TexSoup itself reads each level of nesting twice, so that thirty nested
environments, or a paper of a megabyte, take it hours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from tether.core.errors import InputError

DEEPEST = 80
"""Levels of nesting beyond which a file is not read; papers stay below thirty, and TexSoup gives up near 300."""
VERBATIM = frozenset({"lstlisting", "verbatim", "verbatimtab", "Verbatim", "listing"})
_STARRED = ("align", "eqnarray", "equation", "flalign", "gather", "multline")
MATHEMATICS = frozenset(
    (*_STARRED, *(f"{name}*" for name in _STARRED), "alignat", "array", "displaymath", "math", "split")
)
LISTS = frozenset({"itemize", "enumerate"})
UNREAD = VERBATIM | MATHEMATICS | LISTS
"""Environments whose contents are not looked into, unless they stand inside an argument."""

_ARGUMENTS = {"def": (2, 0), "section": (1, 1), "textbf": (1, 0), "label": (1, 0)}
_ARGUMENTS |= dict.fromkeys(("cap", "cup", "in", "notin", "infty", "noindent"), (0, 0))
_ANY = -1, -1
_CLOSING = {"{": "}", "[": "]", "$": "$", "$$": "$$", "\\[": "\\]", "\\(": "\\)"}
_END_TOKENS = 4  # \end { name }
_BRACKETS = r"[()<>\[\]{}|.]|\\[{}]|\\(?:[lr](?:angle|floor|ceil|brack)|u[lr]corner)"
_TOKEN = re.compile(
    rf"""
      (?P<comment>%[^\n\r]*)
    | (?P<switch>\$\$?|\\[\[\]()])
    | (?P<text>\\[^A-Za-z]
        | (?=[ \t\n\r])(?P<space>(?>[ \t]*[\n\r]?[ \t]*)(?=[\\{{}}$&\n\r\#^_~%\[\]()]|\Z))
        | [^\\{{}}$\[\]%]+)
    | \\(?P<command>(?:left|right|[bB]igg?)(?:{_BRACKETS})|[A-Za-z][A-Za-z*]*)
    | (?P<mark>[{{}}\[\]])
    """,
    re.VERBOSE,
)


@dataclass(slots=True)
class Node:
    r"""A command, an environment, a group or a piece of mathematics.

    Attributes:
        name: of the command or environment; of the others what opens them (``{``, ``[``, ``$``, ``\[``...).
        kind: ``command``, ``environment`` or ``group``.
        args: groups that follow it, in order.
        inside: what stands between its beginning and its end.
    """

    name: str
    kind: str
    args: list[Node] = field(default_factory=list)
    inside: list[Node | str] = field(default_factory=list)

    def contents(self) -> Iterator[Node | str]:
        """What its arguments hold, then what it holds; blanks are left out."""
        for group in (*self.args, self):
            for item in group.inside:
                if isinstance(item, Node) or not item.isspace():
                    yield item

    def descendants(self) -> Iterator[tuple[Node, Node]]:
        """(parent, node) of all nodes below: its own first, then those below each of them in turn."""
        waiting: list[Node] = [self]
        while waiting:
            parent = waiting.pop()
            below = [item for item in parent.contents() if isinstance(item, Node)]
            yield from ((parent, node) for node in below)
            waiting.extend(reversed(below))

    def texts(self) -> Iterator[str]:
        """The pieces of text below, in order."""
        for item in self.contents():
            if isinstance(item, Node):
                yield from item.texts()
            else:
                yield item

    def inner(self) -> str:
        """LaTeX of what it holds."""
        return "".join(item if isinstance(item, str) else item.source() for item in self.inside)

    def source(self) -> str:
        """The node as LaTeX; blanks between a command and its arguments are gone, and what was open is closed."""
        args = "".join(arg.source() for arg in self.args)
        if self.kind == "command":
            return f"\\{self.name}{args}{self.inner()}"
        if self.kind == "environment":
            return f"\\begin{{{self.name}}}{args}{self.inner()}\\end{{{self.name}}}"
        return f"{self.name}{self.inner()}{_CLOSING[self.name]}"


def read_tex(source: str) -> Node:
    r"""The tree of a file; its root holds all."""
    return _Reader(source).whole()


class _Reader:
    def __init__(self, source: str) -> None:
        self.tokens = list(_tokens(source.replace("\x00", "").replace("\x7f", "")))
        self.at = 0
        self.depth = 0

    def whole(self) -> Node:
        root = Node("", "root")
        while self.at < len(self.tokens):
            root.inside.append(self.item(unread=UNREAD, tolerant=True))
        return root

    def item(self, *, unread: frozenset[str] = frozenset(), tolerant: bool, maths: bool = False) -> Node | str:
        """The next piece of text, group, command or environment."""
        kind, value = self.tokens[self.at]
        self.at += 1
        if kind not in ("switch", "command") and value != "{":
            return value
        self.depth += 1
        if self.depth > DEEPEST:
            raise InputError(f"LaTeX nested more than {DEEPEST} levels deep")
        try:
            if kind == "command":
                return self.command(value, unread=unread, tolerant=tolerant, maths=maths)
            if value in ("\\]", "\\)"):
                return value
            return self.mathematics(value, tolerant=tolerant) if kind == "switch" else self.group("{", tolerant)
        finally:
            self.depth -= 1

    def command(self, name: str, *, unread: frozenset[str], tolerant: bool, maths: bool) -> Node:
        node = Node(name, "command", self.arguments(name, tolerant=tolerant, maths=maths))
        if name == "item":
            if maths:
                raise InputError("\\item inside mathematics")
            self.entry(node)
        elif name == "begin":
            if not node.args:
                raise InputError("\\begin without a name")
            node = Node(node.args[0].inner().strip(), "environment", node.args[1:])
            if node.name in unread:
                self.unread(node)
            else:
                self.environment(node, unread=unread, tolerant=tolerant, maths=maths or node.name in MATHEMATICS)
        return node

    def environment(self, node: Node, *, unread: frozenset[str], tolerant: bool, maths: bool) -> None:
        while (token := self.peek()) is not None and token != ("command", "end"):
            node.inside.append(self.item(unread=unread, tolerant=tolerant, maths=maths))
        if token is not None and self.ending() == node.name:
            self.at = min(self.at + _END_TOKENS, len(self.tokens))
        elif not tolerant:
            raise InputError(f"the environment {node.name!r} is not closed")

    def unread(self, node: Node) -> None:
        pieces: list[str] = []
        wanted = [("command", "end"), ("mark", "{"), ("text", node.name), ("mark", "}")]
        while self.at < len(self.tokens):
            if self.tokens[self.at] == wanted[0] and self.tokens[self.at : self.at + _END_TOKENS] == wanted:
                self.at += _END_TOKENS
                node.inside.append("".join(pieces))
                return
            kind, value = self.tokens[self.at]
            pieces.append(f"\\{value}" if kind == "command" else value)
            self.at += 1
        raise InputError(f"the environment {node.name!r} is not closed")

    def entry(self, node: Node) -> None:
        r"""What belongs to an ``\item``."""
        while (token := self.peek()) is not None and token != ("mark", "}"):
            if token in (("command", "end"), ("command", "item")):
                return
            node.inside.append(self.item(tolerant=False))

    def mathematics(self, opening: str, *, tolerant: bool) -> Node:
        node = Node(opening, "group")
        while (token := self.peek()) is not None:
            if token == ("switch", _CLOSING[opening]):
                self.at += 1
                return node
            node.inside.append(self.item(tolerant=tolerant, maths=True))
        raise InputError(f"mathematics that {opening} opens is not closed")

    def group(self, opening: str, tolerant: bool, maths: bool = False) -> Node:
        node = Node(opening, "group")
        while (token := self.peek()) is not None:
            if token == ("mark", _CLOSING[opening]):
                self.at += 1
                return node
            node.inside.append(self.item(tolerant=tolerant, maths=maths))
        if not tolerant:
            raise InputError(f"a group that {opening} opens is not closed")
        return node

    def arguments(self, name: str, *, tolerant: bool, maths: bool) -> list[Node]:
        """``[...]`` as many as there are, ``{...}`` as many as there are, and both once more if they follow at once."""
        required, optional = _ARGUMENTS.get(name, _ANY)
        found: list[Node] = []
        if required == optional == 0:
            return found
        for first in (True, False):
            if first or self.peek() == ("mark", "["):
                optional = self.groups(found, "[", optional, tolerant=tolerant, maths=maths)
            if first or self.peek() == ("mark", "{"):
                required = self.groups(found, "{", required, tolerant=tolerant, maths=maths)
        return found

    def groups(self, found: list[Node], opening: str, most: int, *, tolerant: bool, maths: bool) -> int:
        """Add groups to ``found``; how many more there may be (negative: any number)."""
        while most:
            start = self.at
            if self.peek_kind() == "space":
                self.at += 1
            token = self.peek()
            if token == ("mark", opening):
                self.at += 1
                found.append(self.group(opening, tolerant, maths))
            elif opening == "{" and most > 0 and token is not None:  # a command or piece of text in place of a group
                self.at += 1
                found.append(
                    Node(token[1], "command") if token[0] == "command" else Node("{", "group", inside=[token[1]])
                )
            else:
                self.at = start
                break
            most -= 1
        return most

    def ending(self) -> str | None:
        r"""The name in the ``\end`` that comes next."""
        at = self.at + 1
        if at < len(self.tokens) and self.tokens[at][0] == "space":
            at += 1
        match self.tokens[at : at + 3]:
            case [("mark", "{" | "["), (_, name), ("mark", "}" | "]")]:
                return name
        return None

    def peek(self) -> tuple[str, str] | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def peek_kind(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""


def _tokens(source: str) -> Iterator[tuple[str, str]]:
    end = 0
    for match in _TOKEN.finditer(source):
        end = match.end()
        kind = "space" if match["space"] else match.lastgroup or ""
        yield kind, match[kind]
    if end < len(source):
        raise InputError("a backslash at the very end")
