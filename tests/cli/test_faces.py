# SPDX-License-Identifier: Apache-2.0
"""`bootcctl` says the same whether it works itself or asks a real daemon; and what only a daemon makes possible."""

from __future__ import annotations

import difflib
import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from bootcd.errors import Busy, Interrupted, PermissionDenied, Refused, Unsupported
from cli.conftest import IMAGE, PATIENCE, STALLS, Client, Machine, daemon
from crash.program import ENVIRONMENT, Done, copy
from kit.bus import SystemBus
from kit.os_images import os_image
from kit.scripted_server import ScriptedServer

# --- the same -----------------------------------------------------------------------------------------------------


def alike(text: str, directory: Path) -> str:
    """Text without times and places."""
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:Z|\+00:00)", "TIME", text.replace(str(directory), "HERE"))
    text = re.sub(r'"by": "[^"]*"', '"by": "SOMEBODY"', text)
    return re.sub(r"in [0-9.]+ s, [0-9.]+ k?M?B/s", "in TIME", text)


def test_both_faces_say_the_same(bus: SystemBus, machine: Machine, scratch: Path) -> None:
    copy(machine.path, scratch / "other")
    other = Machine(scratch / "other", machine.program)
    reference = f"oci:{machine.path}/layout:latest", f"oci:{other.path}/layout:latest"
    asking = Client(other.path, bus.environment)
    differences = []

    def both(*arguments: str) -> Done:
        words = ["--quiet", *arguments]
        mine = machine.program.run(machine.path, "--sysroot", f"{machine.path}/sysroot", "--esp", f"{machine.path}/esp",
                                   *[word.replace("IMAGE", reference[0]) for word in words])
        theirs = asking(*[word.replace("IMAGE", reference[1]) for word in words])
        for name in ("status", "out", "err"):
            one = alike(str(getattr(mine, name)), machine.path).splitlines(keepends=True)
            two = alike(str(getattr(theirs, name)), other.path).splitlines(keepends=True)
            if one != two:
                differences.append(f"{' '.join(arguments)}: {name}\n" + "".join(difflib.ndiff(one, two)))
        return theirs

    with daemon(bus, other.path):
        assert both("switch", "IMAGE").status == 0  # so far it is oci:layout, wherever one stands
        machine.publish(os_image("1.2"))
        other.publish(os_image("1.2"))
        for words in (
            ("status",), ("status", "--json"), ("list",), ("list", "--json"), ("upgrade", "--check"),
            ("upgrade", "--check", "--json"), ("upgrade",), ("pin", "nobody"), ("pin", ""), ("rollback", ""),
            ("pin", "default", "--label", "x"), ("pin", "rollback", "--label", "x"), ("pin", "default", "--json"),
            ("unpin", "default", "--label", "y"), ("unpin", "default"), ("unpin", "default"), ("rollback", "--json"),
            ("upgrade",), ("upgrade", "--check"), ("upgrade", "--allow-rejected", "--allow-untried"),
            ("kargs", "show"), ("kargs", "show", "--json"), ("kargs", "add", "quiet", "panic=1"), ("kargs", "show"),
            ("kargs", "add", "root=x"), ("kargs", "add", "quiet"), ("kargs", "replace", "panic=1", "panic=2", "--json"),
            ("kargs", "remove", "nothing"), ("kargs", "remove", "quiet"), ("kargs", "reload"), ("status",),
            ("kargs", "add", "a\nb"), ("kargs", "add", ""),
            ("unstage",), ("finalize",), ("health", "show"), ("health", "show", "--json"),
            ("upgrade", "--download-only", "--allow-rejected"), ("upgrade", "--from-downloaded", "--check"),
            ("upgrade", "--from-downloaded", "--from", "oci:/x"), ("upgrade", "--from-downloaded", "--download-only"),
            ("upgrade", "--from-downloaded"), ("cleanup", "--dry-run"),
            ("cleanup", "--dry-run", "--json"), ("cleanup",), ("fsck",), ("fsck", "--json", "--metadata-only"),
            ("image", "list"), ("image", "list", "--json"), ("image", "pull", "IMAGE", "--name", "mine"),
            ("image", "pull", "IMAGE", "--json", "--bootable"), ("image", "inspect", "mine"),
            ("image", "inspect", "nobody"), ("image", "remove", "mine"), ("image", "remove", "mine"),
            ("switch", "no registry"), ("switch", "oci:/nowhere:latest"), ("status", "--json"),
        ):
            both(*words)
    assert not differences, "\n\n".join(differences)
    other.sound()


def test_a_relative_path_means_the_directory_of_the_caller(client: Client) -> None:
    done = client("image", "pull", IMAGE, "--name", "mine")
    assert done.status == 0, done.err
    assert "mine" in client("image", "list").out


def test_options_that_name_an_installation_go_past_the_daemon(client: Client) -> None:
    (client.path / "empty").mkdir()
    for option in ("--sysroot", "--esp"):
        done = client(option, "empty", "list")
        assert (done.status, done.out) == (0, "No deployments.\n"), option
    assert client("--config", "bootcd.toml", "list").out == "No deployments.\n"
    assert "1.1" in client("list").out


def test_without_a_daemon_bootcctl_works_itself(bus: SystemBus, machine: Machine) -> None:
    for environment in (bus.environment, {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={machine.path}/none"}):
        done = Client(machine.path, environment)("list")
        assert (done.status, done.out, done.err) == (0, "No deployments.\n", "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_reading_is_for_everybody_and_writing_is_not(client: Client) -> None:
    # Who may read everything, since the interpreter may lie where only root looks.
    nobody = ["setpriv", "--reuid=65534", "--clear-groups", "--inh-caps=+dac_read_search",
              "--ambient-caps=+dac_read_search"]
    assert "1.1" in client("list", before=nobody).out
    assert "1.1" in client("status", before=nobody).out
    assert client("image", "list", before=nobody).status == 0
    done = client("pin", "default", before=nobody)
    assert done.status == PermissionDenied.exit_status
    assert "'pin' is not allowed" in done.err
    assert "root" in done.err.splitlines()[-1]


# --- jobs ---------------------------------------------------------------------------------------------------------


def test_status_shows_what_runs_and_only_one_job_changes_something(stalled: tuple[Client, str]) -> None:
    client, image = stalled
    with client.running("image", "pull", image) as process:
        client.is_running("image pull")
        running = next(line for line in client("status").out.splitlines() if line.startswith("Running"))
        assert re.search(r"started by \S+ \(uid \d+\)$", running)
        done = client("cleanup")
        assert done.status == Busy.exit_status
        assert "image pull" in done.err
        assert "'bootcctl cancel'" in done.err
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (Interrupted.exit_status, "")
    assert "interrupt again" in err
    assert "Traceback" not in err
    assert "Running" not in client("status").out


def test_what_the_daemon_does_can_be_stopped_by_somebody_else(stalled: tuple[Client, str], machine: Machine) -> None:
    client, image = stalled
    with client.running("image", "pull", image) as process:
        client.is_running("image pull")
        done = client("cancel")
        assert (done.status, done.err) == (0, "")
        assert re.fullmatch(r"Stopping 'image pull', started by \S+ \(uid \d+\); what it had finished is kept.\n",
                            done.out)
        err = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == Interrupted.exit_status
    assert "what was finished is kept" in err
    done = client("cancel")
    assert (done.status, done.out) == (Refused.exit_status, "")
    assert "does nothing" in done.err
    done = machine("cancel")
    assert done.status == Unsupported.exit_status
    assert "Ctrl-C" in done.err


def test_a_caller_that_is_killed_does_not_matter(stalled: tuple[Client, str]) -> None:
    client, image = stalled
    with client.running("image", "pull", "--background", image) as process:
        client.is_running("image pull")
        process.kill()
        process.wait()
        client.is_running("image pull")


def test_the_daemon_goes_in_the_middle(bus: SystemBus, machine: Machine) -> None:
    with ScriptedServer() as server, ExitStack() as stack:
        server.serve("/v2/os/manifests/latest", STALLS)
        started = stack.enter_context(daemon(bus, machine.path, server.host))
        client = Client(machine.path, bus.environment)
        with client.running("image", "pull", f"{server.host}/os:latest") as process:
            client.is_running("image pull")
            started.kill()
            err = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 1
    assert "went away" in err
    assert "Nothing is lost" in err
    machine.sound()


def test_in_the_background_without_a_daemon(machine: Machine) -> None:
    program = ("import os, sys; from bootcd.cli.main import main\n"
               "status = main(sys.argv[1:]); print(status, os.getpriority(os.PRIO_PROCESS, 0))")
    for option, priority in (([], os.getpriority(os.PRIO_PROCESS, 0)), (["--background"], 19)):
        done = subprocess.run(
            [sys.executable, "-c", program, "--sysroot", "sysroot", "--esp", "esp", "cleanup", "--dry-run", *option],
            cwd=machine.path, env=ENVIRONMENT, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == f"0 {priority}"
