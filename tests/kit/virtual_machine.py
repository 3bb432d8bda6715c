# SPDX-License-Identifier: Apache-2.0
"""A virtual machine that boots from its disk, as a real one does: firmware, boot loader, kernel.

    with VirtualMachine(directory, disk, firmware) as machine:
        machine.wait()
        machine.run("bootcctl status").output

It talks to the agent that images of `kit.machine_images` have (tests/vm/image/usr/lib/test-agent). Its network is that
of QEMU: the machine reaches loopback of this one as 10.0.2.2. Kept in `directory`: `console`, all that ever came
through the serial port, `qemu.log`, and what `screendump` makes.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from kit import guest
from kit.tpm import start as start_tpm

HOST = "10.0.2.2"
"""How a machine calls the one that it runs on."""
CPU = "max,svm=off,la57=off"
"""Without a level of page tables that nobody needs here, and what would only make modules look for it."""
BOOT_SECONDS = 600.0
RUN_SECONDS = 300.0
_END_SECONDS = 10.0
_STEP = 0.2


class MachineError(Exception):
    """The machine does not do what is waited for; the message has the end of its console."""


@dataclass(frozen=True)
class Firmware:
    """What the machine is started by: the code, and the variables, of which each machine takes a copy."""

    code: Path
    variables: Path


@dataclass(frozen=True)
class Result:
    """How a command in the machine went; `output` has both of its streams."""

    status: int
    output: str

    def check(self) -> str:
        """The output of a command that succeeded. Raises MachineError with it when it did not."""
        if self.status:
            raise MachineError(f"status {self.status}:\n{self.output}")
        return self.output


class VirtualMachine:
    """A machine with one disk (in raw format, written to), and perhaps a TPM, whose memory is in the directory `tpm`. A
    context manager that starts it, and ends it like a power cut.

    The variables of its firmware are in `directory`, too: who makes another machine there finds them as they were left.
    """

    def __init__(self, directory: Path, disk: Path, firmware: Firmware, kit: guest.Kit, *,
                 more: Sequence[str] = (), tpm: Path | None = None) -> None:
        self.directory = directory
        self.disk = disk
        self.console = directory / "console"
        self.boot_times: list[float] = []
        """Seconds from the start, or from the order to reboot, until the agent answered."""
        self._kit = kit
        self._code = firmware.code
        self._variables = directory / "variables"
        self._more = list(more)
        self._tpm = tpm
        self._process: subprocess.Popen[bytes] | None = None
        self._agent: socket.socket | None = None
        self._qmp: socket.socket | None = None
        self._received = b""
        self._events = b""
        self._boot = ""
        self._number = 0
        self._since = 0.0
        directory.mkdir(parents=True, exist_ok=True)
        if not self._variables.exists():
            shutil.copyfile(firmware.variables, self._variables)

    def __enter__(self) -> VirtualMachine:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._process is not None and self._process.poll() is None:
            self.screendump()
        self.cut()

    # --- power ---

    def start(self) -> None:
        """Power on; returns at once."""
        assert self._process is None
        # The limit of a socket's path is 107 bytes, which pytest's directories may exceed.
        ours, theirs = socket.socketpair()
        control, controlled = socket.socketpair()
        command = [
            *self._kit.command(), "-machine", "q35,smm=on", "-accel", "tcg,thread=multi", "-cpu", CPU, "-smp", "2",
            "-m", "2G", "-nodefaults", "-display", "none", "-device", "bochs-display",
            "-global", "driver=cfi.pflash01,property=secure,value=on",
            "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={self._code}",
            "-drive", f"if=pflash,format=raw,unit=1,file={self._variables}",
            "-drive", f"if=none,id=disk,format=raw,file={self.disk},discard=unmap",
            "-device", "virtio-blk-pci,drive=disk,bootindex=1",
            "-netdev", "user,id=network", "-device", "virtio-net-pci,netdev=network,romfile=",
            "-device", "virtio-rng-pci",
            "-chardev", f"file,id=console,path={self.console},append=on", "-serial", "chardev:console",
            "-chardev", f"socket,id=agent,fd={theirs.fileno()}",
            "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent,name=test",
            "-chardev", f"socket,id=control,fd={controlled.fileno()}", "-mon", "chardev=control,mode=control",
            *self._more, *(start_tpm(self._tpm) if self._tpm is not None else ()),
        ]
        errors = (self.directory / "qemu.log").open("ab")
        with theirs, controlled, errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
                pass_fds=(theirs.fileno(), controlled.fileno()), env={**os.environ, "TMPDIR": str(self.directory)})
        self._agent, self._qmp = ours, control
        self._received = self._events = b""
        self._boot = ""
        self._since = time.monotonic()
        self._control("qmp_capabilities")

    def cut(self) -> None:
        """Cut the power."""
        process, self._process = self._process, None
        for one in (self._agent, self._qmp):
            if one is not None:
                one.close()
        self._agent = self._qmp = None
        if process is not None:
            process.kill()
            process.wait()

    def cut_and_start(self, timeout: float = BOOT_SECONDS) -> None:
        """Cut the power, and wait until the machine is up again. Raises MachineError."""
        self.cut()
        self.start()
        self.wait(timeout)

    def reset(self) -> None:
        """Press the reset button; returns at once."""
        self._since = time.monotonic()
        self._control("system_reset")

    def power_off(self, timeout: float = BOOT_SECONDS) -> None:
        """Shut down in order, and wait for the end of it. Raises MachineError."""
        assert self._process is not None
        self._send("systemctl poweroff")
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise self._error(f"still on after {timeout:.0f} s") from None
        self.cut()

    def reboot(self, timeout: float = BOOT_SECONDS, *, by: str = "systemctl reboot") -> None:
        """Shut down in order, and wait until the machine is up again, by a soft reboot or a whole one. Raises
        MachineError."""
        self._since = time.monotonic()
        self._send(by)
        self.wait(timeout)

    def wait(self, timeout: float = BOOT_SECONDS) -> None:
        """Wait for a boot, the first one or one that comes by itself. Raises MachineError."""
        deadline = time.monotonic() + timeout
        while True:
            word, _, rest = self._line(deadline, "the machine is not up").partition(" ")
            if word == "boot" and rest != self._boot:
                self._boot = rest
                now = time.monotonic()
                self.boot_times.append(now - self._since)
                self._since = now
                return

    # --- what goes on inside ---

    def run(self, script: str, timeout: float = RUN_SECONDS) -> Result:
        """Run a bash script as root. Raises MachineError when no answer comes."""
        number = self._send(script)
        deadline = time.monotonic() + timeout
        while True:
            word, _, rest = self._line(deadline, f"no answer to: {script}").partition(" ")
            if word == "boot":
                raise self._error(f"rebooted instead of an answer to: {script}")
            if word == str(number):
                status, _, output = rest.partition(" ")
                return Result(int(status), base64.b64decode(output).decode(errors="replace"))

    def begin(self, script: str) -> None:
        """Start a bash script as root whose answer nobody waits for, before the machine is cut or started anew."""
        self._send(script)

    def check(self, script: str, timeout: float = RUN_SECONDS) -> str:
        """The output of a script that succeeds. Raises MachineError with what it said when it does not."""
        done = self.run(script, timeout)
        if done.status:
            raise MachineError(f"status {done.status} of: {script}\n{done.output}")
        return done.output

    def read_console(self) -> str:
        """All that came through the serial port so far, without what moves the cursor."""
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def wait_for(self, text: str, timeout: float = BOOT_SECONDS, *, after: int = 0) -> str:
        """Wait for a text on the console, behind the first `after` characters. Raises MachineError."""
        deadline = time.monotonic() + timeout
        while text not in (seen := self.read_console()[after:]):
            if time.monotonic() > deadline or self._ended():
                raise self._error(f"nothing on the console says '{text}'")
            time.sleep(_STEP)
        return seen

    def screendump(self, name: str = "screen.png") -> Path:
        """A picture of the screen, which only firmware and boot loader use."""
        self._control("screendump", filename=str(self.directory / name), format="png")
        return self.directory / name

    # --- below ---

    def _send(self, script: str) -> int:
        assert self._agent is not None, "the machine is off"
        self._number += 1
        self._agent.settimeout(RUN_SECONDS)
        self._agent.sendall(b"%d %s\n" % (self._number, base64.b64encode(script.encode())))
        return self._number

    def _line(self, deadline: float, what: str) -> str:
        assert self._agent is not None, "the machine is off"
        while b"\n" not in self._received:
            left = deadline - time.monotonic()
            if left <= 0 or self._ended():
                raise self._error(what)
            self._agent.settimeout(min(left, 1.0))
            try:
                data = self._agent.recv(1 << 16)
            except TimeoutError:
                continue
            if not data:
                raise self._error(f"{what}: the emulator ended")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line.decode(errors="replace")

    def _ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _control(self, command: str, **arguments: str) -> None:
        """The QEMU Machine Protocol; waits for the answer."""
        assert self._qmp is not None
        self._qmp.settimeout(_END_SECONDS)
        request = {"execute": command, **({"arguments": arguments} if arguments else {})}
        self._qmp.sendall(json.dumps(request).encode() + b"\n")
        while True:
            while b"\n" not in self._events:
                data = self._qmp.recv(1 << 16)
                if not data:
                    raise MachineError((self.directory / "qemu.log").read_text(errors="replace"))
                self._events += data
            line, _, self._events = self._events.partition(b"\n")
            answer = json.loads(line)
            if "return" in answer:
                return
            if "error" in answer:
                raise MachineError(f"{command}: {answer['error']}")

    def _error(self, what: str) -> MachineError:
        return MachineError(f"{what}; the console's last lines ({self.console}):\n{guest.tail(self.console)}")
