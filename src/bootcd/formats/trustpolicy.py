# SPDX-License-Identifier: Apache-2.0
"""policy.json: which images are taken, and by whom they must be signed.

    {"default": [REQUIREMENT, …], "transports": {TRANSPORT: {SCOPE: [REQUIREMENT, …], …}, …}}

The requirements of the most specific scope that an image is in count, and all of them must hold. The parser is strict:
an unknown key or type is an error, since it may be what someone's safety rests on, and so is a key that appears twice.

Source: containers-policy.json(5).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from ..errors import SignatureError, TrustPolicyError
from ..model import ImageReference
from .documents import JsonObject, parse_object, shown
from .imagename import ImageName, path_scopes

MAX_POLICY = 1 << 20
"""Bytes of a policy file."""

_HOST = r"[A-Za-z0-9.-]+(?::[0-9]{1,5})?"
_PREFIX = re.compile(rf"{_HOST}(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*")


class Match(Enum):
    """How the name in a signature is compared with that of the image."""

    REPO_DIGEST_OR_EXACT = "matchRepoDigestOrExact"
    EXACT = "matchExact"
    REPOSITORY = "matchRepository"
    EXACT_REFERENCE = "exactReference"
    EXACT_REPOSITORY = "exactRepository"
    REMAP = "remapIdentity"


@dataclass(frozen=True, slots=True)
class Identity:
    """Which name a signature must give the image. `name` belongs to the kinds that begin with exact, `prefix` and
    `signed_prefix` to REMAP."""

    match: Match = Match.REPO_DIGEST_OR_EXACT
    name: ImageName | None = None
    prefix: str = ""
    signed_prefix: str = ""

    def accepts(self, image: ImageName | None, signed: ImageName) -> bool:
        """Whether a signature for `signed` is one for `image`, which is None where images have no such name."""
        if self.match is Match.EXACT_REFERENCE:
            return signed == self.name
        if self.match is Match.EXACT_REPOSITORY:
            return self.name is not None and signed.repository == self.name.repository
        if image is None:
            return False
        if self.match is Match.REPOSITORY:
            return signed.repository == image.repository
        if self.match is Match.REMAP:
            image = self._remapped(image)
        if image.digest and self.match is not Match.EXACT:
            return signed.repository == image.repository
        return signed == image and bool(signed.tag or signed.digest)

    def _remapped(self, image: ImageName) -> ImageName:
        rest = image.repository.removeprefix(self.prefix)
        if rest == image.repository or (rest and not rest.startswith("/")):
            return image
        return ImageName(self.signed_prefix + rest, image.tag, image.digest)


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A key or certificate: in the file `path`, or here as `data`."""

    path: str = ""
    data: bytes = b""

    def __str__(self) -> str:
        return self.path or "the policy itself"


@dataclass(frozen=True, slots=True)
class Accept:
    """insecureAcceptAnything"""


@dataclass(frozen=True, slots=True)
class Reject:
    """reject"""


@dataclass(frozen=True, slots=True)
class SignedBy:
    """signedBy: an OpenPGP signature by any key of `keyrings`."""

    keyrings: tuple[KeyFile, ...]
    identity: Identity


@dataclass(frozen=True, slots=True)
class Fulcio:
    """A short-lived certificate of `authority`, for who logged in at `issuer` as `email`."""

    authority: KeyFile
    issuer: str
    email: str


@dataclass(frozen=True, slots=True)
class SigstoreSigned:
    """sigstoreSigned: by any of `keys`, or with a certificate by `fulcio`; seen by a log with any of `rekor_keys`, when
    there are some."""

    keys: tuple[KeyFile, ...]
    fulcio: Fulcio | None
    rekor_keys: tuple[KeyFile, ...]
    identity: Identity


Requirement = Accept | Reject | SignedBy | SigstoreSigned


@dataclass(frozen=True, slots=True)
class Decision:
    """What decides about an image: a scope, by its place in the file, and its requirements."""

    scope: str
    requirements: tuple[Requirement, ...]


@dataclass(frozen=True, slots=True)
class TrustPolicy:
    """A policy file."""

    default: tuple[Requirement, ...]
    transports: Mapping[str, Mapping[str, tuple[Requirement, ...]]]

    def about(self, reference: ImageReference) -> Decision:
        """What decides about an image. The path of a file transport must be absolute and without links, the name in
        containers-storage one with the store in front, as in [overlay@/var/lib/containers/storage]quay.io/os."""
        scopes = self.transports.get(reference.transport, {})
        for name in (*_scopes(reference), ""):
            if name in scopes:
                return Decision(f"transports.{reference.transport}[{shown(name)}]", scopes[name])
        return Decision("default", self.default)


def parse(data: bytes, where: str) -> TrustPolicy:
    """Read a policy; `where` begins the messages. Raises TrustPolicyError with the path of what is wrong."""
    top = parse_object(data, where, MAX_POLICY, TrustPolicyError)
    top.only("default", "transports")
    transports = {}
    for transport in (found := top.optional_object("transports")).value:
        scopes = found.object(transport)
        for scope in scopes.value:
            _check_scope(scopes, transport, scope)
        transports[transport] = {scope: _requirements(scopes, scope) for scope in scopes.value}
    return TrustPolicy(_requirements(top, "default"), transports)


def _scopes(reference: ImageReference) -> list[str]:
    if reference.transport == "docker":
        name = ImageName.of(reference)
        return [*name.scopes(), *name.wildcards()]
    if reference.transport == "oci":
        return [f"{reference.name}:{reference.tag or ''}", *path_scopes(reference.name)]
    if reference.transport == "containers-storage":
        return _storage_scopes(reference)
    return [] if reference.transport == "docker-archive" else path_scopes(reference.name)


def _storage_scopes(reference: ImageReference) -> list[str]:
    """The image, its repository, the name spaces above, the store with its driver, the store."""
    spec, _, name = reference.name.partition("]")
    root = spec.partition("@")[2]
    names = [name] if name.startswith("@") else ImageName(name, reference.tag or "", reference.digest or "").scopes()
    return [*(f"{spec}]{one}" for one in names), f"{spec}]", f"[{root}]"]


def _check_scope(scopes: JsonObject, transport: str, scope: str) -> None:
    """What no image of a file transport could ever be in is a mistake, and a dangerous one."""
    if transport == "docker-archive" and scope:
        raise scopes.error(shown(scope), "this transport has no scope but \"\", as in containers-policy.json(5)")
    if transport == "containers-storage" and scope and not re.fullmatch(r"\[(?:[^]@/]+@)?/[^]]*\].*", scope):
        raise scopes.error(shown(scope), "must begin with the store, as in [overlay@/var/lib/containers/storage]")
    if transport in ("oci", "oci-archive", "dir", "tar") and scope:
        parts = scope.split("/")
        if parts[0] or scope == "/" or "" in parts[1:] or "." in parts or ".." in parts:
            raise scopes.error(shown(scope), "must be an absolute path without '.', '..' and '//', and not '/' alone")


def _requirements(holder: JsonObject, key: str) -> tuple[Requirement, ...]:
    found = holder.objects(key)
    if not found:
        raise holder.error(key, "at least one requirement is needed")
    return tuple(_requirement(one) for one in found)


def _requirement(one: JsonObject) -> Requirement:
    kind = one.string("type")
    if kind == "insecureAcceptAnything":
        one.only("type")
        return Accept()
    if kind == "reject":
        one.only("type")
        return Reject()
    if kind == "signedBy":
        one.only("type", "keyType", "keyPath", "keyPaths", "keyData", "signedIdentity")
        if one.string("keyType") != "GPGKeys":
            raise one.error("keyType", f"{shown(one.string('keyType'))} is not supported, only \"GPGKeys\"")
        return SignedBy(_needed(one, _keys(one, "key"), "keyPath, keyPaths or keyData"), _identity(one))
    if kind == "sigstoreSigned":
        return _sigstore(one)
    raise one.error("type", f"{shown(kind)} is not supported")


def _sigstore(one: JsonObject) -> SigstoreSigned:
    one.only("type", "fulcio", "signedIdentity", *_forms("key"), *_forms("rekorPublicKey"))
    keys, rekor_keys = _keys(one, "key"), _keys(one, "rekorPublicKey")
    fulcio = None
    if one.value.get("fulcio") is not None:
        if keys:
            raise one.error("fulcio", "excludes a key")
        fulcio = _fulcio(one.object("fulcio"))
        _needed(one, rekor_keys, "fulcio also needs rekorPublicKeyPath or rekorPublicKeyData")
    else:
        _needed(one, keys, "keyPath, keyPaths, keyData, keyDatas or fulcio")
    return SigstoreSigned(keys, fulcio, rekor_keys, _identity(one))


def _fulcio(one: JsonObject) -> Fulcio:
    one.only("caPath", "caData", "oidcIssuer", "subjectEmail")
    authority = _needed(one, _keys(one, "ca"), "caPath or caData")
    issuer, email = one.string("oidcIssuer"), one.string("subjectEmail")
    if not issuer or not email:
        raise one.error("subjectEmail" if issuer else "oidcIssuer", "must not be empty")
    return Fulcio(authority[0], issuer, email)


def _forms(prefix: str) -> tuple[str, ...]:
    return f"{prefix}Path", f"{prefix}Paths", f"{prefix}Data", f"{prefix}Datas"


def _keys(one: JsonObject, prefix: str) -> tuple[KeyFile, ...]:
    """The keys that one of up to four forms names; empty when none of them is there."""
    given = [form for form in _forms(prefix) if one.value.get(form) is not None]
    if len(given) > 1:
        raise one.error(given[1], f"excludes {given[0]}")
    if not given:
        return ()
    form = given[0]
    texts = one.string_list(form, required=True) if form.endswith("s") else (one.string(form),)
    if not texts or not all(texts):
        raise one.error(form, "must not be empty")
    if form.startswith(f"{prefix}Path"):
        return tuple(KeyFile(path=text) for text in texts)
    try:
        return tuple(KeyFile(data=base64.b64decode(text, validate=True)) for text in texts)
    except (binascii.Error, ValueError):
        raise one.error(form, "is not base64") from None


def _needed(one: JsonObject, keys: tuple[KeyFile, ...], what: str) -> tuple[KeyFile, ...]:
    if not keys:
        raise one.kind(f"{one.path}: missing: {what}")
    return keys


def _identity(holder: JsonObject) -> Identity:
    if holder.value.get("signedIdentity") is None:
        return Identity()
    one = holder.object("signedIdentity")
    kind = one.string("type")
    try:
        match = Match(kind)
    except ValueError:
        raise one.error("type", f"{shown(kind)} is not supported") from None
    if match is Match.EXACT_REFERENCE:
        one.only("type", "dockerReference")
        name = _name(one, "dockerReference")
        if not name.tag and not name.digest:
            raise one.error("dockerReference", "needs a tag or a digest")
        return Identity(match, name)
    if match is Match.EXACT_REPOSITORY:
        one.only("type", "dockerRepository")
        return Identity(match, _name(one, "dockerRepository"))
    if match is Match.REMAP:
        one.only("type", "prefix", "signedPrefix")
        return Identity(match, None, _prefix(one, "prefix"), _prefix(one, "signedPrefix"))
    one.only("type")
    return Identity(match)


def _name(one: JsonObject, key: str) -> ImageName:
    try:
        return ImageName.parse(one.string(key))
    except SignatureError as error:
        raise one.error(key, str(error)) from None


def _prefix(one: JsonObject, key: str) -> str:
    text = one.string(key)
    if not _PREFIX.fullmatch(text):
        raise one.error(key, f"{shown(text)} is neither a host nor a repository nor a name space of one")
    return text
