"""Against a live backend, and against what it leaves on the disk; live.py starts it and sets AICO_LIVE_*."""

from __future__ import annotations

import hmac
import json
import os
import shutil
import sqlite3
import tempfile
import unittest
from base64 import b64decode
from collections.abc import Callable, Iterator
from hashlib import pbkdf2_hmac
from pathlib import Path

import nacl.bindings as sodium
from aico_channel import ChannelError, Secret, blake2b, kdf, unseal
from aico_client import Client, Failure, read_identity
from audit_verify import Finding, Log, entries
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from vault_header import KINDS, Damaged, Header, Keys, WrongSecret, file_key, key_file_secret, read_private, store_key, value

SUITES = {True: "hybrid", False: "classical"}


def known(name: str) -> str:
    return os.environ[f"AICO_LIVE_{name}"]


def place(name: str) -> Path:
    return Path(known(name))


def read_until_whole(folder: Path) -> Log:
    """A log that somebody writes to: a finding counts if `checkpoint` and `tail` are still the same after it."""
    heads = lambda: [(folder / name).read_bytes() for name in ("checkpoint", "tail")]  # noqa: E731
    while True:
        before = heads()
        try:
            (log := Log(folder)).verify()
            return log
        except Finding:
            if heads() == before:
                raise


def database(path: Path, space: bytes) -> sqlite3.Connection:
    """A SQLCipher database that was closed, in memory and in the clear; every page's HMAC holds."""
    key, data = store_key(space), path.read_bytes()
    mac_key, pages = pbkdf2_hmac("sha512", key, bytes(byte ^ 0x3A for byte in data[:16]), 2, 32), []
    for n in range(len(data) // 4096):
        page = data[n * 4096 + (16 if n == 0 else 0) : (n + 1) * 4096]
        expected = hmac.digest(mac_key, page[:-32] + (n + 1).to_bytes(4, "little"), "sha256")
        assert hmac.compare_digest(expected, page[-32:]), f"page {n + 1} is damaged"
        opener = Cipher(algorithms.AES(key), modes.CBC(page[-48:-32])).decryptor()
        pages.append((b"SQLite format 3\0" if n == 0 else b"") + opener.update(page[:-48]) + bytes(48))
    plain = bytearray(b"".join(pages))
    plain[18:20] = b"\1\1"  # a database in memory has no WAL
    connection = sqlite3.connect(":memory:")
    connection.deserialize(bytes(plain))
    return connection


@unittest.skipUnless("AICO_LIVE_HOME" in os.environ, "live.py starts a backend and sets AICO_LIVE_HOME")
class Running(unittest.TestCase):
    def client(self, hybrid: bool = True, tcp: bool = False, padding: int = 0, identity: str = "IDENTITY") -> Client:
        me, address = read_identity(place(identity)), known("TCP") if tcp else None
        client = Client(place("HOME"), me, hybrid, padding, address)
        self.addCleanup(client.connection.close)
        return client

    def everywhere(self, step: Callable[[Client], None]) -> None:
        """Over both carriers with both suites, and padded as far as the backend pads."""
        for hybrid, name in SUITES.items():
            for tcp, padding in ((False, 0), (True, 0), (True, 2)):
                with self.subTest(suite=name, tcp=tcp, padding=padding):
                    client = self.client(hybrid, tcp, padding)
                    self.assertEqual(client.channel.terms.suite, 2 if hybrid else 1)
                    self.assertEqual(client.channel.terms.padding, 1 if padding else 0, "the lower of both policies")
                    step(client)
                    client.close()

    def test_values_come_back(self) -> None:
        def step(client: Client) -> None:
            for size in (0, 1, 100 * 1024, 3 * 1024 * 1024):
                value = os.urandom(size)
                self.assertEqual(client.put("python/value", value)["bytes"], size)
                client.key_update()
                self.assertEqual(client.get("python/value"), value)
            with self.assertRaises(Failure):
                client.get("python/absent")
            with self.assertRaises(Failure):
                client.ask(op="system.stop")
            self.assertGreater(client.ask(op="status")["data_bytes"], 0)

        self.everywhere(step)

    def test_keys_are_renewed_in_the_middle_of_a_put_and_a_get(self) -> None:
        """The value is longer than what lies between the two, so that it cannot all be on its way before the first REKEY."""
        value = os.urandom(24 * 1024 * 1024)

        def step(client: Client) -> None:
            client.put_pieces("python/renewed", self.renewing(client, value))
            client.settle()
            after_put, pieces, epochs = client.channel.epoch, [], set()
            self.assertGreater(after_put, 5)
            for piece in client.get_pieces("python/renewed"):
                client.rekey()
                pieces.append(piece)
                epochs.add(client.channel.lanes[0].epoch)
            self.assertEqual(b"".join(pieces), value)
            client.settle()
            self.assertGreater(len(epochs), 1, "records of the answer came in more than one epoch")
            self.assertGreater(client.channel.epoch, after_put)

        self.everywhere(step)

    def renewing(self, client: Client, value: bytes) -> Iterator[bytes]:
        """The pieces of a value; at some of them a REKEY is waited for, at the others it goes on meanwhile."""
        for start in range(0, len(value), 1_000_000):
            client.rekey()
            if start % 4_000_000 == 0:
                client.settle()
            yield value[start : start + 1_000_000]

    def test_the_unix_socket_is_not_padded(self) -> None:
        self.assertEqual(self.client(padding=2).channel.terms.padding, 0)

    def test_a_stranger_gets_nowhere_over_tcp(self) -> None:
        client = Client(place("HOME"), Secret.make("frontend", "stranger"), tcp=known("TCP"))
        self.addCleanup(client.connection.close)
        with self.assertRaises((ChannelError, OSError)):
            client.ask(op="enrol")

    def test_the_log_fills_bundles_and_is_whole_while_it_is_written(self) -> None:
        """The head that the vault keeps is kept here too, for after the end."""
        client, owner = self.client(), self.client(identity="CLI")
        for n in range(150):
            client.put(f"python/{n}", b"x")
            if n % 30 == 0:
                self.assertGreater(read_until_whole(place("HOME") / "audit").size, n)
        anchor = owner.ask(op="audit.anchor")
        self.assertGreater(anchor["size"], 300)
        place("HEAD").write_text(json.dumps(anchor))


def unchunked(data: bytes, key: bytes, head: bytes) -> bytes:
    """The value in a chunked file."""
    assert data[:44] == head, "another file's header"
    chunks = [data[at : at + 65_552] for at in range(44, len(data), 65_552)]
    nonces = [bytes([0, 0, 0, n == len(chunks) - 1]) + n.to_bytes(8) for n in range(len(chunks))]
    return b"".join(AESGCM(key).decrypt(nonce, chunk, head) for nonce, chunk in zip(nonces, chunks, strict=True))


@unittest.skipUnless("AICO_LIVE_BEFORE" in os.environ, "live.py stops the backend and sets AICO_LIVE_BEFORE")
class Stopped(unittest.TestCase):
    """The last thing that live.py did was a change of the password with a new root key."""

    def setUp(self) -> None:
        self.home, self.data = place("HOME"), (place("HOME") / "vault.aico").read_bytes()
        self.header = Header.parse(self.data)

    def test_its_log_is_whole_and_anchored(self) -> None:
        head = json.loads(place("HEAD").read_text())
        log = Log(self.home / "audit", head["key"], (head["size"], b64decode(head["root"])))
        log.verify()
        self.assertGreater(log.size, head["size"])
        self.assertGreater(log.head[0], 0)
        self.assertEqual(log.origin, f"aico.local/audit/{self.header.vault_id.hex()}")

    def test_what_is_changed_in_its_log_is_noticed(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            copy = shutil.copytree(self.home / "audit", Path(folder, "audit"))
            for name in (path for path in copy.rglob("*") if path.is_file()):
                data = name.read_bytes()
                for at in (0, len(data) // 2, len(data) - 1):
                    name.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
                    with self.assertRaises(Finding, msg=(name, at)):
                        Log(copy).verify()
                name.write_bytes(data)
            Log(copy).verify()

    def ways(self, header: Header, password: str) -> list[Keys]:
        (key_file,) = place("KEYS").glob("vault-*.key")
        self.assertEqual(key_file.name, f"vault-{header.vault_id.hex()}.key")
        secret = key_file_secret(read_private(key_file))
        return [header.with_password(password), header.with_recovery_code(known("CODE")), header.with_secret(secret)]

    def test_its_header_opens_with_everything_that_the_owner_has(self) -> None:
        self.assertEqual({KINDS[slot.kind] for slot in self.header.slots}, {"password", "recovery-code", "key-file"})
        keys = self.ways(self.header, known("NEW"))
        self.assertEqual(keys[0], keys[1])
        self.assertEqual(keys[0], keys[2])
        self.assertEqual(self.header.flags, 1, "a recovery code was confirmed, and the vault is not locked")
        sealed = [KINDS[slot.kind] for slot in self.header.slots if slot.sealed]
        self.assertIn("recovery-code", sealed, "nobody had the words when the new root key was made")

    def test_the_old_header_has_the_old_password_and_root_key(self) -> None:
        before = Header.parse(place("BEFORE").read_bytes())
        old, new = self.ways(before, known("OLD"))[0], self.ways(self.header, known("NEW"))[0]
        self.assertEqual((before.vault_id, before.space_id), (self.header.vault_id, self.header.space_id))
        self.assertLess(before.revision, self.header.revision)
        self.assertNotEqual(old.root, new.root)
        self.assertEqual(old.system_space, new.system_space, "new data keys come with the rotation of spaces")
        for header, wrong in ((before, known("NEW")), (self.header, known("OLD"))):
            with self.assertRaises(WrongSecret):
                header.with_password(wrong)

    def space(self, space_id: bytes) -> Path:
        return self.home / "spaces" / f"space-{space_id.hex()}"

    def test_the_keys_that_come_out_are_those_of_the_log_and_the_grants(self) -> None:
        keys = self.header.with_password(known("NEW"))
        system = database(self.space(self.header.space_id) / "store.db", keys.system_space)
        wrapped = dict(system.execute("SELECT name, wrapped FROM secret"))
        log_key, grant_key = (keys.of_system(name, wrapped[name]) for name in ("log", "grant"))
        log = Log(self.home / "audit", None, system.execute("SELECT size, root FROM anchor").fetchone())
        log.verify()
        self.assertEqual(sodium.crypto_sign_seed_keypair(kdf(log_key, "log signer", b"", 32))[0], log.public)
        seal_key, first = kdf(log_key, "log seal", b"", 32), (self.home / "audit/tile/entries/000").read_bytes()
        for index, sealed in enumerate(entries(first, 256, "bundle 0")):
            plain = unseal(seal_key, sealed[:24], self.header.vault_id + index.to_bytes(8), sealed[24:]).rstrip(b"\0")
            self.assertTrue(plain.endswith(b"\x80") and json.loads(plain[:-1])["at_ms"] > 0)
        signer, _ = sodium.crypto_sign_seed_keypair(kdf(grant_key, "grant signer", b"", 32))
        grants = system.execute("SELECT key, granted, signature FROM component").fetchall()
        self.assertGreaterEqual(len(grants), 2)
        for key, granted, signature in grants:
            sodium.crypto_sign_open(signature + b"AICO grant signature 1\0" + granted, signer)
            self.assertEqual(json.loads(granted)["to"], f"ed25519:{key.hex()}")

    def test_and_those_of_the_values(self) -> None:
        keys = self.header.with_password(known("NEW"))
        system = database(self.space(self.header.space_id) / "store.db", keys.system_space)
        ((space_id, epoch, wrapped),) = system.execute("SELECT id, epoch, wrapped FROM space")
        space, folder = keys.space(space_id, epoch, wrapped), self.space(space_id)
        table = system.execute("SELECT id, name, wrapped FROM data_key WHERE space = ?", (space_id,)).fetchall()
        data = {key_id: (name, keys.data(space, space_id, key_id, wrapped)) for key_id, name, wrapped in table}
        values = "SELECT path, bytes, sum, file_id, file_key, content, key_id FROM value LEFT JOIN inline_value ON value_id = id"
        inside = {True: 0, False: 0}
        for path, size, total, file_id, wrapped, content, key_id in database(folder / "store.db", space).execute(values):
            kept_with, key = data[key_id]
            self.assertTrue(path.startswith(kept_with + "/"), path)
            if file_id:
                name, head = file_id.hex(), b"AICOFIL1" + (1).to_bytes(4) + file_id + space_id
                content = unchunked((folder / "files" / name[:2] / name).read_bytes(), file_key(key, file_id, wrapped), head)
            else:
                content = value(key, space_id, path, content)
            inside[file_id is None] += 1
            self.assertEqual((len(content), blake2b(content, 32)), (size, total), path)
        self.assertGreater(min(inside.values()), 0)

    def test_a_flipped_byte_in_its_header_is_damage(self) -> None:
        for at in range(len(self.data) - 32):
            with self.assertRaises(Damaged):
                Header.parse(self.data[:at] + bytes([self.data[at] ^ 1]) + self.data[at + 1 :])


if __name__ == "__main__":
    unittest.main()
