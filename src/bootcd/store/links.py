# SPDX-License-Identifier: Apache-2.0
"""The symlinks that name objects: one class for both `images/` and `streams/`.

    <kind>/<name>        -> ../objects/xx/<rest>     a name for an object; keeps nothing alive
    <kind>/refs/<ref>    -> [../]…<name>             a root of garbage collection; <ref> may have slashes

Links are replaced by rename, so a name always leads somewhere. Names that we make are plain (no control characters, no
`.` or `..` components); names that others made are read as they are. Spec 1.4.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator

from ..errors import RepositoryDamaged, UsageError
from ..formats.tree import object_path
from ..linux import files
from .objects import ObjectStore, parse_object_path
from .root import Root

_DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_HIDDEN = ".symlink-"
_NAME_MAX = 255


class Links:
    """One of the two directories; `kind` is "images" or "streams"."""

    def __init__(self, root: Root, objects: ObjectStore, kind: str) -> None:
        self._root = root
        self._objects = objects
        self.kind = kind

    # --- names ---

    def target(self, name: str) -> bytes | None:
        """The digest that a name stands for, or None. Raises RepositoryDamaged when it is no link to an object."""
        if not _is_component(name):
            return None
        text = self._readlink(f"{self.kind}/{name}")
        return None if text is None else parse_object_path(text, self._root.algorithm.digest_size)

    def is_link(self, name: str) -> bool:
        """Whether there is a symlink of that name, wherever it leads."""
        try:
            return stat.S_ISLNK(os.lstat(f"{self.kind}/{name}", dir_fd=self._root.fd).st_mode)
        except OSError:
            return False

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(name for name in self._list(self.kind) if name != "refs" and not name.startswith(_HIDDEN))

    def link(self, name: str, digest: bytes) -> bool:
        """Make a name stand for an object. The object must be durable. Returns whether anything changed."""
        self._root.require_writable()
        if not _is_component(name):
            raise UsageError(f"'{name}' cannot be a name in {self.kind}/")
        with self._directory((self.kind,), create=True) as fd:
            files.step(f"{self.kind}.before_link")
            changed = files.replace_symlink(fd, name, f"../objects/{object_path(digest)}")
            files.step(f"{self.kind}.after_link")
            return changed

    def unlink(self, name: str) -> bool:
        """Take a name away; False when there is none."""
        return self._unlink(f"{self.kind}/{name}")

    # --- refs ---

    def ref(self, ref: str, name: str) -> bool:
        """Make a ref to a name. Returns whether anything changed."""
        self._root.require_writable()
        parts = ref.split("/")
        if not all(map(_is_component, parts)):
            raise UsageError(f"'{ref}' cannot be a ref in {self.kind}/refs/")
        with self._directory((self.kind, "refs", *parts[:-1]), create=True) as fd:
            files.step(f"{self.kind}.before_ref")
            changed = files.replace_symlink(fd, parts[-1], "../" * len(parts) + name)
            files.step(f"{self.kind}.after_ref")
            return changed

    def unref(self, ref: str) -> bool:
        """Take a ref away; False when there is none."""
        if not all(map(_is_component, ref.split("/"))):
            return False
        return self._unlink(f"{self.kind}/refs/{ref}")

    def refs(self) -> dict[str, str]:
        """Every ref with the name that it leads to, sorted by ref. Raises RepositoryDamaged for what is no symlink."""
        found: dict[str, str] = {}
        pending = [""]
        while pending:
            prefix = pending.pop()
            for entry in self._list(f"{self.kind}/refs/{prefix}"):
                path = prefix + entry
                if entry.startswith(_HIDDEN):
                    continue
                where = f"{self.kind}/refs/{path}"
                if self._is_directory(where):
                    pending.append(path + "/")
                else:
                    text = self._readlink(where)
                    if text is not None:
                        found[path] = text.rsplit("/", 1)[-1]
        return dict(sorted(found.items()))

    # --- collection ---

    def broken(self, *, gone: frozenset[bytes] | set[bytes] = frozenset()) -> tuple[list[str], list[str]]:
        """The names whose object is missing or among `gone`, and the refs whose name is missing or among those."""
        bad = []
        for name in self.names():
            digest = self.target(name)
            if digest is None or digest in gone or not self._objects.has(digest):
                bad.append(name)
        good = set(self.names()) - set(bad)
        return bad, [ref for ref, name in self.refs().items() if name not in good]

    def remove_leftovers(self, older_than: float) -> None:
        """Remove temporary links that a crash left, when they are older than so many seconds."""
        limit = time.time() - older_than
        for name in self._list(self.kind):
            if name.startswith(_HIDDEN):
                path = f"{self.kind}/{name}"
                with contextlib.suppress(FileNotFoundError), files.translate(f"cannot remove {path}"):
                    if os.lstat(path, dir_fd=self._root.fd).st_mtime < limit:
                        os.unlink(path, dir_fd=self._root.fd)

    # --- inside ---

    def _list(self, path: str) -> list[str]:
        try:
            fd = os.open(path, _DIR_FLAGS, dir_fd=self._root.fd)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise files.error_of(f"cannot list {path}", error) from error
        try:
            return os.listdir(fd)
        finally:
            os.close(fd)

    def _is_directory(self, path: str) -> bool:
        try:
            return stat.S_ISDIR(os.lstat(path, dir_fd=self._root.fd).st_mode)
        except OSError:
            return False

    def _readlink(self, path: str) -> str | None:
        try:
            return os.readlink(path, dir_fd=self._root.fd)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise RepositoryDamaged(f"{path} is no symlink") from error
            raise files.error_of(f"cannot read {path}", error) from error

    def _unlink(self, path: str) -> bool:
        self._root.require_writable()
        files.step(f"{self.kind}.before_unlink")
        with files.translate(f"cannot remove {path}"):
            try:
                os.unlink(path, dir_fd=self._root.fd)
            except FileNotFoundError:
                return False
        return True

    @contextlib.contextmanager
    def _directory(self, parts: tuple[str, ...], *, create: bool) -> Iterator[int]:
        """The descriptor of a directory below the repository, made when it is missing."""
        fd = os.dup(self._root.fd)
        try:
            with files.translate(f"cannot open {'/'.join(parts)}"):
                for part in parts:
                    if create:
                        with contextlib.suppress(FileExistsError):
                            os.mkdir(part, 0o755, dir_fd=fd)
                    below = os.open(part, _DIR_FLAGS, dir_fd=fd)
                    os.close(fd)
                    fd = below
            yield fd
        finally:
            os.close(fd)


def _is_component(text: str) -> bool:
    """Whether this can be one component of a path that we are ready to make."""
    if text in ("", ".", "..", "refs") or "/" in text or text.startswith(_HIDDEN):
        return False
    return len(os.fsencode(text)) <= _NAME_MAX and text.isprintable()
