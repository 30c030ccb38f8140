"""Verifies an audit log's folder while nobody writes to it: docs/spec/audit-log.md, Verification. Needs no secret."""

import argparse
import os
import re
import stat
import sys
from base64 import b64decode, b64encode
from hashlib import sha256
from pathlib import Path

from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError

BUNDLE, TAIL_ENTRIES, MAX_TEXT = 256, 4096, 16_384
MAX_LIST, MAX_TAIL = BUNDLE * 4202, 40 + TAIL_ENTRIES * 4330


class Finding(Exception):
    """What is wrong with the log."""


def need(holds: bool, why: str) -> None:
    if not holds:
        raise Finding(why)


def root_of(hashes: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, over hashes; the last may stand for fewer entries than the others."""
    if len(hashes) == 1:
        return hashes[0]
    middle = 1 << (len(hashes) - 1).bit_length() - 1
    return sha256(b"\1" + root_of(hashes[:middle]) + root_of(hashes[middle:])).digest()


def tile(level: int | str, n: int, width: int = 0) -> str:
    """The path of a tile, or of a bundle."""
    name = f"{n % 1000:03}"
    while n := n // 1000:
        name = f"x{n % 1000:03}/{name}"
    return f"tile/{level}/{name}" + (f".p/{width}" if width else "")


def entries(data: bytes, count: int, where: str) -> list[bytes]:
    """The sealed entries of a list."""
    found, at = [], 0
    for index in range(count):
        size = int.from_bytes(data[at : at + 2])
        fits = 104 <= size <= 4200 and size % 64 == 40 and at + 2 + size <= len(data)
        need(fits, f"{where}: entry {index} of it is cut, or has an impossible length")
        found.append(data[at + 2 : at + 2 + size])
        at += 2 + size
    need(at == len(data), f"{where}: bytes behind the last entry")
    return found


class Log:
    """One reading of a log. `key` is a verifier key's line or `ed25519:<digits>`; `anchor` is a checkpoint or a head."""

    def __init__(self, folder: Path, key: str | None = None, anchor: bytes | tuple[int, bytes] | None = None) -> None:
        self.folder, self.may_be, self.size, self.bundle = folder, {"vkey", "checkpoint", "tail"}, 0, b""
        self.levels: list[list[bytes]] = [[] for _ in range(9)]  # the hashes of the newest tile of each level
        vkey = self.read("vkey", MAX_TEXT)
        form = re.fullmatch(rb"(aico\.local/audit/[0-9a-f]{32})\+([0-9a-f]{8})\+([A-Za-z0-9+/]{44})\n", vkey)
        need(form is not None, "vkey: not in its exact form")
        self.origin, public = form[1].decode(), b64decode(form[3])
        self.id, self.public = sha256(form[1] + b"\n" + public).digest()[:4], public[1:]
        need(public[0] == 1 and form[2].decode() == self.id.hex(), "vkey: not an Ed25519 key, or damaged")
        known = (None, vkey.decode().strip(), f"ed25519:{self.public.hex()}")
        need(key in known, "vkey: not the expected key")
        self.head = self.parse(self.read("checkpoint", MAX_TEXT), "checkpoint", alone=True)
        need(self.head[0] % BUNDLE == 0, "checkpoint: not of full bundles")
        self.anchor = self.parse(anchor, "the anchor", alone=False) if isinstance(anchor, bytes) else anchor
        self.tail = self.read("tail", MAX_TAIL)
        top, self.base = self.tail[:40], int.from_bytes(self.tail[24:32])
        need(top[:8] == b"aicotal\1" and sha256(top[:32]).digest()[:8] == top[32:], "tail: a damaged header")
        need(top[8:24].hex() == self.origin[-32:], "tail: that of another log")
        need(self.base % BUNDLE == 0, "tail: does not begin behind a full bundle")
        need(self.base <= self.head[0], "checkpoint: an older one; the tail begins behind it")

    def parse(self, data: bytes, where: str, alone: bool) -> tuple[int, bytes]:
        """The head in a checkpoint; `alone` if no other signature may stand beside that of this key."""
        pattern = f"{re.escape(self.origin)}\n(0|[1-9][0-9]{{0,19}})\n([A-Za-z0-9+/]{{43}}=)\n\n((?:— [^\n]+\n)+)"
        form = re.fullmatch(pattern, data[: MAX_TEXT + 1].decode(errors="replace"))
        need(form is not None and len(data) <= MAX_TEXT, f"{where}: not a checkpoint of this log")
        lines = re.findall(f"(?m)^— {re.escape(self.origin)} ([A-Za-z0-9+/]{{91}}=)$", form[3])
        mine = [raw for raw in map(b64decode, lines) if raw[:4] == self.id]
        need(len(mine) == 1, f"{where}: not signed by this key")
        size, root = int(form[1]), b64decode(form[2])
        exact = self.text(size, root) + f"\n— {self.origin} {b64encode(mine[0]).decode()}\n".encode()
        need(data == exact or (not alone and data.startswith(self.text(size, root))), f"{where}: not in its exact form")
        self.check(size, root, mine[0][4:], where)
        return size, root

    def text(self, size: int, root: bytes) -> bytes:
        return f"{self.origin}\n{size}\n{b64encode(root).decode()}\n".encode()

    def check(self, size: int, root: bytes, signature: bytes, where: str) -> None:
        try:
            crypto_sign_open(signature + self.text(size, root), self.public)  # strict, as the specification wants it
        except BadSignatureError as error:
            raise Finding(f"{where}: the signature does not hold") from error

    def verify(self) -> None:
        self.agree()
        for n in range(self.base // BUNDLE):
            self.may_be.add(path := tile("entries", n))
            for entry in entries(self.read(path, MAX_LIST), BUNDLE, path):
                self.push(entry)
        self.replay()
        need(self.size >= self.head[0], "tail: an older one; it ends before the checkpoint")
        need(not self.anchor or self.size >= self.anchor[0], "tail: the log ends before the anchor")
        self.nothing_else("")

    def replay(self) -> None:
        at = 40
        while at < len(self.tail):
            where, top = f"tail: the batch at byte {at}, entry {self.size}", self.tail[at : at + 32]
            good = len(top) == 32 and top[:8] == b"aicobat\1" and sha256(top[:24]).digest()[:8] == top[24:]
            need(good, f"{where}: a damaged or torn header")
            first, count, end = int.from_bytes(top[8:16]), int.from_bytes(top[16:20]), at + 32 + int.from_bytes(top[20:24])
            need(first == self.size and count > 0, f"{where}: that of another place")
            need(first + count - self.base <= TAIL_ENTRIES, f"{where}: too many entries for a tail")
            need(end + 96 <= len(self.tail), f"{where}: it is torn")
            for entry in entries(self.tail[at + 32 : end], count, where):
                self.push(entry)
            root, at = self.root(), end + 96
            need(root == self.tail[end : end + 32], f"{where}: not the root of the entries")
            self.check(self.size, root, self.tail[end + 32 : at], where)

    def push(self, entry: bytes) -> None:
        self.size += 1
        must, number = self.size <= self.head[0], (self.size - 1) // BUNDLE
        self.bundle = (self.bundle if self.size % BUNDLE != 1 else b"") + len(entry).to_bytes(2) + entry
        if self.size % BUNDLE == 0 and self.size > self.base:  # what the tail has may lie in a bundle already
            self.same(tile("entries", number), self.bundle, must)
        self.levels[0].append(sha256(b"\0" + entry).digest())
        for level, hashes in enumerate(self.levels):
            if len(hashes) == BUNDLE:
                self.same(tile(level, number // BUNDLE**level), b"".join(hashes), must)
                self.levels[level + 1].append(root_of(hashes))
                hashes.clear()
        self.agree()

    def agree(self) -> None:
        """Heads of this size, and the tiles that are not full at it, have to agree with the tree."""
        for head, where in ((self.head, "checkpoint"), (self.anchor, "the anchor")):
            need(not head or head[0] != self.size or head[1] == self.root(), f"{where}: not the root of the log's entries")
        at_rest = self.size >= self.base and self.size % BUNDLE == 0
        for level, hashes in enumerate(self.levels):
            if at_rest and hashes:
                path = tile(level, self.size // BUNDLE ** (level + 1), len(hashes))
                self.same(path, b"".join(hashes), self.size == self.head[0])

    def root(self) -> bytes:
        right: list[bytes] = []
        for hashes in self.levels:
            right = [root_of(hashes + right)] if hashes or right else []
        return right[0] if right else sha256().digest()

    def same(self, path: str, expected: bytes, must: bool) -> None:
        self.may_be.add(path)
        if must or os.path.lexists(self.folder / path):
            need(self.read(path, len(expected)) == expected, f"{path}: does not fit the entries")

    def read(self, path: str, limit: int) -> bytes:
        try:
            with open(os.open(self.folder / path, os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                data = file.read(limit + 1) or b""
        except OSError as error:
            raise Finding(f"{path}: {error.strerror}") from error
        need(len(data) <= limit, f"{path}: too long")
        return data

    def nothing_else(self, below: str) -> None:
        for name in os.listdir(self.folder / below):
            path, mode = below + name, os.lstat(self.folder / below / name).st_mode
            if stat.S_ISDIR(mode) and any(file.startswith(path + "/") for file in self.may_be):
                self.nothing_else(path + "/")
            else:
                need(stat.S_ISREG(mode) and path.removesuffix(".tmp") in self.may_be, f"{path!r}: not a file of the log")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--key", help="the key that must have signed: the line of a vkey, or ed25519:<64 digits>")
    parser.add_argument("--anchor", type=Path, help="a checkpoint of this log that was kept elsewhere")
    args = parser.parse_args()
    try:
        (log := Log(args.folder, args.key, args.anchor and args.anchor.read_bytes())).verify()
    except (Finding, OSError) as finding:
        print(f"the log is not whole: {finding}", file=sys.stderr)
        return 1
    print("anchored" if log.anchor else "internally consistent, not anchored", f"{log.size} entries of {log.origin}", sep=": ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
