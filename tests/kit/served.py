# SPDX-License-Identifier: Apache-2.0
"""A world behind bootcd: its host asks a daemon of its own on a private bus."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from types import TracebackType

from bootcd.cli.bushost import BusHost
from bootcd.config import Config
from bootcd.model import SilentProgress
from bootcd.ops.host import Host
from kit.bus import Daemon, SystemBus
from kit.world import World


class Served:
    """Starts bootcd for the world that is asked for. Only one can own the name, so that of another world is ended
    first. A context manager; `direct` makes the host for what the daemon never does."""

    def __init__(self, bus: SystemBus, direct: Callable[[World], Host]) -> None:
        self._bus = bus
        self._direct = direct
        self._stack = ExitStack()
        self._served: tuple[Path, Config] | None = None
        self._host: BusHost | None = None

    def __enter__(self) -> Served:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def connect(self, world: World) -> Host:
        """The host of `world`, the same one as long as its configuration stays."""
        wanted = world.sysroot, world.config
        if self._host is None or wanted != self._served:
            self._stack.close()
            world.directory.mkdir(exist_ok=True)
            file = world.directory / "bootcd.toml"
            file.write_text(settings(world.config))
            self._stack.enter_context(Daemon(self._bus, world.sysroot, world.esp, file))
            self._host = BusHost(self._bus.address, SilentProgress(), lambda: self._direct(world))
            self._stack.enter_context(self._host)
            self._served = wanted
        return self._host


def settings(config: Config) -> str:
    """The file that `config` would be read from."""
    tables: dict[str, list[str]] = {}
    for field in fields(Config):
        table, _, key = field.name.partition("_")
        value = getattr(config, field.name)
        if value != field.default:
            text = json.dumps(list(value) if isinstance(value, tuple) else value)
            tables.setdefault(table, []).append(f"{key.replace('_', '-')} = {text}\n")
    return "".join(f"[{table}]\n{''.join(lines)}" for table, lines in tables.items())
