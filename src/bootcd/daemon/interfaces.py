# SPDX-License-Identifier: Apache-2.0
"""The interfaces that the daemon serves, read from dbus-interfaces/, which is installed beside this module."""

from __future__ import annotations

from importlib import resources

from ..formats.introspection import Interface, parse

NAME = "org.bootcd1"
ROOT = "/org/bootcd1"
SYSUPDATE_NAME = "org.freedesktop.sysupdate1"
SYSUPDATE_ROOT = "/org/freedesktop/sysupdate1"


def load(name: str) -> Interface:
    """The interface of that name."""
    (found,) = parse(resources.files(__package__).joinpath("dbus-interfaces", f"{name}.xml").read_bytes())
    return found


MANAGER = load("org.bootcd1.Manager")
DEPLOYMENT = load("org.bootcd1.Deployment")
JOB = load("org.bootcd1.Job")
SYSUPDATE_MANAGER = load("org.freedesktop.sysupdate1.Manager")
SYSUPDATE_TARGET = load("org.freedesktop.sysupdate1.Target")
SYSUPDATE_JOB = load("org.freedesktop.sysupdate1.Job")
