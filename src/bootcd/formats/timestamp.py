# SPDX-License-Identifier: Apache-2.0
"""Time stamps: an authority's word that there were certain bytes at a certain time.

    TimeStampResp     {{status, …}, token?}
    token             signed data (`cms`) whose content is
    TSTInfo           {version, policy, {hash, OCTETS imprint}, serial number, time, {accuracy}?, ordering?, nonce?,
                       [0] name of the authority?, [1] extensions?}

Of the attributes that are signed along with it, one names the certificate by its hash (ESSCertID, with SHA-1, or
ESSCertIDv2), so that no other certificate of the same key can take its place.

Source: RFC 3161 (section 2.4.2), RFC 5816, RFC 5035 (sections 3 and 4).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import SignatureError
from . import der
from .cms import SignedData, hash_of, parse_signed
from .der import DerError

MAX_RESPONSE = 32 << 10
"""Bytes of one. Real ones have 700, and up to 7,000 with certificates."""
MAX_ACCURACY = 60
"""Seconds by which the time may be wrong. A certificate of Fulcio lives for ten minutes."""

_TST_INFO = "1.2.840.113549.1.9.16.1.4"
_SIGNING_CERTIFICATE = "1.2.840.113549.1.9.16.2.12"
_SIGNING_CERTIFICATE_V2 = "1.2.840.113549.1.9.16.2.47"
_GRANTED = (0, 1)
"""With and without changes to what was asked for."""


@dataclass(frozen=True, slots=True)
class TimeStamp:
    """Unverified, but consistent: bytes of which `imprint` is the hash, by `algorithm` as hashlib calls it, were there
    at `time`, in seconds since 1970. `certificate` is the hash of the certificate by which `signed` is signed, by
    `certificate_hash`."""

    time: int
    algorithm: str
    imprint: bytes
    certificate_hash: str
    certificate: bytes
    signed: SignedData


def parse_response(data: bytes) -> TimeStamp:
    """A TimeStampResp. Raises SignatureError."""
    if len(data) > MAX_RESPONSE:
        raise SignatureError(f"it is larger than {MAX_RESPONSE} bytes")
    try:
        return _response(data)
    except DerError as error:
        raise SignatureError(f"it is malformed: {error}") from None


def _response(data: bytes) -> TimeStamp:
    fields = der.only(data, der.SEQUENCE).fields()
    status = fields.take(der.SEQUENCE).child(0, der.INTEGER).integer()
    if status not in _GRANTED:
        raise SignatureError(f"the authority refused it (status {status})")
    signed = parse_signed(fields.take(der.SEQUENCE), _TST_INFO)
    fields.end()
    time, algorithm, imprint = _info(signed.content)
    return TimeStamp(time, algorithm, imprint, *_certificate(signed), signed)


def _info(content: bytes) -> tuple[int, str, bytes]:
    fields = der.only(content, der.SEQUENCE).fields()
    if fields.take(der.INTEGER).integer() != 1:
        raise SignatureError("it is of a version that is not known here")
    fields.take(der.OID).oid()
    imprint = fields.take(der.SEQUENCE)
    fields.take(der.INTEGER)
    time = fields.take(der.TIME).time()
    if (accuracy := fields.maybe(der.SEQUENCE)) is not None:
        parts = accuracy.fields()
        seconds = parts.maybe(der.INTEGER)
        if seconds is not None and not 0 <= seconds.integer() <= MAX_ACCURACY:
            raise SignatureError(f"its time may be wrong by more than {MAX_ACCURACY} seconds")
        parts.maybe(der.primitive(0))
        parts.maybe(der.primitive(1))
        parts.end()
    fields.maybe(der.BOOLEAN)
    fields.maybe(der.INTEGER)
    fields.maybe(der.context(0))
    extensions = fields.maybe(der.context(1))
    fields.end()
    for extension in extensions.children() if extensions is not None else ():
        parts = extension.fields()
        name, critical = parts.take(der.OID).oid(), parts.maybe(der.BOOLEAN)
        if critical is not None and critical.content != b"\0":
            raise SignatureError(f"it has a critical extension {name}, which is not understood")
    return time, hash_of(imprint.child(0, der.SEQUENCE)), imprint.child(1, der.OCTETS).content


def _certificate(signed: SignedData) -> tuple[str, bytes]:
    """The hash of the signer's certificate: the first that the attribute names. Where both versions are there, the
    newer counts."""
    if (newer := signed.attributes.get(_SIGNING_CERTIFICATE_V2)) is not None:
        fields = newer.child(0, der.SEQUENCE).child(0, der.SEQUENCE).fields()
        algorithm = fields.maybe(der.SEQUENCE)
        return hash_of(algorithm) if algorithm is not None else "sha256", fields.take(der.OCTETS).content
    if (older := signed.attributes.get(_SIGNING_CERTIFICATE)) is not None:
        return "sha1", older.child(0, der.SEQUENCE).child(0, der.SEQUENCE).child(0, der.OCTETS).content
    raise SignatureError("it does not say which certificate it was made with")
