# SPDX-License-Identifier: Apache-2.0
"""Debian's SELinux policy, built but not installed, and paths that its rules are about."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from bootcd.formats.tree import Directory, Inode
from kit import debian

_KEPT = ("file_contexts", "file_contexts.homedirs", "file_contexts.subs_dist")
_TYPES = {"--": "file", "-d": "dir", "-l": "link", "-p": "pipe", "-s": "sock", "-c": "chr", "-b": "blk"}
_PLAIN = re.compile(r"/[\w/.+@:~-]*")


def contexts() -> Path:
    """A directory with `file_contexts` and what belongs to it. Raises DebianError when it cannot be had."""
    target = debian.CACHE / "selinux-policy"
    if not target.exists():
        if shutil.which("semodule") is None:
            raise debian.DebianError("semodule is not installed: apt-get install policycoreutils")
        package = debian.fetch(["selinux-policy-default"])["selinux-policy-default"]
        work = debian.CACHE / "selinux-work"
        shutil.rmtree(work, ignore_errors=True)
        subprocess.run(["dpkg-deb", "-x", package, work], check=True)
        (work / "etc/selinux/config").write_text("SELINUX=permissive\nSELINUXTYPE=default\n")
        modules = work / "usr/share/selinux/default"
        names = (modules / ".modules").read_text().split()
        done = subprocess.run(["semodule", "-p", work, "-s", "default", "-X", "100", "-n",
                               *(word for name in names for word in ("-i", modules / f"{name}.pp.bz2"))],
                              capture_output=True, text=True, check=False)
        if done.returncode:
            raise debian.DebianError(f"the policy cannot be built: {done.stderr.strip()}")
        made = work / "made"
        made.mkdir()
        for name in _KEPT:
            shutil.copy(work / "etc/selinux/default/contexts/files" / name, made)
        made.rename(target)
        shutil.rmtree(work)
    return target


def paths(files: Path) -> dict[str, str]:
    """Paths with their type in the words of matchpathcon(8): such as the rules name them, or nearly so."""
    found: dict[str, str] = {}
    for name in ("file_contexts", "file_contexts.homedirs"):
        for line in (files / name).read_text().splitlines():
            fields = line.split()
            if fields and not fields[0].startswith("#"):
                kind = _TYPES.get(fields[1], "file")
                for below, piece in (("", "q"), ("/x", "x1"), ("/usr", "yy")):
                    path = _example(fields[0], below, piece)
                    if _PLAIN.fullmatch(path) and not {"", ".", ".."} & set(path[1:].split("/")):
                        found.setdefault(path, kind)
    return found


def put(root: Directory, path: str, inode: Inode) -> None:
    """Put it there, unless there is something; what has something below it is a directory."""
    here = root
    *parents, name = path.encode()[1:].split(b"/")
    for parent in parents:
        child = here.entries.setdefault(parent, Directory(0o755))
        if not isinstance(child, Directory):
            child = here.entries[parent] = Directory(0o755)
        here = child
    here.entries.setdefault(name, inode)


def _example(expression: str, below: str, piece: str) -> str:
    """Something that an expression is about, as long as it is a simple one."""
    text = re.sub(r"\(/?\.\*\)\?", below, expression)
    text = re.sub(r"\[\^/\][*+]|\.[*+]", piece, text).replace("[0-9]+", "31").replace("[0-9]", "4").replace("\\", "")
    text = re.sub(r"\(([^()|]*)(\|[^()]*)?\)\??", r"\1", text)
    return re.sub(r"\[(.)[^]]*\][+*?]?", r"\1", text).rstrip("/")
