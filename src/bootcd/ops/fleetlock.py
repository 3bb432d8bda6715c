# SPDX-License-Identifier: Apache-2.0
"""Ask the lock server of the fleet, by what the configuration says of it."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

from ..config import Config
from ..registry import fleetlock
from ..registry.sources import SourceOptions
from .rules import FleetLockAnswer
from .surroundings import surroundings

_APPLICATION = bytes.fromhex("6d9a8d4c9c0f4a55b1f0f3a2b0a7c1e4")


def ask(config: Config, step: str) -> FleetLockAnswer:
    """Ask for the lock (`pre-reboot`) or give it back (`steady-state`). Raises ConfigError."""
    machine = surroundings().machine_id
    if not machine:
        return FleetLockAnswer(False, "this machine has no machine id by which it could be known")
    options = SourceOptions(
        ca_file=Path(config.registry_ca_file) if config.registry_ca_file else None, proxy=config.registry_proxy,
        no_proxy=config.registry_no_proxy, separate=os.geteuid() == 0)
    reply = fleetlock.ask(config.update_fleetlock, step, client_id(machine), config.update_fleetlock_group, options)
    return FleetLockAnswer(reply.granted, reply.why)


def client_id(machine_id: str) -> str:
    """What the server knows the machine by: made from its machine id, as sd_id128_get_machine_app_specific(3) does, so
    that the id itself stays here."""
    made = bytearray(hmac.digest(bytes.fromhex(machine_id), _APPLICATION, hashlib.sha256)[:16])
    made[6] = made[6] & 0x0F | 0x40
    made[8] = made[8] & 0x3F | 0x80
    return made.hex()
