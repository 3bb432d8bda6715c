# SPDX-License-Identifier: Apache-2.0
"""Bundles whose log is of Rekor 2, which proves and does not promise, and whose time is an authority's."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from bootcd.errors import TrustPolicyError
from kit.judge import FULCIO, KEY, REKOR, Judge
from kit.pulling import IMAGE, serve_image
from kit.scripted_server import ScriptedServer
from kit.signing import EMAIL, ISSUER, NOW, bundle, pem, sign, statement
from kit.timestamping import TimeAuthority
from kit.transparency import TiledLog, text

DIGEST = IMAGE.manifest_digest
LOG, CLOCK = TiledLog(), TimeAuthority()
GOOD = FULCIO.bundle(statement(DIGEST), LOG, stamps=[CLOCK.stamp])
OTHER = FULCIO.bundle(statement(DIGEST), LOG, stamps=[CLOCK.stamp])


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        serve_image(running)
        yield running


@pytest.fixture
def judge(server: ScriptedServer, tmp_path: Path) -> Judge:
    return Judge(server, tmp_path)


@pytest.fixture
def times(tmp_path: Path) -> str:
    return CLOCK.write(tmp_path / "times.pem")


def material(document: Any) -> Any:
    return document["verificationMaterial"]


def entry(document: Any) -> Any:
    return material(document)["tlogEntries"][0]


def proof(document: Any) -> Any:
    return entry(document)["inclusionProof"]


@pytest.mark.parametrize("log", [
    LOG, TiledLog(kind="dsse"), TiledLog(ec.generate_private_key(ec.SECP256R1())), TiledLog(before=0, after=0),
    TiledLog(before=1000, after=600),
], ids=["hashedrekord", "dsse", "ecdsa", "alone", "large"])
def test_by_somebody_who_logged_in(judge: Judge, times: str, log: TiledLog) -> None:
    judge.attach(FULCIO.bundle(statement(DIGEST), log, stamps=[CLOCK.stamp]))
    number = entry(FULCIO.bundle(statement(DIGEST), log))["logIndex"]
    assert judge(times=times, **judge.keyless(log)).signers == (
        f"{EMAIL} by {ISSUER}, logged as entry {number} of log.example, with the key of {judge.directory}/log-0.pub, "
        "time stamped 2023-11-14T22:13:20+00:00 by clock.example",)
    assert "was not signed by a log that the policy names" in judge.reasons(times=times, **judge.keyless(TiledLog()))
    assert judge(times=times, **judge.keyless(TiledLog(), log)).accepted


def test_a_key_needs_no_time(judge: Judge) -> None:
    judge.attach(bundle(KEY, statement(DIGEST), LOG))
    (signer,) = judge(**judge.keyed(LOG)).signers
    assert signer.endswith(f", logged as entry 5 of log.example, with the key of {judge.directory}/log-0.pub")
    assert "not signed by a log that the policy names" in judge.reasons(**judge.keyed(REKOR))


def test_what_is_0_may_be_missing(judge: Judge, times: str) -> None:
    """As in JSON of protocol buffers; and what is repeated outside of the checkpoint may be, too."""
    log = TiledLog(before=0, after=0)
    short = FULCIO.bundle(statement(DIGEST), log, stamps=[CLOCK.stamp])
    entry(short).pop("logIndex")
    entry(short)["inclusionProof"] = {"checkpoint": proof(short)["checkpoint"]}
    judge.attach(short)
    assert judge(times=times, **judge.keyless(log)).accepted


def test_two_logs_of_different_kinds(judge: Judge, times: str) -> None:
    judge.attach(FULCIO.bundle(statement(DIGEST), REKOR, LOG))
    assert judge(**judge.keyless(REKOR, LOG)).accepted
    assert judge(**judge.keyless(REKOR)).accepted
    assert "it has no time stamp" in judge.reasons(times=times, **judge.keyless(LOG))


def test_where_a_log_promises_and_proves_both_have_to_be_right(judge: Judge) -> None:
    class Both:
        """As Rekor 1 does."""

        key = REKOR.key

        def entry(self, payload: bytes, signature: bytes, by: bytes) -> dict[str, Any]:
            promised = REKOR.entry(payload, signature, by)
            raw = base64.b64decode(promised["canonicalizedBody"])
            leaf_log = TiledLog(REKOR.key, origin="rekor.example - 1193050959916656506")
            return promised | {"inclusionProof": leaf_log.proof(raw, name="rekor.example")}

    both = Both()
    made = bundle(KEY, statement(DIGEST), both)
    judge.attach(made)
    (signer,) = judge(**judge.keyed(REKOR)).signers
    assert ", logged 2023-11-14T22:13:20+00:00 as entry 5 of rekor.example - 1193050959916656506, with" in signer
    proof(made)["hashes"][0] = text(bytes(32))
    judge.attach(made)
    assert "does not lead to the root" in judge.reasons(**judge.keyed(REKOR))
    proof(made).pop("checkpoint")
    judge.attach(made)
    assert "inclusionProof.checkpoint: expected an object" in judge.reasons(**judge.keyed(REKOR))
    entry(made).pop("inclusionProof")
    judge.attach(made)
    assert judge(**judge.keyed(REKOR)).accepted
    entry(made)["inclusionPromise"]["signedEntryTimestamp"] = text(b"?")
    judge.attach(made)
    assert "was not made by a log" in judge.reasons(**judge.keyed(REKOR))
    two = bundle(KEY, statement(DIGEST), both)
    proof(two).update(LOG.proof(base64.b64decode(entry(two)["canonicalizedBody"])))
    judge.attach(two)
    assert "of different logs" in judge.reasons(**judge.keyed(REKOR, LOG))
    assert "not signed by a log" in judge.reasons(**judge.keyed(REKOR))


def body(change: Callable[[Any], object]) -> Callable[[Any], object]:
    """Another entry in the place of the one that the log has."""
    def apply(top: Any) -> None:
        document = json.loads(base64.b64decode(entry(top)["canonicalizedBody"]))
        change(document["spec"]["hashedRekordV002"])
        entry(top)["canonicalizedBody"] = text(json.dumps(document).encode())
    return apply


def checkpoint(change: Callable[[str], str]) -> Callable[[Any], object]:
    def apply(top: Any) -> None:
        proof(top)["checkpoint"]["envelope"] = change(proof(top)["checkpoint"]["envelope"])
    return apply


def signed(change: Callable[[bytes], bytes]) -> Callable[[Any], object]:
    """Another signature of the checkpoint, with the 4 bytes in front that hint at the key."""
    def apply(note: str) -> str:
        before, mark, line = note.rpartition("— log.example ")
        return before + mark + text(change(base64.b64decode(line))) + "\n"
    return checkpoint(apply)


def stamped(stamp: Callable[[bytes], bytes]) -> Callable[[Any], object]:
    def apply(top: Any) -> None:
        made = base64.b64decode(top["dsseEnvelope"]["signatures"][0]["sig"])
        material(top)["timestampVerificationData"] = {"rfc3161Timestamps": [{"signedTimestamp": text(stamp(made))}]}
    return apply


def late(seconds: int) -> Callable[[Any], object]:
    return stamped(lambda made: CLOCK.stamp(made, NOW + seconds))


@pytest.mark.parametrize(("change", "says"), [
    (lambda top: proof(top)["hashes"].reverse(), "does not lead to the root in its checkpoint"),
    (lambda top: proof(top)["hashes"].pop(), "too few hashes"),
    (lambda top: proof(top)["hashes"].append(text(bytes(32))), "too many hashes"),
    (lambda top: proof(top)["hashes"].append(text(bytes(31))), "hashes that are not of 32 bytes"),
    (lambda top: proof(top).update(hashes=[text(bytes(32))] * 64), "there are 64, more than 63"),
    (lambda top: proof(top).update(logIndex="4"), "does not lead to the root"),
    (lambda top: proof(top).update(logIndex="8"), "a log of 8 entries has no entry 8"),
    (lambda top: proof(top).update(logIndex="9223372036854775808"), "logIndex: expected a number"),
    (lambda top: proof(top).update(treeSize="9"), "treeSize: is not that of the checkpoint, 8"),
    (lambda top: proof(top).update(rootHash=text(bytes(32))), "rootHash: is not that of the checkpoint"),
    (lambda top: proof(top).pop("checkpoint"), "inclusionProof.checkpoint: expected an object"),
    (lambda top: entry(top).pop("inclusionProof"), "there is neither a promise of the log nor a proof"),
    (lambda top: entry(top).update(inclusionProof={}), "there is neither a promise of the log nor a proof"),
    (checkpoint(lambda note: note.replace("\n8\n", "\n9\n")), "treeSize: is not that"),
    (checkpoint(lambda note: note.replace("log.example\n8", "log2.example\n8")), "not signed by a log"),
    (checkpoint(lambda note: note.replace("— log.example", "— log2.example")), "not signed by a log"),
    (checkpoint(lambda note: note[:note.index("— log.example")]), "not signed by a log"),
    (signed(lambda data: data[:-1] + bytes([data[-1] ^ 1])), "not signed by a log"),
    (signed(lambda data: bytes([data[0] ^ 1]) + data[1:]), "not signed by a log"),
    (checkpoint(lambda note: note + "more"), "a line that is no signature"),
    (body(lambda entry: entry["data"].update(digest=text(bytes(32)))), "does not lead to the root"),
    (lambda top: entry(top).update(entry(OTHER)), "the log entry is about another signature"),
    (lambda top: material(top).update(certificate=material(OTHER)["certificate"]),
     "the log entry is about another certificate"),
    (lambda top: material(top).pop("timestampVerificationData"), "it was logged, and it has no time stamp"),
    (lambda top: material(top).update(timestampVerificationData=material(OTHER)["timestampVerificationData"]),
     "its time stamp does not count: it is about something else than this signature"),
    (late(601), "its certificate is valid from 2023-11-14T22:12:20+00:00 to 2023-11-14T22:23:20+00:00, and was used"),
    (late(-61), "its certificate is valid from"),
    (stamped(TimeAuthority().stamp), "its authority's certificate is neither with it nor in the file of the"),
    (stamped(lambda made: TimeAuthority().stamp(made, with_certificates=True)), "does not come from the authority"),
    (stamped(lambda made: b"\x30\x80"), "it is malformed: a length cannot be understood"),
    (stamped(lambda made: bytes(40_000)), "larger than 32768 bytes"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_does_not_count(judge: Judge, times: str, change: Callable[[Any], object], says: str) -> None:
    document = copy.deepcopy(GOOD)
    change(document)
    judge.attach(document)
    assert says in judge.reasons(times=times, **judge.keyless(LOG))


def test_a_checkpoint_is_signed_in_the_name_of_its_log(judge: Judge) -> None:
    """Which the hint of an ECDSA key does not cover."""
    log = TiledLog(ec.generate_private_key(ec.SECP256R1()))
    made = bundle(KEY, statement(DIGEST), log)
    checkpoint(lambda note: note.replace("— log.example", "— log2.example"))(made)
    judge.attach(made)
    assert "not signed by a log" in judge.reasons(**judge.keyed(log))


def test_a_forged_log_has_what_it_wants_but_the_signature(judge: Judge) -> None:
    class Forged(TiledLog):
        def hint(self, name: str) -> bytes:
            return LOG.hint(name)

    made = bundle(KEY, statement(DIGEST), Forged())
    judge.attach(made)
    assert proof(made)["checkpoint"]["envelope"].count(text(LOG.hint("log.example"))[:5]) == 1
    assert "not signed by a log" in judge.reasons(**judge.keyed(LOG))


def test_an_entry_of_another_key_or_signature(judge: Judge) -> None:
    """Which the log has, and proves: only that it is about something else."""
    class Wrong:
        key = LOG.key

        def __init__(self, **other: bytes) -> None:
            self._other = other

        def entry(self, payload: bytes, signature: bytes, by: bytes) -> dict[str, Any]:
            return LOG.entry(**{"payload": payload, "signature": signature, "by": by, **self._other})

    stranger = ec.generate_private_key(ec.SECP256R1())
    for wrong, says in ((Wrong(payload=b"{}"), "about another signature"), (Wrong(signature=sign(KEY, b"{}")), "about"),
                        (Wrong(by=pem(stranger)), "about another key")):
        judge.attach(bundle(KEY, statement(DIGEST), wrong))
        assert says in judge.reasons(**judge.keyed(LOG))


def test_time_stamps_count_only_where_somebody_said_so(judge: Judge, tmp_path: Path) -> None:
    judge.attach(GOOD)
    assert "timestamp-ca-file in bootcd.toml names nobody" in judge.reasons(**judge.keyless(LOG))
    for content, says in (("", "holds no certificate"), ("-----BEGIN CERTIFICATE-----\n", "cannot be read")):
        (tmp_path / "bad.pem").write_text(content)
        with pytest.raises(TrustPolicyError, match=says):
            judge(times=str(tmp_path / "bad.pem"), **judge.keyless(LOG))
    with pytest.raises(TrustPolicyError, match="cannot be read"):
        judge(times="/nonexistent", **judge.keyless(LOG))


def test_no_time_that_counts_may_be_another(judge: Judge, times: str) -> None:
    """One that does not count changes nothing: anybody could add it."""
    stranger = TimeAuthority()
    judge.attach(FULCIO.bundle(statement(DIGEST), LOG, stamps=[stranger.stamp, CLOCK.stamp]))
    assert judge(times=times, **judge.keyless(LOG)).accepted
    judge.attach(FULCIO.bundle(statement(DIGEST), REKOR, stamps=[stranger.stamp]))
    assert judge(times=times, **judge.keyless(REKOR)).accepted
    for log in (LOG, REKOR):
        judge.attach(FULCIO.bundle(statement(DIGEST), log, stamps=[
            CLOCK.stamp, lambda made: CLOCK.stamp(made, NOW + 3600)]))
        assert "and was used at 2023-11-14T23:13:20" in judge.reasons(times=times, **judge.keyless(log))
