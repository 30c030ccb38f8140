"""The vault's header against testvectors/vault/, and against somebody who writes to it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path

import nacl.bindings as sodium
import vault_header
from aico_channel import blake2b, kdf, seal
from vault_header import (
    BACK,
    FRONT,
    KINDS,
    MAGIC,
    PASSWORD,
    BadInput,
    Damaged,
    Header,
    HeaderError,
    Keys,
    Newer,
    Older,
    Slot,
    WrongSecret,
    file_key,
    key_file_secret,
    password_bytes,
    read_private,
    recovery_code,
    store_key,
    value,
    word_list,
)

VECTORS = Path(__file__).resolve().parents[3] / "testvectors" / "vault"
FAULTS = {"damaged": Damaged, "newer": Newer, "planted": HeaderError}


def vector(name: str) -> dict:
    return json.loads((VECTORS / name).read_text())


def signed(front: bytes, root: bytes) -> bytes:
    """Checksum and authenticator, as somebody with the root key writes them."""
    data = front + blake2b(front, 32)
    return data + kdf(kdf(root, "vault header", b"", 32), "vault header", data, 32)


def summed(data: bytes) -> bytes:
    """A header that was changed by somebody without a key: the checksum fits again."""
    return data[:-BACK] + blake2b(data[:-BACK], 32) + data[-32:]


def encode(slots: list[Slot], front: bytes, root: bytes, count: int | None = None) -> bytes:
    """A header with these slots; `front` is what stands before their number in another one."""
    body = front[FRONT:] + bytes([len(slots) if count is None else count])
    for slot in slots:
        body += bytes([slot.kind, slot.id, slot.wrap()]) + slot.made_ms.to_bytes(8) + len(slot.parameters).to_bytes(2)
        body += slot.parameters + slot.check + slot.public + slot.root + slot.voucher
    return signed(front[:16] + len(body).to_bytes(4) + body, root)


class Case(unittest.TestCase):
    def setUp(self) -> None:
        self.v, self.k = vector("header.json"), vector("keys.json")
        self.data, self.root = bytes.fromhex(self.v["header"]), bytes.fromhex(self.v["root_key"])
        self.header, self.secret = Header.parse(self.data), bytes.fromhex(self.v["slots"][0]["secret"])
        plain, vault_header.stretch = vault_header.stretch, once
        self.addCleanup(setattr, vault_header, "stretch", plain)

    def refused(self, fault: type[HeaderError] | tuple, step: Callable[[], object], why: object = None) -> None:
        with self.assertRaises(fault, msg=why):
            step()

    def encoded(self, *slots: Slot, **changes: int) -> bytes:
        return encode(list(slots), self.data[:145], self.root, **changes)

    def every_way(self, data: bytes) -> list[Callable[[], Keys]]:
        words, secret = " ".join(self.v["recovery_words"]), bytes.fromhex(self.v["slots"][1]["secret"])
        return [
            lambda: Header.parse(data).with_secret(self.secret),
            lambda: Header.parse(data).with_secret(secret),
            lambda: Header.parse(data).with_password(self.v["password"]),
            lambda: Header.parse(data).with_recovery_code(words),
        ]


once = cache(vault_header.stretch)  # the same password is stretched once for all tests


class Vectors(Case):
    def test_every_slot_opens(self) -> None:
        for way in self.every_way(self.data):
            keys = way()
            self.assertEqual((keys.root.hex(), keys.vault_id.hex()), (self.v["root_key"], self.v["vault_id"]))
            self.assertEqual(keys.system_space.hex(), self.v["system_space_key"])

    def test_every_field(self) -> None:
        header = self.header
        self.assertEqual((header.epoch, header.flags, header.revision), tuple(self.v[n] for n in ("epoch", "flags", "revision")))
        self.assertEqual((header.vault_id.hex(), header.space_id.hex()), (self.v["vault_id"], self.v["system_space_id"]))
        self.assertEqual(len(header.slots), len(self.v["slots"]))
        for slot, given in zip(header.slots, self.v["slots"], strict=True):
            for name in ("kind", "id", "sealed", "made_ms"):
                self.assertEqual(getattr(slot, name), given[name], name)
            for name, field in (("check", "check"), ("parameters", "parameters"), ("root", "root"), ("voucher", "voucher"), ("public", "exchange_public")):
                self.assertEqual(getattr(slot, name).hex(), given[field], name)
            self.assertEqual(slot.context(header.vault_id).hex(), given["context"])
            key = kdf(bytes.fromhex(given["secret"]), "slot key", bytes.fromhex(given["context"]), 32)
            self.assertEqual(key.hex(), given["slot_key"])
            self.assertEqual(kdf(key, "slot check", b"", 16).hex(), given["check"])
            self.assertEqual(kdf(key, "slot exchange", b"", 32).hex(), given["exchange_secret"])
        self.assertEqual(encode(list(header.slots), self.data[:145], self.root), self.data, "every byte can be made again")

    def test_what_must_be_refused(self) -> None:
        for given in self.v["refused"]:
            for way in self.every_way(bytes.fromhex(given["header"])):
                self.refused(FAULTS[given["is"]], way, given["why"])

    def test_a_newer_format_says_what_reads_it(self) -> None:
        (given,) = (given for given in self.v["refused"] if given["is"] == "newer")
        with self.assertRaisesRegex(Newer, r"format 3; version 9\.8\.7 "):
            Header.parse(bytes.fromhex(given["header"]))

    def test_a_wrong_password_is_told_from_damage(self) -> None:
        self.refused(WrongSecret, lambda: self.header.with_password(self.v["wrong_password"]))
        self.refused(WrongSecret, lambda: self.header.with_secret(bytes(32)))
        self.refused(WrongSecret, lambda: self.header.with_recovery_code(spelled(bytes(16))))
        self.assertEqual(self.header.with_password(self.v["password_decomposed"]).root, self.root)

    def test_derived_keys(self) -> None:
        for given in self.k["derived"]:
            key, context, out = (bytes.fromhex(given[name]) for name in ("key", "context", "out"))
            self.assertEqual(kdf(key, given["label"], context, len(out)), out, given["of"])

    def test_wrapped_keys(self) -> None:
        for given in self.k["wrapped"]:
            key, context, wrapped = (bytes.fromhex(given[name]) for name in ("key", "context", "wrapped"))
            self.assertEqual(vault_header.unwrap(key, given["role"], context, wrapped).hex(), given["inner"], given["role"])
            self.assertEqual(sealed_as(key, given["role"], context, bytes.fromhex(given["inner"]), wrapped[:24]), wrapped)
            self.refused(Damaged, lambda: vault_header.unwrap(key, given["role"] + "s", context, wrapped))  # noqa: B023
            self.refused(Damaged, lambda: vault_header.unwrap(key, given["role"], context + b"\0", wrapped))  # noqa: B023
            self.refused(Damaged, lambda: vault_header.unwrap(key, given["role"], context, wrapped + b"\0"))  # noqa: B023

    def test_the_way_down_the_tree(self) -> None:
        keys = self.header.with_secret(self.secret)
        by_role = {given["role"]: given for given in self.k["wrapped"]}
        for what in ("log", "grant", "pseudonym", "locked"):
            given = by_role[f"space {what}"]
            self.assertEqual(keys.of_system(what, bytes.fromhex(given["wrapped"])).hex(), given["inner"])
        given = by_role["root space"]
        context = bytes.fromhex(given["context"])
        space = keys.space(context[16:32], int.from_bytes(context[32:]), bytes.fromhex(given["wrapped"]))
        self.assertEqual(space.hex(), given["inner"])
        (store,) = (derived["out"] for derived in self.k["derived"] if derived["label"] == "store sqlcipher")
        self.assertEqual(store_key(space).hex(), store)
        given = by_role["space data"]
        context = bytes.fromhex(given["context"])
        data = keys.data(space, context[16:32], context[32:], bytes.fromhex(given["wrapped"]))
        self.assertEqual(data.hex(), given["inner"])
        given = {name: bytes.fromhex(text) for name, text in self.k["value"].items()}
        self.assertEqual(value(data, given["place"][:16], given["place"][16:].decode(), given["sealed"]), given["value"])
        given = by_role["space file"]
        self.assertEqual(file_key(data, *(bytes.fromhex(given[n]) for n in ("context", "wrapped"))).hex(), given["inner"])
        identity = self.k["identity"]
        self.assertEqual(keys.identity(bytes.fromhex(identity["sealed"])).hex(), identity["seed"])

    def test_what_people_have(self) -> None:
        given = self.k["password"]
        self.assertEqual(password_bytes(given["text"]).hex(), given["utf8_nfc"])
        stretched = once(password_bytes(given["text"]), *(given[n] for n in ("memory_mib", "passes", "lanes")), salt(given))
        self.assertEqual(stretched.hex(), given["slot_secret"])
        given = self.k["key_file"]
        self.assertEqual(key_file_secret("# a comment\n" + given["text"] + "\n").hex(), given["secret"])
        given = self.k["recovery"]
        code = recovery_code(" ".join(given["words"]))
        self.assertEqual((code.hex(), spelled(code).split()), (given["code"], given["words"]))
        self.assertEqual(kdf(code, "recovery slot", b"", 32).hex(), given["slot_secret"])


def salt(given: dict) -> bytes:
    return bytes.fromhex(given["salt"])


def sealed_as(key: bytes, role: str, context: bytes, inner: bytes, nonce: bytes) -> bytes:
    return nonce + seal(key, nonce, bytes([len(role)]) + role.encode() + context, inner)


def spelled(code: bytes) -> str:
    """A recovery code in words."""
    value = int.from_bytes(code) << 37 | int.from_bytes(kdf(code, "recovery check", b"", 5)) >> 3
    return " ".join(word_list()[value >> 11 * (14 - at) & 2047] for at in range(15))


class Attacks(Case):
    def test_every_flipped_byte_is_damage_before_anything_is_stretched(self) -> None:
        vault_header.stretch = lambda *_: self.fail("stretched for a damaged header")
        for at in range(len(self.data) - 32):
            for change in (1, 0x80, 0xFF):
                self.refused(Damaged, lambda: Header.parse(flipped(self.data, at, change)), (at, change))  # noqa: B023

    def test_the_authenticator_tells_the_rest(self) -> None:
        for at in range(len(self.data) - 32, len(self.data)):
            for way in self.every_way(flipped(self.data, at, 1)):
                self.refused(Damaged, way, at)

    def test_a_flipped_byte_under_a_new_checksum_opens_by_no_way(self) -> None:
        for at in range(8, len(self.data) - BACK):
            for change in (1, 0xFF):
                ways = self.every_way(summed(flipped(self.data, at, change)))
                for way in ways if at % 10 == 0 else ways[:1]:
                    self.refused((Damaged, WrongSecret, Newer, Older), way, (at, change))

    def test_cut_and_longer(self) -> None:
        for size in range(len(self.data)):
            self.refused(Damaged, lambda: Header.parse(self.data[:size]), size)  # noqa: B023
            if size > BACK + FRONT:
                self.refused(Damaged, lambda: Header.parse(summed(self.data[:size])), size)  # noqa: B023
        for more in (b"\0", b"\n", self.data, bytes(70_000)):
            self.refused(Damaged, lambda: Header.parse(self.data + more))  # noqa: B023
            self.refused(Damaged, lambda: Header.parse(summed(self.data + more)))  # noqa: B023

    def test_formats(self) -> None:
        for number, fault in ((0, Damaged), (1, Older), (3, Newer), (0xFFFF, Newer)):
            changed = self.data[:8] + number.to_bytes(2) + self.data[10:]
            self.refused(Damaged, lambda: Header.parse(changed), number)  # noqa: B023
            self.refused(fault, lambda: Header.parse(summed(changed)), number)  # noqa: B023
        for version in (b"\0\0\0\1\0\0", b"\0\0\0\2\0\1", b"\0\0\0\3\0\0"):
            self.refused(Damaged, lambda: Header.parse(summed(self.data[:10] + version + self.data[16:])), version)  # noqa: B023
        short = MAGIC + (3).to_bytes(2) + bytes(10)
        self.refused(Newer, lambda: Header.parse(summed(short + bytes(BACK))), "nothing of a newer one is believed but this")

    def test_impossible_slots_of_somebody_with_the_root_key(self) -> None:
        slots = self.header.slots
        password = next(slot for slot in slots if slot.kind == PASSWORD)
        Header.parse(self.encoded(*(replace(slots[0], id=n) for n in range(16))))
        impossible = [
            self.encoded(),
            self.encoded(*(replace(slots[0], id=n) for n in range(17))),
            self.encoded(slots[0], slots[0]),
            self.encoded(slots[0], replace(slots[1], id=slots[0].id)),
            self.encoded(slots[0], count=2),
            self.encoded(slots[0], slots[1], count=1),
            self.encoded(replace(slots[0], kind=0)),
            self.encoded(replace(slots[0], kind=7)),
            self.encoded(replace(slots[0], sealed=4)),
            self.encoded(replace(slots[0], sealed=True)),
            self.encoded(replace(password, parameters=bytes(1025))),
        ]
        for index, data in enumerate(impossible):
            self.refused(Damaged, lambda: Header.parse(data), index)  # noqa: B023

    def test_impossible_parameters_are_refused_before_anything_is_stretched(self) -> None:
        vault_header.stretch = lambda *_: self.fail("stretched with impossible parameters")
        first, password = self.header.slots[0], next(slot for slot in self.header.slots if slot.kind == PASSWORD)
        impossible = [password.parameters + b"\0", password.parameters[:-1], b"", bytes(1024)]
        for at, values in ((0, (0, 63, 4097, 1 << 31)), (4, (0, 17, 1 << 31)), (8, (0, 17, 1 << 31))):
            for value in values:
                changed = bytearray(password.parameters)
                changed[at : at + 4] = value.to_bytes(4)
                impossible.append(bytes(changed))
        for parameters in impossible:
            header = Header.parse(self.encoded(first, replace(password, parameters=parameters)))
            self.refused(Damaged, lambda: header.with_password(self.v["password"]), parameters)  # noqa: B023
            self.assertEqual(header.with_secret(self.secret).root, self.root, "the other slots still open")

    def test_a_slot_of_a_reserved_kind_is_left_alone(self) -> None:
        first = self.header.slots[0]
        for kind in (5, 6):
            header = Header.parse(self.encoded(replace(first, id=9, kind=kind, parameters=b"anything"), first))
            self.assertEqual(header.with_secret(self.secret).root, self.root)

    def test_a_slot_of_another_vault_or_place_opens_nothing(self) -> None:
        first, recovery = self.header.slots[0], self.header.slots[3]
        for slot in (replace(first, id=9), replace(first, kind=2)):
            self.refused(WrongSecret, lambda: Header.parse(self.encoded(slot)).with_secret(self.secret))  # noqa: B023
        other = self.data[:20] + bytes(16) + self.data[36:145]
        self.refused(WrongSecret, lambda: Header.parse(encode([first], other, self.root)).with_secret(self.secret))
        kept = Header.parse(self.encoded(first, recovery))
        self.refused(WrongSecret, lambda: kept.with_password(self.v["password"]), "no such slot")

    def test_damage_behind_a_right_secret_is_damage(self) -> None:
        plain, sealed = self.header.slots[:2]
        secret = bytes.fromhex(self.v["slots"][1]["secret"])
        for slot, right in ((plain, self.secret), (sealed, secret)):
            for changed in (replace(slot, root=flipped(slot.root, at, 1)) for at in range(len(slot.root))):
                self.refused(Damaged, lambda: Header.parse(self.encoded(changed)).with_secret(right))  # noqa: B023
        small_order = replace(sealed, root=bytes(32) + sealed.root[32:])
        self.refused(Damaged, lambda: Header.parse(self.encoded(small_order)).with_secret(secret))

    def test_nobody_seals_a_root_key_without_the_slots_voucher(self) -> None:
        """Whoever can write the header knows every public key in it, and no vouch key."""
        slot, root, space = self.header.slots[1], os.urandom(32), os.urandom(32)
        secret, ephemeral = bytes.fromhex(self.v["slots"][1]["secret"]), os.urandom(32)
        mine = sodium.crypto_scalarmult_base(ephemeral)
        kx = blake2b(sodium.crypto_scalarmult(ephemeral, slot.public) + mine + slot.public, 64)
        context = slot.context(self.header.vault_id)
        wrapped = sealed_as(root, "root space", self.data[20:36] + self.data[53:73], space, os.urandom(24))
        for guess in (b"", bytes(32), os.urandom(32)):
            key = kdf(kx, "slot seal", guess, 32)
            sealed = mine + sealed_as(key, "slot sealed root", context, root, os.urandom(24))
            for voucher in (slot.voucher, b"", sealed_as(root, "root vouch", context, bytes(32), os.urandom(24))):
                data = encode([replace(slot, root=sealed, voucher=voucher)], self.data[:73] + wrapped, root)
                self.refused(Damaged, lambda: Header.parse(data).with_secret(secret))  # noqa: B023
        vouch = kdf(kdf(secret, "slot key", context, 32), "slot vouch", b"", 32)
        sealed = mine + sealed_as(kdf(kx, "slot seal", vouch, 32), "slot sealed root", context, root, os.urandom(24))
        keys = Header.parse(encode([replace(slot, root=sealed)], self.data[:73] + wrapped, root)).with_secret(secret)
        self.assertEqual((keys.root, keys.system_space), (root, space), "the control: with it, one can")

    def test_rubbish_raises_nothing_else(self) -> None:
        chance = random.Random(6)
        for _ in range(3000):
            data = bytearray(self.data)
            for _ in range(chance.randrange(1, 6)):
                at = chance.randrange(8, len(data))
                data[at : at + chance.randrange(4)] = chance.randbytes(chance.randrange(4))
            if (harmed := summed(bytes(data))) != self.data:
                self.refused(HeaderError, lambda: Header.parse(harmed).with_secret(self.secret))  # noqa: B023


def flipped(data: bytes, at: int, change: int) -> bytes:
    return data[:at] + bytes([data[at] ^ change]) + data[at + 1 :]


class Input(Case):
    def test_passwords(self) -> None:
        self.assertEqual(password_bytes("x" * 1024), b"x" * 1024)
        for bad in ("", "x" * 1025, "ü" * 513, "a\nb", "a\0", "\x7f", "\x85", "\ud800"):
            self.refused(BadInput, lambda: password_bytes(bad), bad[:9])  # noqa: B023

    def test_spellings_of_a_recovery_code(self) -> None:
        words = self.v["recovery_words"]
        code = recovery_code(" ".join(words))
        numbered = "\n".join(f"{at:2}. {word.upper()}" for at, word in enumerate(words, 1))
        for good in (numbered, "-".join(word[:4] for word in words), ",".join(words) + "\n", "\t ".join(words)):
            self.assertEqual(recovery_code(good), code, good)

    def test_wrong_recovery_codes(self) -> None:
        words, chance = self.v["recovery_words"], random.Random(7)
        for at in range(15):
            for _ in range(40):
                other = chance.choice(word_list())
                if other != words[at]:
                    self.refused(BadInput, lambda: recovery_code(" ".join([*words[:at], other, *words[at + 1 :]])))  # noqa: B023
        for at in range(14):
            swapped = [*words[:at], words[at + 1], words[at], *words[at + 2 :]]
            self.refused(BadInput, lambda: recovery_code(" ".join(swapped)))  # noqa: B023
        for bad in ("", " ".join(words[:14]), " ".join([*words, "lazy"]), " ".join(["lazzy", *words[1:]]), "x" * 5000, "é " * 15):
            self.refused(BadInput, lambda: recovery_code(bad), bad[:20])  # noqa: B023
        with self.assertRaisesRegex(BadInput, "word 3 "):
            recovery_code(" ".join([*words[:2], "aico", *words[3:]]))

    def test_the_word_list_is_that_of_bip_39(self) -> None:
        text = "".join(word + "\n" for word in word_list()).encode()
        self.assertEqual(sha256(text).hexdigest(), "2f5eed53a4727b4bf8880d8f3f199efc90e58503646d9ff8eff3a2ed3b24dbda")
        self.assertEqual(len({word[:4] for word in word_list()}), 2048)

    def test_key_files(self) -> None:
        line = self.k["key_file"]["text"]
        bad = ["", line + "\n" + line, line[:-1], line + "=", line.replace("SLOT-1", "SLOT-2"), line.lower(), " " + line]
        bad += [line[:-1] + chr(ord(line[-1]) + 1), line[:-1] + "-", "# " + line]
        for text in bad:
            self.refused(BadInput, lambda: key_file_secret(text), text[:20])  # noqa: B023

    def test_files_that_others_can_read_are_refused(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "key")
            path.write_bytes(b"x")
            for mode, good in ((0o600, True), (0o400, True), (0o640, False), (0o604, False), (0o644, False)):
                path.chmod(mode)
                self.assertEqual(read_private(path), "x") if good else self.refused(BadInput, lambda: read_private(path))
            for data in (bytes(4097), b"\xff"):
                path.chmod(0o600)
                path.write_bytes(data)
                self.refused(BadInput, lambda: read_private(path))

    def test_the_command_tells_the_faults_apart(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            header, given = Path(folder, "vault.aico"), Path(folder, "given")
            given.touch(0o600)
            newer = bytes.fromhex(next(one["header"] for one in self.v["refused"] if one["is"] == "newer"))
            words, right, wrong = " ".join(self.v["recovery_words"]), self.v["password"], self.v["wrong_password"]
            for data, way, text, code, said in (
                (self.data, "--password-file", right, 0, "opened; the authenticator holds"),
                (self.data, "--recovery-file", words, 0, "opened; the authenticator holds"),
                (self.data, "--key-file", self.k["key_file"]["text"], 0, "opened; the authenticator holds"),
                (self.data, "--password-file", wrong, 1, "error: wrongsecret:"),
                (self.data, "--recovery-file", "no words", 1, "error: badinput: 2 words instead of 15"),
                (flipped(self.data, 60, 1), "--password-file", right, 1, "error: damaged: the checksum"),
                (newer, "--password-file", right, 1, "error: newer: format 3; version 9.8.7 "),
            ):
                header.write_bytes(data)
                given.write_text(text + "\n")
                program = Path(__file__).with_name("vault_header.py")
                ran = subprocess.run([sys.executable, program, header, way, given], capture_output=True, text=True)
                self.assertEqual(ran.returncode, code, ran.stderr)
                self.assertIn(said, ran.stdout + ran.stderr)
                self.assertNotIn(self.v["root_key"], ran.stdout + ran.stderr)


class Kinds(unittest.TestCase):
    def test_their_names_are_those_of_the_status(self) -> None:
        self.assertEqual(sorted(KINDS.values()), ["key-file", "password", "recovery-code", "secret-service"])


if __name__ == "__main__":
    unittest.main()
