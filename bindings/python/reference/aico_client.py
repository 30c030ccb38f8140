"""A client of the backend in Python: docs/spec/requests.md over the Unix socket or TCP. See `--help`."""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import struct
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from aico_channel import (
    CLOSE,
    KINDS,
    MAX_FRAME,
    MAX_HANDSHAKE_FRAME,
    Channel,
    ChannelError,
    Fresh,
    Identity,
    Initiator,
    Secret,
    need,
)

REQUEST, DATA, END, ANSWER, FAILURE = 1, 2, 3, 4, 5
FRAME_SECONDS, TICK_SECONDS = 60, 1


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


class Stream:
    """A channel on a byte stream. What the channel has to say for itself goes out in passing, whatever else is done.

    There is no thread: a program that neither sends nor waits calls `poll` now and then, or is given up as silent.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.parts = connection, deque()
        self.connection.settimeout(FRAME_SECONDS)
        self.channel: Channel | None = None

    def send_frame(self, frame: bytes) -> None:
        self.connection.sendall(struct.pack(">I", len(frame)) + frame)

    def read_frame(self, limit: int = MAX_FRAME) -> bytes:
        (size,) = struct.unpack(">I", self._read(4))
        need(size <= limit, "a frame that is too long")
        return self._read(size)

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self.connection.recv(size - len(data))
            need(bool(piece), "the stream was cut")
            data += piece
        return bytes(data)

    def send(self, part: int, body: bytes) -> None:
        """One application record, after whatever has come by now."""
        self.poll()
        if self.channel.key_update_due():
            self.key_update()
        self.send_frame(self.channel.seal(bytes([part]) + body))

    def next_part(self) -> tuple[int, bytes]:
        """The next application record; waits for it."""
        self._wait(lambda: self.parts)
        plaintext = self.parts.popleft()
        need(bool(plaintext), "an empty record")
        return plaintext[0], plaintext[1:]

    def poll(self) -> None:
        """Takes what has come, and does what time asks for. Does not wait."""
        while self._has_come(0):
            self._take()
        self._tick()

    def key_update(self) -> None:
        self.send_frame(self.channel.key_update())

    def _wait(self, holds) -> None:
        while not holds():
            if self._has_come(TICK_SECONDS):
                self._take()
            self._tick()

    def _has_come(self, seconds: float) -> bool:
        return bool(select.select([self.connection], [], [], seconds)[0])

    def _take(self) -> None:
        """Opens one frame; an application record queues up."""
        frame = self.read_frame()
        opened = self._or_close(lambda: self.channel.open(frame))
        kind, plaintext = opened or (1, b"")
        if kind == 0:
            self.parts.append(plaintext)
        need(kind == 0 or plaintext[:1] != bytes([CLOSE]), "the other side closed the channel")

    def _tick(self) -> None:
        self._or_close(self.channel.tick)

    def _or_close(self, step):
        """Sends what a step of the channel answers, or says with CLOSE why it failed."""
        try:
            result = step()
        except ChannelError as error:
            self._say_why(error.reason)
            raise
        self._flush()
        return result

    def _flush(self) -> None:
        while self.channel.answers:
            try:
                self.send_frame(self.channel.answers.pop(0))
            except OSError:
                if not self.channel.over:
                    raise  # after a CLOSE nobody has to wait for ours

    def _say_why(self, reason: int) -> None:
        try:
            self.send_frame(self.channel.close(reason))
        except (ChannelError, OSError):
            pass  # it was closed already, or nobody is there to be told


class Conversation(Stream):
    """Requests on an open connection, as the initiator."""

    def __init__(
        self, connection: socket.socket, me: Secret, backend: Identity, hybrid: bool = True, padding: int = 0
    ) -> None:
        super().__init__(connection)
        initiator = Initiator(me, backend, Fresh.make(hybrid), padding)
        self.send_frame(initiator.hello)
        finish, self.channel = initiator.on_reply(self.read_frame(MAX_HANDSHAKE_FRAME))
        self.send_frame(finish)

    def rekey(self) -> None:
        """Starts a REKEY unless one is under way. It completes while other things are done, or in `settle`."""
        self._wait(lambda: self.channel.ready)
        if self.channel.step is None:
            self.send_frame(self.channel.rekey())

    def settle(self) -> None:
        """Waits until no REKEY is under way."""
        self._wait(lambda: self.channel.ready and self.channel.step is None)

    def receive(self) -> tuple[int, bytes]:
        part, body = self.next_part()
        if part == FAILURE:
            raise Failure(json.loads(body)["message"])
        return part, body

    def ask(self, **request: object) -> dict:
        self.send(REQUEST, json.dumps(request).encode())
        return self.answer()

    def answer(self) -> dict:
        part, body = self.receive()
        need(part == ANSWER, "an unexpected part")
        return json.loads(body)

    def put(self, path: str, value: bytes, piece: int = 100_000) -> dict:
        return self.put_pieces(path, (value[start : start + piece] for start in range(0, len(value), piece)))

    def put_pieces(self, path: str, pieces: Iterable[bytes]) -> dict:
        """Stores a value that comes in pieces; none of them is empty."""
        self.send(REQUEST, json.dumps({"op": "data.put", "path": path}).encode())
        size = 0
        for piece in pieces:
            self.send(DATA, piece)
            size += len(piece)
            if self.parts:  # a FAILURE: the rest need not go
                break
        self.send(END, struct.pack(">Q", size))
        return self.answer()

    def get(self, path: str) -> bytes:
        return b"".join(self.get_pieces(path))

    def get_pieces(self, path: str) -> Iterator[bytes]:
        """A value as it comes. It is whole only if this ends without an error."""
        size, got = self.ask(op="data.get", path=path)["bytes"], 0
        while True:
            part, body = self.receive()
            if part == END:
                need(struct.unpack(">Q", body)[0] == got == size, "a value that was cut")
                return
            need(part == DATA, "an unexpected part")
            got += len(body)
            yield body

    def close(self) -> None:
        self.send_frame(self.channel.close())
        self.connection.close()


def connect(home: Path, tcp: str | None = None) -> socket.socket:
    """A connection to the backend. A Unix socket's address holds 107 bytes, and the path may be longer."""
    if tcp:
        host, _, port = tcp.rpartition(":")
        return socket.create_connection((host.strip("[]"), int(port)), FRAME_SECONDS)
    folder = os.open(home / "run", os.O_RDONLY | os.O_DIRECTORY)
    try:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(f"/proc/self/fd/{folder}/aico.sock")
        return connection
    finally:
        os.close(folder)


class Client(Conversation):
    """A conversation with the backend of a home, through its Unix socket or its address on TCP."""

    def __init__(self, home: Path, me: Secret, hybrid: bool = True, padding: int = 0, tcp: str | None = None) -> None:
        super().__init__(connect(home, tcp), me, read_backend_id(home / "run" / "backend.id"), hybrid, padding)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--identity", type=Path, required=True)
    parser.add_argument("--tcp", help="the backend's address, as status gives it; for an enrolled identity")
    parser.add_argument("--classical", action="store_true")
    parser.add_argument("--padding", type=int, choices=[0, 1, 2], default=0)
    parser.add_argument("command", choices=["enrol", "status", "list", "put", "get"])
    parser.add_argument("path", nargs="?")
    parser.add_argument("file", nargs="?")
    args = parser.parse_args()
    if args.command == "enrol" and not args.identity.exists():
        write_identity(args.identity, Secret.make("frontend", "python"), "frontend")
    try:
        client = Client(args.home, read_identity(args.identity), not args.classical, args.padding, args.tcp)
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
