"""The channel against itself and against testvectors/channel/."""

from __future__ import annotations

import copy
import json
import os
import random
import socket
import struct
import threading
import unittest
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from aico_channel import (
    BAD_RECORD,
    CLOCK,
    EPOCH_RECORDS,
    GENERATION_RECORDS,
    IDLE,
    KEEPALIVE,
    KEYUPDATE,
    LAST_EPOCH,
    LIMIT,
    MAX_COUNTER,
    MAX_DROPPED,
    MAX_HANDSHAKE_FRAME,
    NO_PSK,
    PROTOCOL,
    REKEY_END,
    REKEY_FAILED,
    REKEY_FINISH,
    REKEY_HELLO,
    REKEY_REPLY,
    WINDOW,
    Channel,
    ChannelError,
    Fresh,
    Initiator,
    Responder,
    Schedule,
    Secret,
    Settings,
    Window,
    pad,
    padded,
    unpad,
)
from aico_client import ANSWER, DATA, END, FAILURE, REQUEST, Conversation, Failure, Stream

VECTORS = Path(__file__).resolve().parents[3] / "testvectors" / "channel"
KIND_NAMES = {1: "backend", 2: "frontend", 3: "cli", 4: "studio", 5: "plugin"}
NAMES = {"traffic_responder_to_initiator": "to_initiator", "traffic_initiator_to_responder": "to_responder"}
VALUES = ["th1", "th2", "th3", "th4", "th5", "th6", "th7", "th8", "kx", "hs", "k_i", "k_r", "f_i", "f_r", "fin_r", "fin_i"]
VALUES += ["ms", "cid_i", "cid_r", "ratchet", "exporter", *NAMES]
SUITES = ("classical", "hybrid")


def vector(name: str) -> dict:
    return json.loads((VECTORS / name).read_text())


def shake(
    hybrid: bool = False, change=lambda which, frame: frame, padding: int = 0, unordered: bool = False
) -> tuple[Channel, Channel]:
    client, server = Secret.make("cli", "cli"), Secret.make("backend", "backend")
    initiator = Initiator(client, server.identity, Fresh.make(hybrid), padding, unordered)
    responder = Responder(server, change(0, initiator.hello), Fresh.make(False), padding, unordered)
    finish, at_client = initiator.on_reply(change(1, responder.reply))
    identity, at_server = responder.on_finish(change(2, finish))
    assert identity == client.identity and at_client.exporter == at_server.exporter
    assert at_client.terms == at_server.terms
    return at_client, at_server


def channel(hybrid: bool = False, padding: int = 0, unordered: bool = False) -> tuple[Channel, Channel]:
    """Both ends of a channel whose READY has passed."""
    at_client, at_server = shake(hybrid, padding=padding, unordered=unordered)
    at_client.open(at_server.say_ready())
    return at_client, at_server


def settle(at_client: Channel, at_server: Channel) -> None:
    """Lets every answer arrive, until none waits."""
    while at_client.answers or at_server.answers:
        for sender, receiver in ((at_client, at_server), (at_server, at_client)):
            while sender.answers:
                receiver.open(sender.answers.pop(0))


def renew(at_client: Channel, at_server: Channel) -> None:
    at_server.open(at_client.rekey())
    settle(at_client, at_server)


def both_work(test: unittest.TestCase, at_client: Channel, at_server: Channel) -> None:
    test.assertEqual(at_server.open(at_client.seal(b"up")), (0, b"up"))
    test.assertEqual(at_client.open(at_server.seal(b"down")), (0, b"down"))


def altering(sender: Channel, kind: int, change: Callable[[bytes], bytes]) -> None:
    """Lets somebody with the keys of the channel change the control records of a kind before they are sealed."""
    seal, wanted = sender.seal, bytes([kind])
    sender.seal = lambda text, kind=0: seal(wanted + change(text[1:]) if kind and text[:1] == wanted else text, kind)


def flipped(data: bytes, at: int, bit: int = 1) -> bytes:
    return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]


class Case(unittest.TestCase):
    def refused(self, reason: int | None, step: Callable[[], object], why: object = None) -> None:
        with self.assertRaises(ChannelError, msg=why) as raised:
            step()
        if reason is not None:
            self.assertEqual(raised.exception.reason, reason, f"{why}: {raised.exception}")


class Vectors(Case):
    def parties(self, v: dict) -> list[Secret]:
        sides = [v[side] for side in ("initiator", "responder")]
        return [Secret.make(KIND_NAMES[s["kind"]], s["name"], bytes.fromhex(s["identity_seed"])) for s in sides]

    def fresh(self, v: dict) -> list[Fresh]:
        parts = [[bytes.fromhex(v[side][p]) for p in ("nonce", "ephemeral_secret")] for side in ("initiator", "responder")]
        fresh, kem = [Fresh(*part) for part in parts], v["ml_kem_768"]
        if kem:
            fresh[0].kem_seed = bytes.fromhex(kem["seed"])
            fresh[1].encapsulated = (bytes.fromhex(kem["ss"]), bytes.fromhex(kem["ct"]))
        return fresh

    def handshake(self, name: str) -> tuple[Schedule, Schedule, Channel, Channel]:
        v = vector(name)
        (client, server), (fresh_i, fresh_r) = self.parties(v), self.fresh(v)
        initiator = Initiator(client, server.identity, fresh_i)
        self.assertEqual(initiator.hello.hex(), v["hello"])
        responder = Responder(server, initiator.hello, fresh_r)
        self.assertEqual(responder.reply.hex(), v["reply"])
        finish, at_client = initiator.on_reply(responder.reply)
        self.assertEqual(finish.hex(), v["finish"])
        _, at_server = responder.on_finish(finish)
        return initiator.schedule, responder.schedule, at_client, at_server

    def channel(self, name: str = "handshake-classical.json") -> tuple[Channel, Channel]:
        return self.handshake(name)[2:]

    def same_values(self, schedule: Schedule, v: dict) -> None:
        for value in VALUES:
            self.assertEqual(getattr(schedule, NAMES.get(value, value)).hex(), v[value], value)

    def test_every_value_of_both_handshakes(self) -> None:
        for name in (f"handshake-{suite}.json" for suite in SUITES):
            for schedule in self.handshake(name)[:2]:
                self.same_values(schedule, vector(name))
            self.assertEqual(vector(name)["psk"], NO_PSK.hex())

    def test_every_value_of_both_rekeys(self) -> None:
        for suite in SUITES:
            v, (at_client, at_server) = vector(f"rekey-{suite}.json"), self.channel(f"handshake-{suite}.json")
            fresh_i, fresh_r = self.fresh(v)
            at_client.make_fresh, at_server.make_fresh = lambda _: fresh_i, lambda _: fresh_r  # noqa: B023
            at_client.open(at_server.say_ready())
            for side in (at_client, at_server):
                self.assertEqual(side.ratchet.hex(), v["psk"])
            self.assertEqual(at_server.open(at_client.rekey())[1].hex(), "04" + v["hello"])
            schedules = [at_client.step.schedule, at_server.step.schedule]
            self.assertEqual(at_client.open(at_server.answers.pop())[1].hex(), "05" + v["reply"])
            self.assertEqual(at_server.open(at_client.answers.pop())[1].hex(), "06" + v["finish"])
            for schedule in schedules:
                self.same_values(schedule, v)
            self.assertEqual(at_server.answers[0].hex(), v["end"]["frame"])
            settle(at_client, at_server)
            self.assertEqual((at_client.epoch, at_server.epoch), (v["epoch"], v["epoch"]))

    def test_the_first_records_of_epoch_1(self) -> None:
        v, (at_client, at_server) = vector("rekey-classical.json"), self.channel()
        fresh_i, fresh_r = self.fresh(v)
        at_client.make_fresh, at_server.make_fresh = lambda _: fresh_i, lambda _: fresh_r
        at_server.settings, at_server.wall = replace(at_server.settings, keepalive=0), lambda: 1_795_435_200
        at_client.open(at_server.say_ready())
        renewed = at_server.open(at_client.rekey()) and at_client.open(at_server.answers.pop())
        self.assertTrue(renewed)
        at_server.open(at_client.answers.pop())
        first = v["first_records"]
        self.assertEqual(at_client.open(at_server.answers.pop(0)), (1, bytes([REKEY_END])))
        self.assertEqual(at_server.answers[0].hex(), first["responder"]["frame"])
        self.assertEqual(at_client.open(at_server.answers.pop())[1].hex(), first["responder"]["plaintext"])
        frame, plaintext = (bytes.fromhex(first["initiator"][part]) for part in ("frame", "plaintext"))
        self.assertEqual(at_client.seal(plaintext), frame)
        self.assertEqual(at_server.open(frame), (0, plaintext))

    def test_padding(self) -> None:
        v = vector("padding.json")
        for size in v["sizes"]:
            self.assertEqual(padded(1, size["plaintext"]), size["padme"], size)
            self.assertEqual(padded(2, size["plaintext"]), size["power_of_two"], size)
            self.assertEqual(padded(0, size["plaintext"]), size["plaintext"])
        self.assertEqual(pad(1, bytes.fromhex(v["plaintext"])).hex(), v["padded"])
        at_client, at_server = self.channel()
        at_client.terms = at_server.terms = replace(at_client.terms, padding=1)
        frame = at_client.seal(bytes.fromhex(v["plaintext"]))
        self.assertEqual(frame.hex(), v["frame"])
        self.assertEqual(at_server.open(frame), (0, bytes.fromhex(v["plaintext"])))

    def test_records_both_ways(self) -> None:
        at_client, at_server = self.channel()
        at_server.say_ready()
        for record in vector("records.json")["records"]:
            plaintext, frame = bytes.fromhex(record["plaintext"]), bytes.fromhex(record["frame"])
            self.assertEqual(at_client.seal(plaintext, record["kind"]), frame, record["reason"])
            self.assertEqual(at_server.open(frame), (record["kind"], plaintext), record["reason"])

    def test_refused_records(self) -> None:
        for record in vector("records.json")["refused"]:
            _, at_server = self.channel()
            self.refused(None, lambda: at_server.open(bytes.fromhex(record["frame"])), record["reason"])  # noqa: B023

    def test_control_records(self) -> None:
        records = vector("control.json")["records"]
        for last in records[3:]:
            at_client, _ = self.channel()
            for record in [*records[:4], last] if last is not records[3] else records[:4]:
                opened = at_client.open(bytes.fromhex(record["frame"]))
                self.assertEqual(opened[1].hex(), record["plaintext"], record["reason"])


class Attacks(Case):
    def test_a_flipped_byte_anywhere_ends_the_handshake(self) -> None:
        for hybrid, sizes in ((False, (98, 256, 185)), (True, (1284, 1344, 185))):
            shake(hybrid)
            for which, size in enumerate(sizes):
                for at in range(0, size, 1 if not hybrid else 29):
                    flip = lambda frame, b: b if frame != which else flipped(b, at)  # noqa: B023, E731
                    self.refused(None, lambda: shake(hybrid, flip), (which, at))  # noqa: B023

    def test_malformed_bodies_are_refused_not_crashed_on(self) -> None:
        bodies = [b"\2", b"\2\0\0\xff", b"\2\0\0" + b"x" * 1025, bytes(25), b"", b"\x09", b"\1\0", b"\3\0", b"\7\0", b"\x08\0"]
        for body in [*bodies, b"\4" + bytes(MAX_HANDSHAKE_FRAME + 1)]:
            at_client, at_server = channel()
            self.refused(PROTOCOL, lambda: at_client.open(at_server.seal(body, kind=1)), body[:9])  # noqa: B023
        at_client, at_server = shake()
        self.refused(PROTOCOL, lambda: at_client.open(at_server.seal(bytes(25), kind=1)), "takes nothing")

    def test_replayed_reflected_reordered_and_cut_records(self) -> None:
        for attack in range(4):
            at_client, at_server = channel()
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

    def test_nothing_comes_before_ready(self) -> None:
        for plaintext, kind in ((b"early", 0), (b"\1\0\0", 1), (b"\x08", 1), (b"\7", 1)):
            at_client, at_server = shake()
            self.refused(PROTOCOL, lambda: at_server.seal(plaintext, kind), "the server owes READY")  # noqa: B023
            at_server.owes_ready = False
            self.refused(PROTOCOL, lambda: at_client.open(at_server.seal(plaintext, kind)))  # noqa: B023
        at_client, at_server = channel()
        self.refused(PROTOCOL, lambda: at_client.open(at_server.say_ready()), "a second READY")
        at_client, at_server = channel()
        self.refused(PROTOCOL, lambda: at_server.open(at_client.say_ready()), "READY from the initiator")

    def test_rubbish_raises_nothing_else(self) -> None:
        chance = random.Random(1)
        for _ in range(3000):
            at_client, at_server = channel(unordered=chance.random() < 0.3)
            rubbish = chance.randbytes(chance.choice((0, 1, 8, 36, 53, 54, 98, 200)))
            if chance.random() < 0.5:
                good = at_server.seal(b"good")
                rubbish = good[: chance.randrange(len(good))] + rubbish
            if chance.random() < 0.3:
                rubbish = at_server.seal(bytes([chance.randrange(12)]) + rubbish, kind=1)
            try:
                at_client.open(rubbish)
            except ChannelError:
                self.assertTrue(at_client.over)
                self.refused(PROTOCOL, lambda: at_client.open(at_server.seal(b"on")), "it is over")  # noqa: B023

    def test_hostile_handshakes_raise_nothing_else(self) -> None:
        chance = random.Random(2)
        for _ in range(1500):
            harm = chance.choice((lambda b: b[: chance.randrange(len(b))], lambda b: b + b"\0", lambda b: chance.randbytes(len(b))))
            which, hybrid = chance.randrange(3), chance.random() < 0.2
            self.refused(None, lambda: shake(hybrid, lambda frame, b: harm(b) if frame == which else b))  # noqa: B023

    def test_goodbye_is_the_last_word_and_answered_once(self) -> None:
        at_client, at_server = channel()
        self.assertEqual(at_server.open(at_client.close(6)), (1, b"\1\0\6"))
        self.assertEqual(at_client.open(at_server.answers.pop()), (1, b"\1\0\6"))
        self.assertEqual(at_client.answers, [])
        for side in (at_client, at_server):
            self.refused(PROTOCOL, lambda: side.seal(b"more"))  # noqa: B023

    def test_counters_and_generations_end(self) -> None:
        at_client, at_server = channel()
        at_client.sending.counter = at_server.lanes[0].counters.end = MAX_COUNTER
        at_server.open(at_client.seal(b"the last"))
        self.refused(LIMIT, lambda: at_client.seal(b"one more"))
        at_client, at_server = channel()
        at_client.sending.generation = at_server.lanes[0].generation = 0xFFFF
        self.refused(LIMIT, at_client.key_update)
        at_server.open(at_client.close(LIMIT))


class Rekey(Case):
    def test_it_renews_every_key_and_loses_nothing(self) -> None:
        for hybrid, padding in ((False, 0), (True, 1), (False, 2)):
            at_client, at_server = channel(hybrid, padding)
            secrets, exporter = [], at_client.exporter
            for epoch in range(1, 4):
                both_work(self, at_client, at_server)
                at_server.open(at_client.key_update())
                secrets += [at_client.sending.key, at_server.sending.key, at_client.sending.cid, at_client.ratchet]
                renew(at_client, at_server)
                self.assertEqual((at_client.epoch, at_server.epoch), (epoch, epoch))
                self.assertEqual((at_client.sending.generation, at_client.sending.counter), (0, 0))
                self.assertEqual(at_client.seal(b"")[10:12], struct.pack(">H", epoch))
                at_client.sending.counter -= 1
            both_work(self, at_client, at_server)
            self.assertEqual(len(set(secrets)), len(secrets))
            self.assertEqual((at_client.exporter, at_server.exporter), (exporter, exporter))

    def test_records_go_on_in_the_middle(self) -> None:
        at_client, at_server = channel()
        at_server.open(at_client.rekey())
        self.assertEqual(at_server.open(at_client.seal(b"c1")), (0, b"c1"))
        at_client.open(at_server.answers.pop())
        finish, c2, s1 = at_client.answers.pop(), at_client.seal(b"c2"), at_server.seal(b"s1")
        self.assertEqual(at_client.open(s1), (0, b"s1"), "the old epoch is good until REKEY_END")
        at_client.open(at_server.key_update())
        self.assertEqual(at_client.open(at_server.seal(b"s2")), (0, b"s2"), "and has generations")
        at_server.open(finish)
        self.assertEqual(at_server.open(c2), (0, b"c2"))
        settle(at_client, at_server)
        both_work(self, at_client, at_server)

    def test_the_old_epoch_is_dead_once_the_new_one_has_begun(self) -> None:
        for passed in (1, 2):  # REKEY_END, and READY behind it
            at_client, at_server = channel()
            at_server.open(at_client.rekey())
            at_client.open(at_server.answers.pop())
            half = copy.copy(at_server.sending)
            at_server.open(at_client.answers.pop())
            for _ in range(passed):
                at_client.open(at_server.answers.pop(0))
            at_server.sending, half.counter = half, half.counter + 1
            self.refused(BAD_RECORD, lambda: at_client.open(at_server.seal(b"late")))  # noqa: B023
        at_client, at_server = channel()
        late = at_client.seal(b"late")
        at_server.lanes[0].counters.end = 1
        renew(at_client, at_server)
        self.refused(BAD_RECORD, lambda: at_server.open(late))

    def test_the_end_of_the_old_epoch_cannot_be_cut_off(self) -> None:
        for taken in range(1, 4):  # of the two last records and REKEY_END
            at_client, at_server = channel()
            at_server.open(at_client.rekey())
            at_client.open(at_server.answers.pop())
            tail = [at_server.seal(b"last but one"), at_server.seal(b"last")]
            at_server.open(at_client.answers.pop())
            end, ready = at_server.answers
            for frame in [*tail, end][:-taken]:
                at_client.open(frame)
            self.refused(BAD_RECORD, lambda: at_client.open(ready), taken)  # noqa: B023

    def test_nothing_comes_before_the_ready_of_the_new_epoch(self) -> None:
        for plaintext, kind in ((b"early", 0), (b"\1\0\0", 1), (b"\3", 1)):
            at_client, at_server = channel()
            at_server.open(at_client.rekey())
            at_client.open(at_server.answers.pop())
            at_server.say_ready = lambda: b""
            at_server.open(at_client.answers.pop())
            at_client.open(at_server.answers.pop(0))
            at_server.owes_ready = False
            self.refused(PROTOCOL, lambda: at_client.open(at_server.seal(plaintext, kind)))  # noqa: B023

    def test_later_ready_changes_nothing(self) -> None:
        at_client, at_server = channel()
        before, at_server.settings = at_client.settings, Settings(5, 5, 5, 5, 5)
        renew(at_client, at_server)
        self.assertEqual((at_client.settings, at_client.max_plaintext()), (before, 16 << 20))

    def test_a_flipped_byte_anywhere_ends_it(self) -> None:
        """Whoever has the keys of the channel cannot sit in the middle of its REKEY."""
        for hybrid, sizes in ((False, (98, 256, 185)), (True, (1282, 1344, 185))):
            for kind, size in zip((REKEY_HELLO, REKEY_REPLY, REKEY_FINISH), sizes, strict=True):
                for at in range(0, size, 1 if not hybrid else 29):
                    at_client, at_server = channel(hybrid)
                    sender = at_server if kind == REKEY_REPLY else at_client
                    altering(sender, kind, lambda body: flipped(body, at))  # noqa: B023
                    self.refused(REKEY_FAILED, lambda: renew(at_client, at_server), (hybrid, kind, at))  # noqa: B023

    def test_hostile_bodies_raise_nothing_else(self) -> None:
        chance = random.Random(3)
        for _ in range(600):
            kind, hybrid = chance.choice((REKEY_HELLO, REKEY_REPLY, REKEY_FINISH)), chance.random() < 0.2
            at_client, at_server = channel(hybrid)
            cut, tail = chance.randrange(98), chance.randbytes(chance.randrange(300))
            altering(at_server if kind == REKEY_REPLY else at_client, kind, lambda body: body[:cut] + tail)  # noqa: B023
            self.refused(REKEY_FAILED, lambda: renew(at_client, at_server))  # noqa: B023

    def test_other_terms_are_refused(self) -> None:
        def hello(versions: bytes, suites: bytes, flags: int, mac: bytes) -> Callable[[bytes], bytes]:
            head = bytes([len(versions)]) + versions + bytes([len(suites) // 2]) + suites + struct.pack(">H", flags)
            return lambda body: body[:9] + head + body[16:-16] + mac  # noqa: E731

        good = (b"\1", b"\0\1", 0, bytes(16))
        others = ((b"\1\2", b"\0\1", 0, bytes(16)), (b"\1", b"\0\1\0\x09", 0, bytes(16)), (b"\1", b"\0\1", 1, bytes(16)))
        others += ((b"\1", b"\0\1", 4, bytes(16)), (b"\1", b"\0\2", 0, bytes(16)), (b"\1", b"\0\1", 0, bytes(15) + b"\1"))
        for terms in (good, *others):
            at_client, at_server = channel()
            altering(at_client, REKEY_HELLO, hello(*terms))
            start = lambda: at_server.open(at_client.rekey())  # noqa: B023, E731
            start() if terms == good else self.refused(REKEY_FAILED, start, terms)

    def test_only_the_same_two_can_renew(self) -> None:
        for thief in range(4):
            at_client, at_server = channel()
            if thief == 0:  # has every key of the channel, and the name, but not I's identity key
                at_client.me = Secret.make("cli", "cli")
            elif thief == 1:  # nor R's
                at_server.me = Secret.make("backend", "backend")
            elif thief == 2:  # has I's identity key and the traffic keys, but not the ratchet
                at_client.ratchet = NO_PSK
            else:  # was revoked in the meantime
                at_server.trusts = lambda _: False
            self.refused(REKEY_FAILED, lambda: renew(at_client, at_server), thief)  # noqa: B023

    def test_messages_out_of_place(self) -> None:
        for to_client, control, reason in (
            (True, b"\4" + bytes(98), REKEY_FAILED),
            (True, b"\5" + bytes(256), REKEY_FAILED),
            (True, b"\6" + bytes(185), REKEY_FAILED),
            (False, b"\4" + bytes(98), REKEY_FAILED),
            (False, b"\5" + bytes(256), REKEY_FAILED),
            (False, b"\6" + bytes(185), REKEY_FAILED),
            (False, b"\7", PROTOCOL),
            (True, b"\x0a", REKEY_FAILED),
            (False, b"\x0a", REKEY_FAILED),
        ):
            at_client, at_server = channel()
            sender, receiver = (at_server, at_client) if to_client else (at_client, at_server)
            self.refused(reason, lambda: receiver.open(sender.seal(control, kind=1)), control[:1])  # noqa: B023
        at_client, at_server = channel()
        hello = at_client.rekey()
        at_server.open(hello)
        self.refused(PROTOCOL, at_client.rekey, "one at a time")
        again = at_client.seal(bytes([REKEY_HELLO]) + at_client.step.hello, kind=1)
        self.refused(REKEY_FAILED, lambda: at_server.open(again), "a second HELLO")

    def test_the_responder_asks(self) -> None:
        at_client, at_server = channel()
        at_client.open(at_server.ask_for_rekey())
        settle(at_client, at_server)
        self.assertEqual((at_client.epoch, at_server.epoch), (1, 1))
        request, hello = at_server.ask_for_rekey(), at_client.rekey()
        at_client.open(request)
        self.assertEqual(at_client.answers, [], "they have crossed")
        at_server.open(hello)
        settle(at_client, at_server)
        self.assertEqual((at_client.epoch, at_server.epoch, at_server.asked), (2, 2, None))

    def test_the_last_epoch_has_no_rekey(self) -> None:
        at_client, at_server = channel()
        at_client.epoch = at_server.epoch = LAST_EPOCH
        self.refused(LIMIT, at_client.rekey)
        hello = Initiator(at_client.me, at_client.peer, Fresh.make(False), inside=at_client._renewal()).hello
        self.refused(REKEY_FAILED, lambda: at_server.open(at_client.seal(bytes([REKEY_HELLO]) + hello, kind=1)))

    def test_goodbye_in_every_moment_of_a_rekey(self) -> None:
        for moment in range(4):
            for client_says in (True, False):
                at_client, at_server = channel()
                up, down = [at_client.rekey()], []
                for step in range(moment + 4):
                    if step == moment:
                        (up if client_says else down).append((at_client if client_says else at_server).close())
                    self.cross(at_client, at_server, up, down)
                self.assertTrue(at_client.over and at_server.over, (moment, client_says))

    def cross(self, at_client: Channel, at_server: Channel, up: list[bytes], down: list[bytes]) -> None:
        """One trip in both directions at once."""
        for frame in up:
            at_server.open(frame)
        for frame in down:
            at_client.open(frame)
        up[:], down[:] = at_client.answers, at_server.answers
        at_client.answers, at_server.answers = [], []

    def test_any_order_of_doings_keeps_the_order_of_records(self) -> None:
        chance = random.Random(4)
        for run in range(60):
            at_client, at_server = channel(chance.random() < 0.2, chance.randrange(3))
            wires, sent, got = ([], []), ([], []), ([], [])
            ends = (at_client, at_server)
            for n in range(150):
                side, doing = chance.randrange(2), chance.randrange(8)
                end, wire = ends[side], wires[side]
                if doing < 3:
                    sent[side].append(text := b"%d" % n)
                    wire.append(end.seal(text))
                elif doing == 3:
                    wire.append(end.key_update())
                elif doing == 4 and end.step is None and (side == 0 or end.asked is None):
                    wire.append(end.rekey() if side == 0 else end.ask_for_rekey())
                elif wires[1 - side]:
                    self.arrive(end, wires[1 - side].pop(0), wire, got[side])
            while wires[0] or wires[1]:
                for side in (0, 1):
                    while wires[1 - side]:
                        self.arrive(ends[side], wires[1 - side].pop(0), wires[side], got[side])
            self.assertEqual((got[1], got[0]), sent, run)
            self.assertEqual(at_client.epoch, at_server.epoch)

    def arrive(self, end: Channel, frame: bytes, wire: list[bytes], got: list[bytes]) -> None:
        kind, plaintext = end.open(frame)
        got.extend([plaintext] if kind == 0 else [])
        wire.extend(end.answers)
        end.answers.clear()


class Padding(Case):
    def test_few_lengths_remain(self) -> None:
        for policy, count in ((1, 385), (2, 17)):
            lengths, size = [], 0
            while size < 16 << 20:
                size = padded(policy, size)
                lengths.append(size)
            self.assertEqual((len(lengths), lengths[-1]), (count, 16 << 20))

    def test_only_what_the_policy_makes_comes_back(self) -> None:
        chance = random.Random(5)
        for policy in (1, 2):
            for _ in range(2000):
                text = chance.randbytes(chance.randrange(3000)) + b"\1"
                data = pad(policy, text)
                self.assertEqual(unpad(policy, data), text)
                for bad in (data + b"\0", data[:-1], data + bytes(256), text + bytes(len(data) - len(text)), bytes(len(data))):
                    self.refused(PROTOCOL, lambda: unpad(policy, bad))  # noqa: B023
        self.assertEqual(unpad(0, b"\x80\0"), b"\x80\0")

    def test_every_record_has_a_length_of_the_policy(self) -> None:
        for policy in (1, 2):
            at_client, at_server = channel(padding=policy)
            for frame in (at_client.seal(b"x" * 300), at_client.key_update(), at_client.rekey(), at_client.close()):
                length = len(frame) - 54
                self.assertEqual(padded(policy, length - 1), length)
                at_server.open(frame)
        at_client, at_server = channel(padding=1)
        at_client.terms = replace(at_client.terms, padding=0)
        self.refused(PROTOCOL, lambda: at_server.open(at_client.seal(b"bare")))

    def test_the_lower_policy_is_agreed_on(self) -> None:
        client, server = Secret.make("cli", "cli"), Secret.make("backend", "backend")
        for offered in range(3):
            for wanted in range(3):
                initiator = Initiator(client, server.identity, Fresh.make(False), offered)
                responder = Responder(server, initiator.hello, Fresh.make(False), wanted)
                terms, _ = initiator.conclude(responder.reply)
                self.assertEqual(terms.padding, min(offered, wanted))
                if wanted > offered:
                    responder = Responder(server, Initiator(client, server.identity, Fresh.make(False), 2).hello, Fresh.make(False), wanted)
                    self.refused(PROTOCOL, lambda: initiator.conclude(responder.reply), "not offered")  # noqa: B023

    def test_nobody_has_to_take_more_than_they_said(self) -> None:
        for policy, longest in ((0, 65_536), (1, 65_535), (2, 65_535)):
            at_client, at_server = shake(padding=policy)
            at_server.settings.max_plaintext = 65_536
            at_client.open(at_server.say_ready())
            at_server.open(at_client.seal(bytes(longest)))
            self.refused(PROTOCOL, lambda: at_client.seal(bytes(longest + 1)))  # noqa: B023
            at_client.ready = None
            self.refused(PROTOCOL, lambda: at_server.open(at_client.seal(bytes(longest + 1))))  # noqa: B023


class Unordered(Case):
    def test_both_must_call_the_carrier_the_same(self) -> None:
        client, server = Secret.make("cli", "cli"), Secret.make("backend", "backend")
        for offered in (True, False):
            initiator = Initiator(client, server.identity, Fresh.make(False), unordered=offered)
            self.refused(PROTOCOL, lambda: Responder(server, initiator.hello, Fresh.make(False), unordered=not offered))  # noqa: B023

    def test_the_window_against_the_plainest_thing_that_does_the_same(self) -> None:
        chance = random.Random(6)
        for _ in range(50):
            window, seen, highest, base = Window(), set(), -1, chance.randrange(1 << 40)
            for _ in range(400):
                counter = base + chance.randrange(6000)
                good = counter > highest or (highest - counter < WINDOW and counter not in seen)
                self.assertEqual(window.admits(counter), good)
                if good:
                    window.note(counter)
                    seen.add(counter)
                    highest = max(highest, counter)
        self.assertTrue(window.admits(MAX_COUNTER) and not window.admits(MAX_COUNTER + 1))

    def test_a_lost_key_update_is_survived_and_old_keys_do_not_stay(self) -> None:
        now = [0.0]
        at_client, at_server = channel(unordered=True)
        at_server.keep_time(lambda: now[0])
        late, later = at_client.seal(b"late"), at_client.seal(b"later")
        at_client.key_update()
        self.assertEqual(at_server.open(at_client.seal(b"new")), (0, b"new"))
        now[0] = 29.9
        self.assertEqual(at_server.open(late), (0, b"late"))
        now[0] = 30.0
        self.assertIsNone(at_server.open(later))
        at_client.key_update(), at_client.key_update()
        self.assertIsNone(at_server.open(at_client.seal(b"two ahead")))

    def test_a_late_key_update_changes_nothing(self) -> None:
        at_client, at_server = channel(unordered=True)
        update, text = at_client.key_update(), at_client.seal(b"new")
        at_server.open(text)
        self.assertEqual(at_server.open(update), (1, bytes([KEYUPDATE])))
        self.assertEqual(at_server.lanes[0].generation, 1)

    def test_rubbish_is_dropped_until_it_is_too_much(self) -> None:
        at_client, at_server = channel(unordered=True)
        for _ in range(MAX_DROPPED - 1):
            self.assertIsNone(at_server.open(b"rubbish"))
        self.assertEqual(at_server.open(at_client.seal(b"good")), (0, b"good"))
        self.refused(BAD_RECORD, lambda: at_server.open(b"rubbish"))

    def test_ready_may_be_lost_and_comes_from_the_responder_only(self) -> None:
        at_client, at_server = shake(unordered=True)
        lost = at_server.say_ready()
        both_work(self, at_client, at_server)
        at_client.open(lost)
        self.assertEqual(at_client.ready.idle, 3600)
        self.refused(PROTOCOL, lambda: at_server.open(at_client.say_ready()))

    def test_epochs_overlap(self) -> None:
        at_client, at_server = channel(unordered=True)
        up, down = at_client.seal(b"up, late"), at_server.seal(b"down, late")
        renew(at_client, at_server)
        self.assertEqual((at_client.epoch, at_server.epoch), (1, 1))
        self.assertEqual((at_server.open(up), at_client.open(down)), ((0, b"up, late"), (0, b"down, late")))
        self.assertEqual((at_server.open(up), at_client.open(down)), (None, None), "once")
        both_work(self, at_client, at_server)

    def test_any_record_of_the_new_epoch_completes_it(self) -> None:
        at_client, at_server = channel(unordered=True)
        at_server.open(at_client.rekey())
        at_client.open(at_server.answers.pop())
        at_server.open(at_client.answers.pop())
        at_server.answers.pop()  # READY is lost
        self.assertIsNotNone(at_client.step)
        both_work(self, at_client, at_server)
        self.assertIsNone(at_client.step)

    def test_a_lost_message_of_a_rekey_ends_the_channel_at_its_deadline(self) -> None:
        for lost in range(3):
            now = [0.0]
            at_client, at_server = channel(unordered=True)
            for side in (at_client, at_server):
                side.keep_time(lambda: now[0])  # noqa: B023
                side.settings = replace(side.settings, keepalive=0)
            frame = at_client.rekey()
            for step in range(lost):
                receiver = at_client if step % 2 else at_server
                receiver.open(frame)
                frame = receiver.answers.pop()
            now[0] = 299
            at_client.tick(), at_server.tick()
            now[0] = 300
            self.refused(REKEY_FAILED, at_client.tick, lost)
            if lost:
                self.refused(REKEY_FAILED, at_server.tick, lost)

    def test_what_opens_and_breaks_a_rule_ends_the_channel(self) -> None:
        at_client, at_server = channel(unordered=True)
        self.refused(PROTOCOL, lambda: at_server.open(at_client.seal(b"\x63", kind=1)))

    def test_whatever_the_carrier_does_nothing_comes_twice(self) -> None:
        chance = random.Random(7)
        for run in range(60):
            at_client, at_server = channel(padding=chance.randrange(3), unordered=True)
            wire, sent, got = [], set(), []
            for n in range(120):
                doing = chance.randrange(12)
                if doing < 7:
                    sent.add(text := b"%d" % n)
                    wire.append(at_client.seal(text))
                elif doing == 7:
                    wire.append(at_client.key_update())
                elif doing == 8 and at_client.step is None:
                    renew(at_client, at_server)
                elif wire:
                    self.arrive(at_server, wire, got, chance)
            while wire:
                self.arrive(at_server, wire, got, chance)
            self.assertEqual(len(got), len(set(got)), run)
            self.assertLessEqual(set(got), sent)
            self.assertTrue(got)

    def arrive(self, end: Channel, wire: list[bytes], got: list[bytes], chance: random.Random) -> None:
        """Takes any frame from the wire; it may be harmed, and may stay to come again."""
        at = chance.randrange(len(wire))
        frame = wire[at] if chance.random() < 0.2 else wire.pop(at)
        if chance.random() < 0.1:
            frame = flipped(frame, chance.randrange(len(frame)), 1 << chance.randrange(8))
        opened = end.open(frame)
        if opened and opened[0] == 0:
            got.append(opened[1])


class Time(Case):
    def setUp(self) -> None:
        self.now = 0.0

    def channel(self, **settings: int) -> tuple[Channel, Channel]:
        at_client, at_server = shake()
        for side in (at_client, at_server):
            side.keep_time(lambda: self.now)
        at_server.settings = replace(Settings(keepalive=0, idle=1_000_000), **settings)
        at_client.settings = replace(at_client.settings, idle=1_000_000)
        at_client.open(at_server.say_ready())
        return at_client, at_server

    def test_keys_are_renewed_when_they_are_old(self) -> None:
        at_client, at_server = self.channel(rotation=100)
        for epoch in range(1, 4):
            self.now = 100 * epoch - 1
            at_client.tick()
            self.assertEqual(at_client.answers, [])
            self.now = 100 * epoch
            at_client.tick(), at_server.tick()
            settle(at_client, at_server)
            self.assertEqual((at_client.epoch, at_server.epoch), (epoch, epoch))

    def test_and_when_they_have_carried_half(self) -> None:
        for which in (0, 1):
            ends = self.channel()
            ends[which].records = EPOCH_RECORDS // 2
            ends[which].tick()
            settle(*ends)
            self.assertEqual((ends[0].epoch, ends[1].epoch, ends[which].records < 9), (1, 1, True))

    def test_the_end_of_an_epoch_has_room_for_a_goodbye(self) -> None:
        at_client, at_server = self.channel()
        at_client.records = EPOCH_RECORDS
        self.refused(LIMIT, lambda: at_client.seal(b"x"))
        self.refused(LIMIT, at_client.key_update)
        at_server.open(at_client.close(LIMIT))

    def test_the_responder_does_not_wait_for_ever(self) -> None:
        at_client, at_server = self.channel(rotation=100)
        self.now = 100
        at_server.tick()
        self.assertEqual(len(at_server.answers), 1)
        self.now = 129
        at_server.tick()
        self.assertEqual(len(at_server.answers), 1, "it asks once")
        self.now = 130
        self.refused(REKEY_FAILED, at_server.tick)

    def test_a_rekey_that_does_not_complete_ends_the_channel(self) -> None:
        for steps in range(4):
            self.now = 0
            at_client, at_server = self.channel()
            frame = at_client.rekey()
            for step in range(steps):
                receiver = at_client if step % 2 else at_server
                receiver.open(frame)
                frame = receiver.answers.pop()
            self.now = 299
            at_client.tick(), at_server.tick()
            self.now = 300
            self.refused(REKEY_FAILED, at_client.tick, steps)
            if steps in (1, 2):
                self.refused(REKEY_FAILED, at_server.tick, steps)
            else:
                at_server.tick()

    def test_signs_of_life(self) -> None:
        at_client, at_server = self.channel(keepalive=10)
        for self.now in range(1, 200, 3):
            at_client.tick(), at_server.tick()
            settle(at_client, at_server)
        self.assertLess(at_client.sending.counter, 25)
        self.now += 30
        for side in (at_client, at_server):
            self.refused(PROTOCOL, side.tick)

    def test_an_unused_channel_is_forgotten_in_spite_of_them(self) -> None:
        at_client, at_server = self.channel(keepalive=10, idle=60)
        at_server.open(at_client.seal(b"used"))
        for self.now in range(1, 60):
            at_client.tick(), at_server.tick()
            settle(at_client, at_server)
        self.now = 60
        for side in (at_client, at_server):
            self.refused(IDLE, side.tick)

    def test_ready_is_not_waited_for_for_ever(self) -> None:
        at_client, _ = shake()
        at_client.keep_time(lambda: self.now)
        at_client.tick()
        self.now = 30
        self.refused(PROTOCOL, at_client.tick)

    def test_clocks(self) -> None:
        for refuse, apart, ends in ((False, 10_000, False), (True, 29, False), (True, -29, False), (True, 31, True), (True, -31, True)):
            at_client, at_server = shake()
            at_client.settings.refuse_skew = refuse
            at_client.wall, at_server.wall = lambda: 1_000_000, lambda: 1_000_000 + apart  # noqa: B023
            step = lambda: at_client.open(at_server.say_ready())  # noqa: B023, E731
            self.refused(CLOCK, step) if ends else step()

    def test_a_generation_grows_old(self) -> None:
        at_client, _ = self.channel()
        self.assertFalse(at_client.key_update_due())
        self.now = 3600
        self.assertTrue(at_client.key_update_due())
        at_client.key_update()
        self.assertFalse(at_client.key_update_due())
        at_client.sending.counter = GENERATION_RECORDS
        self.assertTrue(at_client.key_update_due())


class Loopback(threading.Thread):
    """A responder on the other end of a socket pair, with what the client needs of the backend: values, and nagging."""

    def __init__(self, connection: socket.socket, me: Secret, padding: int, nag: Callable[[Loopback], None]) -> None:
        super().__init__(daemon=True)
        self.stream, self.me, self.padding, self.nag = Stream(connection), me, padding, nag
        self.values: dict[str, bytes] = {}
        self.parts, self.failed = 0, None

    def run(self) -> None:
        try:
            self.shake()
            while True:
                self.serve(*self.stream.next_part())
        except (ChannelError, OSError) as error:
            self.failed = error
        finally:
            self.stream.connection.close()

    def shake(self) -> None:
        stream = self.stream
        responder = Responder(self.me, stream.read_frame(MAX_HANDSHAKE_FRAME), Fresh.make(False), self.padding)
        stream.send_frame(responder.reply)
        _, stream.channel = responder.on_finish(stream.read_frame(MAX_HANDSHAKE_FRAME))
        stream.send_frame(stream.channel.say_ready())

    def serve(self, part: int, body: bytes) -> None:
        assert part == REQUEST
        request = json.loads(body)
        path = request.get("path", "")
        if request["op"] == "data.put":
            self.take(path)
        elif path not in self.values:
            self.say(FAILURE, b'{"code":"not-found","message":"nothing is there"}')
        else:
            self.give(self.values[path])

    def take(self, path: str) -> None:
        value, (part, body) = bytearray(), self.heard()
        while part == DATA:
            value += body
            part, body = self.heard()
        assert part == END and struct.unpack(">Q", body) == (len(value),)
        self.values[path] = bytes(value)
        self.say(ANSWER, json.dumps({"bytes": len(value), "replaced": False}).encode())

    def give(self, value: bytes) -> None:
        self.say(ANSWER, json.dumps({"bytes": len(value)}).encode())
        for start in range(0, len(value), 10_000):
            self.say(DATA, value[start : start + 10_000])
        self.say(END, struct.pack(">Q", len(value)))

    def heard(self) -> tuple[int, bytes]:
        self.parts += 1
        self.nag(self)
        return self.stream.next_part()

    def say(self, part: int, body: bytes) -> None:
        self.parts += 1
        self.nag(self)
        self.stream.send(part, body)


def quiet(_: Loopback) -> None:
    """A backend that says nothing of its own."""


def nagging(server: Loopback) -> None:
    """A backend that has something else to say between any two records."""
    channel, doing = server.stream.channel, server.parts % 4
    if doing == 0 and channel.step is None and channel.asked is None:
        server.stream.send_frame(channel.ask_for_rekey())
    elif doing == 1:
        server.stream.send_frame(channel.seal(bytes([KEEPALIVE]), kind=1))
    elif doing == 2:
        server.stream.key_update()
    else:
        server.stream.send_frame(channel.seal(b"\2\0\0a word", kind=1))


class Conversations(Case):
    """The client over a socket pair, against a responder in this program."""

    def talk(self, hybrid: bool, padding: int = 0, nag: Callable[[Loopback], None] = quiet) -> tuple[Conversation, Loopback]:
        ours, theirs = socket.socketpair()
        backend = Secret.make("backend", "backend")
        server = Loopback(theirs, backend, padding, nag)
        server.start()
        client = Conversation(ours, Secret.make("cli", "cli"), backend.identity, hybrid, padding)
        self.addCleanup(ours.close)
        return client, server

    def test_the_client_renews_in_the_middle_of_a_put_and_a_get(self) -> None:
        for hybrid in (False, True):
            for padding in range(3):
                client, server = self.talk(hybrid, padding)
                value = os.urandom(400_000)
                client.rekey()
                client.settle()
                self.assertEqual(client.put_pieces("a/b", self.renewing(client, value))["bytes"], len(value))
                client.settle()
                after_put = client.channel.epoch
                self.assertGreater(after_put, 1)
                self.assertEqual(b"".join(self.renewing_get(client, "a/b")), value)
                client.settle()
                self.assertGreater(client.channel.epoch, after_put)
                with self.assertRaises(Failure):
                    client.get("a/absent")
                self.goodbye(client, server)

    def renewing(self, client: Conversation, value: bytes):
        for start in range(0, len(value), 10_000):
            client.rekey()
            yield value[start : start + 10_000]

    def renewing_get(self, client: Conversation, path: str):
        for piece in client.get_pieces(path):
            client.rekey()
            yield piece

    def goodbye(self, client: Conversation, server: Loopback) -> None:
        client.close()
        server.join(10)
        self.assertFalse(server.is_alive())
        self.assertEqual(str(server.failed), "the other side closed the channel")
        self.assertEqual(server.stream.channel.epoch, client.channel.epoch)

    def test_the_client_copes_with_whatever_the_backend_says_between(self) -> None:
        for hybrid in (False, True):
            client, server = self.talk(hybrid, 1, nagging)
            for size in (0, 1, 300_000):
                value = os.urandom(size)
                self.assertEqual(client.put("a/b", value, 7_000)["bytes"], size)
                self.assertEqual(client.get("a/b"), value)
            client.settle()
            self.assertGreater(client.channel.epoch, 3)
            self.goodbye(client, server)

    def test_both_start_at_once(self) -> None:
        client, server = self.talk(False, 0, nagging)
        value = os.urandom(500_000)
        client.put_pieces("a/b", self.renewing(client, value))
        self.assertEqual(b"".join(self.renewing_get(client, "a/b")), value)
        client.settle()
        self.goodbye(client, server)

    def test_old_keys_are_renewed_without_being_told(self) -> None:
        client, server = self.talk(False)
        client.settle()
        client.channel.settings = replace(client.channel.settings, rotation=0)
        for _ in range(5):
            client.put("a/b", b"x")
        client.channel.settings = replace(client.channel.settings, rotation=86_400)
        client.settle()
        self.assertGreater(client.channel.epoch, 1)
        client.channel.generation_began -= 3600
        client.put("a/b", b"x")
        self.assertEqual(client.channel.sending.generation, 1)
        self.goodbye(client, server)

    def test_a_rekey_that_fails_is_told(self) -> None:
        client, server = self.talk(False)
        client.settle()
        client.channel.ratchet = NO_PSK
        client.rekey()
        self.refused(REKEY_FAILED, client.settle)
        server.join(10)
        self.assertEqual(str(server.failed), "the other side closed the channel")


if __name__ == "__main__":
    unittest.main()
