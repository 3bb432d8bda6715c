# SPDX-License-Identifier: Apache-2.0
"""libselinux, with Debian's policy, gives the labels that we give."""

from __future__ import annotations

import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from bootcd.formats.selabel import XATTR, relabel
from bootcd.formats.tree import BlockDevice, CharDevice, Directory, Fifo, Inode, RegularFile, Socket, Symlink
from kit import debian, selinux

KINDS: dict[str, type[Inode]] = {"file": RegularFile, "dir": Directory, "link": Symlink, "pipe": Fifo, "sock": Socket,
                                 "chr": CharDevice, "blk": BlockDevice}

DIFFERENT = {
    b"/root/.default_contexts": (b"unconfined_u:object_r:user_home_t:s0",
                                 b"system_u:object_r:default_context_t:s0"),
    b"/root/restore": (b"unconfined_u:object_r:user_home_t:s0", b"system_u:object_r:amanda_recover_dir_t:s0"),
}
"""Ours and theirs. A plain path in file_contexts is stronger for libselinux than an expression in
file_contexts.homedirs; here, as for composefs-rs, what is read later is."""


def tree(paths: dict[str, str], files: Path) -> Directory:
    """What the paths name, with the policy."""
    root = Directory(0o755)
    for file in files.iterdir():
        selinux.put(root, f"/etc/selinux/default/contexts/files/{file.name}",
                    RegularFile(0o644, inline=file.read_bytes()))
    selinux.put(root, "/etc/selinux/config", RegularFile(0o644, inline=b"SELINUXTYPE=default\n"))
    for path in sorted(paths):
        selinux.put(root, path, KINDS[paths[path]](0o600))
    return root


@pytest.mark.slow
@pytest.mark.interop
def test_libselinux_gives_the_same_labels() -> None:
    if shutil.which("matchpathcon") is None:
        pytest.skip("matchpathcon is not installed")
    try:
        files = selinux.contexts()
    except debian.DebianError as error:
        pytest.skip(str(error))
    root = tree(selinux.paths(files), files)

    def content(file: RegularFile) -> bytes:
        assert file.inline is not None
        return file.inline

    relabel(root, content)
    ours: dict[str, dict[bytes, bytes]] = defaultdict(dict)
    words = {kind: word for word, kind in KINDS.items()}
    for path, inode in root.walk():
        ours[words[type(inode)]][path or b"/"] = inode.xattrs.get(XATTR, b"<<none>>")
    different, count = {}, 0
    for word, labels in ours.items():
        names = list(labels)
        for start in range(0, len(names), 1000):
            output = subprocess.run(["matchpathcon", "-f", files / "file_contexts", "-m", word,
                                     *names[start:start + 1000]], capture_output=True, check=False).stdout
            for line in output.splitlines():
                path, _, label = line.rpartition(b"\t")
                count += 1
                if labels[path] != label:
                    different[path] = (labels[path], label)
    assert count == sum(map(len, ours.values())) > 8000
    assert different == DIFFERENT
