# SPDX-License-Identifier: Apache-2.0
"""The verbs that need no installation: digests, images, dumps."""

from __future__ import annotations

import contextlib
import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import BinaryIO

from ..errors import ErofsError, UsageError
from ..formats.erofs.layout import Version
from ..formats.fsverity import Algorithm
from ..formats.fsverity import measure as measure_bytes
from ..linux import files
from ..ops import tools

_MAX_IMAGE = 1 << 30


def mkfs(options: Namespace) -> int:
    if options.target is None and not options.digest_only:
        raise UsageError("IMAGE is missing", advice="Name a file to write, '-' for standard output, or --digest-only.")
    if options.from_dump:
        with _input(options.source) as source:
            image = tools.image_of_dump(source, _version(options), _algorithm(options))
    else:
        image = tools.image_of_directory(Path(options.source), _version(options), _algorithm(options),
                                         hardlinks=not options.no_hardlinks)
    if options.digest_only:
        print(measure_bytes(image, _algorithm(options)).hex())
    elif options.target == "-":
        sys.stdout.buffer.write(image)
        sys.stdout.buffer.flush()
    elif os.path.exists(options.target) and not os.path.isfile(options.target):
        # A device or a pipe is written to, not replaced.
        with files.translate(f"cannot write {options.target}"), open(options.target, "wb") as target:
            target.write(image)
    else:
        files.atomic_write(options.target, image)
    return 0


def dump(options: Namespace) -> int:
    with _input(options.image) as source:
        data = source.read(_MAX_IMAGE + 1)
    if len(data) > _MAX_IMAGE:
        raise ErofsError(f"{options.image}: larger than {_MAX_IMAGE} bytes")
    sys.stdout.buffer.writelines(tools.dump_of_image(data))
    sys.stdout.buffer.flush()
    return 0


def measure(options: Namespace) -> int:
    for name in options.files:
        digest = tools.measure_file(Path(name), Algorithm.parse(options.algorithm))
        sys.stdout.buffer.write(b"%s  %s\n" % (digest.hex().encode(), os.fsencode(name)))
    sys.stdout.buffer.flush()
    return 0


def _input(name: str) -> contextlib.AbstractContextManager[BinaryIO]:
    if name == "-":
        return contextlib.nullcontext(sys.stdin.buffer)
    with files.translate(f"cannot read {name}", named=True):
        return open(name, "rb")


def _version(options: Namespace) -> Version:
    return Version[options.format.upper()]


def _algorithm(options: Namespace) -> Algorithm:
    return Algorithm.parse(options.algorithm)
