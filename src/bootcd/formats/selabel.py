# SPDX-License-Identifier: Apache-2.0
"""SELinux labels for a whole tree, from the policy that is in the tree.

`etc/selinux/config` names the policy; its rules are in `etc/selinux/<type>/contexts/files/`:

    file_contexts, file_contexts.local, file_contexts.homedirs    regex [-t] context
    file_contexts.subs, file_contexts.subs_dist                   alias path

The three files of rules are read as one, in this order, and the last rule that matches the path and the type of a file
wins. A path that is an alias is matched, with everything below it, as the path that it stands for; `subs_dist` wins
over `subs`. A context of `<<none>>`, or no rule at all, means no label. Without a policy no file has a label.

This is how composefs-rs labels a bootable image, which differs from libselinux in the order of rules and aliases.
Every label is a part of the digest of the image.

What a machine has of its own in /etc moves on with the policy: `move` is for that.
"""

from __future__ import annotations

import copy
import stat
from collections.abc import Callable, Iterator
from typing import Final

from bootcd.errors import PolicyError
from bootcd.formats.pathmatch import Matcher, State, TooMuchWork
from bootcd.formats.pathregex import RegexError
from bootcd.formats.tree import Directory, Inode, Leaf, RegularFile

XATTR: Final = b"security.selinux"
FILE_MAX: Final = 8 << 20
"""Largest policy file in bytes; those of Fedora have half a megabyte."""

_NO_LABEL: Final = "<<none>>"
_TYPES: Final[dict[str, int]] = {
    "-b": stat.S_IFBLK, "-c": stat.S_IFCHR, "-d": stat.S_IFDIR, "-p": stat.S_IFIFO, "-l": stat.S_IFLNK,
    "-s": stat.S_IFSOCK, "--": stat.S_IFREG,
}  # fmt: skip

ReadFile = Callable[[RegularFile], bytes]


def relabel(root: Directory, read_file: ReadFile) -> None:
    """Set or remove `security.selinux` on every inode of the tree as its own policy says.

    A hard-linked file whose names have different labels is split: each name that differs gets an inode of its own.
    `read_file` gives the content of a file of the tree.

    Raises PolicyError, which names file and line, if the policy is incomplete or malformed.
    """
    policy = _Policy.load(root, read_file)
    if policy is None:
        for _, inode in root.walk():
            inode.xattrs.pop(XATTR, None)
        return
    try:
        policy.label(root)
    except TooMuchWork:
        raise PolicyError(f"{policy.place}: the rules are too complex for the files of this tree") from None


def policy_type(root: Directory, read_file: ReadFile) -> str | None:
    """The type of the tree's policy, None if it has none. Raises PolicyError, as `relabel` does, when that cannot be
    understood."""
    policy = _Policy.load(root, read_file)
    return policy.place.split("/")[2] if policy is not None else None


def move(etc: Directory, before: Directory, read_file: ReadFile) -> None:
    """Give what has the label that the policy of one /etc has for its path the one that the policy of another has.

    `before` is the /etc whose policy counted until now; what was taken from there into `etc` moves on to the policy of
    that one. A label that somebody chose stays, and all do where one of the two has no policy. Raises PolicyError as
    `relabel` does.
    """
    if _files_of_policy(before) == _files_of_policy(etc):  # which saves reading them
        return
    tree = _below(etc)
    old, new = _Policy.load(_below(before), read_file), _Policy.load(tree, read_file)
    if old is None or new is None:
        return
    try:
        for (_, _, inode, was), (_, _, _, label) in zip(old.labels(tree), new.labels(tree), strict=True):
            if was != label and inode.xattrs.get(XATTR) == was:
                _set_label(inode, label)
    except TooMuchWork:
        raise PolicyError(f"{new.place}: the rules are too complex for the files of this tree") from None


def _below(etc: Directory) -> Directory:
    """A root with that /etc."""
    root = Directory(0o755)
    root.entries[b"etc"] = etc
    return root


def _files_of_policy(etc: Directory) -> dict[bytes, tuple[bytes | None, bytes | None]]:
    selinux = etc.directory(b"selinux")
    return {path: (node.digest, node.inline) for path, node in (selinux.walk() if selinux is not None else ())
            if isinstance(node, RegularFile) and (path == b"/config" or b"/contexts/files/" in path)}


class _Policy:
    def __init__(self, place: str) -> None:
        self.place = place
        self._matcher = Matcher()
        self._rules: list[tuple[int, bytes | None]] = []
        """Type, or 0 for any, and context of each rule."""
        self._aliases: dict[bytes, bytes] = {}

    @classmethod
    def load(cls, root: Directory, read_file: ReadFile) -> _Policy | None:
        """The policy of a tree, None if it has none."""
        selinux = root.directory(b"etc/selinux")
        if selinux is None or b"config" not in selinux.entries:
            return None
        name = _policy_type(_text(selinux, b"config", "etc/selinux/config", read_file))
        if name is None:
            return None
        place = f"etc/selinux/{name}/contexts/files"
        files = selinux.directory(f"{name}/contexts/files".encode()) if _is_name(name) else None
        if files is None:
            raise PolicyError(f"{place}: there is no such directory, but etc/selinux/config has SELINUXTYPE={name}")
        policy = cls(place)
        policy._read_rules(files, "file_contexts", read_file)
        for optional in ("file_contexts.local", "file_contexts.homedirs"):
            if optional.encode() in files.entries:
                policy._read_rules(files, optional, read_file)
        for optional in ("file_contexts.subs", "file_contexts.subs_dist"):
            if optional.encode() in files.entries:
                policy._read_aliases(files, optional, read_file)
        return policy

    def _read_rules(self, files: Directory, name: str, read_file: ReadFile) -> None:
        place = f"{self.place}/{name}"
        for number, fields in _lines(_text(files, name.encode(), place, read_file)):
            kind = 0
            if len(fields) == 3:
                if fields[1] not in _TYPES:
                    raise PolicyError(f"{place}:{number}: unknown file type {fields[1][:20]!r}")
                kind = _TYPES[fields[1]]
            elif len(fields) != 2:
                raise PolicyError(f"{place}:{number}: {len(fields)} fields where 2 or 3 are expected")
            try:
                self._matcher.add(fields[0], kind)
            except RegexError as error:
                raise PolicyError(f"{place}:{number}: the expression {fields[0][:80]!r} {error}") from None
            self._rules.append((kind, None if fields[-1] == _NO_LABEL else fields[-1].encode()))

    def _read_aliases(self, files: Directory, name: str, read_file: ReadFile) -> None:
        place = f"{self.place}/{name}"
        for number, fields in _lines(_text(files, name.encode(), place, read_file)):
            if len(fields) != 2:
                raise PolicyError(f"{place}:{number}: {len(fields)} fields where 2 are expected")
            self._aliases[fields[0].encode()] = fields[1].encode()

    def label(self, root: Directory) -> None:
        """Set the labels; a further name of a file with another label gets a file of its own."""
        first_labels: dict[int, bytes | None] = {}
        for directory, name, child, label in self.labels(root):
            if not isinstance(child, Directory) and first_labels.setdefault(id(child), label) != label:
                assert isinstance(child, Leaf)
                child = directory.entries[name] = _private_copy(child)
            _set_label(child, label)

    def labels(self, root: Directory) -> Iterator[tuple[Directory, bytes, Inode, bytes | None]]:
        """Each inode with the directory that it is in, its name there, and its label; the root is in itself."""
        feed = self._matcher.feed
        aliases = self._aliases
        start = self._matcher.start()
        slash = feed(start, b"/")
        yield root, b"", root, self._find(slash, stat.S_IFDIR)
        # Depth first in order of names, since the first name of a file decides whether further ones are split off.
        # Directories in progress: effective path with a slash at its end, state behind it, children to come.
        stack = [(b"/", slash, root, iter(root.sorted_entries()))]
        while stack:
            prefix, state, directory, children = stack[-1]
            for name, child in children:
                alias = aliases.get(prefix + name)
                here = feed(state, name) if alias is None else feed(start, alias)
                yield directory, name, child, self._find(here, child.file_type)
                if isinstance(child, Directory):
                    path = prefix + name if alias is None else alias
                    stack.append((path + b"/", feed(here, b"/"), child, iter(child.sorted_entries())))
                    break
            else:
                stack.pop()

    def _find(self, state: State, file_type: int) -> bytes | None:
        """The label for what has a path and a type."""
        for rule in state.matches:
            kind, context = self._rules[rule]
            if not kind or kind == file_type:
                return context
        return None


def _set_label(inode: Inode, label: bytes | None) -> None:
    if label is None:
        inode.xattrs.pop(XATTR, None)
    else:
        inode.xattrs[XATTR] = label


def _private_copy(leaf: Leaf) -> Leaf:
    clone = copy.copy(leaf)
    clone.xattrs = dict(leaf.xattrs)
    return clone


def _policy_type(config: str) -> str | None:
    """SELINUXTYPE of etc/selinux/config."""
    for line in config.split("\n"):
        key, equals, value = line.partition("=")
        if equals and key.strip().upper() == "SELINUXTYPE":
            return value.strip()
    return None


def _is_name(name: str) -> bool:
    return name not in ("", ".", "..") and "/" not in name


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """The fields of each line that is neither empty nor a comment, with its number."""
    for number, line in enumerate(text.split("\n"), 1):
        fields = line.split()
        if fields and not fields[0].startswith("#"):
            yield number, fields


def _text(directory: Directory, name: bytes, place: str, read_file: ReadFile) -> str:
    file = directory.entries.get(name)
    if not isinstance(file, RegularFile):
        raise PolicyError(f"{place}: there is no such regular file")
    if file.size > FILE_MAX:
        raise PolicyError(f"{place}: {file.size} bytes; at most {FILE_MAX} are read")
    try:
        return read_file(file).decode()
    except UnicodeDecodeError as error:
        raise PolicyError(f"{place}: byte {error.start} is not UTF-8") from None
