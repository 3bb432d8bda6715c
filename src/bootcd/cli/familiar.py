# SPDX-License-Identifier: Apache-2.0
"""What was meant by a verb or an option that does not exist: one with a similar name, or one of bootc, rpm-ostree,
ostree or others that has another name here."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

_PACKAGES = "Packages belong into the image; bootcctl changes none on a machine."
_USR = "/usr stays as the image has it; systemd-sysext(8) can lay files over it."
_COLLECT = "'bootcctl cleanup' removes what nothing needs."
_REBOOT = "'bootcctl upgrade --apply' and 'bootcctl rollback --apply' reboot when they are done."
_POLICY = "policy.json decides that for all verbs; see bootcd-policy(7)."
_CHECK = "'bootcctl upgrade --check' asks for a newer image."

VERBS = {
    "update": "It is called 'bootcctl upgrade'.",
    "check-update": _CHECK,
    "check-new": _CHECK,
    "check": _CHECK + " 'bootcctl health check' runs the health checks.",
    "rebase": "It is called 'bootcctl switch IMAGE'.",
    "edit": "'bootcctl switch IMAGE' follows another image.",
    "set-origin": "'bootcctl switch IMAGE' follows another image.",
    "deploy": "'bootcctl switch IMAGE' takes an image, 'bootcctl rollback DEPLOYMENT' goes to one that is here.",
    "set-default": "'bootcctl rollback DEPLOYMENT' makes a deployment the default.",
    "undeploy": "'bootcctl unstage' forgets what is staged; the keep policy and 'bootcctl unpin' decide on the rest.",
    "finalize-staged": "It is called 'bootcctl finalize'.",
    "finalize-deployment": "It is called 'bootcctl finalize'.",
    "config-diff": "It is called 'bootcctl etc diff'.",
    "admin": "The verbs stand alone here, as in 'bootcctl pin DEPLOYMENT'.",
    "db": "bootcd knows images, not packages; 'bootcctl upgrade --check' tells which version there is.",
    "override": _PACKAGES,
    "uninstall": _PACKAGES,
    "refresh-md": _PACKAGES,
    "initramfs": "The initrd comes with the image.",
    "usr-overlay": _USR,
    "usroverlay": _USR,
    "unlock": _USR,
    "apply-live": _USR,
    "gc": _COLLECT,
    "prune": _COLLECT,
    "vacuum": _COLLECT,
    "reboot": _REBOOT,
    "apply": _REBOOT,
    "soft-reboot": _REBOOT + " --soft-reboot=auto spares the kernel.",
    "factory-reset": "It is called 'bootcctl reset --state'.",
    "install to-existing-root": "'bootcctl adopt' takes over a machine that bootc has installed, and no other.",
    "image copy-to-storage": "'skopeo copy' takes the image from its registry; bootcctl does not write to container "
                             "storage.",
}
"""Verb, with its group if it has one → what to type instead."""

OPTIONS = {
    "upgrade --preview": _CHECK,
    "upgrade --unchanged-exit-77": "--check has exit status 77 when there is nothing newer.",
    "upgrade --reboot": "It is called --apply.",
    "upgrade -r": "It is called --apply.",
    "rollback --reboot": "It is called --apply.",
    "rollback -r": "It is called --apply.",
    "switch --transport": "It stands before the image, as in oci:DIR or containers-storage:NAME.",
    "switch --enforce-container-sigpolicy": _POLICY,
    "pin --unpin": "It is called 'bootcctl unpin DEPLOYMENT'.",
    "pin -u": "It is called 'bootcctl unpin DEPLOYMENT'.",
    "cleanup --pending": "'bootcctl unstage' forgets what is staged.",
    "cleanup -p": "'bootcctl unstage' forgets what is staged.",
    "kargs --append": "It is called 'bootcctl kargs add ARG'.",
    "kargs --append-if-missing": "It is called 'bootcctl kargs add ARG'.",
    "kargs --delete": "It is called 'bootcctl kargs remove ARG'.",
    "kargs --delete-if-present": "It is called 'bootcctl kargs remove ARG'.",
    "kargs --replace": "It is called 'bootcctl kargs replace OLD NEW'.",
    "install to-disk --via-loopback": "DISK may be a file; --image-size makes a new one.",
    "install to-disk --generic-image": "DISK may be a file; --image-size makes a new one.",
    "install to-disk --block-setup": "--encrypt tpm2 makes an encrypted root.",
    "install to-disk --source-imgref": "--from PLACE says where the bytes are, IMAGE what the machine follows.",
    "install to-disk --target-imgref": "--from PLACE says where the bytes are, IMAGE what the machine follows.",
    "install to-filesystem --source-imgref": "--from PLACE says where the bytes are, IMAGE what the machine follows.",
    "install to-filesystem --target-imgref": "--from PLACE says where the bytes are, IMAGE what the machine follows.",
}
"""Verb and option → what to type instead."""


def verb(words: tuple[str, ...], given: str, verbs: Mapping[str, Iterable[str]]) -> str:
    """What was meant by a verb, as advice; empty when that cannot be told. `words` is the group in which it was looked
    for, `()` for the program; `verbs` has what is there, each with the verbs below."""
    known = VERBS.get(" ".join((*words, given)))
    if known is not None:
        return known
    below = [f"{name} {given}" for name, group in verbs.items() if given in group]
    return _perhaps([f"'{' '.join(('bootcctl', *words, name))}'" for name in below or _near(given, verbs)])


def option(words: tuple[str, ...], given: str, options: Iterable[str]) -> str:
    """The same for an option of a verb, which has `options`."""
    known = OPTIONS.get(" ".join((*words, given)))
    return known if known is not None else _perhaps(_near(given, options))


def _near(given: str, names: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(given, names, n=1, cutoff=0.7)


def _perhaps(found: list[str]) -> str:
    return f"Do you mean {' or '.join(found)}?" if found else ""
