# SPDX-License-Identifier: Apache-2.0
"""Records, journal and rejections: what is written is read back, and no bytes at all break the reader."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.deploy import records
from bootcd.deploy.journal import Journal, Transaction
from bootcd.deploy.plan import Action, Plan, Step
from bootcd.deploy.records import (
    EtcDecision,
    EtcReport,
    OwnKargs,
    Pin,
    Record,
    Records,
    Trial,
    clipped,
    decode,
    encode,
    pinned,
    unpinned,
)
from bootcd.deploy.rejected import Rejected, Rejection
from bootcd.errors import BootcdError, RecordError

ID = "0123456789abcdef" * 8
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=6)
_strings = st.lists(st.text(max_size=8), max_size=3).map(tuple)
_own = st.builds(OwnKargs, _strings, _strings, _strings)
_generations = st.integers(1, 10**10 - 1)
_texts = st.text(max_size=20)
_decisions = st.lists(st.builds(EtcDecision, _texts, _texts, _texts, _texts, _texts), max_size=2).map(tuple)
made = st.builds(
    Record, id=st.sampled_from([ID, ID[:64]]), image=_texts, manifest_digest=_texts, config_digest=_texts,
    boot_type=st.sampled_from(["bls", "uki"]), boot_digest=_texts, composefs_karg=_texts, version=_texts, title=_texts,
    created=_texts, staged=_texts, requested_by=_texts, kernel_version=_texts, image_kargs=_strings,
    own=_own, generation=st.none() | _generations,
    pins=st.lists(st.builds(Pin, _texts, _texts), max_size=2).map(tuple), health=_texts, health_reason=_texts,
    etc_report=st.builds(EtcReport, _strings, _strings, _strings, _strings, _decisions), locked=st.booleans(),
    trials=st.lists(st.builds(Trial, _generations, _own, _texts), max_size=2).map(tuple),
)


def record(**changes: Any) -> Record:
    values: dict[str, Any] = {"id": ID, "image": "oci:x", "manifest_digest": "sha256:" + "0" * 64, "config_digest": "",
                              "boot_type": "bls", "boot_digest": "b" * 64, "composefs_karg": ""}
    return Record(**{**values, **changes})


@given(made)
@settings(deadline=None)
def test_a_record_is_read_back(value: Record) -> None:
    assert decode(encode(value), "here") == value


def test_names_that_are_no_text_are_kept() -> None:
    value = record(title="half a pair \ud800", etc_report=EtcReport(added=("not-utf-8-\udcff",)))
    assert decode(encode(value), "here") == value


@pytest.mark.parametrize("decisions", [1, [1], {}, [{"path": 1}], [{"taken": None}]])
def test_decisions_that_are_none(decisions: Any) -> None:
    document = json.loads(encode(record()))
    document["etc-report"]["decisions"] = decisions
    with pytest.raises(RecordError, match="etc-report"):
        decode(json.dumps(document).encode(), "here")


def test_keys_of_a_later_program_are_kept() -> None:
    document = json.loads(encode(record()))
    document["colour"] = {"of": "the sky"}
    again = json.loads(encode(decode(json.dumps(document).encode(), "here")))
    assert again["colour"] == {"of": "the sky"}


@given(st.binary(max_size=200) | _json.map(lambda value: json.dumps(value).encode()))
@settings(deadline=None)
def test_any_bytes_raise_only_our_error(data: bytes) -> None:
    with pytest.raises(RecordError, match="here"):
        decode(data, "here")


@given(st.data())
@settings(deadline=None)
def test_any_value_in_any_place_raises_only_our_error(data: st.DataObject) -> None:
    document = json.loads(encode(record(pins=(Pin("a", "b"),), generation=1)))
    key = data.draw(st.sampled_from(sorted(document)))
    document[key] = data.draw(_json)
    with contextlib.suppress(RecordError):
        decode(json.dumps(document).encode(), "here")


@pytest.mark.parametrize(("key", "value", "said"), [
    ("schema", 2, "newer"), ("schema", True, "schema"), ("generation", 0, "generation"),
    ("generation", 10**10, "generation"), ("id", "../../etc", "id"), ("pins", [1], "pins"), ("title", 7, "title"),
    ("locked", 1, "locked"), ("machine-kargs", "quiet", "kargs"), ("command-kargs", [1], "kargs"),
    ("trials", {}, "trials"), ("trials", [1], "trials"), ("trials", [{}], "trials: generation"),
    ("trials", [{"generation": 0}], "trials: generation"), ("trials", [{"generation": True}], "trials: generation"),
    ("trials", [{"generation": 2, "local-kargs": 1}], "trials: local-kargs"),
    ("trials", [{"generation": 2, "made-in": 1}], "trials: made-in"),
])
def test_what_is_wrong_is_named(key: str, value: object, said: str) -> None:
    document = {**json.loads(encode(record())), key: value}
    with pytest.raises(RecordError, match=said):
        decode(json.dumps(document).encode(), "here")


def test_one_bad_file_does_not_hide_the_others(tmp_path: Path) -> None:
    store = Records(tmp_path / "deployments")
    assert store.load() == ({}, [])
    store.save(record())
    (tmp_path / "deployments/damaged.json").write_bytes(b"{")
    (tmp_path / "deployments/other.json").write_bytes(encode(record()))
    (tmp_path / "deployments/huge.json").write_bytes(b" " * (records._MAX_SIZE + 1))
    (tmp_path / "deployments/directory.json").mkdir()
    (tmp_path / "deployments/nowhere.json").symlink_to("loop")

    found, problems = store.load()
    assert list(found) == [ID]
    assert [Path(str(problem).split(":")[0]).name for problem in problems] == [
        "damaged.json", "directory.json", "huge.json", "nowhere.json", "other.json"]
    store.remove(ID)
    store.remove(ID)
    assert store.load()[0] == {}


@pytest.mark.parametrize("changes", [
    {"title": "x" * (1 << 20)}, {"generation": 0}, {"generation": 10**10}, {"pins": (Pin("a", "x" * (1 << 20)),)},
])
def test_what_could_not_be_read_again_is_not_written(tmp_path: Path, changes: dict[str, Any]) -> None:
    store = Records(tmp_path)
    store.save(record())
    with pytest.raises(RecordError, match=ID[:12]):
        store.save(record(**changes))
    assert store.load() == ({ID: record()}, [])


def test_what_images_say_is_clipped() -> None:
    assert clipped("1.1\n\x1b[2J\ud800 ok") == "1.1[2J ok"
    assert len(clipped("x" * 10_000_000)) == records.MAX_TEXT


def test_pins() -> None:
    once = pinned(record(), "mine", "now")
    assert pinned(once, "mine", "later") == once
    twice = pinned(once, "yours", "later")
    assert [pin.label for pin in unpinned(twice, "mine").pins] == ["yours"]
    assert unpinned(twice, None).pins == ()
    assert unpinned(twice, "nobody's") == twice


# --- journal ----------------------------------------------------------------------------------------------------------

PLAN = Plan("stage", (
    Step(Action.HOLD, {"id": ID, "manifest": "sha256:0"}),
    Step(Action.INSTALL_KERNEL, {"name": "b" * 64, "files": {"vmlinuz": [4, "inline:6b65726e"], "initrd": [9, "0f"]}}),
    Step(Action.PREPARE_STATE, {"id": ID, "merge-from": None}),
    Step(Action.SAVE_RECORD, {"record": "{}"}),
    Step(Action.WRITE_ENTRY, {"id": ID, "generation": 7, "tries": 0}),
    Step(Action.RELEASE, {"manifest": "sha256:0"}, "why"),
))


def test_a_transaction_is_read_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal/transaction.json")
    assert journal.load() is None
    journal.write(Transaction(PLAN, 3))
    assert journal.load() == Transaction(PLAN, 3)
    journal.clear()
    assert journal.load() is None
    assert list((tmp_path / "journal").iterdir()) == []


@given(st.binary(max_size=100) | _json.map(lambda value: json.dumps(value).encode()))
@settings(deadline=None)
def test_any_journal_raises_only_our_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any-journal.json"
    path.write_bytes(data)
    with pytest.raises(RecordError, match="any-journal"):
        Journal(path).load()


@given(st.data())
@settings(deadline=None)
def test_no_step_with_odd_arguments_is_carried_out(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
                                                   ) -> None:
    path = tmp_path_factory.getbasetemp() / "odd.json"
    Journal(path).write(Transaction(PLAN, 0))
    document = json.loads(path.read_text())
    step = data.draw(st.sampled_from(document["steps"]))
    key = data.draw(st.sampled_from([*step["args"], "unknown"]))
    step["args"][key] = data.draw(_json | st.sampled_from(["../x", "", ID, "x" * 64]))
    path.write_text(json.dumps(document))
    try:
        found = Journal(path).load()
    except RecordError:
        return
    assert found is not None
    for one in found.plan.steps:
        if "id" in one.args and one.action is not Action.RELEASE:
            assert records.is_id(one.args["id"])


def test_a_journal_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "transaction.json"
    path.write_text('{"schema": 2}')
    with pytest.raises(RecordError, match="newer"):
        Journal(path).load()


# --- rejections -------------------------------------------------------------------------------------------------------


def test_rejections_are_remembered_a_hundred_of_them(tmp_path: Path) -> None:
    rejected = Rejected(tmp_path / "state/rejected.json")
    assert rejected.load() == {}
    rejected.discard("sha256:none")
    for number in range(102):
        rejected.add(f"sha256:{number}", Rejection(f"reason {number}", "now"))
    assert len(rejected.load()) == 100
    assert "sha256:1" not in rejected.load()
    rejected.discard("sha256:101")
    assert "sha256:101" not in rejected.load()
    assert rejected.load()["sha256:100"] == Rejection("reason 100", "now")


@given(st.binary(max_size=100) | _json.map(lambda value: json.dumps(value).encode()))
@settings(deadline=None)
def test_any_rejections_raise_only_our_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any-rejected.json"
    path.write_bytes(data)
    with pytest.raises(RecordError, match="any-rejected"):
        Rejected(path).load()


def test_a_directory_in_place_of_a_file(tmp_path: Path) -> None:
    for name in ("transaction.json", "rejected.json"):
        (tmp_path / name).mkdir()
    with pytest.raises(BootcdError, match=r"transaction\.json"):
        Journal(tmp_path / "transaction.json").load()
    with pytest.raises(BootcdError, match=r"rejected\.json"):
        Rejected(tmp_path / "rejected.json").load()
