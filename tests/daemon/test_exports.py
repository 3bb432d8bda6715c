# SPDX-License-Identifier: Apache-2.0
"""Objects with properties and signals, without a bus."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from bootcd.daemon.exports import Emission, Exported, Outbox, Place, apart, hold
from bootcd.daemon.wire import Typed
from daemon.demo import DEMO, PATH, PROPERTIES


async def nothing(call: object) -> list[Any]:
    return []


def ignore(value: object) -> None:
    pass


def demo(**properties: Any) -> Exported:
    return Exported(DEMO, dict.fromkeys(DEMO.methods, nothing), {**PROPERTIES, **properties}, {"Level": ignore})


class Wire:
    """Collects what is sent; `turn` is the next turn of the loop."""

    def __init__(self) -> None:
        self.sent: list[Emission] = []
        self.soon: list[Callable[[], None]] = []
        self.outbox = Outbox(self.sent.append, self.soon.append)

    def place(self, exported: Exported, path: str = PATH) -> Exported:
        exported.place = Place(path, self.outbox)
        return exported

    def turn(self) -> list[Emission]:
        due, self.soon = self.soon[:], []
        self.outbox._soon = self.soon.append
        for call in due:
            call()
        found, self.sent[:] = self.sent[:], []
        return found


def test_everything_must_have_its_handler_and_its_value() -> None:
    handlers = dict.fromkeys(DEMO.methods, nothing)
    for given in ((dict(list(handlers.items())[1:]), PROPERTIES, {"Level": ignore}),
                  ({**handlers, "More": nothing}, PROPERTIES, {"Level": ignore}),
                  (handlers, {"Count": 1}, {"Level": ignore}),
                  (handlers, PROPERTIES, {}),
                  (handlers, PROPERTIES, {"Level": ignore, "Count": ignore})):
        with pytest.raises(ValueError, match="do not match"):
            Exported(DEMO, *given)
    with pytest.raises(ValueError, match=r"org\.example\.Demo\.Count: -1 is not of the type u"):
        demo(Count=-1)


def test_values_are_checked_when_they_are_set() -> None:
    exported = demo()
    for wrong in ({"Count": "1"}, {"Count": True}, {"Tree": {"x": 1}}, {"Level": None}, {"Quiet": 2**64}):
        with pytest.raises((TypeError, ValueError), match=r"org\.example\.Demo\."):
            exported.update({"Quiet": 99, **wrong})
    with pytest.raises(KeyError):
        exported.update({"Quiet": 99, "Colour": 1})
    with pytest.raises(ValueError, match="Name is a constant"):
        exported.update({"Quiet": 99, "Name": "other"})
    assert exported.properties == PROPERTIES
    with pytest.raises(TypeError):
        exported.properties["Count"] = 1  # type: ignore[index]


def test_signals_are_checked_when_they_arise() -> None:
    exported = demo()
    for arguments in (("x",), ("x", (1,)), ("x", (1, 2)), (1, (1, True)), ("x", (1, True), 3)):
        with pytest.raises((TypeError, ValueError)):
            exported.emit("Note", *arguments)
    with pytest.raises(KeyError):
        exported.emit("Notes", "x")


def test_one_turn() -> None:
    wire = Wire()
    one, other = wire.place(demo()), wire.place(demo(), "/other")
    one.update({"Count": 1})
    other.update({"Count": 1})
    other.emit("Note", "x", (1, True))
    one.update({"Count": 2})
    assert wire.sent == []
    assert len(wire.soon) == 1
    first, second, third = wire.turn()
    assert (first.path, first.body) == (PATH, (DEMO.name, {"Count": Typed("u", 2)}, []))
    assert (second.path, third.path, third.body) == ("/other", "/other", ("x", (1, True)))
    one.update({"Count": 3})
    assert [emission.body[1] for emission in wire.turn()] == [{"Count": Typed("u", 3)}]
    assert wire.turn() == []


def test_what_a_handler_causes_waits_for_it() -> None:
    wire = Wire()
    exported = wire.place(demo())

    async def handler() -> None:
        held = hold()
        exported.update({"Count": 1})
        exported.emit("Note", "held", (1, True))
        later = asyncio.create_task(child())
        await asyncio.sleep(0)
        assert wire.turn() == []
        held.release()
        assert [one.member for one in wire.turn()] == ["PropertiesChanged", "Note", "Note"]
        go.set()
        await later
        assert [one.body[0] for one in wire.turn()] == ["free"]

    async def child() -> None:
        exported.emit("Note", "held too", (2, True))
        await go.wait()
        exported.emit("Note", "free", (3, True))

    async def main() -> None:
        handling = asyncio.create_task(handler())
        await asyncio.sleep(0)
        await handling
        exported.emit("Note", "elsewhere", (4, True))
        assert len(wire.turn()) == 1

    go = asyncio.Event()
    asyncio.run(main())


def test_what_is_done_apart_does_not_wait_for_the_handler() -> None:
    wire = Wire()
    exported = wire.place(demo())

    def work() -> asyncio.Task[None]:
        exported.emit("Note", "apart", (1, True))
        return asyncio.create_task(child())

    async def child() -> None:
        exported.emit("Note", "its task", (2, True))

    async def handler() -> None:
        held = hold()
        exported.emit("Note", "held", (3, True))
        await apart(work)
        assert [one.body[0] for one in wire.turn()] == ["apart", "its task"]
        held.release()
        assert [one.body[0] for one in wire.turn()] == ["held"]

    asyncio.run(handler())


def test_others_do_not_wait_for_a_handler() -> None:
    wire = Wire()
    exported = wire.place(demo())

    async def handler() -> None:
        held = hold()
        exported.update({"Count": 1})
        await go.wait()
        held.release()

    async def main() -> None:
        handling = asyncio.create_task(handler())
        await asyncio.sleep(0)
        exported.update({"Count": 2})
        assert [one.body[1] for one in wire.turn()] == [{"Count": Typed("u", 2)}]
        go.set()
        await handling
        # Said again, but never an older value after a newer one.
        assert [one.body[1] for one in wire.turn()] == [{"Count": Typed("u", 2)}]

    go = asyncio.Event()
    asyncio.run(main())
