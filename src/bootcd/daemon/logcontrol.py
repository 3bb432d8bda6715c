# SPDX-License-Identifier: Apache-2.0
"""How much is logged and where to, at run time: `systemctl service-log-level bootcd.service debug`.

The interface is systemd's: org.freedesktop.LogControl1(5).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from ..formats.introspection import parse
from .dispatch import ERROR
from .exports import BusError, Exported

PATH = "/org/freedesktop/LogControl1"

_XML = b"""<node>
  <interface name="org.freedesktop.LogControl1">
    <property name="LogLevel" type="s" access="readwrite">
      <annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="false"/>
    </property>
    <property name="LogTarget" type="s" access="readwrite">
      <annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="false"/>
    </property>
    <property name="SyslogIdentifier" type="s" access="read">
      <annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="const"/>
    </property>
  </interface>
</node>"""
(INTERFACE,) = parse(_XML)

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "notice": logging.INFO, "warning": logging.WARNING,
           "err": logging.ERROR, "crit": logging.CRITICAL, "alert": logging.CRITICAL, "emerg": logging.CRITICAL}
_NAMES = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "err",
          logging.CRITICAL: "crit"}


def _journal() -> logging.Handler:
    from systemd.journal import JournalHandler

    handler: logging.Handler = JournalHandler(SYSLOG_IDENTIFIER="bootcd")
    return handler


def _console() -> logging.Handler:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("bootcd: %(message)s"))
    return handler


TARGETS: Mapping[str, Callable[[], logging.Handler]] = {
    "journal": _journal, "console": _console, "null": logging.NullHandler,
}


class LogControl:
    """Turns the level and the target of a logger into properties; `target` is where it logs to now."""

    def __init__(self, logger: logging.Logger | None = None, target: str | None = None) -> None:
        self._logger = logging.getLogger() if logger is None else logger
        if target is None:
            handlers = self._logger.handlers
            target = "console" if any(type(one) is logging.StreamHandler for one in handlers) else "journal"
        level = self._logger.getEffectiveLevel()
        name = next((name for number, name in _NAMES.items() if level <= number), "crit")
        self.exported = Exported(INTERFACE, {}, {"LogLevel": name, "LogTarget": target, "SyslogIdentifier": "bootcd"},
                                 {"LogLevel": self._set_level, "LogTarget": self._set_target})

    def _set_level(self, name: str) -> None:
        if name not in _LEVELS:
            raise BusError(ERROR + "InvalidArgs", f"no log level '{name:.100}' (known: {', '.join(_LEVELS)})")
        self._logger.setLevel(_LEVELS[name])
        self.exported.update({"LogLevel": name})

    def _set_target(self, name: str) -> None:
        if name == "auto":
            name = "journal"
        if name not in TARGETS:
            raise BusError(ERROR + "InvalidArgs", f"no log target '{name:.100}' (known: auto, {', '.join(TARGETS)})")
        try:
            handler = TARGETS[name]()
        except (ImportError, OSError) as error:
            raise BusError(ERROR + "NotSupported", f"cannot log to {name}: {error}") from error
        self._logger.addHandler(handler)
        for old in self._logger.handlers[:-1]:
            self._logger.removeHandler(old)
            old.close()
        self.exported.update({"LogTarget": name})
