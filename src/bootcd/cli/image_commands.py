# SPDX-License-Identifier: Apache-2.0
"""The verbs about images in the repository."""

from __future__ import annotations

from argparse import Namespace

from ..errors import Untrusted
from ..ops.results import PullResult
from . import names, output, trust_output
from .hosts import host


def pull(options: Namespace) -> int:
    with host(options) as machine:
        result = machine.image_pull(names.whole(options), name=options.name, bootable=options.bootable,
                                    max_rate=options.max_rate, max_download=options.max_download)
    return _pulled(options, result)


def verify(options: Namespace) -> int:
    with host(options) as machine:
        found = machine.image_verify(names.whole(options))
    output.emit_json(found) if options.json else trust_output.report(found)
    return 0 if found.accepted else Untrusted.exit_status


def list_images(options: Namespace) -> int:
    with host(options) as machine:
        images = machine.image_list()
    output.emit_json(images) if options.json else output.images(images)
    return 0


def inspect(options: Namespace) -> int:
    with host(options) as machine:
        found = machine.image_inspect(options.image)
    output.emit_json(found) if options.json else output.image(found)
    return 0


def mount(options: Namespace) -> int:
    with host(options, direct=True) as machine:
        machine.image_mount(options.image, options.directory, bootable=options.bootable)
    return 0


def import_tar(options: Namespace) -> int:
    with host(options, direct=True) as machine:
        result = machine.image_import_tar(options.tar, options.name)
    return _pulled(options, result)


def remove(options: Namespace) -> int:
    with host(options) as machine:
        machine.image_remove(options.image)
    return 0


def _pulled(options: Namespace, result: PullResult) -> int:
    if options.json:
        output.emit_json(result)
    else:
        output.pull_stats(result.stats)
        output.image(result.image)
    return 0
