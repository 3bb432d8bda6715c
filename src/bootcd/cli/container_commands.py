# SPDX-License-Identifier: Apache-2.0
"""`bootcctl container`: tools for who builds images. They need neither a daemon nor an installation."""

from __future__ import annotations

import os
import platform
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import LintFailed, UsageError
from ..formats.erofs.layout import Version
from ..formats.erofs.writer import write_image
from ..formats.fsverity import Algorithm, measure
from ..formats.transform import XattrMode
from ..formats.treediff import differences
from . import container_output, output
from .text import printable

if TYPE_CHECKING:
    from ..ops.imageroot import ImageRoot
    from ..ops.rootfs import Rootfs


def lint(options: Namespace) -> int:
    from ..ops import lint as linting
    from ..ops.lints.subject import Subject

    if options.list:
        container_output.lints()
        return 0
    previous = _root(options.previous).tree if options.previous is not None else None
    subject = Subject(_root(options.rootfs), options.esp_budget, previous, tuple(options.allow_setuid))
    report = linting.lint(subject, skip=options.skip, fix=options.fix)
    if options.json:
        output.emit_json(report)
    elif options.sarif:
        container_output.sarif(report)
    else:
        container_output.lint_report(report)
    return LintFailed.exit_status if report.fails(warnings=options.fatal_warnings) else 0


def compute_digest(options: Namespace) -> int:
    from ..formats.dump import format_dump
    from ..linux import files
    from ..ops import trees

    algorithm, xattrs = Algorithm.parse(options.algorithm), XattrMode(options.xattrs)
    boot, whole = not options.no_boot, options.whole_seconds
    if (options.explain is None) == (options.source is None):
        raise UsageError("name one image, or two with --explain")
    if options.explain is not None:
        if options.write_dumpfile is not None:
            raise UsageError("--write-dumpfile is for one image", advice="Leave --explain out.")
        one, other = (trees.canonical(name, algorithm, xattrs, boot=boot, whole_seconds=whole)
                      for name in options.explain)
        return container_output.differences(differences(one, other), options.explain)
    tree = trees.canonical(options.source, algorithm, xattrs, boot=boot, whole_seconds=whole)
    digest = measure(write_image(tree, Version[options.format.upper()], algorithm), algorithm)
    if options.write_dumpfile is not None:
        files.atomic_write(options.write_dumpfile, b"".join(format_dump(tree)), durable=False)
    print(digest.hex())
    return 0


def inspect(options: Namespace) -> int:
    from ..ops import inspect as inspecting
    from ..ops.lints.subject import Subject

    report = inspecting.inspect(Subject(_root(options.rootfs)))
    output.emit_json(report) if options.json else container_output.rootfs(report)
    return 0


def split_kernel(options: Namespace) -> int:
    from ..ops import uki

    print(printable(uki.split_kernel(Path(options.rootfs), Path(options.output))))
    return 0


def ukify(options: Namespace) -> int:
    from ..ops import uki

    request = uki.UkiRequest(
        kernel=_path(options.kernel_dir), output=_path(options.output), kargs=tuple(options.karg),
        version=Version[options.format.upper()], algorithm=Algorithm.parse(options.algorithm),
        allow_missing_verity=options.allow_missing_verity, whole_seconds=options.whole_seconds,
        dump=_path(options.write_dumpfile), arguments=tuple(options.arguments), architecture=platform.machine())
    if options.addon is None:
        result = uki.ukify(Path(options.rootfs), request, _note)
    elif options.kernel_dir is not None or options.write_dumpfile is not None:
        raise UsageError("an addon has no kernel and no digest", advice="Leave --kernel-dir and --write-dumpfile out.")
    else:
        result = uki.make_addon(Path(options.rootfs), options.addon, request)
    output.emit_json(result) if options.json else container_output.uki(result)
    return 0


def attach_uki(options: Namespace) -> int:
    from ..ops import uki

    result = uki.attach(Path(options.rootfs), Path(options.file), name=options.name,
                        allow_unsigned=options.allow_unsigned)
    output.emit_json(result) if options.json else container_output.uki(result)
    return 0


def from_rootfs(options: Namespace) -> int:
    from ..ops import fromrootfs

    made = fromrootfs.from_rootfs(
        options.source, options.target, labels=fromrootfs.parse_labels(options.label),
        compression=options.compression, created=options.created, architecture=options.architecture,
        way="" if options.digests == "none" else options.digests)
    output.emit_json(made) if options.json else container_output.made(made)
    return 0


def add_digests(options: Namespace) -> int:
    from ..ops import adddigests

    added = adddigests.add_digests(options.target, way=options.way, algorithm=Algorithm.parse(options.algorithm))
    output.emit_json(added) if options.json else container_output.stated(added)
    return 0


def _root(name: str) -> Rootfs | ImageRoot:
    """What is looked at: a directory, or else an image."""
    from ..ops.imageroot import ImageRoot
    from ..ops.rootfs import Rootfs
    from ..ops.trees import is_image

    return ImageRoot(name) if is_image(name) or os.path.isfile(name) else Rootfs(Path(name))


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)


def _note(text: str) -> None:
    print(printable(f"bootcctl: {text}"), file=sys.stderr)
