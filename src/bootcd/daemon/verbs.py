# SPDX-License-Identifier: Apache-2.0
"""What each method of the bus means in terms of `ops.host.Host`: one row for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..ops.results import ChangeResult, CheckResult, CollectResult, FsckResult, PullResult, TrustReport

Arguments = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Verb:
    """`kind` is the verb of bootcctl, `method` that of Host, `positional` the names there of the arguments that come
    before the options. `result` is the class of its answer, or None. `fixed` goes to Host without being asked for."""

    kind: str
    method: str
    result: type[Any] | None = ChangeResult
    positional: tuple[str, ...] = ()
    fixed: tuple[tuple[str, Any], ...] = ()
    reads: Callable[[Arguments], bool] = lambda arguments: False
    """Whether it changes nothing, and may therefore run beside a job that does."""

    def arguments(self, positional: tuple[Any, ...], options: Mapping[str, Any]) -> Arguments:
        """Keyword arguments for Host. Rollback to the empty name is one without a name."""
        found = dict(zip(self.positional, positional, strict=True))
        if self.method == "rollback":
            found["deployment"] = found["deployment"] or None
        found |= {name.replace("-", "_"): value for name, value in options.items() if name != "background"}
        return {**found, **dict(self.fixed)}


VERBS: Mapping[str, Verb] = {
    "Check": Verb("check", "check", CheckResult, reads=lambda arguments: True),
    "Download": Verb("upgrade", "upgrade", fixed=(("download_only", True),)),
    "Upgrade": Verb("upgrade", "upgrade"),
    "Switch": Verb("switch", "switch", positional=("image",)),
    "Rollback": Verb("rollback", "rollback", positional=("deployment",)),
    "Pin": Verb("pin", "pin", positional=("deployment",)),
    "Unpin": Verb("unpin", "unpin", positional=("deployment",)),
    "Unstage": Verb("unstage", "unstage"),
    "Reset": Verb("reset", "reset", positional=("what",), reads=lambda arguments: bool(arguments.get("dry_run"))),
    "Finalize": Verb("finalize", "finalize"),
    "AddKernelArguments": Verb("kargs add", "kargs_add", positional=("arguments",)),
    "RemoveKernelArguments": Verb("kargs remove", "kargs_remove", positional=("arguments",)),
    "ReplaceKernelArgument": Verb("kargs replace", "kargs_replace", positional=("old", "new")),
    "ReloadKernelArguments": Verb("kargs reload", "kargs_reload"),
    "Cleanup": Verb("cleanup", "cleanup", CollectResult, reads=lambda arguments: bool(arguments.get("dry_run"))),
    "Fsck": Verb("fsck", "fsck", FsckResult, reads=lambda arguments: not arguments.get("repair")),
    "PullImage": Verb("image pull", "image_pull", PullResult, positional=("image",)),
    "VerifyImage": Verb("image verify", "image_verify", TrustReport, positional=("image",),
                        reads=lambda arguments: True),
    "RemoveImage": Verb("image remove", "image_remove", None, positional=("image",)),
}
"""Methods of the Manager that start a job."""
