# SPDX-License-Identifier: Apache-2.0
"""Whether each byte over the present connection costs money, as NetworkManager sees it.

Source: NetworkManager's D-Bus interface, property Metered (NMMetered: 0 unknown, 1 yes, 2 no, 3 guessed yes, 4 guessed
no). Where NetworkManager is absent, slow or talks nonsense, nobody knows, and the connection counts as unmetered.
"""

from __future__ import annotations

import logging

from .bus import Bus
from .exports import BusError

log = logging.getLogger(__name__)

PATIENCE = 2.0
"""Seconds that it has to answer."""
_NAME = "org.freedesktop.NetworkManager"
_METERED, _UNMETERED = (1, 3), (2, 4)


async def is_metered(bus: Bus) -> bool:
    """Ask; NetworkManager is not started for it."""
    return await metered(bus) or False


async def metered(bus: Bus) -> bool | None:
    """The same, None where nobody knows."""
    try:
        answer = await bus.call(_NAME, "/org/freedesktop/NetworkManager", "org.freedesktop.DBus.Properties", "Get",
                                "ss", _NAME, "Metered", timeout=PATIENCE, start=False)
    except BusError as error:
        log.debug("NetworkManager does not tell whether the connection is metered: %s", error)
        return None
    if len(answer) != 1 or type(answer[0]) is not int or answer[0] not in (*_METERED, *_UNMETERED):
        return None
    return answer[0] in _METERED
