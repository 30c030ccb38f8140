"""A client of the backend in Python: docs/spec/requests.md over the Unix socket. See `--help`."""

from __future__ import annotations

import argparse
import json
import os
import socket
import struct
import sys
from pathlib import Path

from aico_channel import (
    CLOSE, HYBRID, KINDS, REKEY_MESSAGES, REKEY_REQ, Channel, ChannelError, Fresh, Identity, Initiator, Secret, need,
)

REQUEST, DATA, END, ANSWER, FAILURE = 1, 2, 3, 4, 5
MAX_FRAME = 16 * 1024 * 1024 + 20 * 1024


class Failure(Exception):
    """The backend did not do what was asked."""


def read_backend_id(path: Path) -> Identity:
    tag, key, name = path.read_text().strip().split(" ", 2)
    need(tag == "AICO-BACKEND-1" and key.startswith("ed25519:"), "not a backend's identity")
    return Identity(KINDS["backend"], bytes.fromhex(key.removeprefix("ed25519:")), name)


def read_identity(path: Path) -> Secret:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    tag, digits, kind, name = lines[0].split(" ", 3)
    need(tag == "AICO-CLIENT-1" and len(lines) == 1, "not a client's identity")
    return Secret.make(kind, name, bytes.fromhex(digits))


def write_identity(path: Path, secret: Secret, kind: str) -> None:
    line = f"AICO-CLIENT-1 {secret.seed.hex()} {kind} {secret.identity.name}\n"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(line)


class Client:
    def __init__(self, home: Path, me: Secret, hybrid: bool = True) -> None:
        run = home / "run"
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        folder = os.open(run, os.O_RDONLY | os.O_DIRECTORY)
        try:  # a socket's address holds 107 bytes; the path may be longer
            self.socket.connect(f"/proc/self/fd/{folder}/aico.sock")
        finally:
            os.close(folder)
        initiator = Initiator(me, read_backend_id(run / "backend.id"), Fresh.make(hybrid))
        self._send_frame(initiator.hello)
        finish, self.channel = initiator.on_reply(self._read_frame(8 * 1024))
        self._send_frame(finish)

    def _send_frame(self, frame: bytes) -> None:
        self.socket.sendall(struct.pack(">I", len(frame)) + frame)

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            need(bool(piece), "the stream was cut")
            data += piece
        return bytes(data)

    def _read_frame(self, limit: int = MAX_FRAME) -> bytes:
        (size,) = struct.unpack(">I", self._read(4))
        need(size <= limit, "a frame that is too long")
        return self._read(size)

    def send(self, part: int, body: bytes) -> None:
        self._send_frame(self.channel.seal(bytes([part]) + body))

    def receive(self) -> tuple[int, bytes]:
        while True:
            kind, plaintext = self.channel.open(self._read_frame())
            if kind == 0:
                need(bool(plaintext), "an empty record")
                if plaintext[0] == FAILURE:
                    raise Failure(json.loads(plaintext[1:])["message"])
                return plaintext[0], plaintext[1:]
            need(plaintext[0] != CLOSE, "the backend closed the channel")
            if plaintext[0] in REKEY_MESSAGES:
                for frame in self.channel.on_rekey(plaintext, Fresh.make(False), b""):
                    self._send_frame(frame)
            elif plaintext[0] == REKEY_REQ and self.channel.under_way is None:
                self.rekey()

    def ask(self, **request: object) -> dict:
        self.send(REQUEST, json.dumps(request).encode())
        return self.answer()

    def answer(self) -> dict:
        part, body = self.receive()
        need(part == ANSWER, "an unexpected part")
        return json.loads(body)

    def put(self, path: str, value: bytes, piece: int = 100_000, rekey_at: int | None = None) -> dict:
        """`rekey_at` starts a REKEY in front of the piece that begins there."""
        self.send(REQUEST, json.dumps({"op": "data.put", "path": path}).encode())
        for start in range(0, len(value), piece):
            if start == rekey_at:
                self.rekey()
            self.send(DATA, value[start : start + piece])
        self.send(END, struct.pack(">Q", len(value)))
        return self.answer()

    def get(self, path: str, rekey: bool = False) -> bytes:
        """With `rekey` a REKEY happens in the middle of the answer."""
        size, value = self.ask(op="data.get", path=path)["bytes"], bytearray()
        while True:
            part, body = self.receive()
            if rekey:
                self.rekey()
                rekey = False
            if part == END:
                need(struct.unpack(">Q", body)[0] == len(value) == size, "a value that was cut")
                return bytes(value)
            need(part == DATA, "an unexpected part")
            value += body

    def rekey(self) -> None:
        """Starts a REKEY; the backend's part of it is taken while receiving."""
        self._send_frame(self.channel.rekey(Fresh.make(self.channel.suite == HYBRID)))

    def key_update(self) -> None:
        self._send_frame(self.channel.seal(b"\x03", kind=1))

    def close(self) -> None:
        self._send_frame(self.channel.seal(b"\x01\0\0", kind=1))
        self.socket.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--identity", type=Path, required=True)
    parser.add_argument("--classical", action="store_true")
    parser.add_argument("command", choices=["enrol", "status", "list", "put", "get"])
    parser.add_argument("path", nargs="?")
    parser.add_argument("file", nargs="?")
    args = parser.parse_args()
    if args.command == "enrol" and not args.identity.exists():
        write_identity(args.identity, Secret.make("frontend", "python"), "frontend")
    try:
        client = Client(args.home, read_identity(args.identity), not args.classical)
        if args.command == "enrol":
            print(client.ask(op="enrol")["fingerprint"], flush=True)
            print(client.answer()["state"])
            return 0  # the backend closes: an enrolled client connects anew
        elif args.command == "status":
            print(json.dumps(client.ask(op="status")))
        elif args.command == "list":
            print(json.dumps(client.ask(op="data.list")))
        elif args.command == "put":
            data = sys.stdin.buffer.read() if args.file == "-" else Path(args.file).read_bytes()
            print(json.dumps(client.put(args.path, data)))
        else:
            sys.stdout.buffer.write(client.get(args.path))
        client.close()
    except (Failure, ChannelError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
