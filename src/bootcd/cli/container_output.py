# SPDX-License-Identifier: Apache-2.0
"""What the tools for building images show."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import islice

from .. import __version__
from ..errors import SealMismatch
from ..formats import sarif as documents
from ..formats.treediff import Difference
from ..model import size_text
from ..ops.adddigests import StatedDigests
from ..ops.fromrootfs import MadeImage
from ..ops.inspect import RootfsReport
from ..ops.lint import LintReport
from ..ops.lints.table import LINTS
from ..ops.uki import UkiResult
from .table import table
from .text import counted, printable

_MAX_DIFFERENCES = 20
"""How many of them are shown: one cause often has thousands."""


def lints() -> None:
    """Every lint there is."""
    for one in LINTS:
        print(f"{one.name} ({'fatal' if one.fatal else 'warning'}{', can be fixed' if one.fix else ''})")
        print(f"    {one.what[0].upper()}{one.what[1:]}.")
        print(f"    {one.why}")


def lint_report(report: LintReport) -> None:
    """One line for each finding, and how many there are."""
    for one in report.findings:
        print(printable(f"{'fixed' if one.fixed else one.level}: {one.lint}: {one.path} {one.message}"))
    left = [one for one in report.findings if not one.fixed]
    fatal = sum(one.level == "fatal" for one in left)
    print(f"{len(report.checked)} lints, {counted(fatal, 'fatal finding')}, {counted(len(left) - fatal, 'warning')}, "
          f"{len(report.findings) - len(left)} fixed.")


def sarif(report: LintReport) -> None:
    """What is left, for CI systems."""
    rules = [documents.Rule(one.name, "error" if one.fatal else "warning", one.what, one.why) for one in LINTS
             if one.name in report.checked]
    results = [documents.Result(one.lint, one.path.encode(), one.message) for one in report.findings if not one.fixed]
    print(json.dumps(documents.document("bootcctl container lint", __version__, rules, results), indent=2))


def rootfs(report: RootfsReport) -> None:
    """What an image is, one line for each thing."""
    version = f", version {report.version}" if report.version else ""
    rows = [("System", f"{report.title}{version}"),
            ("Boots", {"uki": "a UKI", "split": "kernel and initrd"}.get(report.boots, f"nothing: {report.problem}"))]
    for kernel in report.kernels:
        initrd = f"initrd {size_text(kernel.initrd_size)}" if kernel.initrd_size else "no initrd"
        rows.append(("Kernel", f"{kernel.version} ({size_text(kernel.size)}, {initrd})"))
    if report.uki is not None:
        uki = report.uki
        signed = f"signed by {uki.signature.signer}" if uki.signature.state == "valid" else (
            f"signature {uki.signature.state}")
        rows += [("UKI", f"{uki.name} ({size_text(uki.size)}, {signed})"), ("Command line", uki.cmdline)]
        rows += [("Addon", name) for name in uki.addons]
        rows.append(("Sealed", "yes" if report.sealed else "no: the UKI names another digest, or none"))
    rows += [("Root by", {"none": "nobody: the initrd has no program for it",
                          "unknown": "unknown: the initrd cannot be looked into"}.get(
                              report.initrd_program, f"the program of {report.initrd_program}")),
             ("Arguments", " ".join(report.kargs) or "none"), ("On the ESP", size_text(report.boot_size)),
             ("SELinux", report.selinux or "no policy"), ("Digest", report.digest)]
    table([(f"{label}:", value) for label, value in rows])


def uki(result: UkiResult) -> None:
    """What was written."""
    signed = f"signed by {result.signer}" if result.signature == "valid" else "not signed"
    print(printable(f"{result.path} is written, {signed}."))
    print(printable(f"  Its command line is: {result.cmdline}"))


def differences(found: Iterable[Difference], names: Sequence[str]) -> int:
    """The first differences of two trees, and the exit status."""
    first = list(islice(found, _MAX_DIFFERENCES + 1))
    if not first:
        print(printable(f"{names[0]} and {names[1]} are the same tree."))
        return 0
    print(printable(f"{names[1]}, compared with {names[0]}:"))
    for one in first[:_MAX_DIFFERENCES]:
        print(printable(f"  {one}"))
    if len(first) > _MAX_DIFFERENCES:
        print("  and more")
    return SealMismatch.exit_status


def stated(image: StatedDigests) -> None:
    """Digests that were stated."""
    where = f"the artifact {image.artifact_digest}" if image.artifact_digest else "its annotations"
    print(printable(f"{image.image}, manifest {image.manifest_digest}, has its digests in {where}."))
    print(f"  Tree:    {image.merged}")
    print(f"  Booted:  {image.bootable or 'it does not boot'}")


def made(image: MadeImage) -> None:
    """An image that was made."""
    print(printable(f"{image.image} is made, manifest {image.manifest_digest}."))
    print(f"  Its layer has {size_text(image.layer_size)}. Machines will compute the digest")
    print(f"  {image.digest}")
