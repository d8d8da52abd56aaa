"""The validity of X.509 certificates, read from their DER encoding.

Python's ssl module has no public function that decodes the certificate of a server, and the server has no dependency
that could. Only the first fields are read; the ssl module has verified the encoding before.
"""

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"

_SEQUENCE, _INTEGER, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0x02, 0xA0, 0x17, 0x18


class Certificate(NamedTuple):
    """What a certificate says about its time and its chain.

    Attributes:
        issuer, subject: the encoded names.
        not_before, not_after: the time in which it is valid.
    """

    issuer: bytes
    subject: bytes
    not_before: datetime
    not_after: datetime


class UnknownEncoding(Exception):
    """A certificate is not encoded as X.509 says."""


def read_certificates(pem: str) -> list[Certificate]:
    """Return the certificates of a file in PEM, in their order.

    Raises:
        UnknownEncoding: a certificate is not encoded as X.509 says.
    """
    certificates = []
    for block in pem.split(_BEGIN)[1:]:
        try:
            der = ssl.PEM_cert_to_DER_cert(f"{_BEGIN}{block.partition(_END)[0]}{_END}\n")
            certificates.append(_read(der))
        except (ValueError, IndexError, StopIteration) as error:
            raise UnknownEncoding(str(error)) from None
    return certificates


def _read(der: bytes) -> Certificate:
    (_, certificate) = next(_elements(der))
    (_, signed) = next(_elements(certificate))
    fields = [(tag, content) for tag, content in _elements(signed) if tag != _VERSION]
    # serialNumber, signature, issuer, validity, subject
    tags = [tag for tag, _ in fields[:5]]
    if tags != [_INTEGER, _SEQUENCE, _SEQUENCE, _SEQUENCE, _SEQUENCE]:
        raise ValueError("the fields are in another order")
    not_before, not_after = (_time(tag, content) for tag, content in _elements(fields[3][1]))
    return Certificate(fields[2][1], fields[4][1], not_before, not_after)


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the tag and the content of each element."""
    at = 0
    while at < len(data):
        tag, length = data[at], data[at + 1]
        at += 2
        if length & 0x80:
            count = length & 0x7F
            length = int.from_bytes(data[at : at + count])
            at += count
        if at + length > len(data):
            raise ValueError("an element is longer than its data")
        yield tag, data[at : at + length]
        at += length


def _time(tag: int, content: bytes) -> datetime:
    text = content.decode("ascii")
    if tag == _UTC_TIME:
        # Years of two digits are those from 1950 to 2049.
        text = f"{'19' if int(text[:2]) >= 50 else '20'}{text}"
    elif tag != _GENERALIZED_TIME:
        raise ValueError("the validity is not a time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
