"""Shares of a recovery code, docs/spec/vault.md: split, spelled, read, and put together.

    python recovery_shares.py < SHARES, one a line

Prints the 15 words.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from aico_channel import kdf
from vault_header import BadInput, Newer, need, read_words, word_list

VERSION, WORDS, HEAD, SHARED, MOST = 1, 21, 4, 21, 16


def times(a: int, b: int) -> int:
    """In GF(2^8), modulo x^8 + x^4 + x^3 + x + 1."""
    product = 0
    for _ in range(8):
        product ^= a if b & 1 else 0
        a, b = a << 1 ^ (0x11B if a & 0x80 else 0), b >> 1
    return product


def inverse(a: int) -> int:
    return next(b for b in range(256) if times(a, b) == 1)


@dataclass(frozen=True)
class Share:
    threshold: int
    index: int
    set: int
    data: bytes

    def encode(self) -> bytes:
        head = VERSION << 28 | self.threshold - 1 << 24 | self.index - 1 << 20 | self.set
        return head.to_bytes(HEAD) + self.data

    @staticmethod
    def decode(data: bytes) -> Share:
        head = int.from_bytes(data[:HEAD])
        share = Share((head >> 24 & 15) + 1, (head >> 20 & 15) + 1, head & 0xFFFFF, data[HEAD:])
        need(head >> 28 == VERSION and share.threshold > 1, "a newer version", Newer)
        return share

    def words(self) -> str:
        return spell(self.encode(), WORDS, "share check")

    @staticmethod
    def read(text: str) -> Share:
        return Share.decode(read_words(text, WORDS, HEAD + SHARED, "share check"))


def spell(data: bytes, count: int, label: str) -> str:
    bits = 11 * count - 8 * len(data)
    value = int.from_bytes(data) << bits | int.from_bytes(kdf(data, label, b"", 5)) >> 40 - bits
    return " ".join(word_list()[value >> 11 * (count - 1 - at) & 2047] for at in range(count))


def shared(code: bytes) -> bytes:
    """The code and the 37 bits of its checksum."""
    check = int.from_bytes(kdf(code, "recovery check", b"", 5)) >> 3 << 3
    return code + check.to_bytes(5)


def split(code: bytes, threshold: int, count: int, fresh: Callable[[int], bytes] = os.urandom) -> list[Share]:
    """Draws the set's number, then for each byte its coefficients, that of x first."""
    need(2 <= threshold <= count <= MOST, "2 ≤ K ≤ N ≤ 16", BadInput)
    number = int.from_bytes(fresh(3)) & 0xFFFFF
    polynomials = [bytes([byte]) + fresh(threshold - 1) for byte in shared(code)]

    def at(polynomial: bytes, x: int) -> int:
        value = 0
        for coefficient in reversed(polynomial):
            value = times(value, x) ^ coefficient
        return value

    data = [bytes(at(polynomial, x) for polynomial in polynomials) for x in range(1, count + 1)]
    return [Share(threshold, x, number, data) for x, data in enumerate(data, 1)]


def restore(shares: Iterable[Share]) -> bytes:
    """The code; its checksum says that the shares fit together."""
    shares = list(shares)
    need(len({(share.set, share.threshold) for share in shares}) == 1, "shares of different sets, or none", BadInput)
    need(len({share.index for share in shares}) == len(shares), "one share twice", BadInput)
    need(len(shares) >= shares[0].threshold, "not enough shares", BadInput)
    data = bytearray(SHARED)
    for share in shares:
        weight = 1
        for other in shares:
            if other is not share:
                weight = times(weight, times(other.index, inverse(other.index ^ share.index)))
        data = bytearray(sum_ ^ times(weight, byte) for sum_, byte in zip(data, share.data, strict=True))
    code = bytes(data[:16])
    need(shared(code) == data, "these shares make no recovery code", BadInput)
    return code


def main() -> int:
    print(spell(restore(Share.read(line) for line in sys.stdin if line.strip()), 15, "recovery check"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
