# SPDX-License-Identifier: Apache-2.0
"""The plan that makes deployments of bootc ours. Pure, as `deploy.plan` is.

    hold images → kernels → (entry → record) for each, the default's last → bootc's entries, the default's last →
    bootc's kernels and tags

Bootc's entries sort before ours, so it is they that boot until they go, one after the other, when all of ours are
there: what boots next is the same deployment at every moment. Nothing of bootc's goes before. A record comes after its
entry, so that an ESP that is full after all leaves no deployment that cannot boot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import EspFull
from .facts import Facts
from .plan import Action, Kernel, Plan, Step
from .records import Record, encode


@dataclass(frozen=True, slots=True)
class Adoptee:
    """A deployment of bootc: the record that it gets, what it boots from, and the path of its entry on the ESP."""

    record: Record
    kernel: Kernel
    entry: str


def plan_adopt(facts: Facts, found: Sequence[Adoptee], places: Sequence[str]) -> Plan:
    """Adopt `found`, in the loader's order with the default first; `places` are paths of kernels that only they need.

    Raises EspFull, with the sums, when the kernels do not fit beside those that are there.
    """
    missing = {one.kernel.name: one.kernel.size for one in found
               if one.kernel.name not in facts.kernels or one.kernel.name in facts.partial}
    needed = sum(missing.values())
    if needed > facts.esp_free:
        raise EspFull(f"the ESP lacks {needed - facts.esp_free} bytes for kernels of the adopted deployments: they "
                      f"need {needed} bytes beside those of bootc, and {facts.esp_free} are free",
                      advice="Remove what else lies on it; kernels of bootc go only when the adoption is done.")
    generation = max([facts.last_generation, *(entry.generation for entry in facts.entries)])
    steps: list[Step] = []
    oldest_first = list(reversed(found))
    for one in oldest_first:
        steps += [Step(Action.HOLD, {"id": one.record.id, "manifest": one.record.manifest_digest}),
                  Step(Action.INSTALL_KERNEL, {"name": one.kernel.name, "files": dict(one.kernel.files)})]
    for one in oldest_first:
        generation += 1
        text = encode(replace(one.record, generation=generation)).decode("utf-8", "surrogateescape")
        steps += [Step(Action.ADD_ENTRY, {"record": text}), Step(Action.SAVE_RECORD, {"record": text})]
        steps += [Step(Action.REMOVE_ENTRY, {"file": entry.file_name}, "replaced by a newer generation")
                  for entry in facts.entries if one.record.id.startswith(entry.short_id)]
    steps += [Step(Action.REMOVE_FOREIGN, {"path": path}, "adopted")
              for path in (*(one.entry for one in oldest_first), *places)]
    steps += [Step(Action.RELEASE_FOREIGN, {"manifest": one.record.manifest_digest}, "adopted") for one in oldest_first]
    return Plan("adopt", tuple(steps))
