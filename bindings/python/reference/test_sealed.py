"""Sealed files against testvectors/vault/sealed-file.json, which this computes, and against somebody who changes them.

    AICO_WRITE_VECTORS=1 python -m unittest test_sealed    writes the vectors anew
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import unittest
from pathlib import Path

from aico_channel import blake2b
from sealed_file import CHUNK, open_file, open_under_vault, seal_file, seal_under_vault
from vault_header import HeaderError

FILE = Path(__file__).resolve().parents[3] / "testvectors" / "vault" / "sealed-file.json"
PASSPHRASE = "correct horse battery staple"
COSTS = (64, 1, 2)
VAULT, KEY_ID = b"\x11" * 16, b"\x22" * 16


def fixed(name: str):
    """Fixed bytes in the place of random ones: the front of BLAKE2b-256 of a name and a number."""
    drawn = []

    def fresh(size: int) -> bytes:
        drawn.append(size)
        return blake2b(f"sealed {name} {len(drawn)}".encode(), 32)[:size]

    return fresh


def sealed(what: str, name: str, content: bytes, **more) -> bytes:
    return seal_file(PASSPHRASE, name, content, **{"costs": COSTS, "fresh": fixed(what)} | more)


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


DATA_KEY = fixed("data key")(32)


def under_vault(what: str, content: bytes, vault: bytes = VAULT, key_id: bytes = KEY_ID, data_key: bytes = DATA_KEY):
    return seal_under_vault(data_key, vault, key_id, f"{what}.txt", content, fixed(what))


def vault_vectors() -> dict:
    files = {what: under_vault(what, content) for what, content in {"empty": b"", "mine": b"hello, vault"}.items()}
    mine = files["mine"]
    refused = {
        "the way of opening changed to a passphrase": mine[:12] + b"\1" + mine[13:],
        "a way of opening that this format does not have": mine[:12] + b"\3" + mine[13:],
        "of another vault": under_vault("mine", b"hello", vault=b"\x12" * 16),
        "under another data key": under_vault("mine", b"hello", key_id=b"\x23" * 16),
        "wrapped by a key that is not its data key": under_vault("mine", b"hello", data_key=bytes(32)),
        "another vault written over its own": flip(mine, 13),
        "another wrapped key": flip(mine, 80),
        "a name of no bytes": mine[:117] + bytes(2) + mine[119:],
        "a name of 256 bytes": mine[:117] + (256).to_bytes(2) + bytes(300) + mine[119:],
        "another name": flip(mine, 150),
        "another content": flip(mine, len(mine) - 18),
        "a cut in the header": mine[:100],
        "nothing behind the header": mine[:-28],
        "a byte behind the end": mine + b"\0",
    }
    return {
        "data key": DATA_KEY.hex(),
        "vault": VAULT.hex(),
        "data key id": KEY_ID.hex(),
        "randomness": "file key, nonce of the wrapped key, nonce of the name; the data key is drawn as `data key`",
        "files": [
            {"what": "empty", "name": "empty.txt", "content": "", "file": files["empty"].hex()},
            {"what": "mine", "name": "mine.txt", "content": "hello, vault", "file": mine.hex()},
        ],
        "refused": [{"reason": reason, "file": data.hex()} for reason, data in refused.items()],
    }


def vectors() -> dict:
    contents = {"empty": b"", "hello": b"hello", "one full chunk": bytes(CHUNK), "two chunks": bytes(CHUNK + 1)}
    files = {what: sealed(what, f"{what}.txt", content) for what, content in contents.items()}
    hello, two = files["hello"], files["two chunks"]
    end = 171 + len("two chunks.txt")
    refused = {
        "another beginning": flip(hello, 0),
        "a newer format": hello[:8] + (2).to_bytes(4) + hello[12:],
        "a way of opening that this format does not have": flip(flip(hello, 12), 12)[:12] + b"\2" + hello[13:],
        "less than 64 MiB": hello[:13] + (63).to_bytes(4) + hello[17:],
        "more than 1,024 MiB": hello[:13] + (1025).to_bytes(4) + hello[17:],
        "five passes": hello[:17] + (5).to_bytes(4) + hello[21:],
        "nine lanes": hello[:21] + (9).to_bytes(4) + hello[25:],
        "another salt": flip(hello, 30),
        "another check": flip(hello, 45),
        "another wrapped key": flip(hello, 90),
        "a name of no bytes": hello[:129] + bytes(2) + hello[131:],
        "a name of 256 bytes": hello[:129] + (256).to_bytes(2) + bytes(300) + hello[131:],
        "another name": flip(hello, 160),
        "another content": flip(hello, len(hello) - 18),
        "a cut in the header": hello[:100],
        "nothing behind the header": hello[:-21],
        "a cut in the tag": hello[:-1],
        "a byte behind the end": hello + b"\0",
        "the last chunk cut off": two[: end + CHUNK + 16],
        "the chunks in another order": two[:end] + two[end + CHUNK + 16 :] + two[end : end + CHUNK + 16],
        "the header of another file": two[:end] + hello[171 + len("hello.txt") :],
    }
    return {
        "about": "sealed files, docs/spec/sealed-file.md; hexadecimal. Contents are given as UTF-8, or as a number of zeros",
        "reason": "every implementation opens these and seals the same bytes from the same randomness",
        "passphrase": PASSPHRASE,
        "randomness": "file key, salt, nonce of the wrapped key, nonce of the name, in this order: the first bytes of "
        "BLAKE2b-256 of `sealed <what> <n>`, n from 1",
        "files": [
            {"what": what, "name": f"{what}.txt", "content": content.decode() if len(content) < 10 else len(content)}
            | {"sum": blake2b(files[what], 32).hex()}
            | ({"file": files[what].hex()} if len(content) < 10 else {})
            for what, content in contents.items()
        ],
        "refused": [
            {"reason": reason, "sum": blake2b(data, 32).hex()} | ({"file": data.hex()} if len(data) < 1000 else {})
            for reason, data in refused.items()
        ],
        "vault": vault_vectors(),
    }, files, refused


class Sealed(unittest.TestCase):
    def test_the_committed_vectors_are_the_computed_ones(self) -> None:
        computed, _, _ = vectors()
        if os.environ.get("AICO_WRITE_VECTORS"):
            FILE.write_text(json.dumps(computed, indent=2, ensure_ascii=False) + "\n")
        self.assertEqual(json.loads(FILE.read_text()), computed)

    def test_what_was_sealed_comes_back_and_nothing_else_does(self) -> None:
        computed, files, refused = vectors()
        for given in computed["files"]:
            content = given["content"].encode() if isinstance(given["content"], str) else bytes(given["content"])
            self.assertEqual(open_file(PASSPHRASE, files[given["what"]]), (given["name"], content))
        for reason, data in refused.items():
            with self.assertRaises(HeaderError, msg=reason):
                open_file(PASSPHRASE, data)
        with self.assertRaises(HeaderError):
            open_file("another", files["hello"])

    def test_under_a_vault_each_opens_with_its_data_key_and_nothing_else_does(self) -> None:
        given = vault_vectors()
        opened = lambda data, key=DATA_KEY: open_under_vault(key, VAULT, KEY_ID, data)
        for file in given["files"]:
            data = bytes.fromhex(file["file"])
            self.assertEqual(opened(data), (file["name"], file["content"].encode()))
            for at in range(len(data)):
                with self.assertRaises(HeaderError, msg=at):
                    opened(flip(data, at))
                with self.assertRaises(HeaderError, msg=at):
                    opened(data[:at])
            with self.assertRaises(HeaderError):
                opened(data, bytes(32))
            with self.assertRaises(HeaderError):
                open_file(PASSPHRASE, data)
        for file in given["refused"]:
            with self.assertRaises(HeaderError, msg=file["reason"]):
                opened(bytes.fromhex(file["file"]))

    def test_the_program_reads_ours_and_we_read_the_programs(self) -> None:
        aico = os.environ["AICO_BIN"]
        with tempfile.TemporaryDirectory() as folder:
            here = Path(folder)
            (here / "password").write_text(PASSPHRASE)
            environment = {"PATH": os.environ["PATH"], "HOME": folder, "AICO_HOME": f"{folder}/data"}

            def run(*words: str) -> None:
                command = [aico, "--password-file", here / "password", "file", *words]
                subprocess.run(command, check=True, env=environment, cwd=here, capture_output=True)

            for content in (b"", b"hello", os.urandom(CHUNK), os.urandom(3 * CHUNK + 7)):
                for file in here.glob("*.x"):
                    file.unlink()
                (here / "plain.x").write_bytes(content)
                run("seal", "plain.x", "-o", "sealed.x")
                self.assertEqual(open_file(PASSPHRASE, (here / "sealed.x").read_bytes()), ("plain.x", content))
                (here / "ours.x").write_bytes(seal_file(PASSPHRASE, "ours", content, costs=COSTS))
                run("open", "ours.x", "-o", "opened.x")
                self.assertEqual((here / "opened.x").read_bytes(), content)


if __name__ == "__main__":
    unittest.main()
