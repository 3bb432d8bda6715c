# SPDX-License-Identifier: Apache-2.0
"""Whether each byte over the present connection costs money, as NetworkManager sees it.

Source: NetworkManager's D-Bus interface, property Metered (NMMetered: 0 unknown, 1 yes, 2 no, 3 guessed yes, 4 guessed
no). Where NetworkManager is absent, slow or talks nonsense, the connection counts as unmetered.
"""

from __future__ import annotations

import logging

from .bus import Bus
from .exports import BusError

log = logging.getLogger(__name__)

PATIENCE = 2.0
"""Seconds that it has to answer."""
_NAME = "org.freedesktop.NetworkManager"
_METERED = (1, 3)


async def is_metered(bus: Bus) -> bool:
    """Ask; NetworkManager is not started for it."""
    try:
        answer = await bus.call(_NAME, "/org/freedesktop/NetworkManager", "org.freedesktop.DBus.Properties", "Get",
                                "ss", _NAME, "Metered", timeout=PATIENCE, start=False)
    except BusError as error:
        log.debug("NetworkManager does not tell whether the connection is metered: %s", error)
        return False
    return len(answer) == 1 and type(answer[0]) is int and answer[0] in _METERED
