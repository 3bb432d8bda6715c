# SPDX-License-Identifier: Apache-2.0
"""Whoever answers, the policy decides on the same facts about the deployments."""

from __future__ import annotations

import time

from bootcd.ops.rules import STEPS
from kit.os_images import os_image
from kit.world import World


def test_the_policy_of_a_machine(world: World) -> None:
    def why(step: str) -> list[str]:
        return [gate.text for gate in world.host.policy().step(step).gates if not gate.allows and gate.gate != "manual"]

    world.install(os_image("1.0"))
    report = world.host.policy()
    assert [step.step for step in report.steps] == list(STEPS)
    assert (report.automatic, report.reboot_time, report.done) == ("stage", "", "")
    assert report.step("check").allowed
    assert why("download") == ["No newer image is known."]
    assert why("reboot") == ["No deployment of this installation runs."]
    world.publish(os_image("1.1"))
    world.host.check()
    assert world.host.policy().step("download").allowed
    assert why("check")[0].startswith("The source was asked at ")
    world.host.upgrade(download_only=True)
    assert why("download") == ["Version 1.1 is downloaded already."]
    assert world.host.policy().step("stage").allowed
    found = world.host.upgrade(from_downloaded=True, only=f"sha256:{0:064}")
    assert (found.outcome, "Another image is downloaded by now than sha256:000" in found.message) == ("unchanged", True)
    time.sleep(1)  # times are told to the second
    world.publish(os_image("1.0"))
    assert not world.host.check().available
    assert why("stage") == ["Version 1.1 is downloaded, but its source has taken it back."]
