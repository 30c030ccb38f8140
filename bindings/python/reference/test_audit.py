"""The verifier against testvectors/audit/, and against logs that somebody has been at."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import unittest
from base64 import b64decode, b64encode
from hashlib import sha256
from pathlib import Path

import nacl.bindings as sodium
from aico_channel import kdf, seal, unseal
from audit_verify import BUNDLE, MAX_TAIL, MAX_TEXT, Finding, Log, root_of, tile

VECTORS = Path(__file__).resolve().parents[3] / "testvectors" / "audit"


def merkle(hashes: list[bytes]) -> bytes:
    return root_of(hashes) if hashes else sha256().digest()


class Writer:
    """Makes the files of a log at rest, or between the steps of a write, from entries in memory."""

    def __init__(self, log_key: bytes, log_id: bytes) -> None:
        self.id, self.origin = log_id, f"aico.local/audit/{log_id.hex()}"
        self.public, self.secret = sodium.crypto_sign_seed_keypair(kdf(log_key, "log signer", b"", 32))
        self.seal_key, self.entries, self.leaves = kdf(log_key, "log seal", b"", 32), [], []

    def add(self, plaintext: bytes, nonce: bytes | None = None) -> None:
        padded = (plaintext + b"\x80").ljust(-(-(len(plaintext) + 1) // 64) * 64, b"\0")
        nonce = nonce or os.urandom(24)
        self.put(nonce + seal(self.seal_key, nonce, self.id + len(self.entries).to_bytes(8), padded))

    def put(self, sealed: bytes) -> None:
        self.entries.append(sealed)
        self.leaves.append(sha256(b"\0" + sealed).digest())

    def text(self, size: int) -> bytes:
        return f"{self.origin}\n{size}\n{b64encode(merkle(self.leaves[:size])).decode()}\n".encode()

    def sign(self, size: int) -> bytes:
        return sodium.crypto_sign(self.text(size), self.secret)[:64]

    def key_id(self) -> bytes:
        return sha256(self.origin.encode() + b"\n\1" + self.public).digest()[:4]

    def vkey(self) -> bytes:
        return f"{self.origin}+{self.key_id().hex()}+{b64encode(b'%c' % 1 + self.public).decode()}\n".encode()

    def checkpoint(self, size: int) -> bytes:
        note = b64encode(self.key_id() + self.sign(size)).decode()
        return self.text(size) + f"\n— {self.origin} {note}\n".encode()

    def listed(self, first: int, end: int) -> bytes:
        return b"".join(len(entry).to_bytes(2) + entry for entry in self.entries[first:end])

    def tail(self, base: int, ends: list[int]) -> bytes:
        top = b"aicotal\1" + self.id + base.to_bytes(8)
        tail, first = top + sha256(top).digest()[:8], base
        for end in ends:
            body = self.listed(first, end)
            head = b"aicobat\1" + first.to_bytes(8) + (end - first).to_bytes(4) + len(body).to_bytes(4)
            tail += head + sha256(head).digest()[:8] + body + merkle(self.leaves[:end]) + self.sign(end)
            first = end
        return tail

    def tiles(self, size: int) -> dict[str, bytes]:
        """The bundles and tiles of a checkpoint of this size."""
        files = {tile("entries", n): self.listed(n * BUNDLE, (n + 1) * BUNDLE) for n in range(size // BUNDLE)}
        level, hashes = 0, self.leaves[:size]
        while hashes:
            for n in range(0, -(-len(hashes) // BUNDLE)):
                part = hashes[n * BUNDLE : (n + 1) * BUNDLE]
                files[tile(level, n, len(part) % BUNDLE)] = b"".join(part)
            whole = range(len(hashes) // BUNDLE)
            hashes = [merkle(hashes[n * BUNDLE : (n + 1) * BUNDLE]) for n in whole]
            level += 1
        return files

    def files(self, ends: list[int] | None = None) -> dict[str, bytes]:
        """At rest; `ends` are those of the batches in the tail."""
        size, full = len(self.entries), len(self.entries) // BUNDLE * BUNDLE
        tail = self.tail(full, ends or ([size] if size > full else []))
        return {"vkey": self.vkey(), "checkpoint": self.checkpoint(full), "tail": tail} | self.tiles(full)


def written(count: int, key: bytes = bytes(32), log_id: bytes = bytes(16), size: int = 0) -> Writer:
    writer = Writer(key, log_id)
    for n in range(count):
        writer.add(b"%d" % n + bytes(size))
    return writer


class Case(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    def lay(self, files: dict[str, bytes]) -> None:
        """Makes the folder hold these files and nothing else."""
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        for name, data in files.items():
            self.write(name, data)

    def write(self, name: str, data: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def good(self, files: dict[str, bytes] | None = None, **known: object) -> Log:
        if files is not None:
            self.lay(files)
        log = Log(self.folder, **known)
        log.verify()
        return log

    def bad(self, names: str, files: dict[str, bytes] | None = None, why: object = None, **known: object) -> None:
        """A finding that names one of the files, and no other exception."""
        with self.assertRaises(Finding, msg=why) as raised:
            self.good(files, **known)
        self.assertTrue(str(raised.exception).startswith(tuple(names.split())), f"{why}: {raised.exception}")


class Vectors(Case):
    v = json.loads((VECTORS / "log.json").read_text())

    def read(self, files: dict[str, str]) -> dict[str, bytes]:
        return {name: b64decode(data) for name, data in files.items()}

    def key(self) -> str:
        return self.v["vkey"].strip()

    def test_the_logs_are_whole(self) -> None:
        for given in self.v["logs"]:
            head = given["head"]
            for anchor in (None, head["checkpoint"].encode(), (head["size"], bytes.fromhex(head["root"]))):
                log = self.good(self.read(given["files"]), key=self.key(), anchor=anchor)
                self.assertEqual((log.size, log.root().hex()), (head["size"], head["root"]))

    def test_their_entries_open_and_every_byte_can_be_made_again(self) -> None:
        log_key, log_id = bytes.fromhex(self.v["log_key"]), bytes.fromhex(self.v["log_id"])
        for given in self.v["logs"]:
            writer, files = Writer(log_key, log_id), self.read(given["files"])
            self.assertEqual(writer.seal_key.hex(), self.v["seal_key"])
            self.assertEqual(kdf(log_key, "log signer", b"", 32).hex(), self.v["signer_seed"])
            sealed, ends = sealed_entries(files)
            for index, plaintext in enumerate(given["entries"]):
                place = log_id + index.to_bytes(8)
                opened = unseal(writer.seal_key, sealed[index][:24], place, sealed[index][24:])
                self.assertEqual(opened.rstrip(b"\0"), plaintext.encode() + b"\x80")
                writer.add(plaintext.encode(), sealed[index][:24])
            self.assertEqual(writer.files(ends), files, given["why"])
            self.assertEqual(writer.checkpoint(len(sealed)).decode(), given["head"]["checkpoint"])

    def test_what_must_be_refused(self) -> None:
        for given in self.v["refused"]:
            self.lay(self.read(given["files"]))
            with self.assertRaises(Finding, msg=given["why"]):
                self.good()

    def test_an_older_state_is_noticed_with_an_anchor_only(self) -> None:
        back = self.v["rolled_back"]
        self.good(self.read(back["files"]))
        self.bad("tail", anchor=back["anchor"]["checkpoint"].encode())
        self.bad("tail", anchor=(back["anchor"]["size"], bytes.fromhex(back["anchor"]["root"])))


def sealed_entries(files: dict[str, bytes]) -> tuple[list[bytes], list[int]]:
    """All sealed entries, and where the batches of the tail end. The log is known to be good."""
    sealed, ends = [], []

    def take(data: bytes) -> None:
        while data:
            size = int.from_bytes(data[:2])
            sealed.append(data[2 : 2 + size])
            data = data[2 + size :]

    for name in sorted(name for name in files if name.startswith("tile/entries/")):
        take(files[name])
    tail = files["tail"][40:]
    while tail:
        size = int.from_bytes(tail[20:24])
        take(tail[32 : 32 + size])
        ends.append(len(sealed))
        tail = tail[32 + size + 96 :]
    return sealed, ends


class Attacks(Case):
    def test_every_flipped_byte_is_noticed(self) -> None:
        """In a log without bundles each byte with each of three changes; in one with a bundle each byte."""
        for count, changes in ((3, (1, 0x80, 0xFF)), (BUNDLE + 2, (0x20,))):
            files = written(count).files([count - 1, count])
            self.good(files)
            for name, data in files.items():
                for at in range(0, len(data), 1 if len(data) < 2000 else 13):
                    for change in changes:
                        self.write(name, data[:at] + bytes([data[at] ^ change]) + data[at + 1 :])
                        self.bad("vkey checkpoint tail tile/", why=(name, at, change))
                self.write(name, data)
            self.good()

    def test_every_cut_is_noticed_but_that_of_whole_batches(self) -> None:
        writer = written(BUNDLE + 3)
        ends = [BUNDLE + 1, BUNDLE + 2, BUNDLE + 3]
        files = writer.files(ends)
        whole = {len(writer.tail(BUNDLE, ends[:n])) for n in range(4)}
        for name, data in files.items():
            for size in range(0, len(data), 1 if len(data) < 2000 else 13):
                self.write_all_but(files, name, data[:size])
                if name == "tail" and size in whole:
                    self.good()  # an older state, and stated as not noticed without an anchor
                    self.bad("tail", anchor=writer.checkpoint(BUNDLE + 3))
                else:
                    self.bad("vkey checkpoint tail tile/", why=(name, size))

    def write_all_but(self, files: dict[str, bytes], name: str, data: bytes) -> None:
        if not (self.folder / "vkey").exists():
            self.lay(files)
        for path in files:
            if (self.folder / path).stat().st_size != len(files[path]):
                self.write(path, files[path])
        self.write(name, data)

    def test_added_bytes_and_missing_files(self) -> None:
        files = written(BUNDLE + 2).files()
        for name, data in files.items():
            for more in (b"\0", b"\n", data):
                self.bad("vkey checkpoint tail tile/", files | {name: data + more}, (name, more[:1]))
            self.bad(name, {path: files[path] for path in files if path != name}, name)

    def test_swapped_tiles_and_bundles(self) -> None:
        files = written(3 * BUNDLE + 1).files()
        for level in ("entries", 0):
            one, two = tile(level, 0), tile(level, 2)
            self.bad("tile/", files | {one: files[two], two: files[one]})
        pair = (tile("entries", 0), tile("entries", 1), tile(0, 0), tile(0, 1))
        order = (1, 0, 3, 2)
        self.bad("checkpoint", files | {pair[n]: files[pair[order[n]]] for n in range(4)}, "hashes too: the root tells")

    def test_older_checkpoints_and_tails(self) -> None:
        old, new = written(BUNDLE + 2), written(0)
        old_files = old.files()
        new.entries, new.leaves = list(old.entries), list(old.leaves)
        while len(new.entries) < 2 * BUNDLE + 2:
            new.add(b"more")
        files = new.files()
        self.bad("checkpoint", files | {"checkpoint": old_files["checkpoint"]})
        self.bad("tail", files | {"tail": old_files["tail"]})
        self.bad("tile/", old_files | {"checkpoint": files["checkpoint"], "tail": files["tail"]})
        self.good(old_files)
        self.bad("tail", anchor=new.checkpoint(2 * BUNDLE + 1))

    def test_a_log_made_anew_and_a_rewritten_one(self) -> None:
        mine, other = written(5), written(5, bytes([1]) * 32)
        self.good(mine.files(), key=mine.vkey().decode().strip(), anchor=mine.checkpoint(4))
        self.bad("vkey", other.files(), key=mine.vkey().decode().strip())
        self.bad("vkey", key=f"ed25519:{mine.public.hex()}")
        self.bad("the anchor", anchor=mine.checkpoint(4))
        self.good(key=f"ed25519:{other.public.hex()}")
        rewritten = written(5)  # by the holder of the key: other nonces, so other bytes
        for size in range(1, 6):
            self.bad("the anchor", rewritten.files(), size, anchor=mine.checkpoint(size))

    def test_files_of_another_log_or_key(self) -> None:
        mine = written(BUNDLE + 1).files()
        for other in (written(BUNDLE + 1, bytes([1]) * 32), written(BUNDLE + 1, log_id=bytes([1]) * 16), written(BUNDLE + 1)):
            for name, data in other.files().items():
                if data != mine[name]:
                    self.bad("vkey checkpoint tail tile/", mine | {name: data}, name)

    def test_an_empty_tail_of_another_log(self) -> None:
        """Nothing in it is signed; its identifier alone tells."""
        for count in (0, BUNDLE):
            mine, other = written(count).files(), written(count, log_id=bytes([1]) * 16).files()
            self.assertEqual(len(other["tail"]), 40)
            self.bad("tail", mine | {"tail": other["tail"]})

    def test_a_head_of_another_place(self) -> None:
        writer = written(6)
        tail = writer.tail(0, [3, 6])
        writer.leaves[4] = bytes(32)
        self.bad("tail", writer.files() | {"tail": tail[:-96] + writer.tail(0, [6])[-96:]}, "a signed root of other entries")
        writer = written(4)
        self.bad("tail", writer.files() | {"tail": writer.tail(0, [2, 2, 4])}, "a batch of nothing")
        tail = writer.tail(0, [4])
        self.bad("tail", writer.files() | {"tail": tail + tail[40:]}, "the same batch a second time")

    def test_a_checkpoint_of_no_full_bundle(self) -> None:
        writer = written(BUNDLE + 5)
        self.bad("checkpoint", writer.files() | {"checkpoint": writer.checkpoint(5)})
        self.bad("checkpoint", writer.files() | {"checkpoint": writer.checkpoint(BUNDLE + 5)})
        self.bad("tail", writer.files() | {"tail": writer.tail(5, [BUNDLE + 5])})

    def test_a_write_of_bundles_that_was_interrupted_anywhere(self) -> None:
        writer = written(2 * BUNDLE + 3)
        before, after, size = BUNDLE, 2 * BUNDLE, 2 * BUNDLE + 3
        old = writer.tiles(before) | {"vkey": writer.vkey(), "checkpoint": writer.checkpoint(before)}
        old["tail"] = writer.tail(before, [before + 100, size])
        new = writer.tiles(after)
        added = [name for name in new if name not in old]
        self.assertEqual(added, ["tile/entries/001", "tile/0/001", "tile/1/000.p/2"])
        state = dict(old)
        self.good(state)
        for name in added:
            self.good(state | {name + ".tmp": b"half"}, anchor=writer.checkpoint(size))
            state[name] = new[name]
            self.good(state)
            self.bad("tile/", state | {name: new[name][:-1] + bytes([new[name][-1] ^ 1])}, name)
        state["checkpoint"] = writer.checkpoint(after)
        self.good(state)
        for name in added:
            self.bad("tile/", {path: state[path] for path in state if path != name}, name)
        del state["tile/1/000.p/1"]
        self.good(state)
        state["tail"] = writer.tail(after, [size])
        self.good(state)
        self.bad("'tile/1/000.p/1'", state | {"tile/1/000.p/1": old["tile/1/000.p/1"]}, "left over at rest")

    def test_nothing_else_may_be_there(self) -> None:
        files = written(BUNDLE + 1).files()
        for name in ("x", "tile/x", "tile/9/000", "tile/entries/001", "tile/0/x000/000", "tile/1/000", "tail.tmp.tmp", "x.tmp"):
            self.bad("'", files | {name: b""}, name)
        for name in ("tail.tmp", "tile/0/000.tmp", "checkpoint.tmp"):
            self.good(files | {name: b"half"})
        self.lay(files)
        (self.folder / "tile/2").mkdir()
        self.bad("'tile/2'")
        self.lay(files)
        for name in ("tail", "tile/0/000"):  # the bytes are right, and lie elsewhere
            os.rename(self.folder / name, self.folder / "elsewhere")
            os.symlink(self.folder / "elsewhere", self.folder / name)
            self.bad(name)
            os.unlink(self.folder / name)
            os.mkfifo(self.folder / name)
            self.bad(name)
            self.lay(files)
        shutil.move(self.folder / "tile", aside := Path(tempfile.mkdtemp()) / "tile")
        self.addCleanup(shutil.rmtree, aside.parent)
        os.symlink(aside, self.folder / "tile")
        self.bad("'tile'")

    def test_spellings(self) -> None:
        files = written(2).files()
        vkey, checkpoint = files["vkey"], files["checkpoint"]
        for bad in (vkey.strip(), vkey + b"\n", vkey.replace(b"+A", b"+ A"), vkey.upper(), vkey.replace(b"local", b"l\xffcal")):
            self.bad("vkey", files | {"vkey": bad}, bad)
        text = checkpoint.decode()
        spellings = [text.replace("\n0\n", f"\n{n}\n") for n in ("00", "-0", "+0", "", "٠", "9" * 30)]
        spellings += [text + text.splitlines()[-1] + "\n", text.replace("—", "-"), text.replace("\n\n", "\n"), text + "\n"]
        last = text.rstrip("\n")
        spellings += [last[:-2] + chr(ord(last[-2]) + 1) + "=\n", last, text.replace("\n", "\r\n"), text + "— other AAAA\n"]
        for bad in spellings:
            self.bad("checkpoint", files | {"checkpoint": bad.encode()}, bad)

    def test_an_anchor_may_carry_the_signatures_of_others(self) -> None:
        writer = written(5)
        self.lay(writer.files())
        anchor = writer.checkpoint(4)
        text, _, mine = anchor.decode().partition("\n\n")
        for note in ("— other AAAA\n" + mine, mine + "— other AAAA\n", mine + f"— {writer.origin} {b64encode(bytes(68)).decode()}\n"):
            self.good(anchor=f"{text}\n\n{note}".encode())
        for bad in (b"", anchor[:-1], anchor + mine.encode(), text.encode() + b"\n\n\xe2\x80\x94 other AAAA\n", anchor * 100):
            self.bad("the anchor", anchor=bad)
        for at in range(0, len(anchor), 7):
            self.bad("the anchor", anchor=anchor[:at] + bytes([anchor[at] ^ 1]) + anchor[at + 1 :], why=at)

    def test_lengths_are_bounded_before_they_are_believed(self) -> None:
        files = written(3).files()
        for name, limit in (("vkey", MAX_TEXT), ("checkpoint", MAX_TEXT), ("tail", MAX_TAIL)):
            self.lay(files)
            with open(self.folder / name, "r+b") as file:
                file.truncate(1 << 40)  # sparse; reading it whole would end this process
            self.bad(name)
            self.assertGreater(1 << 40, limit)
        tail = files["tail"]
        for at, wrong in ((56, b"\xff" * 4), (60, b"\xff" * 4), (48, b"\xff" * 8), (24, b"\xff" * 8), (72, b"\xff\xff"), (72, b"\0\0")):
            head = bytearray(tail)
            head[at : at + len(wrong)] = wrong
            head[32:40] = sha256(head[:32]).digest()[:8]
            head[64:72] = sha256(head[40:64]).digest()[:8]
            self.bad("tail", files | {"tail": bytes(head)}, at)

    def test_weak_keys_sign_nothing(self) -> None:
        """With a key of small order a signature of zeros would hold for some verifiers."""
        for public in (bytes([1]) + bytes(31), bytes(32), b"\xff" * 32):
            writer = written(1)
            writer.public, writer.sign = public, lambda size: bytes([1]) + bytes(63)
            self.bad("vkey checkpoint", writer.files())

    def test_rubbish_raises_nothing_else(self) -> None:
        chance, files = random.Random(3), written(BUNDLE + 2).files()
        for _ in range(300):
            name = chance.choice(sorted(files))
            data = bytearray(files[name])
            for _ in range(chance.randrange(1, 9)):
                at = chance.randrange(len(data))
                data[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
            if bytes(data) != files[name]:
                self.bad("vkey checkpoint tail tile/", files | {name: bytes(data)}, (name, bytes(data)[:80]))


class Trees(Case):
    def test_more_than_one_level_of_tiles(self) -> None:
        """65,536 entries and some fill a tile of level 1; rubbish of the right length, since nothing is opened."""
        writer, noise = written(0), random.Random(4)
        for _ in range(BUNDLE * BUNDLE + BUNDLE + 1):
            writer.put(noise.randbytes(104))
        files = writer.files()
        self.assertEqual(
            sorted(name for name in files if name[5:7] in ("1/", "2/", "3/")), ["tile/1/000", "tile/1/001.p/1", "tile/2/000.p/1"]
        )
        log = self.good(files, anchor=(65_000, merkle(writer.leaves[:65_000])))
        self.assertEqual((log.size, log.root()), (len(writer.entries), merkle(writer.leaves)))
        for name in ("tile/1/000", "tile/1/001.p/1", "tile/2/000.p/1", "tile/0/256"):
            self.write(name, files[name][:-1] + bytes([files[name][-1] ^ 1]))
            self.bad(name)
            self.write(name, files[name])

    def test_the_largest_entries_and_a_full_tail(self) -> None:
        self.good(written(2, size=4090).files())
        writer, noise = written(0), random.Random(5)
        for _ in range(4097):
            writer.put(noise.randbytes(104))
        base = {"vkey": writer.vkey(), "checkpoint": writer.checkpoint(0)}
        self.assertEqual(self.good(base | {"tail": writer.tail(0, [300, 4096])}).size, 4096)
        self.bad("tail", base | {"tail": writer.tail(0, [300, 4097])})

    def test_paths(self) -> None:
        self.assertEqual([tile(0, n) for n in (0, 1000)], ["tile/0/000", "tile/0/x001/000"])
        self.assertEqual(tile("entries", 1_234_067), "tile/entries/x001/x234/067")


class Command(Case):
    def run_it(self, *arguments: str) -> tuple[int, str]:
        program = Path(__file__).with_name("audit_verify.py")
        ran = subprocess.run([sys.executable, program, self.folder, *arguments], capture_output=True, text=True)
        return ran.returncode, ran.stdout + ran.stderr

    def test_it_says_what_it_found(self) -> None:
        writer = written(3)
        self.lay(writer.files())
        code, said = self.run_it()
        self.assertEqual((code, said), (0, f"internally consistent, not anchored: 3 entries of {writer.origin}\n"))
        anchor = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, anchor)
        (anchor / "kept").write_bytes(writer.checkpoint(2))
        code, said = self.run_it("--key", writer.vkey().decode().strip(), "--anchor", str(anchor / "kept"))
        self.assertEqual((code, said.split(":")[0]), (0, "anchored"))
        self.write("tail", writer.files()["tail"][:-1])
        code, said = self.run_it()
        self.assertEqual(code, 1)
        self.assertIn("the log is not whole: tail: the batch at byte 40, entry 0: it is torn", said)


if __name__ == "__main__":
    unittest.main()
