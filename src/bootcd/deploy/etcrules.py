# SPDX-License-Identifier: Apache-2.0
"""Rules for the merge of /etc, one for each path that needs one: bootcd-etc(7).

    [[rule]]
    paths = ["/etc/ssl", "/etc/*.d/**/local-*"]
    merge = "take-image"
    why = "generated from the image's certificates"

A pattern stands for what it matches and for everything below that. `*` is any number of bytes without '/', `?` one of
them, `**` any bytes at all, `**/` any number of directories, a backslash takes the next character as it is. Of the
rules that match a path the last one decides; those of the machine come after those of the image. Pure: bytes in, rules
out.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from ..errors import ConfigError
from ..formats.pathmatch import Matcher, State, TooMuchWork
from ..formats.pathregex import RegexError
from ..formats.tree import Directory, Inode, RegularFile

IMAGE_DIRECTORY = b"usr/lib/bootcd/etc-rules.d"
"""Where an image has its rules, from its root."""
MACHINE_DIRECTORY = b"bootcd/etc-rules.d"
"""Where a machine has its rules, from its /etc."""
_ADVICE = "bootcd-etc(7) says how rules are written."
_MAX_SIZE = 1 << 20
_KEYS = {"paths", "merge", "why"}
_SPECIAL = frozenset(b".^$*+?()[]{}|\\")


class Policy(StrEnum):
    """What becomes of a path that was changed both here and in the image."""

    KEEP_LOCAL = "keep-local"
    TAKE_IMAGE = "take-image"
    BOTH = "both"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Rule:
    """`source` is the file that it stands in; `machine` whether that is one of the machine."""

    pattern: str
    policy: Policy
    why: str
    source: str
    machine: bool

    def __str__(self) -> str:
        return f"{self.source}: {self.pattern}"


class Rules:
    """All rules for one merge, in the order in which they were read. Raises ConfigError for a pattern that is none."""

    def __init__(self, rules: Iterable[Rule] = (), warnings: Iterable[str] = ()) -> None:
        self.rules = tuple(rules)
        self.warnings = tuple(warnings)
        """What was passed over, and why."""
        self._matcher = Matcher()
        for number, rule in enumerate(self.rules, 1):
            try:
                self._matcher.add(expression_of(rule.pattern), number)  # a kind of its own: all that match are told
            except (RegexError, ValueError) as error:
                raise ConfigError(f"{rule.source}: the pattern '{rule.pattern}' {error}", advice=_ADVICE) from error

    def matching(self, path: bytes) -> tuple[Rule, ...]:
        """The rules for a path relative to /etc; the first of them decides. Raises ConfigError when the patterns
        together are too much work."""
        if not self.rules:
            return ()
        try:
            state = self._matcher.feed(self._start, b"/" + path if path else b"")
        except TooMuchWork as error:
            raise ConfigError("the rules for /etc together need too much time", advice=_ADVICE) from error
        return tuple(self.rules[number] for number in state.matches)

    def deciding(self, path: bytes) -> Rule | None:
        """The rule that decides about a path, if any does."""
        return next(iter(self.matching(path)), None)

    @cached_property
    def _start(self) -> State:
        return self._matcher.feed(self._matcher.start(), b"/etc")


def expression_of(pattern: str) -> str:
    """The regular expression of a pattern. Raises ValueError, whose message is a predicate."""
    if pattern != "/etc" and not pattern.startswith("/etc/"):
        raise ValueError("does not begin with '/etc/'")
    if any(part in (".", "..") for part in pattern.split("/")) or "//" in pattern or "\0" in pattern:
        raise ValueError("is no path that could exist")
    raw = pattern.rstrip("/").encode("utf-8", "surrogateescape")
    found, at = "", 0
    while at < len(raw):
        rest = raw[at:]
        if rest.startswith(b"**/") and raw[at - 1:at] == b"/":
            found, at = found + "(?:.*/)?", at + 3
        elif rest.startswith(b"**"):
            found, at = found + ".*", at + 2
        elif rest.startswith(b"*"):
            found, at = found + "[^/]*", at + 1
        elif rest.startswith(b"?"):
            found, at = found + "[^/]", at + 1
        elif rest.startswith(b"["):
            raise ValueError("has a '[', which is kept for later; a backslash before it takes it as it is")
        else:
            at += rest.startswith(b"\\")
            if at == len(raw):
                raise ValueError("ends with a backslash")
            found, at = found + _literal(raw[at]), at + 1
    return found + "(?:/.*)?"


def _literal(byte: int) -> str:
    return chr(byte) if 32 < byte < 127 and byte not in _SPECIAL else f"\\x{byte:02x}"


def parse_rules(text: bytes, source: str, *, machine: bool) -> tuple[list[Rule], list[str]]:
    """The rules of one file, and warnings. Raises ConfigError.

    A rule with a key that is not known is passed over, since it may mean less than it seems to: a file that was written
    for another version shall not keep a machine from its updates.
    """
    try:
        document = tomllib.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: {error}", advice=_ADVICE) from error
    warnings = [f"{source}: unknown key '{key}' is ignored" for key in document if key != "rule"]
    tables = document.get("rule", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(f"{source}: rules are written as [[rule]]", advice=_ADVICE)
    rules: list[Rule] = []
    for number, table in enumerate(tables, 1):
        where = f"{source}: rule {number}"
        unknown = sorted(table.keys() - _KEYS)
        if unknown:
            warnings.append(f"{where} is passed over: it has the unknown key '{unknown[0]}'")
            continue
        paths, merge, why = table.get("paths"), table.get("merge"), table.get("why", "")
        if not isinstance(paths, list) or not paths or not all(isinstance(path, str) for path in paths):
            raise ConfigError(f"{where}: paths: expected a list of strings", advice=_ADVICE)
        if merge not in list(Policy):
            raise ConfigError(f"{where}: merge: expected one of {', '.join(Policy)}", advice=_ADVICE)
        if not isinstance(why, str):
            raise ConfigError(f"{where}: why: expected a string", advice=_ADVICE)
        rules += [Rule(path, Policy(merge), why, source, machine) for path in paths]
    return rules, warnings


def read_rules(image: Inode | None, image_content: Callable[[RegularFile], bytes],
               machine: Inode | None, machine_content: Callable[[RegularFile], bytes]) -> Rules:
    """The rules in what should be directories of an image and of a machine, by the functions that read their files.

    Raises ConfigError, and what the functions raise.
    """
    rules: list[Rule] = []
    warnings: list[str] = []
    for directory, place, content, ours in (
        (image, f"/{IMAGE_DIRECTORY.decode()}", image_content, False),
        (machine, f"/etc/{MACHINE_DIRECTORY.decode()}", machine_content, True),
    ):
        if directory is None:
            continue
        if not isinstance(directory, Directory):
            warnings.append(f"{place} is no directory and is passed over")
            continue
        for name, node in directory.sorted_entries():
            if not name.endswith(b".toml"):
                continue
            source = f"{place}/{name.decode('utf-8', 'surrogateescape')}" + ("" if ours else " of the image")
            if not isinstance(node, RegularFile):
                warnings.append(f"{source} is no regular file and is passed over")
                continue
            if node.size > _MAX_SIZE:
                raise ConfigError(f"{source}: larger than {_MAX_SIZE} bytes", advice=_ADVICE)
            more, about = parse_rules(node.inline if node.inline is not None else content(node), source, machine=ours)
            rules += more
            warnings += about
    return Rules(rules, warnings)
