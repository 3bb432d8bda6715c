# SPDX-License-Identifier: Apache-2.0
"""Lints of what a machine has for itself: `/var`, accounts, identity, and files that give rights."""

from __future__ import annotations

import fnmatch
import re
import stat
from collections.abc import Iterator

from ...formats.tree import Directory, RegularFile, Symlink
from .subject import Found, Subject

_TMPFILES = (b"/etc/tmpfiles.d", b"/usr/local/lib/tmpfiles.d", b"/usr/lib/tmpfiles.d")
_SYSUSERS = (b"/etc/sysusers.d", b"/usr/local/lib/sysusers.d", b"/usr/lib/sysusers.d")
_MAKES = frozenset("fFwdDevqQpLcbC")
"""Types of tmpfiles.d(5) that make something or keep it."""
_SPECIFIERS = {"%S": "/var/lib", "%C": "/var/cache", "%L": "/var/log", "%%": "%"}
_SERVICE_DIRECTORIES = {"StateDirectory": b"/var/lib/", "CacheDirectory": b"/var/cache/", "LogsDirectory": b"/var/log/"}
_DIRECTORY = re.compile(r"^(StateDirectory|CacheDirectory|LogsDirectory)=(.*)$", re.MULTILINE)
_ELSEWHERE = (b"/var/log", b"/var/tmp", b"/var/run", b"/var/lock")
"""What other lints tell, or what a machine empties."""
_ALWAYS = {"root", "nobody", "nogroup"}
"""Accounts that systemd knows without a file (nss-systemd(8)), by any of their names."""

SETUID = (
    "/usr/bin/su", "/usr/bin/sudo", "/usr/bin/sudoedit", "/usr/bin/mount", "/usr/bin/umount", "/usr/bin/passwd",
    "/usr/bin/chfn", "/usr/bin/chsh", "/usr/bin/chage", "/usr/bin/expiry", "/usr/bin/gpasswd", "/usr/bin/newgrp",
    "/usr/bin/newuidmap", "/usr/bin/newgidmap", "/usr/bin/fusermount", "/usr/bin/fusermount3", "/usr/bin/pkexec",
    "/usr/bin/crontab", "/usr/bin/ssh-agent", "/usr/bin/write", "/usr/bin/wall", "/usr/sbin/unix_chkpwd",
    "/usr/sbin/pam_timestamp_check", "/usr/sbin/mount.nfs", "/usr/lib/polkit-1/polkit-agent-helper-1",
    "/usr/lib/openssh/ssh-keysign", "/usr/libexec/openssh/ssh-keysign", "/usr/lib/ssh/ssh-keysign",
    "/usr/lib/dbus-1.0/dbus-daemon-launch-helper", "/usr/libexec/dbus-1/dbus-daemon-launch-helper",
    "/usr/libexec/utempter/utempter", "/usr/lib/*/utempter/utempter",
)
"""What distributions install with these rights."""


def var_tmpfiles(subject: Subject) -> Iterator[Found]:
    var = subject.tree.directory(b"/var")
    if var is None:
        return
    made, patterns = _made_in_var(subject)
    stack = [(b"/var/" + name, node) for name, node in reversed(var.sorted_entries())]
    while stack:
        path, node = stack.pop()
        if path in _ELSEWHERE:
            continue
        text = path.decode("utf-8", "surrogateescape")
        if made.get(path, "") == "C" or any(fnmatch.fnmatchcase(text, one) for one in patterns):
            continue
        covered = path in made or any(one.startswith(path + b"/") for one in made)
        if not covered:
            kind = "directory" if isinstance(node, Directory) else "link" if isinstance(node, Symlink) else "file"
            below = " with content" if isinstance(node, Directory) and node.entries else ""
            yield Found(path, f"is a {kind}{below} that no tmpfiles.d makes")
        elif isinstance(node, Directory):
            stack += [(path + b"/" + name, child) for name, child in reversed(node.sorted_entries())]


def _made_in_var(subject: Subject) -> tuple[dict[bytes, str], list[str]]:
    """What is made when a machine boots, with the type of its line, and patterns of what is."""
    made: dict[bytes, str] = {}
    patterns: list[str] = []
    for _, words in subject.lines(*_TMPFILES):
        if len(words) < 2 or words[0][0] not in _MAKES:
            continue
        path = words[1].strip("\"'")
        for specifier, value in _SPECIFIERS.items():
            path = path.replace(specifier, value)
        path = re.sub(r"%[a-zA-Z]", "*", path).rstrip("/")
        if any(char in path for char in "*?["):
            patterns.append(path)
        else:
            made[path.encode("utf-8", "surrogateescape")] = words[0][0]
    for suffix in (b".service", b".socket"):
        for _, node in subject.files(b"/usr/lib/systemd/system", suffix):
            for key, value in _DIRECTORY.findall(subject.root.read(node).decode("utf-8", "replace")):
                for word in value.split():
                    made[_SERVICE_DIRECTORIES[key] + word.partition(":")[0].encode()] = "d"
    return made, patterns


def sysusers(subject: Subject) -> Iterator[Found]:
    users, groups = set(_ALWAYS), set(_ALWAYS)
    for _, words in subject.lines(*_SYSUSERS):
        if len(words) < 2:
            continue
        name = words[1].strip("\"'")
        if words[0][0] == "u":
            users.add(name)
            groups.add(name)
        elif words[0] == "g":
            groups.add(name)
        elif words[0] == "m" and len(words) > 2:
            users.add(name)
            groups.add(words[2].strip("\"'"))
    for path, known, what in ((b"/etc/passwd", users, "user"), (b"/etc/group", groups, "group")):
        node = subject.tree.lookup(path)
        if not isinstance(node, RegularFile):
            continue
        for line in subject.root.read(node).decode("utf-8", "surrogateescape").splitlines():
            name = line.partition(":")[0].strip()
            if name and not name.startswith(("#", "+", "-")) and name not in known:
                yield Found(path, f"has the {what} '{name}', which no sysusers.d makes")


def setuid(subject: Subject) -> Iterator[Found]:
    allowed = SETUID + subject.allow_setuid
    for path, node in subject.tree.walk():
        bits = node.permissions & (stat.S_ISUID | stat.S_ISGID)
        if not bits or not isinstance(node, RegularFile):
            continue
        text = path.decode("utf-8", "surrogateescape")
        if any(fnmatch.fnmatchcase(text, one) for one in allowed):
            continue
        kinds = [name for bit, name in ((stat.S_ISUID, "setuid"), (stat.S_ISGID, "setgid")) if bits & bit]
        owner = f"user {node.uid}" if bits & stat.S_ISUID else f"group {node.gid}"
        yield Found(path, f"is {' and '.join(kinds)} for {owner}")


def machine_identity(subject: Subject) -> Iterator[Found]:
    node = subject.tree.lookup(b"/etc/machine-id")
    if isinstance(node, RegularFile) and subject.root.read(node).strip() not in (b"", b"uninitialized"):
        yield Found(b"/etc/machine-id", "has an id, which all machines would share")
    seed = subject.tree.lookup(b"/var/lib/systemd/random-seed")
    if seed is not None:
        yield Found(b"/var/lib/systemd/random-seed", "is a seed of random numbers, which all machines would share")
    ssh = subject.tree.directory(b"/etc/ssh")
    for name, _ in ssh.sorted_entries() if ssh is not None else ():
        if name.startswith(b"ssh_host_") and name.endswith(b"_key"):
            yield Found(b"/etc/ssh/" + name, "is a secret key, which everybody has who has the image")
