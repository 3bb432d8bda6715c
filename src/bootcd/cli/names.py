# SPDX-License-Identifier: Apache-2.0
"""Short names of images, as people type them. The bus, records and policies have the whole name."""

from __future__ import annotations

import sys
from argparse import Namespace

from .. import config
from ..registry import registries
from .text import printable


def whole(options: Namespace) -> str:
    """The image of the command line, with the registry that an alias of registries.conf gives it, about which a line
    goes to standard error. Raises ConfigError."""
    image: str = options.image
    if not registries.is_short(image):
        return image
    settings = config.load_named(options.config, lambda warning: None)  # whoever does the work tells of those
    known = registries.load(registries.files(settings.registry_registries_file))
    found = known.expand(image)
    if found != image and not options.quiet:
        print(f"bootcctl: {printable(image)} stands for {printable(found)}, an alias of registries.conf",
              file=sys.stderr)
    return found
