"""Shares against testvectors/vault/recovery-shares.json, which this computes, and against wrong ones.

    AICO_WRITE_VECTORS=1 python -m unittest test_shares    writes the vectors anew
"""

from __future__ import annotations

import json
import os
import unittest
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from aico_channel import blake2b
from recovery_shares import HEAD, SHARED, WORDS, Share, restore, spell, split, times
from vault_header import HeaderError, recovery_code

FILE = Path(__file__).resolve().parents[3] / "testvectors" / "vault" / "recovery-shares.json"
CODE = bytes.fromhex("7e6fec41f9b8f7471e05fc1dbecd1550")
SPLITS = [(2, 2), (2, 3), (3, 5), (16, 16)]


def fixed(name: str):
    """Fixed bytes in the place of random ones: the front of BLAKE2b-256 of a name and a number."""
    drawn = []

    def fresh(size: int) -> bytes:
        drawn.append(size)
        return blake2b(f"shares {name} {len(drawn)}".encode(), 32)[:size]

    return fresh


def made(threshold: int, count: int, name: str = "") -> list[Share]:
    return split(CODE, threshold, count, fixed(name or f"{threshold} of {count}"))


def vectors() -> dict:
    three, other = made(3, 5), made(3, 5, "another set")
    forged = replace(three[1], data=bytes([three[1].data[0] ^ 1]) + three[1].data[1:])
    words = three[0].words().split()
    wrong = [*words[:8], "zoo", *words[9:]]
    encoded = three[0].encode()
    refused = {
        "a wrong word": [" ".join(wrong)],
        "two words in each other's place": [" ".join([words[1], words[0], *words[2:]])],
        "a word too few": [" ".join(words[1:])],
        "the code instead of a share": [spell(CODE, 15, "recovery check")],
        "version 2": [spell(bytes([0x22]) + encoded[1:], WORDS, "share check")],
        "version 0": [spell(bytes([0x02]) + encoded[1:], WORDS, "share check")],
        "a threshold of 1": [spell(bytes([0x10]) + encoded[1:], WORDS, "share check")],
        "too few": [share.words() for share in three[:2]],
        "one share twice": [three[0].words(), three[1].words(), three[0].words()],
        "another set": [three[0].words(), other[1].words(), three[2].words()],
        "the same set, another threshold": [share.words() for share in (three[0], replace(three[1], threshold=2), three[2])],
        "a share that was not made": [share.words() for share in (three[0], forged, three[2])],
    }
    return {
        "about": "shares of a recovery code, docs/spec/vault.md; hexadecimal. `share` is head and bytes",
        "reason": "every implementation restores the code from any threshold of these, spells them alike, and takes no others",
        "randomness": "the set's number (3 bytes, of which the low 20 bits), then the coefficients of each byte, that of x "
        "first: the first bytes of BLAKE2b-256 of `shares <threshold> of <count> <n>`, n from 1",
        "code": CODE.hex(),
        "code_words": spell(CODE, 15, "recovery check"),
        "splits": [
            {
                "threshold": threshold,
                "count": count,
                "set": made(threshold, count)[0].set,
                "shares": [{"share": share.encode().hex(), "words": share.words()} for share in made(threshold, count)],
            }
            for threshold, count in SPLITS
        ],
        "refused": [{"reason": reason, "shares": shares} for reason, shares in refused.items()],
    }


class Shares(unittest.TestCase):
    def test_the_committed_vectors_are_the_computed_ones(self) -> None:
        computed = vectors()
        if os.environ.get("AICO_WRITE_VECTORS"):
            FILE.write_text(json.dumps(computed, indent=2, ensure_ascii=False) + "\n")
        self.assertEqual(json.loads(FILE.read_text()), computed)

    def test_the_field_is_that_of_aes(self) -> None:
        self.assertEqual((times(0x57, 0x83), times(0x57, 0x13)), (0xC1, 0xFE), "FIPS 197, 4.2")

    def test_any_threshold_of_them_restore_the_code(self) -> None:
        self.assertEqual(recovery_code(vectors()["code_words"]), CODE)
        for given in vectors()["splits"]:
            shares = [Share.read(share["words"]) for share in given["shares"]]
            self.assertEqual([share.index for share in shares], list(range(1, given["count"] + 1)))
            for chosen in combinations(shares, given["threshold"]):
                self.assertEqual(restore(reversed(chosen)), CODE)
            for chosen in combinations(shares, given["threshold"] - 1):
                with self.assertRaises(HeaderError):
                    restore(chosen)

    def test_no_others_do(self) -> None:
        for given in vectors()["refused"]:
            with self.assertRaises(HeaderError, msg=given["reason"]):
                restore([Share.read(words) for words in given["shares"]])

    def test_every_single_wrong_word_is_noticed(self) -> None:
        words = made(2, 2)[0].words().split()
        for at in range(WORDS):
            for other in ("abandon", "zoo", "legal"):
                if words[at] != other:
                    with self.assertRaises(HeaderError):
                        Share.read(" ".join([*words[:at], other, *words[at + 1 :]]))

    def test_a_share_alone_takes_every_value_once(self) -> None:
        seen = [{split(CODE, 2, 3, lambda n, a=a: bytes([a]) * n)[at].data[0] for a in range(256)} for at in range(3)]
        self.assertEqual([len(values) for values in seen], [256] * 3)
        self.assertEqual((HEAD, SHARED), (4, 21))


if __name__ == "__main__":
    unittest.main()
