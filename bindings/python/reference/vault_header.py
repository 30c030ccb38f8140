"""The vault's header, docs/spec/vault.md: parsed, opened with a password, a key file or a recovery code, and checked.

    python vault_header.py vault.aico [--password-file FILE | --key-file FILE | --recovery-file FILE]

Says what the header holds; no key is ever printed.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import unicodedata
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from aico_channel import ChannelError, Reader, agree, blake2b, kdf, same, unseal
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

MAGIC, FORMAT, FRONT, BACK = b"AICOVLT1", 2, 20, 64
FIRST_READER = [0, 2, 0]
MAX_HEADER, MAX_SLOTS, MAX_PARAMETERS, MAX_TEXT = 64 * 1024, 16, 1024, 4096
WRAPPED, SEALED = 72, 104
KEY_FILE, SECRET_SERVICE, PASSWORD, RECOVERY_CODE = 1, 2, 3, 4
KINDS = {KEY_FILE: "key-file", SECRET_SERVICE: "secret-service", PASSWORD: "password", RECOVERY_CODE: "recovery-code"}
RESERVED = {5: "tpm", 6: "systemd-credential"}
RECOVERY_CONFIRMED, LOCKED = 1, 2
WORDS, CODE_BITS = 15, 128


class HeaderError(Exception):
    """The header cannot be used."""


class Damaged(HeaderError):
    """It is not what was written there."""


class Newer(HeaderError):
    """A later version wrote it, and says which one reads it."""


class Older(HeaderError):
    """It has a format that is not written any more."""


class WrongSecret(HeaderError):
    """No slot opens with this; the header may be whole."""


class BadInput(HeaderError):
    """What was given cannot be a password, a code or a key file."""


def need(holds: bool, why: str, fault: type[HeaderError] = Damaged) -> None:
    if not holds:
        raise fault(why)


# Wrapped keys


def unwrap(key: bytes, role: str, context: bytes, wrapped: bytes) -> bytes:
    """The key in `nonce ‖ ciphertext ‖ tag`."""
    need(len(wrapped) == WRAPPED, f"a wrapped key of a wrong length ({role})")
    associated = bytes([len(role)]) + role.encode() + context
    return opened(key, associated, wrapped, role)


def opened(key: bytes, associated: bytes, wrapped: bytes, what: str) -> bytes:
    try:
        return unseal(key, wrapped[:24], associated, wrapped[24:])
    except ChannelError as error:
        raise Damaged(f"a wrapped key does not open ({what})") from error


@dataclass(frozen=True)
class Keys:
    """What an open header gives: the keys of the tree as far down as no database is needed, and the way on."""

    vault_id: bytes
    root: bytes
    system_space: bytes

    def identity(self, sealed: bytes) -> bytes:
        """The seed of the device's identity."""
        need(len(sealed) == WRAPPED, "a sealed identity of a wrong length")
        return opened(kdf(self.root, "identity seal", b"", 32), b"device identity", sealed, "device identity")

    def space(self, space_id: bytes, epoch: int, wrapped: bytes) -> bytes:
        return unwrap(self.root, "root space", self.vault_id + space_id + epoch.to_bytes(4), wrapped)

    def data(self, space: bytes, space_id: bytes, key_id: bytes, wrapped: bytes) -> bytes:
        return unwrap(space, "space data", self.vault_id + space_id + key_id, wrapped)

    def of_system(self, what: str, wrapped: bytes) -> bytes:
        """`log`, `grant`, `pseudonym` or `locked`."""
        return unwrap(self.system_space, f"space {what}", self.vault_id + what.encode(), wrapped)


def store_key(space: bytes) -> bytes:
    return kdf(space, "store sqlcipher", b"", 32)


def file_key(data: bytes, file_id: bytes, wrapped: bytes) -> bytes:
    return unwrap(kdf(data, "data file wrap", b"", 32), "space file", file_id, wrapped)


def value(data: bytes, space_id: bytes, path: str, sealed: bytes) -> bytes:
    """A value that lies in the database."""
    return opened(kdf(data, "data value", b"", 32), space_id + path.encode(), sealed, "value")


# Slots


@dataclass(frozen=True)
class Slot:
    kind: int
    id: int
    sealed: bool
    made_ms: int
    parameters: bytes
    check: bytes
    public: bytes
    root: bytes
    voucher: bytes

    @staticmethod
    def read(reader: Reader) -> Slot:
        kind, slot_id, wrap, made_ms, size = (reader.number(n) for n in (1, 1, 1, 8, 2))
        need(kind in KINDS | RESERVED and wrap in range(4) and size <= MAX_PARAMETERS, "a slot of an unknown kind, wrap or size")
        sizes = (size, 16, 32, SEALED if wrap & 1 else WRAPPED, WRAPPED if wrap & 2 else 0)
        return Slot(kind, slot_id, bool(wrap & 1), made_ms, *(reader.take(n) for n in sizes))

    def wrap(self) -> int:
        return self.sealed | (2 if self.voucher else 0)

    def stretching(self) -> tuple[int, int, int, bytes]:
        """Memory in MiB, passes, lanes, salt."""
        reader = Reader(self.parameters)
        need(len(reader.data) == 28, "a password slot without its parameters")
        memory, passes, lanes = (reader.number(4) for _ in range(3))
        need(64 <= memory <= 4096 and 1 <= passes <= 16 and 1 <= lanes <= 16, "a password slot with impossible parameters")
        return memory, passes, lanes, reader.data

    def context(self, vault_id: bytes) -> bytes:
        return vault_id + bytes([self.id, self.kind]) + self.parameters

    def open(self, vault_id: bytes, secret: bytes) -> bytes:
        """The root key."""
        key = kdf(secret, "slot key", self.context(vault_id), 32)
        need(same(kdf(key, "slot check", b"", 16), self.check), "this opens no slot", WrongSecret)
        if not self.sealed:
            return unwrap(key, "slot root", self.context(vault_id), self.root)
        need(bool(self.voucher), "nothing shows who sealed the root key to this slot")
        ephemeral, vouch = self.root[:32], kdf(key, "slot vouch", b"", 32)
        try:
            kx = blake2b(agree(kdf(key, "slot exchange", b"", 32), ephemeral) + ephemeral + self.public, 64)
        except ChannelError as error:
            raise Damaged("a key is sealed to nobody") from error
        return unwrap(kdf(kx, "slot seal", vouch, 32), "slot sealed root", self.context(vault_id), self.root[32:])


# The header


@dataclass(frozen=True)
class Header:
    data: bytes
    vault_id: bytes
    revision: int
    flags: int
    made_ms: int
    space_id: bytes
    epoch: int
    wrapped: bytes
    slots: tuple[Slot, ...]

    @staticmethod
    def parse(data: bytes) -> Header:
        need(len(data) <= MAX_HEADER, "longer than a header can be")
        need(len(data) >= FRONT + BACK and data[:8] == MAGIC, "not a vault's header")
        need(same(blake2b(data[:-BACK], 32), data[-BACK:-32]), "the checksum does not hold")
        reader = Reader(data[8:-BACK])
        number, version, size = reader.number(2), [reader.number(2) for _ in range(3)], reader.number(4)
        need(number <= FORMAT, f"format {number}; version {'.'.join(map(str, version))} or a newer one reads it", Newer)
        need(number != 1, "format 1; start the program once, it brings the header to format 2", Older)
        need(number == FORMAT and version == FIRST_READER, "a format or version that never was")
        need(size == len(reader.data), "a length that lies")
        try:
            return Header._body(data, reader)
        except ChannelError as error:
            raise Damaged(str(error)) from error

    @staticmethod
    def _body(data: bytes, reader: Reader) -> Header:
        vault_id, revision, flags, made_ms = reader.take(16), reader.number(8), reader.number(1), reader.number(8)
        space_id, epoch, wrapped, count = reader.take(16), reader.number(4), reader.take(WRAPPED), reader.number(1)
        need(flags & ~(RECOVERY_CONFIRMED | LOCKED) == 0, "a flag that nobody knows")
        need(1 <= count <= MAX_SLOTS, "an impossible number of slots")
        slots = tuple(Slot.read(reader) for _ in range(count))
        reader.end()
        need(len({slot.id for slot in slots}) == count, "two slots have one id")
        return Header(data, vault_id, revision, flags, made_ms, space_id, epoch, wrapped, slots)

    def with_password(self, password: str) -> Keys:
        text = password_bytes(password)
        return self._open((PASSWORD,), lambda slot: stretch(text, *slot.stretching()))

    def with_recovery_code(self, words: str) -> Keys:
        secret = kdf(recovery_code(words), "recovery slot", b"", 32)
        return self._open((RECOVERY_CODE,), lambda _: secret)

    def with_secret(self, secret: bytes) -> Keys:
        """That of a key file, or of the Secret Service."""
        return self._open((KEY_FILE, SECRET_SERVICE), lambda _: secret)

    def _open(self, kinds: tuple[int, ...], secret_of: Callable[[Slot], bytes]) -> Keys:
        for slot in self.slots:
            if slot.kind in kinds:
                try:
                    root = slot.open(self.vault_id, secret_of(slot))
                except WrongSecret:
                    continue
                return self._checked(root)
        raise WrongSecret(f"this opens no slot of the kind {' or '.join(KINDS[kind] for kind in kinds)}")

    def _checked(self, root: bytes) -> Keys:
        """Nothing of the header counts before this."""
        expected = kdf(kdf(root, "vault header", b"", 32), "vault header", self.data[:-32], 32)
        need(same(expected, self.data[-32:]), "the authenticator does not hold")
        context = self.vault_id + self.space_id + self.epoch.to_bytes(4)
        return Keys(self.vault_id, root, unwrap(root, "root space", context, self.wrapped))


# What people have


def password_bytes(password: str) -> bytes:
    text = unicodedata.normalize("NFC", password)
    need(not any(unicodedata.category(char) == "Cc" for char in text), "a password with a control character", BadInput)
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise BadInput("a password that is not UTF-8") from error
    need(1 <= len(data) <= 1024, "a password of an impossible length", BadInput)
    return data


def stretch(password: bytes, memory: int, passes: int, lanes: int, salt: bytes) -> bytes:
    return Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory * 1024).derive(password)


@cache
def word_list() -> tuple[str, ...]:
    return tuple(resources.files("mnemonic").joinpath("wordlist/english.txt").read_text().split())


def read_words(text: str, count: int, size: int, label: str) -> bytes:
    """The bytes in so many words, behind which a checksum fills the last of them; of each word four letters are enough."""
    need(len(text) <= MAX_TEXT, "too long for these words", BadInput)
    found = re.findall(r"[^\W\d_]+", text.lower())
    need(len(found) == count, f"{len(found)} words instead of {count}", BadInput)
    by_four, value = {word[:4]: (index, word) for index, word in enumerate(word_list())}, 0
    for at, given in enumerate(found, 1):
        index, word = by_four.get(given[:4], (0, ""))
        need(word.startswith(given), f"word {at} is not in the list", BadInput)
        value = value << 11 | index
    bits = 11 * count - 8 * size
    data = (value >> bits).to_bytes(size)
    check = int.from_bytes(kdf(data, label, b"", 5)) >> 40 - bits
    need(value & (1 << bits) - 1 == check, "a word is wrong: the checksum does not hold", BadInput)
    return data


def recovery_code(text: str) -> bytes:
    """The 128 bits of 15 words."""
    return read_words(text, WORDS, CODE_BITS // 8, "recovery check")


def read_private(path: Path) -> str:
    """A file of at most 4 KiB that nobody else can read."""
    with open(path, "rb") as file:
        need(os.fstat(file.fileno()).st_mode & 0o044 == 0, "others can read this file", BadInput)
        data = file.read(MAX_TEXT + 1)
    need(len(data) <= MAX_TEXT, "longer than such a file can be", BadInput)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadInput("not UTF-8") from error


def key_file_secret(text: str) -> bytes:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    form = re.fullmatch("AICO-SLOT-1-([A-Za-z0-9+/]{43})", lines[0]) if len(lines) == 1 else None
    need(form is not None, "not a key file", BadInput)
    secret = b64decode(form[1] + "=")
    need(b64encode(secret).decode() == form[1] + "=", "not a key file", BadInput)
    return secret


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("header", type=Path)
    ways = parser.add_mutually_exclusive_group()
    for way in ("--password-file", "--key-file", "--recovery-file"):
        ways.add_argument(way, type=Path)
    args = parser.parse_args()
    try:
        with open(args.header, "rb") as file:
            header = Header.parse(file.read(MAX_HEADER + 1))
        if args.password_file:
            header.with_password(read_private(args.password_file).split("\n")[0])
        elif args.key_file:
            header.with_secret(key_file_secret(read_private(args.key_file)))
        elif args.recovery_file:
            header.with_recovery_code(read_private(args.recovery_file))
    except (HeaderError, OSError) as error:
        print(f"error: {type(error).__name__.lower()}: {error}", file=sys.stderr)
        return 1
    ways_in = ", ".join(f"{slot.id} {(KINDS | RESERVED)[slot.kind]}{' (sealed)' if slot.sealed else ''}" for slot in header.slots)
    print(f"vault-{header.vault_id.hex()}, revision {header.revision}; slots: {ways_in}")
    opened_by = args.password_file or args.key_file or args.recovery_file
    print("opened; the authenticator holds" if opened_by else "whole by its checksum; nobody has opened it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
