# SPDX-License-Identifier: Apache-2.0
"""Each test starts a process of its own: what is tried here cannot be taken back."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bootcd.linux import process

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts")


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script, *map(str, arguments)], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)


def run(script: str, *arguments: object) -> list[str]:
    """What a script printed."""
    with start(script, *arguments) as child:
        out, _ = child.communicate(timeout=30)
    assert child.returncode == 0
    return out.splitlines()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


SLEEPER = """
import os, signal, time
from bootcd.linux import process
print(process.die_with_parent(signal.SIGKILL, os.getppid()), os.getpid(), flush=True)
time.sleep(60)
"""


def test_a_child_dies_with_its_parent() -> None:
    with start("import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])", SLEEPER) as parent:
        assert parent.stdout is not None
        told, pid = parent.stdout.readline().split()
        assert told == "True"
        parent.kill()
        wait_for(lambda: is_gone(int(pid)))


def test_a_child_whose_parent_has_gone_is_told() -> None:
    said = run("from bootcd.linux import process\nprint(process.die_with_parent(15, 1 << 22))")
    assert said == ["False"]


def test_priority_is_lowered_for_all_threads() -> None:
    with start("import sys, threading\nthreads = [threading.Thread(target=sys.stdin.read) for _ in range(3)]\n"
               "[thread.start() for thread in threads]\nprint('ready', flush=True)") as child:
        assert child.stdout is not None
        child.stdout.readline()
        tasks = [int(name) for name in os.listdir(f"/proc/{child.pid}/task")]
        assert len(tasks) == 4
        assert {os.getpriority(os.PRIO_PROCESS, task) for task in tasks} == {os.getpriority(os.PRIO_PROCESS, 0)}
        process.lower_priority(child.pid)
        assert {os.getpriority(os.PRIO_PROCESS, task) for task in tasks} == {process.LOWEST_NICE}
        if shutil.which("ionice") is not None:
            classes = subprocess.check_output(["ionice", "-p", *map(str, tasks)], text=True).split()
            assert classes == ["idle"] * 4
        child.communicate("", timeout=10)
    process.lower_priority(child.pid)  # which has ended


def test_activity_grows_while_a_process_works() -> None:
    before = process.activity(os.getpid())
    assert len(before) > 2
    deadline = time.monotonic() + 10
    while process.activity(os.getpid())[0] == before[0]:
        assert time.monotonic() < deadline
    after = process.activity(os.getpid())
    assert after > before
    assert process.activity(1 << 22) == ()


@needs_root
def test_mounts_stay_inside_and_those_of_others_come_in(tmp_path: Path) -> None:
    """In a namespace of the test's own: `shared` is a mount that passes mounts on to its copies."""
    said = run("""
import os, subprocess, sys
from bootcd.linux import mount, process

def tmpfs(path):
    os.makedirs(path, exist_ok=True)
    with mount.FsContext("tmpfs") as context:
        context.create()
        fd = context.mount()
    mount.attach(fd, path)
    os.close(fd)

assert process.private_mounts()
shared = sys.argv[1]
tmpfs(shared)
subprocess.run(["mount", "--make-shared", shared], check=True)
os.mkdir(f"{shared}/ours"), os.mkdir(f"{shared}/theirs")
to_child, from_child = os.pipe(), os.pipe()
if os.fork() == 0:
    assert process.private_mounts()
    tmpfs(f"{shared}/theirs")
    os.write(from_child[1], b"x")
    os.read(to_child[0], 1)
    print("child", os.path.ismount(f"{shared}/theirs"), os.path.ismount(f"{shared}/ours"), flush=True)
    os._exit(0)
os.read(from_child[0], 1)
tmpfs(f"{shared}/ours")
os.write(to_child[1], b"x")
assert os.wait()[1] == 0
print("parent", os.path.ismount(f"{shared}/theirs"), os.path.ismount(f"{shared}/ours"))
""", tmp_path / "shared")
    assert said == ["child True True", "parent False True"]
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


@needs_root
def test_a_read_only_mount_becomes_writable_for_one_process(tmp_path: Path) -> None:
    said = run("""
import os, subprocess, sys
from bootcd.linux import process
path = sys.argv[1]
os.mkdir(f"{path}/inner")
assert process.private_mounts()
subprocess.run(["mount", "--bind", path, path], check=True)
subprocess.run(["mount", "-o", "remount,bind,ro,nodev", path], check=True)
if os.fork() == 0:
    assert process.private_mounts()
    print(process.make_writable(path), process.make_writable(f"{path}/inner"), flush=True)
    open(f"{path}/written", "w").close()
    print(bool(os.statvfs(path).f_flag & os.ST_NODEV), flush=True)
    os._exit(0)
assert os.wait()[1] == 0
if os.fork() == 0:
    assert process.private_mounts()
    process.make_all_writable([f"{path}/nothing", path, f"{path}/inner"])
    open(f"{path}/written too", "w").close()
    os._exit(0)
assert os.wait()[1] == 0
try:
    open(f"{path}/not", "w")
except OSError as error:
    print(error.strerror)
""", tmp_path)
    assert said == ["True False", "True", "Read-only file system"]
    assert (tmp_path / "written").exists()
    assert (tmp_path / "written too").exists()


@needs_root
def test_without_the_privilege_everything_stays_as_it_is() -> None:
    said = run(f"""
import os
from bootcd.linux import process
os.setgroups([]), os.setgid({NOBODY}), os.setuid({NOBODY})
before = os.readlink("/proc/self/ns/mnt")
print(process.private_mounts(), process.make_writable("/proc"), os.readlink("/proc/self/ns/mnt") == before)
""")
    assert said == ["False False True"]


def test_numbers_of_ioprio_set_are_those_of_the_headers() -> None:
    """The table is checked where a header is at hand: that of this machine."""
    headers = list(Path("/usr/include").glob("**/asm/unistd_64.h"))
    found = {int(number) for header in headers
             for number in re.findall(r"__NR_ioprio_set (\d+)$", header.read_text(), re.MULTILINE)}
    if not found:
        pytest.skip("no kernel headers")
    assert process._SYS_IOPRIO_SET[os.uname().machine] in found
