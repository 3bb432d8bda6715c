# SPDX-License-Identifier: Apache-2.0
"""A process that has given up its rights, on the real kernel: what it is then, and what it can do no more."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from bootcd.linux import privileges

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")


def after(tmp_path: Path, *lines: str) -> Any:
    """What a process found out after `drop`; `found` is what it tells."""
    program = textwrap.dedent(f"""
        import ctypes, encodings.idna, json, os, socket, sys, threading
        from bootcd.linux import privileges
        place = {str(tmp_path)!r}
        already = open(place + '/already', 'wb')
        libc = ctypes.CDLL(None, use_errno=True)
        def fails(action, *arguments):
            try:
                action(*arguments)
            except OSError as error:
                return error.errno
            return 0
        kept = privileges.drop()
    """) + "\n".join(lines) + "\nprint(json.dumps(found), flush=True)\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_nothing_is_kept(tmp_path: Path) -> None:
    status = after(tmp_path, "found = dict(line.split(':\\t', 1) for line in open('/proc/self/status'))")
    try:
        expected = pwd.getpwnam(privileges.USER).pw_uid
    except KeyError:
        expected = privileges.NOBODY
    assert status["Uid"].split() == [str(expected)] * 4
    assert status["Groups"].strip() == ""
    assert {status[name].strip() for name in ("CapPrm", "CapEff", "CapInh", "CapAmb", "CapBnd")} == {"0" * 16}
    assert (status["NoNewPrivs"].strip(), status["Seccomp"].strip()) == ("1", "2")
    assert after(tmp_path, "found = kept") == []


def test_what_it_can_do_no_more(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    secret.chmod(0o600)
    assert after(
        tmp_path,
        "found = {'root again': fails(os.setresuid, 0, 0, 0), 'read': fails(open, place + '/secret'),",
        "         'run': fails(os.execv, '/bin/true', ['true']), 'mount': libc.mount(b'none', b'/', None, 0, None),",
        "         'signal': fails(os.kill, os.getppid(), 0), 'trace': libc.ptrace(0, 0, 0, 0),",
        "         'other namespaces': libc.unshare(0x10000000)}",
    ) == {"root again": 1, "read": 13, "run": 1, "mount": -1, "signal": 1, "trace": -1, "other namespaces": -1}


def test_it_writes_no_file_even_one_that_is_open(tmp_path: Path) -> None:
    """EFBIG, the signal for which Python ignores."""
    assert after(tmp_path, "found = fails(os.write, already.fileno(), b'x')") == 27
    assert (tmp_path / "already").read_bytes() == b""


def test_it_can_still_use_the_network_and_threads(tmp_path: Path) -> None:
    assert after(
        tmp_path,
        "server = socket.create_server(('127.0.0.1', 0))",
        "threading.Thread(target=lambda: server.accept()[0].sendall(b'hello')).start()",
        "found = socket.create_connection(server.getsockname()).recv(5).decode()",
    ) == "hello"


def test_a_container_with_one_user_keeps_that(tmp_path: Path) -> None:
    """There, root is all there is; capabilities, programs and files go nevertheless."""
    unshare = ["unshare", "--user", "--map-root-user"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces here")
    program = ("import json, os\nfrom bootcd.linux import privileges\nkept = privileges.drop()\n"
               "status = dict(line.split(':\\t', 1) for line in open('/proc/self/status'))\n"
               "print(json.dumps([kept, status['CapEff'].strip(), status['Seccomp'].strip()]))")
    done = subprocess.run([*unshare, sys.executable, "-c", program], capture_output=True, text=True, check=True)
    kept, capabilities, seccomp = json.loads(done.stdout)
    assert [one.partition(" (")[0] for one in kept] == ["the user"]
    assert (capabilities, seccomp) == ("0" * 16, "2")
