"""Sealed files, docs/spec/sealed-file.md: sealed and opened with a passphrase, or with the data key of a vault.

    python sealed_file.py FILE --password-file FILE > CONTENT
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from aico_channel import kdf, same, seal
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from vault_header import WRAPPED, BadInput, Damaged, Newer, WrongSecret, need, opened, password_bytes, stretch, unwrap

MAGIC, FORMAT, PASSPHRASE, VAULT = b"AICOSEA1", 1, 1, 2
PARAMETERS, CHECK, CHUNK, TAG, OVERHEAD = 41, 16, 65_536, 16, 40
PLACE, UNDER_VAULT = 45, 117
FILE_SET = (128, 1, 2)
LEAST_MEMORY, MOST = 64, (1024, 4, 8)


def nonce(index: int, last: bool) -> bytes:
    return bytes([0, 0, 0, last]) + index.to_bytes(8)


def seal_file(
    passphrase: str,
    name: str,
    content: bytes,
    costs: tuple[int, int, int] = FILE_SET,
    fresh: Callable[[int], bytes] = os.urandom,
) -> bytes:
    """Draws the file key, the salt, the nonce of the wrapped key and that of the name, in this order."""
    text = name.encode()
    need(1 <= len(text) <= 255, "a name of an impossible length", BadInput)
    key, salt = fresh(32), fresh(16)
    header = MAGIC + FORMAT.to_bytes(4) + bytes([PASSPHRASE]) + b"".join(cost.to_bytes(4) for cost in costs) + salt
    sealed_key = kdf(stretch(password_bytes(passphrase), *costs, salt), "sealed file", b"", 32)
    header += kdf(sealed_key, "sealed check", header, CHECK)
    wrap_nonce = fresh(24)
    header += wrap_nonce + seal(sealed_key, wrap_nonce, bytes([11]) + b"sealed file" + header, key)
    return seal_content(header, key, text, content, fresh)


def seal_under_vault(
    data_key: bytes, vault: bytes, key_id: bytes, name: str, content: bytes, fresh: Callable[[int], bytes] = os.urandom
) -> bytes:
    """Draws the file key, the nonce of the wrapped key and that of the name, in this order."""
    key = fresh(32)
    header = MAGIC + FORMAT.to_bytes(4) + bytes([VAULT]) + vault + key_id
    wrap_nonce = fresh(24)
    header += wrap_nonce + seal(wrapping(data_key), wrap_nonce, bytes([10]) + b"space file" + header, key)
    return seal_content(header, key, name.encode(), content, fresh)


def wrapping(data_key: bytes) -> bytes:
    return kdf(data_key, "data file wrap", b"", 32)


def seal_content(header: bytes, key: bytes, text: bytes, content: bytes, fresh: Callable[[int], bytes]) -> bytes:
    header += len(text).to_bytes(2)
    name_nonce = fresh(24)
    header += name_nonce + seal(kdf(key, "sealed name", b"", 32), name_nonce, header, text)
    chunks = [content[at : at + CHUNK] for at in range(0, len(content), CHUNK)] or [b""]
    last = len(chunks) - 1
    return header + b"".join(AESGCM(key).encrypt(nonce(at, at == last), chunk, header) for at, chunk in enumerate(chunks))


def open_file(passphrase: str, data: bytes) -> tuple[str, bytes]:
    """The name and the content."""
    need(data[:8] == MAGIC and len(data) >= PARAMETERS + CHECK + WRAPPED + 2, "it is no sealed file")
    need((data[8:12], data[12]) == (FORMAT.to_bytes(4), PASSPHRASE), "a newer format", Newer)
    costs = tuple(int.from_bytes(data[at : at + 4]) for at in (13, 17, 21))
    need(LEAST_MEMORY <= costs[0] and all(costs[1:]), "costs out of their limits")
    need(all(cost <= most for cost, most in zip(costs, MOST, strict=True)), "it would cost too much", BadInput)
    salt, check = data[25:PARAMETERS], data[PARAMETERS : PARAMETERS + CHECK]
    sealed_key = kdf(stretch(password_bytes(passphrase), *costs, salt), "sealed file", b"", 32)
    need(same(kdf(sealed_key, "sealed check", data[:PARAMETERS], CHECK), check), "a wrong passphrase", WrongSecret)
    at = PARAMETERS + CHECK
    key = unwrap(sealed_key, "sealed file", data[:at], data[at : at + WRAPPED])
    return open_content(key, data, at + WRAPPED)


def open_under_vault(data_key: bytes, vault: bytes, key_id: bytes, data: bytes) -> tuple[str, bytes]:
    """The name and the content."""
    need(data[:8] == MAGIC and len(data) >= UNDER_VAULT + 2, "it is no sealed file")
    need((data[8:12], data[12]) == (FORMAT.to_bytes(4), VAULT), "it is not under a vault", Newer)
    need(data[13:PLACE] == vault + key_id, "it is of another vault, or its key was forgotten", WrongSecret)
    key = unwrap(wrapping(data_key), "space file", data[:PLACE], data[PLACE:UNDER_VAULT])
    return open_content(key, data, UNDER_VAULT)


def open_content(key: bytes, data: bytes, at: int) -> tuple[str, bytes]:
    at += 2
    length = int.from_bytes(data[at - 2 : at])
    end = at + length + OVERHEAD
    need(1 <= length <= 255 and len(data) >= end + TAG, "it ends too early")
    name = opened(kdf(key, "sealed name", b"", 32), data[:at], data[at:end], "name")
    header, rest = data[:end], data[end:]
    sealed = [rest[at : at + CHUNK + TAG] for at in range(0, len(rest), CHUNK + TAG)]
    try:
        content = [
            AESGCM(key).decrypt(nonce(at, at == len(sealed) - 1), chunk, header) for at, chunk in enumerate(sealed)
        ]
        return name.decode(), b"".join(content)
    except (InvalidTag, UnicodeDecodeError, ValueError) as error:
        raise Damaged("a chunk is not what was written there, or the file was cut") from error


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("file", type=Path)
    arguments.add_argument("--password-file", type=Path, required=True)
    given = arguments.parse_args()
    _, content = open_file(given.password_file.read_text().splitlines()[0], given.file.read_bytes())
    sys.stdout.buffer.write(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
