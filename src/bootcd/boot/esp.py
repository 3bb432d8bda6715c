# SPDX-License-Identifier: Apache-2.0
"""A boot partition: an EFI system partition, or XBOOTLDR where there is one. Which there are says `partitions`.

    loader/entries/        entries of every system that boots from here; ours begin with "bootcd-"
    loader/entries.srel    "type1": entries follow the Boot Loader Specification
    EFI/bootcd/            our kernels, initrds and UKIs; nobody else's

It is FAT as a rule: names do not know upper from lower case, there are neither links nor owners, and nothing but a
single new directory entry is atomic. So a file is written under a temporary name, flushed, renamed, and the directory
is flushed. Entries get names that were not there. Over an existing name goes only what replaces damage, or a UKI that
was built anew for the same tree. What is not ours is neither changed nor removed.

Only one process writes at a time (the lock in state/bootcd), which is why temporary files that are found are left over.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterable, Iterator

from ..errors import BootcdError, EspFull, NotFound, PermissionDenied, ReadOnly
from ..linux.files import fsync_dir, open_regular, step, translate, write_all

ENTRIES = "loader/entries"
KERNELS = "EFI/bootcd"
CONFIG = "loader/loader.conf"
KEYS = "loader/keys"
MARKER = "loader/entries.srel"
TEMPORARY_PREFIX = ".bootcd-"
TEMPORARY_SUFFIX = ".tmp"

_PROBE = f"{TEMPORARY_PREFIX}probe{TEMPORARY_SUFFIX}"
_CHUNK = 1 << 20
_ENTRIES_ROOM = 64 << 10


class Esp:
    """A mounted boot partition at `path`. All other paths are relative to it, with '/' and without a leading one.

    Raises NotFound when there is no directory.
    """

    __slots__ = ("_device", "path")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        if not os.path.isdir(self.path):
            raise NotFound(f"there is no boot partition at {self.path}", advice="Mount it, or choose one with --esp.")
        with translate(f"cannot examine {self.path}"):
            self._device = os.stat(self.join(".")).st_dev  # the '.' has an automount mounted

    def join(self, relative: str) -> str:
        """The path to give to the system."""
        return os.path.join(self.path, relative)

    # --- room ---

    def free(self) -> int:
        """Bytes that can still be written."""
        with translate(f"cannot examine {self.path}", full=EspFull):
            state = os.statvfs(self.path)
        return state.f_bavail * state.f_frsize

    def free_for_kernels(self) -> int:
        """Bytes that kernels may still take: entries have to fit beside them."""
        return max(self.free() - _ENTRIES_ROOM, 0)

    def total(self) -> int:
        """Bytes of the whole file system."""
        with translate(f"cannot examine {self.path}", full=EspFull):
            state = os.statvfs(self.path)
        return state.f_blocks * state.f_frsize

    def occupied(self, *sizes: int) -> int:
        """How many bytes files of these sizes take, in whole clusters."""
        with translate(f"cannot examine {self.path}", full=EspFull):
            cluster = max(os.statvfs(self.path).f_frsize, 1)
        return sum(-(-size // cluster) * cluster for size in sizes)

    def require(self, needed: int, what: str) -> None:
        """Raise EspFull when less than `needed` bytes are free."""
        free = self.free()
        if needed > free:
            raise EspFull(f"{self.path}: {what} needs {needed} bytes, {free} of {self.total()} are free")

    def check_writable(self) -> None:
        """Raise ReadOnly or PermissionDenied when nothing can be written here."""
        with translate(f"cannot examine {self.path}", full=EspFull):
            if os.statvfs(self.path).f_flag & os.ST_RDONLY:
                raise ReadOnly(f"{self.path} is mounted read-only", advice="Mount it writable and try again.")
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise PermissionDenied(f"{self.path} cannot be written")

    def probe(self) -> None:
        """Write something, and remove it: a device that is broken or gone may look as if it could be written. Raises
        what writing raises, but for lack of room."""
        self.check_writable()
        with contextlib.suppress(EspFull):
            self.write(_PROBE, [b"bootcd\n"])
        self.remove(_PROBE)

    def _require_mounted(self) -> None:
        """Raise NotFound when another file system is there by now: the partition was unmounted, and what is below its
        mount point is none."""
        with translate(f"cannot examine {self.path}"):
            try:
                device = os.stat(self.join(".")).st_dev
            except FileNotFoundError:
                device = None
        if device != self._device:
            raise NotFound(f"the boot partition is not mounted at {self.path} any more",
                           advice="Mount it, and run it again.")

    # --- reading ---

    def names(self, directory: str) -> list[str]:
        """The names in a directory, sorted; none when it is absent. Temporary files are left out."""
        with translate(f"cannot list {self.join(directory)}", full=EspFull):
            try:
                found = os.listdir(self.join(directory))
            except FileNotFoundError:
                return []
        return sorted(name for name in found if not is_temporary(name))

    def size(self, relative: str) -> int | None:
        """The size of a regular file, None where there is none."""
        with translate(f"cannot examine {self.join(relative)}", full=EspFull):
            try:
                state = os.stat(self.join(relative))
            except (FileNotFoundError, NotADirectoryError):
                return None
        return state.st_size if stat.S_ISREG(state.st_mode) else None

    def read(self, relative: str, limit: int) -> bytes:
        """The first `limit` + 1 bytes of a file at most, so that one who checks the length sees that it is too long."""
        with translate(f"cannot read {self.join(relative)}", full=EspFull), open(self.join(relative), "rb") as file:
            return file.read(limit + 1)

    def chunks(self, relative: str) -> Iterator[bytes]:
        """The content of a file, a piece at a time."""
        with translate(f"cannot read {self.join(relative)}", full=EspFull), open(self.join(relative), "rb") as file:
            while data := file.read(_CHUNK):
                yield data

    @contextlib.contextmanager
    def opened(self, relative: str) -> Iterator[int]:
        """A descriptor to read a regular file by, wherever in it. Raises what reading raises inside, as well."""
        with translate(f"cannot read {self.join(relative)}", full=EspFull):
            descriptor = open_regular(self.join(relative))
            try:
                yield descriptor
            finally:
                os.close(descriptor)

    # --- writing ---

    def make_directory(self, relative: str) -> None:
        """Create a directory with its parents, durably; nothing happens when it is there."""
        self._require_mounted()
        here = ""
        for part in relative.split("/"):
            parent, here = here, f"{here}/{part}" if here else part
            with translate(f"cannot create {self.join(here)}", full=EspFull):
                try:
                    os.mkdir(self.join(here), 0o755)
                except FileExistsError:
                    continue
                step("esp-directory-made")
                fsync_dir(self.join(parent))

    def write(self, relative: str, chunks: Iterable[bytes], size: int | None = None) -> int:
        """Write a file durably; it shows up under its name only when it is complete. Returns its size.

        `size`, if known, is checked against the free space first, and against what was written. Whatever goes wrong,
        the temporary file is removed. Raises EspFull, ReadOnly, NotFound when the partition is gone.
        """
        self._require_mounted()
        path = self.join(relative)
        directory, name = os.path.split(path)
        if size is not None:
            self.require(self.occupied(size), name)
        temporary = os.path.join(directory, f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{TEMPORARY_SUFFIX}")
        written = 0
        try:
            with translate(f"cannot write {path}", full=EspFull):
                fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
                try:
                    step("esp-temporary-made")
                    for chunk in chunks:
                        write_all(fd, chunk)
                        written += len(chunk)
                    if size is not None and written != size:
                        raise BootcdError(f"cannot write {path}: {written} bytes came instead of {size}")
                    step("esp-before-fsync")
                    os.fsync(fd)
                    step("esp-before-rename")
                    os.rename(temporary, path)
                    _sync_renamed(fd)
                finally:
                    os.close(fd)
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            if isinstance(error, EspFull):
                wanted = f"{size} bytes" if size is not None else f"more than {written} bytes"
                free = self.free()
                raise EspFull(f"{path}: {wanted} do not fit, {free} of {self.total()} are free") from error
            if isinstance(error, BootcdError):
                self._require_mounted()  # that explains it better
            raise
        step("esp-after-rename")
        with translate(f"cannot flush {directory}", full=EspFull):
            fsync_dir(directory)
        step("esp-after-sync")
        return written

    def remove(self, relative: str) -> int:
        """Remove a file, or a directory of ours with all that is in it, durably.

        Returns the bytes freed, 0 when it is absent.
        """
        self._require_mounted()
        path = self.join(relative)
        freed = 0
        with translate(f"cannot remove {path}", full=EspFull):
            found: list[tuple[str, os.stat_result]] = []
            open_paths = [path]
            while open_paths:
                here = open_paths.pop()
                try:
                    state = os.lstat(here)
                except (FileNotFoundError, NotADirectoryError):
                    continue
                found.append((here, state))
                if stat.S_ISDIR(state.st_mode):
                    open_paths.extend(os.path.join(here, name) for name in os.listdir(here))
            for here, state in reversed(found):
                if stat.S_ISDIR(state.st_mode):
                    os.rmdir(here)
                else:
                    os.unlink(here)
                    freed += state.st_size
                step("esp-after-remove")
            if found:
                fsync_dir(os.path.dirname(path))
        return freed

    def rename(self, relative: str, name: str) -> None:
        """Give a file another name in its directory, durably: one change, atomic on FAT as well."""
        self._require_mounted()
        path = self.join(relative)
        with translate(f"cannot rename {path}", full=EspFull):
            step("esp-before-rename")
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                os.rename(path, os.path.join(os.path.dirname(path), name))
                _sync_renamed(fd)
            finally:
                os.close(fd)
            step("esp-after-rename")
            fsync_dir(os.path.dirname(path))

    def clean(self) -> list[str]:
        """Remove temporary files that an interrupted write left behind; returns their paths."""
        removed = []
        below = (f"{place}/{name}" for place in (KERNELS, KEYS) for name in self.names(place))
        for place in (".", ENTRIES, "loader", "EFI/systemd", "EFI/BOOT", KERNELS, *below):
            with translate(f"cannot list {self.join(place)}", full=EspFull):
                try:
                    found = sorted(filter(is_temporary, os.listdir(self.join(place))))
                except (FileNotFoundError, NotADirectoryError):
                    continue
            for name in found:
                self.remove(f"{place}/{name}")
                removed.append(f"{place}/{name}")
        return removed

    def prepare(self) -> None:
        """Make our directories and, if nobody has yet, mark the entries as those of the specification."""
        self.make_directory(ENTRIES)
        self.make_directory(KERNELS)
        with translate(f"cannot examine {self.join(MARKER)}", full=EspFull):
            try:
                os.lstat(self.join(MARKER))
            except FileNotFoundError:
                self.write(MARKER, [b"type1\n"])


def _sync_renamed(fd: int) -> None:
    """Flush a file that has just got its name.

    On FAT size and first cluster are in the directory, and Linux writes a new name there with neither: they follow with
    the inode, which no flush of the directory brings along (vfat_rename() in fs/fat/namei_vfat.c, Linux 6.12). Without
    this, a power cut leaves an empty file under the new name, and the old name is gone.
    """
    os.fsync(fd)


def is_temporary(name: str) -> bool:
    """Whether `write` makes files of such names."""
    return name.startswith(TEMPORARY_PREFIX) and name.endswith(TEMPORARY_SUFFIX)
