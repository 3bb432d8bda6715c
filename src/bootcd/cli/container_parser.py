# SPDX-License-Identifier: Apache-2.0
"""The command line of `bootcctl container`: tools for who builds images."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

Verb = Callable[[str, str, str, Any], argparse.ArgumentParser]
"""Makes a verb of its name, its function, its help and the group that it belongs to."""


def add_verbs(container: Any, verb: Verb, size: Callable[[str], int],
              formats: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the verbs to the group; `formats` adds the options for the kind of digest."""
    lint = verb("lint", "container_commands:lint", "look for what would keep an image from working", container)
    _rootfs(lint, images=True)
    lint.add_argument("--fatal-warnings", action="store_true", help="fail for warnings as well")
    lint.add_argument("--skip", action="append", default=[], metavar="NAME", help="leave a lint out; may be repeated")
    lint.add_argument("--esp-budget", type=size, default=0, metavar="SIZE",
                      help="how much of the boot partition the image may take")
    lint.add_argument("--previous", metavar="SOURCE", help="the image that comes before this one")
    lint.add_argument("--allow-setuid", action="append", default=[], metavar="PATTERN",
                      help="paths of programs that may be setuid; may be repeated")
    lint.add_argument("--fix", action="store_true", help="take away what can be without harm, and look again")
    how = lint.add_mutually_exclusive_group()
    how.add_argument("--list", action="store_true", help="only tell which lints there are, and why")
    how.add_argument("--json", action="store_true", help="print the result as JSON")
    how.add_argument("--sarif", action="store_true", help="print the result as SARIF 2.1.0, for CI systems")

    inspect = verb("inspect", "container_commands:inspect", "show what the image would make a machine boot", container)
    _rootfs(inspect, images=True)
    inspect.add_argument("--json", action="store_true", help="print the result as JSON")

    split = verb("split-kernel", "container_commands:split_kernel", "move kernel and initrd out of a root directory",
                 container)
    _rootfs(split)
    split.add_argument("--output", required=True, metavar="DIR",
                       help="where to make a directory of the kernel's version")

    ukify = verb("ukify", "container_commands:ukify", "make a UKI, or an addon, for a root directory", container)
    _rootfs(ukify)
    ukify.add_argument("--kernel-dir", metavar="DIR", help="what split-kernel has made (default: the image itself)")
    ukify.add_argument("--output", metavar="FILE", help="file to write (default: its place in the image)")
    ukify.add_argument("--karg", action="append", default=[], metavar="ARG",
                       help="kernel argument besides those of kargs.d; may be repeated")
    ukify.add_argument("--addon", metavar="NAME", help="make an addon with the --karg for the UKI of the image")
    formats(ukify)
    ukify.add_argument("--allow-missing-verity", action="store_true", help="let it boot without fs-verity as well")
    ukify.add_argument("--whole-seconds", action="store_true", help="without fractions of seconds in times, as buildah "
                       "and others store them")
    ukify.add_argument("--write-dumpfile", metavar="FILE", help="also write the tree that the digest is of, as a dump")
    ukify.add_argument("--json", action="store_true", help="print the result as JSON")
    ukify.add_argument("arguments", metavar="ARG", nargs="*", help="after '--': arguments of ukify, such as those for "
                       "signing")

    attach = verb("attach-uki", "container_commands:attach_uki", "take a UKI, or an addon, that was signed elsewhere "
                  "into a root directory", container)
    _rootfs(attach)
    attach.add_argument("--name", default="", metavar="NAME", help="name in the image (default: the kernel's version)")
    attach.add_argument("--allow-unsigned", action="store_true", help="take it without a signature")
    attach.add_argument("--json", action="store_true", help="print the result as JSON")
    attach.add_argument("file", metavar="FILE", help="the UKI")

    made = verb("from-rootfs", "container_commands:from_rootfs", "make an OCI image of a root directory, or of its tar",
                container)
    made.add_argument("--label", action="append", default=[], metavar="KEY=VALUE", help="label of the image; may be "
                      "repeated")
    made.add_argument("--compression", choices=("zstd", "gzip", "none"), default="zstd",
                      help="of the layer (default: %(default)s)")
    made.add_argument("--created", default="", metavar="TIME", help="when it was made, in ISO 8601 (default: now)")
    made.add_argument("--architecture", default="", metavar="ARCH",
                      help="as OCI calls it, such as arm64 (default: that of this machine)")
    made.add_argument("--digests", choices=("none", "annotations", "artifact"), default="none",
                      help="where to state its composefs digests, as 'add-digests' does (default: %(default)s)")
    made.add_argument("--json", action="store_true", help="print the result as JSON")
    made.add_argument("source", metavar="SOURCE", help="directory, or tar, plain or compressed by gzip or zstd")
    made.add_argument("target", metavar="TARGET", help="oci:DIR[:TAG]")


    stated = verb("add-digests", "container_commands:add_digests", "state the composefs digests of an image, which "
                  "machines then check", container)
    stated.add_argument("--way", choices=("annotations", "artifact"), default="annotations",
                        help="in the image's own manifest, which changes, or in an artifact about it (default: "
                        "%(default)s)")
    stated.add_argument("--algorithm", choices=("sha256", "sha512"), default="sha512",
                        help="hash (default: %(default)s)")
    stated.add_argument("--json", action="store_true", help="print the result as JSON")
    stated.add_argument("target", metavar="TARGET", help="oci:DIR[:TAG]")


def _rootfs(parser: argparse.ArgumentParser, *, images: bool = False) -> None:
    also = "; or the image itself: its tar, oci:DIR[:TAG] and more" if images else ""
    parser.add_argument("--rootfs", default="/", metavar="SOURCE" if images else "DIR",
                        help=f"root directory of the image{also} (default: %(default)s)")
