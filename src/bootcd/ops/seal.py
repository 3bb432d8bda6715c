# SPDX-License-Identifier: Apache-2.0
"""Whether what a command line names is the tree that it is meant for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache, partial
from pathlib import Path

from ..boot.kargs import ComposefsKarg
from ..formats.erofs.layout import Version
from ..formats.fsverity import Algorithm
from .compose import FORMATS
from .imageroot import ImageRoot
from .tools import digests


class Seals:
    """The digests of a root directory or an image, each computed when somebody asks for it."""

    def __init__(self, root: Path | ImageRoot) -> None:
        compute = partial(digests, root) if isinstance(root, Path) else root.digests
        self._of = cache(lambda algorithm: compute(algorithm, Version))

    def digest(self, version: Version, algorithm: Algorithm) -> bytes:
        """Raises what `tools.digests` raises."""
        return self._of(algorithm)[version]

    def stale(self, named: Iterable[ComposefsKarg]) -> Iterator[tuple[ComposefsKarg, bytes]]:
        """The arguments that name none of the digests that they may stand for, with the one that they should name."""
        for karg in named:
            meant = [self.digest(version, karg.algorithm) for version in FORMATS[karg.version]]
            if karg.digest not in meant:
                yield karg, meant[0]
