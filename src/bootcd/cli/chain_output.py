# SPDX-License-Identifier: Apache-2.0
"""The chain of trust in words, one row for each link, from the firmware to the files."""

from __future__ import annotations

from collections.abc import Iterator

from ..ops.results import ChainInfo, SignatureInfo


def rows(chain: ChainInfo) -> list[tuple[str, str]]:
    return list(_rows(chain))


def _rows(chain: ChainInfo) -> Iterator[tuple[str, str]]:
    yield "  Secure Boot", {True: "on", False: "off: the firmware starts whatever it finds", None: "unknown"}[
        chain.secure_boot]
    if chain.signature is None:
        yield "  boot entry", "signed by nobody, and neither are kernel and initrd"
    else:
        yield "  UKI", _signature(chain.signature)
    yield "  digest", _digest(chain)
    yield "  image", ("measured by fs-verity" if chain.image_verity else "damaged, or without fs-verity"
                      if chain.repository_verity else "measured when it is mounted, and not guarded later")
    yield "  files", ("guarded by fs-verity" if chain.repository_verity
                      else "not guarded: this file system has no fs-verity")
    yield "  sealed", {True: "yes", False: "no", None: "unknown"}[chain.sealed]
    if chain.soft_reboot:
        yield "  kernel", "started with another deployment; this one was entered by a soft reboot"


def _signature(signature: SignatureInfo) -> str:
    if signature.state == "valid":
        trusted = {True: ", whom the firmware trusts", False: ", whom the firmware does not trust", None: ""}
        return f"signed by {signature.signer}{trusted[signature.trusted]}"
    if signature.state == "absent":
        return "not signed"
    return f"{'signature broken' if signature.state == 'broken' else 'unknown'}: {signature.problem}"


def _digest(chain: ChainInfo) -> str:
    carrier = "boot entry" if chain.signature is None else "UKI"
    if chain.digest is None:
        return f"unknown: the {carrier} cannot be read, or names no image"
    if not chain.digest:
        return f"wrong: the {carrier} names another image"
    return f"the {carrier} names this deployment" + (
        " and demands fs-verity" if chain.verity_required else ", but does not demand fs-verity")
