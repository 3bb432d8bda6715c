# SPDX-License-Identifier: Apache-2.0
"""OpenPGP signatures by the real gpg, verified by the real gpgv."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootcd.errors import SignatureError, TrustPolicyError
from bootcd.formats.trustpolicy import Identity, KeyFile, SignedBy
from bootcd.registry.gpg import MAX_SIGNATURE, GpgVerifier, SignedMessage
from kit.openpgp import Keys, available

pytestmark = pytest.mark.skipif(not available(), reason="gpg or gpgv is not installed")

DIGEST = "sha256:" + "c" * 64
CLAIM = json.dumps({"critical": {"type": "atomic container signature", "image": {"docker-manifest-digest": DIGEST},
                                 "identity": {"docker-reference": "quay.io/team/os:1"}}, "optional": {}}).encode()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    with Keys(tmp_path_factory.mktemp("gpg") / "home") as made:
        for name in ("vendor", "reviewer"):
            made.make(f"{name}@example.com")
        made.make("rsa@example.com", kind="rsa2048")
        yield made


def verifier(*keyrings: bytes) -> GpgVerifier:
    return GpgVerifier(SignedBy(tuple(KeyFile(data=data) for data in keyrings), Identity()))


def refused(checker: GpgVerifier, message: bytes) -> str:
    with pytest.raises(SignatureError) as caught:
        checker.verify(SignedMessage("here", message))
    return str(caught.value)


@pytest.mark.parametrize("armored", [False, True])
def test_a_message_signed_by_a_key_of_the_policy_counts(keys: Keys, armored: bool) -> None:
    checker = verifier(keys.public("reviewer", armored=armored), keys.public("vendor", armored=armored))
    claim, signer = checker.verify(SignedMessage("here", keys.sign("vendor", CLAIM)))
    assert (claim.digest, str(claim.name)) == (DIGEST, "quay.io/team/os:1")
    assert signer.startswith("OpenPGP key ")


def test_the_name_of_a_keyring_is_told(keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "vendor.gpg").write_bytes(keys.public("vendor"))
    checker = GpgVerifier(SignedBy((KeyFile(path=str(tmp_path / "vendor.gpg")),), Identity()))
    assert "vendor.gpg" in checker.verify(SignedMessage("here", keys.sign("vendor", CLAIM)))[1]


def test_another_key_does_not_count(keys: Keys) -> None:
    assert "not made by a key" in refused(verifier(keys.public("reviewer")), keys.sign("vendor", CLAIM))


def test_two_signatures_of_which_one_is_unknown_do_not_count(keys: Keys) -> None:
    both = keys.sign("vendor", CLAIM, "--local-user", "reviewer")
    assert refused(verifier(keys.public("vendor")), both)


@pytest.mark.parametrize("option", ["--clearsign", "--detach-sign", "--store", "--armor --sign"])
def test_what_is_no_signed_message_does_not_count(keys: Keys, option: str) -> None:
    message = keys._gpg("--local-user", "vendor", *option.split(), "--output", "-", data=CLAIM)
    assert refused(verifier(keys.public("vendor")), message)


def test_changed_bytes_do_not_count(keys: Keys) -> None:
    message = keys.sign("vendor", CLAIM, "--compress-algo", "none")
    assert refused(verifier(keys.public("vendor")), message.replace(b"team", b"evil"))
    assert refused(verifier(keys.public("vendor")), message[:-9])
    assert refused(verifier(keys.public("vendor")), b"")


def test_a_signature_that_has_expired_does_not_count(keys: Keys) -> None:
    brief = keys.sign("vendor", CLAIM, "--default-sig-expire", "seconds=1")
    time.sleep(2.1)
    assert refused(verifier(keys.public("vendor")), brief) == "it has expired"


@pytest.mark.parametrize(("digest", "name"), [("SHA1", "SHA-1"), ("RIPEMD160", "RIPEMD-160")])
def test_hashes_that_are_broken_do_not_count(keys: Keys, digest: str, name: str) -> None:
    weak = keys.sign("rsa", CLAIM, "--digest-algo", digest)
    assert refused(verifier(keys.public("rsa")), weak) == f"its hash, {name}, does not count any more"
    assert verifier(keys.public("rsa")).verify(SignedMessage("here", keys.sign("rsa", CLAIM)))


@pytest.mark.parametrize("algorithm", ["zlib", "bzip2"])
def test_a_bomb_is_stopped(keys: Keys, algorithm: str) -> None:
    bomb = keys.sign("vendor", bytes(64 << 20), "--compress-algo", algorithm, "-z", "9")
    assert len(bomb) < MAX_SIGNATURE
    assert refused(verifier(keys.public("vendor")), bomb)
    assert "larger than" in refused(verifier(keys.public("vendor")), bytes(MAX_SIGNATURE + 1))


@pytest.mark.parametrize("keyring", [
    b"", b"keys", b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n%%%\n-----END PGP PUBLIC KEY BLOCK-----\n",
])
def test_what_holds_no_keys_is_an_error_of_the_policy(keyring: bytes) -> None:
    with pytest.raises(TrustPolicyError):
        verifier(keyring)
