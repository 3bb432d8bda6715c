# SPDX-License-Identifier: Apache-2.0
"""The real ukify of Debian 13, run by the Python of this machine: out of the tree of tools that the tests in a virtual
machine make (`kit.machine_images`), where that is."""

from __future__ import annotations

import os
from pathlib import Path

from kit import guest

_SCRIPT = """#!/bin/sh
# ukify build ARGS, with what belongs to it
stub=addonx64.efi.stub
case " $* " in *" --linux="*) stub=linuxx64.efi.stub ;; esac
command=$1
shift
export PYTHONPATH="{modules}"
exec /usr/bin/env python3 "{tools}/usr/bin/ukify" "$command" --stub="{tools}/usr/lib/systemd/boot/efi/$stub" "$@"
"""
_MODULES = ("pefile.py", "ordlookup")


def install_ukify(directory: Path) -> bool:
    """Make `directory` one to put on PATH, with a program ukify in it. False where Debian's is not at hand."""
    found = [tree for tree in sorted(guest.CACHE.glob("tools-*/root"), key=lambda one: one.stat().st_mtime)
             if (tree / "usr/bin/ukify").exists()]
    if not found:
        return False
    tools = found[-1].resolve()
    modules = directory / "modules"
    modules.mkdir(parents=True)
    for name in _MODULES:
        os.symlink(tools / "usr/lib/python3/dist-packages" / name, modules / name)
    program = directory / "ukify"
    program.write_text(_SCRIPT.format(modules=modules, tools=tools))
    program.chmod(0o755)
    return True
