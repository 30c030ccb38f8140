"""Against a live backend, and against what it leaves on the disk; live.py starts it and sets AICO_LIVE_*."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import unittest
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

from aico_channel import ChannelError, Secret
from aico_client import Client, Failure, read_identity
from audit_verify import Finding, Log
from vault_header import KINDS, Damaged, Header, Keys, WrongSecret, key_file_secret, read_private

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


@unittest.skipUnless("AICO_LIVE_HOME" in os.environ, "live.py starts a backend and sets AICO_LIVE_HOME")
class Running(unittest.TestCase):
    def client(self, hybrid: bool = True, tcp: bool = False, padding: int = 0, identity: str = "IDENTITY") -> Client:
        me, address = read_identity(place(identity)), known("TCP") if tcp else None
        client = Client(place("HOME"), me, hybrid, padding, address)
        self.addCleanup(client.connection.close)
        return client

    def everywhere(self) -> Iterator[Client]:
        """Both carriers with both suites, and padded as far as the backend pads."""
        for hybrid, name in SUITES.items():
            for tcp in (False, True):
                for padding in (0, 2) if tcp else (0,):
                    with self.subTest(suite=name, tcp=tcp, padding=padding):
                        client = self.client(hybrid, tcp, padding)
                        self.assertEqual(client.channel.terms.suite, 2 if hybrid else 1)
                        self.assertEqual(client.channel.terms.padding, 1 if padding else 0, "the lower of both policies")
                        yield client
                        client.close()

    def test_values_come_back(self) -> None:
        for client in self.everywhere():
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

    def test_keys_are_renewed_in_the_middle_of_a_put_and_a_get(self) -> None:
        for client in self.everywhere():
            value = os.urandom(3 * 1024 * 1024)
            client.put_pieces("python/renewed", self.renewing(client, value))
            client.settle()
            after_put, pieces = client.channel.epoch, []
            self.assertGreater(after_put, 1)
            for piece in client.get_pieces("python/renewed"):
                client.rekey()
                pieces.append(piece)
            self.assertEqual(b"".join(pieces), value)
            client.settle()
            self.assertGreater(client.channel.epoch, after_put)
            self.assertEqual(client.get("python/renewed"), value)

    def renewing(self, client: Client, value: bytes) -> Iterator[bytes]:
        for start in range(0, len(value), 100_000):
            client.rekey()
            yield value[start : start + 100_000]

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

    def test_a_flipped_byte_in_its_header_is_damage(self) -> None:
        for at in range(len(self.data) - 32):
            with self.assertRaises(Damaged):
                Header.parse(self.data[:at] + bytes([self.data[at] ^ 1]) + self.data[at + 1 :])


if __name__ == "__main__":
    unittest.main()
