# SPDX-License-Identifier: Apache-2.0
"""Results on the bus: the keys of JSON, with D-Bus types."""

from __future__ import annotations

import json
from dataclasses import is_dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.daemon.wire import Typed, encode
from bootcd.ops import results
from bootcd.ops.resultjson import from_json, to_json

KINDS = [kind for kind in vars(results).values() if isinstance(kind, type) and is_dataclass(kind)]


def plain(value: Any) -> Any:
    """What a client sees once variants are unwrapped."""
    if isinstance(value, Typed):
        return plain(value.value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
@settings(deadline=None)
def test_a_client_gets_back_what_was_sent(kind: type[Any], data: st.DataObject) -> None:
    result = data.draw(st.builds(kind))
    carried = from_json(kind, as_carried(json.loads(json.dumps(to_json(result)))))
    assert from_json(kind, plain(encode(result))) == carried


def as_carried(value: Any) -> Any:
    """What D-Bus makes of a JSON value: no NUL, and numbers of 64 bits without a sign."""
    if isinstance(value, dict):
        return {as_carried(key): as_carried(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_carried(item) for item in value]
    if isinstance(value, str):
        return value.replace("\0", "\\x00")
    return value if value is None or isinstance(value, bool) else min(max(value, 0), 2**64 - 1)


def test_what_dbus_cannot_carry_is_escaped() -> None:
    item = results.FsckItem("state", "etc/\udcff", "a\0b")
    assert encode(item)["what"] == Typed("s", "etc/\\udcff")
    assert encode(item)["detail"] == Typed("s", "a\\x00b")


def test_types() -> None:
    sent = encode(results.ChangeResult("pinned", "Done.", pull=results.PullStats(layers=3)))
    assert sent == {
        "outcome": Typed("s", "pinned"), "message": Typed("s", "Done."),
        "pull": Typed("a{sv}", encode(results.PullStats(layers=3))),
        "reboot": Typed("s", ""),
    }
    assert encode(results.PullStats(layers=3))["layers"] == Typed("t", 3)
    assert encode(results.EtcChanges(added=("/etc/x",)))["added"] == Typed("as", ["/etc/x"])
