# SPDX-License-Identifier: Apache-2.0
"""Which proxy a request takes, and why: that of the configuration, that of the environment, or none.

Source: bootcd.toml(5); the variables as curl and requests read them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import requests.utils


@dataclass(frozen=True, slots=True)
class Proxy:
    """The proxy for one address; `address` is empty when there is none, and may hold a password. `variable` is the one
    of the environment that decided, if one did."""

    why: str
    address: str = field(default="", repr=False)
    variable: str = ""

    @property
    def place(self) -> str:
        """Host and port, for people; empty without a proxy."""
        # Not by the grammar of addresses, which a password may break.
        _, login, place = self.address.rpartition("@")
        return (place if login else place.partition("://")[2] or place).partition("/")[0]

    def settings(self) -> dict[str, str]:
        """The same for requests."""
        return {"http": self.address, "https": self.address} if self.address else {}


def choose(url: str, configured: str = "", no_proxy: Sequence[str] = (), *, loopback: bool) -> Proxy:
    """The proxy by which `url` is asked. `configured` and `no_proxy` are what bootcd.toml says."""
    if loopback:
        return Proxy("hosts of loopback are asked without one")
    if configured:
        if requests.utils.should_bypass_proxies(url, no_proxy=",".join(no_proxy) or None):
            named = "no-proxy in bootcd.toml" if no_proxy else "no_proxy of the environment"
            return Proxy(f"{named} excepts this host", variable="" if no_proxy else _spelled("no"))
        return Proxy("proxy in bootcd.toml", configured)
    scheme = urlsplit(url).scheme
    chosen = requests.utils.select_proxy(url, dict(requests.utils.get_environ_proxies(url)))
    variable = _spelled(scheme) or _spelled("all")
    if chosen:
        return Proxy(f"{variable} of the environment", chosen, variable)
    if variable:
        excepting = _spelled("no")
        return Proxy(f"{excepting or 'no_proxy'} of the environment excepts this host", variable=excepting)
    return Proxy("neither bootcd.toml nor the environment names one")


def _spelled(kind: str) -> str:
    """How the environment spells the variable; empty when it does not have it."""
    return next((name for name in (f"{kind}_proxy", f"{kind.upper()}_PROXY") if os.environ.get(name)), "")
