"""The reference against itself, against testvectors/channel/, and against a live backend (started by live.py)."""

from __future__ import annotations

import json
import os
import unittest
from pathlib import Path

from aico_channel import (
    CLASSICAL, HYBRID, NO_PSK, REKEY_HELLO, REKEY_REPLY, Channel, ChannelError, Fresh, Initiator, Inside, Responder,
    Schedule, Secret, pad, padded_size, unpad,
)
from aico_client import Client, Failure, read_identity

VECTORS = Path(__file__).resolve().parents[3] / "testvectors" / "channel"
KIND_NAMES = {1: "backend", 2: "frontend", 3: "cli", 4: "studio", 5: "plugin"}


def vector(name: str) -> dict:
    return json.loads((VECTORS / name).read_text())


def shake(hybrid: bool, change=lambda which, frame: frame) -> tuple[Channel, Channel]:
    client, server = Secret.make("cli", "cli"), Secret.make("backend", "backend")
    initiator = Initiator(client, server.identity, Fresh.make(hybrid))
    responder = Responder(server, change(0, initiator.hello), Fresh.make(False))
    finish, at_client = initiator.on_reply(change(1, responder.reply))
    identity, at_server = responder.on_finish(change(2, finish))
    assert identity == client.identity and at_client.exporter == at_server.exporter
    return at_client, at_server


def ready(at_client: Channel, at_server: Channel) -> None:
    at_client.open(at_server.seal(bytes(12) + b"\1" + bytes(12), kind=1))


class Vectors(unittest.TestCase):
    def handshake(self, name: str) -> tuple[Schedule, Schedule, Channel, Channel]:
        v = vector(name)
        h = lambda *path: bytes.fromhex(self.at(v, *path))  # noqa: E731
        parties = [Secret.make(KIND_NAMES[v[p]["kind"]], v[p]["name"], h(p, "identity_seed")) for p in ("initiator", "responder")]
        kem = v["ml_kem_768"]
        fresh_i = Fresh(h("initiator", "nonce"), h("initiator", "ephemeral_secret"), kem and bytes.fromhex(kem["seed"]))
        fresh_r = Fresh(h("responder", "nonce"), h("responder", "ephemeral_secret"))
        if kem:
            fresh_r.encapsulated = (bytes.fromhex(kem["ss"]), bytes.fromhex(kem["ct"]))
        suite = HYBRID if kem else CLASSICAL
        inside = Inside(suite, h("psk"), v["epoch"]) if v["epoch"] else None
        initiator = Initiator(parties[0], parties[1].identity, fresh_i, inside)
        self.assertEqual(initiator.hello, h("hello"))
        responder = Responder(parties[1], initiator.hello, fresh_r, inside)
        self.assertEqual(responder.reply, h("reply"))
        finish, at_client = initiator.on_reply(responder.reply)
        self.assertEqual(finish, h("finish"))
        _, at_server = responder.on_finish(finish)
        return initiator.schedule, responder.schedule, at_client, at_server

    def at(self, value, *path):
        for step in path:
            value = value[step]
        return value

    def test_every_value_of_both_handshakes(self) -> None:
        names = {"traffic_responder_to_initiator": "to_initiator", "traffic_initiator_to_responder": "to_responder"}
        values = ["th1", "th2", "th3", "th4", "th5", "th6", "th7", "th8", "kx", "hs", "k_i", "k_r", "f_i", "f_r", "fin_r",
                  "fin_i", "ms", "cid_i", "cid_r", "ratchet", "exporter", *names]
        names_of = lambda kind: [f"{kind}-classical.json", f"{kind}-hybrid.json"]  # noqa: E731
        for name in names_of("handshake") + names_of("rekey"):
            v = vector(name)
            self.assertEqual(v["psk"] == NO_PSK.hex(), v["epoch"] == 0)
            for schedule in self.handshake(name)[:2]:
                for value in values:
                    self.assertEqual(getattr(schedule, names.get(value, value)).hex(), v[value], value)

    def test_records_both_ways(self) -> None:
        _, _, at_client, at_server = self.handshake("handshake-classical.json")
        for record in vector("records.json")["records"]:
            plaintext, frame = bytes.fromhex(record["plaintext"]), bytes.fromhex(record["frame"])
            self.assertEqual(at_client.seal(plaintext, record["kind"]), frame, record["reason"])
            self.assertEqual(at_server.open(frame), (record["kind"], plaintext), record["reason"])

    def test_padding(self) -> None:
        v = vector("padding.json")
        for size in v["sizes"]:
            self.assertEqual(padded_size(1, size["plaintext"]), size["padme"])
            self.assertEqual(padded_size(2, size["plaintext"]), size["power_of_two"])
        plaintext, padded = bytes.fromhex(v["plaintext"]), bytes.fromhex(v["padded"])
        self.assertEqual(pad(1, plaintext), padded)
        self.assertEqual(unpad(1, padded), plaintext)
        _, _, _, at_server = self.handshake("handshake-classical.json")
        self.assertEqual(at_server.open(bytes.fromhex(v["frame"])), (0, padded))
        for bad in (padded + b"\0", padded[:-1], bytes(256), plaintext):
            with self.assertRaises(ChannelError):
                unpad(1, bad)

    def test_records_after_a_rekey(self) -> None:
        v = vector("rekey-classical.json")
        _, _, at_client, at_server = self.handshake("handshake-classical.json")
        ready_body = bytes.fromhex(v["first_records"]["responder"]["plaintext"])[1:]
        at_client.open(at_server.seal(b"\0" + ready_body, kind=1))
        h = lambda who, what: bytes.fromhex(v[who][what])  # noqa: E731
        fresh_i = Fresh(h("initiator", "nonce"), h("initiator", "ephemeral_secret"))
        fresh_r = Fresh(h("responder", "nonce"), h("responder", "ephemeral_secret"))
        message = at_server.open(at_client.rekey(fresh_i))[1]
        self.assertEqual(message.hex(), "04" + v["hello"])
        (frame,) = at_server.on_rekey(message, fresh_r, ready_body)
        message = at_client.open(frame)[1]
        self.assertEqual(message.hex(), "05" + v["reply"])
        (frame,) = at_client.on_rekey(message, fresh_i, b"")
        message = at_server.open(frame)[1]
        self.assertEqual(message.hex(), "06" + v["finish"])
        (frame,) = at_server.on_rekey(message, fresh_r, ready_body)
        self.assertEqual(frame.hex(), v["first_records"]["responder"]["frame"])
        at_client.open(frame)
        self.assertEqual(at_client.seal(b"after REKEY").hex(), v["first_records"]["initiator"]["frame"])

    def test_refused_records(self) -> None:
        for record in vector("records.json")["refused"]:
            _, _, _, at_server = self.handshake("handshake-classical.json")
            with self.assertRaises(ChannelError, msg=record["reason"]):
                at_server.open(bytes.fromhex(record["frame"]))

    def test_control_records(self) -> None:
        records = vector("control.json")["records"]
        for last in records[3:]:
            _, _, at_client, _ = self.handshake("handshake-classical.json")
            for record in [*records[:4], last] if last is not records[3] else records[:4]:
                self.assertEqual(at_client.open(bytes.fromhex(record["frame"]))[1].hex(), record["plaintext"], record["reason"])


class Attacks(unittest.TestCase):
    def test_a_flipped_byte_anywhere_ends_the_handshake(self) -> None:
        for hybrid, sizes in ((False, (98, 256, 185)), (True, (1284, 1344, 185))):
            shake(hybrid)
            for which, size in enumerate(sizes):
                for at in range(0, size, 1 if not hybrid else 29):
                    flip = lambda frame, b: b if frame != which else b[:at] + bytes([b[at] ^ 1]) + b[at + 1 :]  # noqa: B023, E731
                    with self.assertRaises(ChannelError):
                        shake(hybrid, flip)

    def test_malformed_bodies_are_refused_not_crashed_on(self) -> None:
        for body in (b"\2", b"\2\0\0\xff", b"\2\0\0" + b"x" * 1025, bytes(25), b"", b"\x09"):
            at_client, at_server = shake(False)
            ready(at_client, at_server)
            with self.assertRaises(ChannelError):
                at_client.open(at_server.seal(body, kind=1))
        at_client, at_server = shake(False)
        with self.assertRaises(ChannelError):
            at_client.open(at_server.seal(bytes(25), kind=1))

    def test_a_rekey_by_another_identity_or_out_of_place_is_refused(self) -> None:
        for attack in range(4):
            at_client, at_server = shake(False)
            ready(at_client, at_server)
            with self.assertRaises(ChannelError):
                if attack == 0:  # a thief of the channel, who is not the client
                    at_client.me = Secret.make("cli", "cli")
                    hello = at_server.open(at_client.rekey(Fresh.make(False)))[1]
                    reply = at_client.open(at_server.on_rekey(hello, Fresh.make(False), bytes(24))[0])[1]
                    finish = at_server.open(at_client.on_rekey(reply, Fresh.make(False), b"")[0])[1]
                    at_server.on_rekey(finish, Fresh.make(False), bytes(24))
                elif attack == 1:
                    at_server.rekey(Fresh.make(False))
                elif attack == 2:
                    at_client.on_rekey(bytes([REKEY_REPLY]) + bytes(256), Fresh.make(False), b"")
                else:
                    at_server.on_rekey(bytes([REKEY_HELLO]) + bytes(98), Fresh.make(False), b"")

    def test_replayed_reflected_reordered_and_cut_records(self) -> None:
        for attack in range(4):
            at_client, at_server = shake(False)
            ready(at_client, at_server)
            first, second = at_client.seal(b"1"), at_client.seal(b"2")
            with self.assertRaises(ChannelError):
                if attack == 0:
                    at_server.open(first), at_server.open(first)
                elif attack == 1:
                    at_client.open(first)
                elif attack == 2:
                    at_server.open(second)
                else:
                    at_server.open(first[:-1])


@unittest.skipUnless("AICO_LIVE_HOME" in os.environ, "live.py starts a backend and sets AICO_LIVE_HOME")
class Live(unittest.TestCase):
    def client(self, hybrid: bool) -> Client:
        return Client(Path(os.environ["AICO_LIVE_HOME"]), read_identity(Path(os.environ["AICO_LIVE_IDENTITY"])), hybrid)

    def test_values_come_back(self) -> None:
        for hybrid in (True, False):
            client = self.client(hybrid)
            for size in (0, 1, 100 * 1024, 3 * 1024 * 1024):
                value = os.urandom(size)
                self.assertEqual(client.put("python/value", value)["bytes"], size)
                client.key_update()
                self.assertEqual(client.get("python/value"), value)
            value = os.urandom(3 * 1024 * 1024)
            for epoch in (1, 3):
                client.put("python/rekeyed", value, rekey_at=1_000_000)
                self.assertEqual(client.channel.epoch, epoch)
                self.assertEqual(client.get("python/rekeyed", rekey=True), value)
                client.ask(op="status")
                self.assertEqual(client.channel.epoch, epoch + 1)
            with self.assertRaises(Failure):
                client.get("python/absent")
            with self.assertRaises(Failure):
                client.ask(op="system.stop")
            self.assertGreater(client.ask(op="status")["data_bytes"], 0)
            client.close()


if __name__ == "__main__":
    unittest.main()
