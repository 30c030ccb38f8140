"""The channel of docs/spec/channel.md, a second time: libsodium through PyNaCl, ML-KEM-768 through cryptography.

Written to be read beside the specification. Nothing here is fast or hardened; it is what another language needs.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import nacl.bindings as sodium
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from nacl.exceptions import BadSignatureError, CryptoError
from nacl.utils import random as random_bytes

MAGIC = b"AICO-HS1"
RECORD_MAGIC = b"AICO-MSG"
VERSION = 1
CLASSICAL, HYBRID = 1, 2
KINDS = {"backend": 1, "frontend": 2, "cli": 3, "studio": 4, "plugin": 5}
EK_BYTES, CT_BYTES, SEALED_IDENTITY_BYTES = 1184, 1088, 176
MAX_HANDSHAKE_FRAME = 8 * 1024
MAX_PLAINTEXT, MAX_METADATA = 16 * 1024 * 1024, 16 * 1024
MAX_FRAME = MAX_PLAINTEXT + 20 * 1024
MAX_COUNTER, LAST_GENERATION, LAST_EPOCH = 1 << 63, 0xFFFF, 0xFFFF
GENERATION_RECORDS, GENERATION_BYTES, GENERATION_SECONDS = 1 << 24, 16 << 30, 3600
EPOCH_RECORDS, EPOCH_BYTES, REKEY_SECONDS = 1 << 32, 256 << 30, 300
WINDOW, MAX_DROPPED, OLD_KEYS_SECONDS, MAX_LANES = 2048, 1 << 16, 30, 4
SILENT_INTERVALS, MAX_SKEW_SECONDS = 3, 30
NO_PSK = bytes(32)

# Reasons of CLOSE
NORMAL, IDLE, PROTOCOL, BAD_RECORD, REKEY_FAILED, LIMIT, CLOCK = 0, 1, 2, 3, 4, 7, 8


class ChannelError(Exception):
    """The handshake or the channel is over; `reason` is what a CLOSE says of it."""

    def __init__(self, why: str, reason: int = PROTOCOL) -> None:
        super().__init__(why)
        self.reason = reason


def need(holds: bool, why: str, reason: int = PROTOCOL) -> None:
    if not holds:
        raise ChannelError(why, reason)


# Notation


def blake2b(data: bytes, size: int, key: bytes = b"", person: bytes = b"") -> bytes:
    return sodium.crypto_generichash_blake2b_salt_personal(data, digest_size=size, key=key, person=person)


def transcript(k: str, *parts: bytes) -> bytes:
    return blake2b(b"".join(parts), 64, person=(b"AICO-HS1-th" + k.encode()).ljust(16, b"\0"))


def kdf(key: bytes, label: str, context: bytes, size: int) -> bytes:
    name = label.encode()
    return blake2b(bytes([len(name)]) + name + context, size, key=key)


def same(a: bytes, b: bytes) -> bool:
    return len(a) == len(b) and sodium.sodium_memcmp(a, b)


def seal(key: bytes, nonce: bytes, associated: bytes, plaintext: bytes) -> bytes:
    return sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(plaintext, associated, nonce, key)


def unseal(key: bytes, nonce: bytes, associated: bytes, sealed: bytes) -> bytes:
    try:
        return sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, associated, nonce, key)
    except CryptoError as error:
        raise ChannelError("authentication failed", BAD_RECORD) from error


# Identities


@dataclass
class Identity:
    kind: int
    key: bytes
    name: str

    def encode(self) -> bytes:
        return bytes([self.kind]) + self.key + self.name.encode().ljust(31, b"\0")

    @staticmethod
    def decode(data: bytes) -> Identity:
        need(len(data) == 64 and data[0] in KINDS.values(), "not an identity")
        name = data[33:].rstrip(b"\0")
        need(0 < len(name) and all(b >= 0x20 and b != 0x7F for b in name), "not a name")
        try:
            return Identity(data[0], data[1:33], name.decode())
        except UnicodeDecodeError as error:
            raise ChannelError("not a name") from error


@dataclass
class Secret:
    seed: bytes
    identity: Identity

    @staticmethod
    def make(kind: str, name: str, seed: bytes | None = None) -> Secret:
        seed = seed or random_bytes(32)
        public, _ = sodium.crypto_sign_seed_keypair(seed)
        return Secret(seed, Identity(KINDS[kind], public, name))

    def sign(self, message: bytes) -> bytes:
        _, secret = sodium.crypto_sign_seed_keypair(self.seed)
        return sodium.crypto_sign(message, secret)[:64]


def verify(key: bytes, message: bytes, signature: bytes) -> None:
    try:
        sodium.crypto_sign_open(signature + message, key)
    except BadSignatureError as error:
        raise ChannelError("authentication failed") from error


# Key schedule


@dataclass
class Fresh:
    """What one side makes anew for every handshake; given in the vectors."""

    nonce: bytes
    ephemeral: bytes
    kem_seed: bytes | None = None
    encapsulated: tuple[bytes, bytes] | None = None

    @staticmethod
    def make(hybrid: bool) -> Fresh:
        return Fresh(random_bytes(32), random_bytes(32), random_bytes(64) if hybrid else None)

    @property
    def public(self) -> bytes:
        return sodium.crypto_scalarmult_base(self.ephemeral)


class Schedule:
    """Every value from th1 to the exporter; both roles fill it in the same order."""

    def __init__(self, hello: bytes) -> None:
        self.th1 = transcript("1", hello)

    def meet(self, reply_open: bytes, shared: bytes, e_i: bytes, e_r: bytes, ss: bytes, psk: bytes) -> None:
        self.th2 = transcript("2", self.th1, reply_open)
        self.kx = blake2b(shared + e_i + e_r, 64)
        self.hs = blake2b(b"AICO-HS1 extract" + ss + self.kx + self.th2, 64, key=psk)
        self.k_i, self.k_r = kdf(self.hs, "hs key i", self.th2, 32), kdf(self.hs, "hs key r", self.th2, 32)
        self.f_i, self.f_r = kdf(self.hs, "fin i", self.th2, 32), kdf(self.hs, "fin r", self.th2, 32)

    def responder_signed(self, identity: bytes) -> bytes:
        self.th3 = transcript("3", self.th2, identity)
        return b"AICO-HS1 responder signature\0" + self.th3

    def responder_fin(self, signature: bytes) -> bytes:
        self.th4 = transcript("4", self.th3, signature)
        self.fin_r = kdf(self.f_r, "fin", self.th4, 32)
        self.th5 = transcript("5", self.th4, self.fin_r)
        return self.fin_r

    def initiator_signed(self, identity: bytes) -> bytes:
        self.th6 = transcript("6", self.th5, identity)
        return b"AICO-HS1 initiator signature\0" + self.th6

    def initiator_fin(self, signature: bytes) -> bytes:
        self.th7 = transcript("7", self.th6, signature)
        self.fin_i = kdf(self.f_i, "fin", self.th7, 32)
        self.th8 = transcript("8", self.th7, self.fin_i)
        return self.fin_i

    def finish(self, epoch: int = 0) -> None:
        self.ms = kdf(self.hs, "master", self.th8, 64)
        d = struct.pack(">H", epoch)
        traffic, cid = kdf(self.ms, "traffic", d, 64), kdf(self.ms, "cid", d, 20)
        self.to_initiator, self.to_responder = traffic[:32], traffic[32:]
        self.cid_i, self.cid_r = cid[:10], cid[10:]
        self.ratchet, self.exporter = kdf(self.ms, "ratchet", d, 32), kdf(self.ms, "exporter", d, 32)


def agree(secret: bytes, public: bytes) -> bytes:
    try:
        return sodium.crypto_scalarmult(secret, public)
    except (RuntimeError, CryptoError) as error:
        raise ChannelError("a point of small order") from error


def block(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


class Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, size: int) -> bytes:
        need(len(self.data) >= size, "a frame ends too early")
        front, self.data = self.data[:size], self.data[size:]
        return front

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def end(self) -> None:
        need(not self.data, "bytes after the end")


# Handshake messages


@dataclass(frozen=True)
class Terms:
    """What a handshake agrees on; a REKEY keeps it."""

    suite: int
    padding: int = 0
    unordered: bool = False

    @property
    def flags(self) -> int:
        return self.padding | self.unordered << 2


@dataclass(frozen=True)
class Renewal:
    """What the handshake of a REKEY takes from the channel that it happens in."""

    terms: Terms
    ratchet: bytes
    epoch: int


def parse_flags(flags: int) -> tuple[int, bool]:
    """The padding policy, and whether the carrier is unordered."""
    need(flags & ~7 == 0 and flags & 3 != 3, "flags")
    return flags & 3, flags & 4 != 0


def mac1(responder: bytes, body: bytes) -> bytes:
    return kdf(transcript("m", responder)[:32], "mac1", body, 16)


def encode_hello(suites: list[int], flags: int, fresh: Fresh, ek: bytes) -> bytes:
    """HELLO up to mac1."""
    head = MAGIC + bytes([1, 1, VERSION, len(suites)]) + b"".join(struct.pack(">H", suite) for suite in suites)
    return head + struct.pack(">H", flags) + fresh.nonce + fresh.public + block(ek)


@dataclass
class Hello:
    versions: list[int]
    suites: list[int]
    padding: int
    unordered: bool
    e_i: bytes
    kem: MLKEM768PublicKey | None

    @staticmethod
    def parse(body: bytes) -> Hello:
        """Steps 2 to 5 of "R, on HELLO"; mac1 has been cut off."""
        reader = Reader(body)
        need(reader.take(9) == MAGIC + b"\x01", "not a HELLO")
        versions = list(reader.take(reader.number(1)))
        suites = [reader.number(2) for _ in range(reader.number(1))]
        flags = reader.number(2)
        reader.take(32)
        e_i, ek = reader.take(32), reader.take(reader.number(2))
        reader.end()
        need(len(set(versions)) == len(versions) and len(set(suites)) == len(suites), "an offer stands there twice")
        need(len(ek) == (EK_BYTES if HYBRID in suites else 0), "an encapsulation key that does not fit the offer")
        try:
            kem = MLKEM768PublicKey.from_public_bytes(ek) if ek else None  # checked even if it is not chosen
        except ValueError as error:
            raise ChannelError("an encapsulation key that is not reduced") from error
        return Hello(versions, suites, *parse_flags(flags), e_i, kem)

    def agree(self, padding: int, unordered: bool) -> Terms:
        """What R chooses from a first HELLO."""
        known = [suite for suite in self.suites if suite in (CLASSICAL, HYBRID)]
        need(VERSION in self.versions and bool(known), "no common version or suite")
        need(self.unordered == unordered, "another kind of carrier")
        return Terms(known[0], min(self.padding, padding), unordered)

    def repeat(self, terms: Terms) -> Terms:
        """The HELLO of a REKEY leaves nothing to choose."""
        theirs = (self.versions, self.suites, self.padding, self.unordered)
        need(theirs == ([VERSION], [terms.suite], terms.padding, terms.unordered), "a REKEY with other terms")
        return terms


class Initiator:
    """Our side of a handshake that we start; `inside` a channel it is a REKEY."""

    def __init__(
        self,
        me: Secret,
        expected: Identity,
        fresh: Fresh,
        padding: int = 0,
        unordered: bool = False,
        inside: Renewal | None = None,
    ) -> None:
        self.me, self.expected, self.fresh, self.inside = me, expected, fresh, inside
        self.suites = [HYBRID, CLASSICAL] if fresh.kem_seed else [CLASSICAL]
        self.offer = Terms(self.suites[0], padding, unordered)
        if inside:
            self.suites, self.offer = [inside.terms.suite], inside.terms
        self.kem = MLKEM768PrivateKey.from_seed_bytes(fresh.kem_seed) if fresh.kem_seed else None
        ek = self.kem.public_key().public_bytes_raw() if self.kem else b""
        body = encode_hello(self.suites, self.offer.flags, fresh, ek)
        self.hello = body + (bytes(16) if inside else mac1(expected.key, body))
        self.schedule = Schedule(self.hello)

    def on_reply(self, reply: bytes) -> tuple[bytes, Channel]:
        terms, finish = self.conclude(reply)
        return finish, Channel(self.schedule, terms, True, self.me, self.expected)

    def conclude(self, reply: bytes) -> tuple[Terms, bytes]:
        """What was agreed on and FINISH; the schedule is filled in."""
        if reply[:9] == MAGIC + b"\x7f":
            raise ChannelError(f"refused with alert {reply[9:].hex()}")
        opened, sealed = reply[:-SEALED_IDENTITY_BYTES], reply[-SEALED_IDENTITY_BYTES:]
        terms, e_r, ct = self._parse(opened)
        ss = self.kem.decapsulate(ct) if terms.suite == HYBRID and self.kem else b""
        s, psk = self.schedule, self.inside.ratchet if self.inside else NO_PSK
        s.meet(opened, agree(self.fresh.ephemeral, e_r), self.fresh.public, e_r, ss, psk)
        plain = unseal(s.k_r, bytes(24), s.th2, sealed)
        identity, signature, fin = plain[:64], plain[64:128], plain[128:]
        need(identity == self.expected.encode(), "another identity answered")
        verify(self.expected.key, s.responder_signed(identity), signature)
        need(same(fin, s.responder_fin(signature)), "authentication failed")
        mine = self.me.identity.encode()
        signed = self.me.sign(s.initiator_signed(mine))
        plain = mine + signed + s.initiator_fin(signed)
        finish = MAGIC + b"\x03" + seal(s.k_i, bytes(24), s.th5, plain)
        s.finish(self.inside.epoch if self.inside else 0)
        return terms, finish

    def _parse(self, opened: bytes) -> tuple[Terms, bytes, bytes]:
        """The terms, R's ephemeral key and the ciphertext."""
        reader = Reader(opened)
        need(reader.take(9) == MAGIC + b"\x02" and reader.number(1) == VERSION, "not a REPLY of version 1")
        suite = reader.number(2)
        terms = Terms(suite, *parse_flags(reader.number(2)))
        need(suite in self.suites and terms.padding <= self.offer.padding, "a suite or a policy that was not offered")
        need(terms.unordered == self.offer.unordered, "another kind of carrier")
        need(not self.inside or terms == self.inside.terms, "a REKEY with other terms")
        reader.take(32)
        e_r, ct = reader.take(32), reader.take(reader.number(2))
        reader.end()
        need(len(ct) == (CT_BYTES if suite == HYBRID else 0), "a ciphertext that does not fit the suite")
        return terms, e_r, ct


def anybody(_: Identity) -> bool:
    """A trust store that has everybody."""
    return True


class Responder:
    """Our side of a handshake that the other side starts; `inside` a channel it is a REKEY."""

    def __init__(
        self,
        me: Secret,
        hello: bytes,
        fresh: Fresh,
        padding: int = 0,
        unordered: bool = False,
        inside: Renewal | None = None,
    ) -> None:
        self.me, self.inside = me, inside
        body, mac = hello[:-16], hello[-16:]
        need(same(bytes(16) if inside else mac1(me.identity.key, body), mac), "mac1 does not hold")
        offer = Hello.parse(body)
        self.terms = offer.repeat(inside.terms) if inside else offer.agree(padding, unordered)
        ct, ss = b"", b""
        if self.terms.suite == HYBRID and offer.kem:
            ss, ct = fresh.encapsulated or offer.kem.encapsulate()
        opened = MAGIC + bytes([2, VERSION]) + struct.pack(">HH", self.terms.suite, self.terms.flags)
        opened += fresh.nonce + fresh.public + block(ct)
        s = self.schedule = Schedule(hello)
        shared, psk = agree(fresh.ephemeral, offer.e_i), inside.ratchet if inside else NO_PSK
        s.meet(opened, shared, offer.e_i, fresh.public, ss, psk)
        mine = me.identity.encode()
        signed = me.sign(s.responder_signed(mine))
        self.reply = opened + seal(s.k_r, bytes(24), s.th2, mine + signed + s.responder_fin(signed))

    def on_finish(self, finish: bytes, trusts: Callable[[Identity], bool] = anybody) -> tuple[Identity, Channel]:
        identity = self.conclude(finish, trusts)
        return identity, Channel(self.schedule, self.terms, False, self.me, identity, trusts)

    def conclude(self, finish: bytes, trusts: Callable[[Identity], bool]) -> Identity:
        """Who it is; `trusts` is asked before the signature counts. The schedule is filled in."""
        s = self.schedule
        need(len(finish) == 9 + SEALED_IDENTITY_BYTES and finish[:9] == MAGIC + b"\x03", "not a FINISH")
        plain = unseal(s.k_i, bytes(24), s.th5, finish[9:])
        identity, signature, fin = plain[:64], plain[64:128], plain[128:]
        need(identity != self.me.identity.encode(), "our own identity")
        theirs = Identity.decode(identity)
        need(trusts(theirs), "an identity that is not enrolled, or another than before")
        verify(theirs.key, s.initiator_signed(identity), signature)
        need(same(fin, s.initiator_fin(signature)), "authentication failed")
        s.finish(self.inside.epoch if self.inside else 0)
        return theirs


# Padding


def padded(policy: int, size: int) -> int:
    """P(n) of the specification."""
    length = max(size + 1, 256)
    if policy == 0:
        return size
    if policy == 2:
        return 1 << (length - 1).bit_length()
    exponent = length.bit_length() - 1
    mask = (1 << (exponent - exponent.bit_length())) - 1
    return (length + mask) & ~mask


def pad(policy: int, plaintext: bytes) -> bytes:
    return plaintext if policy == 0 else (plaintext + b"\x80").ljust(padded(policy, len(plaintext)), b"\0")


def unpad(policy: int, data: bytes) -> bytes:
    if policy == 0:
        return data
    end = len(data.rstrip(b"\0")) - 1
    need(end >= 0 and data[end] == 0x80 and padded(policy, end) == len(data), "padding")
    return data[:end]


# Records

READY, CLOSE, ERROR, KEYUPDATE, REKEY_HELLO, REKEY_REPLY, REKEY_FINISH, REKEY_REQ, KEEPALIVE = range(9)
REKEY_END = 10  # 9 is reserved
REKEY_MESSAGES = (REKEY_HELLO, REKEY_REPLY, REKEY_FINISH)
CONTROL_SIZES = {READY: 25, CLOSE: 3, KEYUPDATE: 1, REKEY_REQ: 1, KEEPALIVE: 1, REKEY_END: 1}


def is_object(metadata: bytes) -> bool:
    try:
        return isinstance(json.loads(metadata.decode()), dict)
    except (ValueError, RecursionError):
        return False


def is_error(body: bytes) -> bool:
    """u16 code, then at most 1 KiB of UTF-8."""
    try:
        body[2:].decode()
    except UnicodeDecodeError:
        return False
    return 2 <= len(body) <= 2 + 1024


def has_form(control: bytes) -> bool:
    """Whether a control record is one of this version, as the table has it."""
    kind, body = control[:1], control[1:]
    if not kind:
        return False
    if kind[0] == ERROR:
        return is_error(body)
    return len(body) <= MAX_HANDSHAKE_FRAME if kind[0] in REKEY_MESSAGES else len(control) == CONTROL_SIZES.get(kind[0])


@dataclass(frozen=True)
class Ready:
    """What R wants I to know."""

    clock_ms: int
    max_plaintext: int
    idle: int
    keepalive: int
    rotation: int

    def encode(self) -> bytes:
        numbers = (self.clock_ms, self.max_plaintext, self.idle, self.keepalive, self.rotation)
        return bytes([READY]) + struct.pack(">QIIII", *numbers)

    @staticmethod
    def decode(control: bytes) -> Ready:
        ready = Ready(*struct.unpack(">QIIII", control[1:]))
        need(1 <= ready.max_plaintext <= MAX_PLAINTEXT, "READY with an impossible size")
        return ready


class Order:
    """The counters of a generation on an ordered carrier: one after the other."""

    def __init__(self) -> None:
        self.end = 0

    def admits(self, counter: int) -> bool:
        return counter == self.end <= MAX_COUNTER

    def note(self, counter: int) -> None:
        self.end = counter + 1


class Window:
    """The counters of a generation on an unordered carrier; bit i of `seen` is the counter `end - 1 - i`."""

    def __init__(self) -> None:
        self.end, self.seen = 0, 0

    def admits(self, counter: int) -> bool:
        behind = self.end - 1 - counter
        return counter <= MAX_COUNTER and (behind < 0 or (behind < WINDOW and not self.seen >> behind & 1))

    def note(self, counter: int) -> None:
        ahead = max(0, counter + 1 - self.end)
        self.end += ahead
        self.seen = self.seen << min(ahead, WINDOW) & (1 << WINDOW) - 1
        self.seen |= 1 << self.end - 1 - counter


class Half:
    """One direction in one generation: its key, its place and its counters."""

    def __init__(self, key: bytes, cid: bytes, epoch: int, unordered: bool, generation: int = 0) -> None:
        self.key, self.cid, self.epoch, self.generation, self.unordered = key, cid, epoch, generation, unordered
        self.counters = Window() if unordered else Order()
        self.counter, self.bytes = 0, 0  # what was sent
        self.awaits_ready, self.ended, self.until = False, False, None  # what comes

    def prefix(self, kind: int) -> bytes:
        return struct.pack(">BBHH", 1, kind, self.epoch, self.generation) + self.cid

    def next(self) -> Half:
        """The generation after this one."""
        generation = self.generation + 1
        need(generation <= LAST_GENERATION, "no generation is left", LIMIT)
        key = kdf(self.key, "key update", struct.pack(">HH", self.epoch, generation), 32)
        return Half(key, self.cid, self.epoch, self.unordered, generation)


# The channel


@dataclass
class Settings:
    """What the owner sets; seconds, and bytes with their padding."""

    idle: int = 3600
    keepalive: int = 60
    rotation: int = 24 * 3600
    handshake: int = 30
    max_plaintext: int = MAX_PLAINTEXT
    refuse_skew: bool = False


WAITS_FOR_READY = "READY"


class Channel:
    """Both directions, and what keeps them alive.

    `open` takes frames and `seal` makes them. What the protocol itself has to send waits in `answers`, in its order and
    before anything that is sealed later; whoever owns the carrier sends it on.
    """

    def __init__(
        self,
        schedule: Schedule,
        terms: Terms,
        initiator: bool,
        me: Secret,
        peer: Identity,
        trusts: Callable[[Identity], bool] = anybody,
    ) -> None:
        self.terms, self.initiator, self.me, self.peer, self.trusts = terms, initiator, me, peer, trusts
        self.settings, self.make_fresh, self.wall = Settings(), Fresh.make, time.time
        self.exporter, self.answers = schedule.exporter, []
        self.ready: Ready | None = None
        self.step: Initiator | Responder | str | None = None  # of a REKEY
        self.over, self.said_close, self.dropped = False, False, 0
        self.lanes: list[Half] = []  # the newest first
        self.keep_time(time.monotonic)
        self._enter(schedule, 0)

    def keep_time(self, clock: Callable[[], float]) -> None:
        """Goes by this clock, from now on."""
        self.clock = clock
        self.used = self.heard = self.said = self.epoch_began = self.generation_began = clock()
        self.due: float | None = None
        self.asked: float | None = None

    def _enter(self, schedule: Schedule, epoch: int) -> None:
        """Goes on in the keys of an epoch, in both directions."""
        mine, theirs = (schedule.to_responder, schedule.cid_i), (schedule.to_initiator, schedule.cid_r)
        if not self.initiator:
            mine, theirs = theirs, mine
        self.epoch, self.ratchet = epoch, schedule.ratchet
        self.sending = Half(*mine, epoch, self.terms.unordered)
        self.records, self.bytes, self.owes_ready = 0, 0, not self.initiator
        self.generation_began = self.clock()
        newest = Half(*theirs, epoch, self.terms.unordered)
        newest.awaits_ready = self.initiator and not self.terms.unordered
        if not newest.awaits_ready and not self.terms.unordered:
            self.lanes = []
        self._expect(newest)

    def _expect(self, newest: Half) -> None:
        """Makes a generation of the other side's the current one; what was left goes after 30 s where records are late."""
        if self.terms.unordered:
            for lane in self.lanes:
                lane.until = lane.until or self.clock() + OLD_KEYS_SECONDS
        self.lanes = [newest, *self.lanes][:MAX_LANES]
        last = newest.generation == LAST_GENERATION
        self.ahead = newest.next() if self.terms.unordered and not last else None

    # Sending

    def seal(self, plaintext: bytes, kind: int = 0) -> bytes:
        """The next record: kind 0 for the application, 1 for control."""
        size, control = padded(self.terms.padding, len(plaintext)), plaintext[0] if kind == 1 and plaintext else None
        need(not self.said_close, "a record after CLOSE")
        need(not self.owes_ready or control == READY, "a record before READY")
        need(size <= (self.max_plaintext() if kind == 0 else MAX_PLAINTEXT), "a record that is too long")
        used_up = self.records >= EPOCH_RECORDS or self.bytes >= EPOCH_BYTES
        need(not used_up or control == CLOSE, "the epoch is used up", LIMIT)
        successor = self.sending.next() if control == KEYUPDATE else None
        frame = self._seal(kind, pad(self.terms.padding, plaintext))
        self.owes_ready, self.said_close = False, control == CLOSE
        if successor:
            self.sending, self.generation_began = successor, self.said
        return frame

    def _seal(self, kind: int, data: bytes) -> bytes:
        half = self.sending
        need(half.counter <= MAX_COUNTER, "no counter is left", LIMIT)
        nonce = half.prefix(kind) + struct.pack(">Q", half.counter)
        half.counter, half.bytes = half.counter + 1, half.bytes + len(data)
        self.records, self.bytes, self.said = self.records + 1, self.bytes + len(data), self.clock()
        self.used = self.said if kind == 0 else self.used
        return RECORD_MAGIC + nonce + struct.pack(">I", 2) + b"{}" + seal(half.key, nonce, b"{}", data)

    def max_plaintext(self) -> int:
        """The longest application record that the other side takes, padding included."""
        return self.ready.max_plaintext if self.initiator and self.ready else MAX_PLAINTEXT

    def key_update_due(self) -> bool:
        """Whether KEYUPDATE must come before the next application record."""
        half, age = self.sending, self.clock() - self.generation_began
        return half.counter >= GENERATION_RECORDS or half.bytes >= GENERATION_BYTES or age >= GENERATION_SECONDS

    def key_update(self) -> bytes:
        return self.seal(bytes([KEYUPDATE]), kind=1)

    def say_ready(self) -> bytes:
        """READY, the first record of R in every epoch."""
        s = self.settings
        ready = Ready(int(self.wall() * 1000), s.max_plaintext, s.idle, s.keepalive, s.rotation)
        return self.seal(ready.encode(), kind=1)

    def close(self, reason: int = NORMAL) -> bytes:
        return self.seal(struct.pack(">BH", CLOSE, reason), kind=1)

    # Receiving

    def open(self, frame: bytes) -> tuple[int, bytes] | None:
        """The kind and plaintext of the next record, or None for one that was dropped; any failure is the end."""
        need(not self.over, "the channel is over")
        self.over = True
        result = self._open(frame)
        self.over = result is not None and result[0] == 1 and result[1][0] == CLOSE
        return result

    def _open(self, frame: bytes) -> tuple[int, bytes] | None:
        try:
            lane, kind, metadata, data = self._unseal(frame)
        except ChannelError:
            if not self.terms.unordered:
                raise
            self.dropped += 1
            need(self.dropped < MAX_DROPPED, "too many records that do not open", BAD_RECORD)
            return None
        need(metadata == b"{}" or (kind == 0 and is_object(metadata)), "metadata")
        plaintext = unpad(self.terms.padding, data)
        self.heard = self.clock()
        if kind == 1:
            self._control(lane, plaintext)
            return kind, plaintext
        need(not lane.awaits_ready, "application data before READY")
        need(self.initiator or len(data) <= self.settings.max_plaintext, "a record that is too long")
        self.used = self.heard
        return kind, plaintext

    def _unseal(self, frame: bytes) -> tuple[Half, int, bytes, bytes]:
        """Steps 1 to 5: whose record it is, its kind, metadata and padded plaintext."""
        need(len(frame) <= MAX_FRAME, "a frame that is too long")
        reader = Reader(frame)
        need(reader.take(8) == RECORD_MAGIC, "not a record")
        prefix, counter, size = reader.take(16), reader.number(8), reader.number(4)
        need(size <= MAX_METADATA, "metadata of more than 16 KiB")
        metadata, sealed = reader.take(size), reader.data
        need(16 <= len(sealed) <= MAX_PLAINTEXT + 16, "a record of a wrong size")
        lane, kind = self._lane(prefix)
        need(self._is_its_turn(lane), "a record of an epoch that is over or that has not begun", BAD_RECORD)
        need(lane.counters.admits(counter), "a record that is too early, too late, or there twice", BAD_RECORD)
        data = unseal(lane.key, prefix + struct.pack(">Q", counter), metadata, sealed)
        lane.counters.note(counter)
        self._heard_on(lane)
        return lane, kind, metadata, data

    def _lane(self, prefix: bytes) -> tuple[Half, int]:
        """The generation that a prefix names, and the kind of record."""
        now = self.clock()
        self.lanes = [lane for lane in self.lanes if lane.until is None or now < lane.until]
        for lane in [*self.lanes, self.ahead] if self.ahead else self.lanes:
            for kind in (0, 1):
                if prefix == lane.prefix(kind):
                    return lane, kind
        raise ChannelError("a record of another place or channel", BAD_RECORD)

    def _is_its_turn(self, lane: Half) -> bool:
        """Counters start again with an epoch: REKEY_END is what shows that nothing of the old one is missing."""
        if self.terms.unordered or len(self.lanes) == 1:
            return True
        return self.lanes[1].ended == (lane is self.lanes[0])

    def _heard_on(self, lane: Half) -> None:
        """What a record that opened says of the other side's keys."""
        if lane is self.ahead:
            self._expect(lane)
        if not self.terms.unordered and lane is self.lanes[0]:
            self.lanes = [lane]  # the other side has entered the epoch and left the one before
        if self.terms.unordered and self.step == WAITS_FOR_READY and lane.epoch == self.epoch:
            self._renewed()

    def _control(self, lane: Half, control: bytes) -> None:
        need(has_form(control), "a control record that is not spoken here")
        kind, body = control[0], control[1:]
        need(kind == READY or not lane.awaits_ready, "a control record before READY")
        if kind == READY:
            self._on_ready(lane, control)
        elif kind == KEYUPDATE:
            self._on_key_update(lane)
        elif kind == CLOSE and not self.said_close:
            self.answers.append(self.seal(control, kind=1))
        elif kind == REKEY_REQ:
            need(self.initiator, "a REKEY_REQ from the initiator")
            if self.step is None and not self.said_close:
                self.answers.append(self.rekey())
        elif kind in REKEY_MESSAGES:
            self._on_rekey(kind, body)
        elif kind == REKEY_END:
            need(self.terms.unordered or lane is not self.lanes[0], "a REKEY_END of no REKEY", REKEY_FAILED)
            lane.ended = True

    def _on_ready(self, lane: Half, control: bytes) -> None:
        need(self.initiator and (lane.awaits_ready or self.terms.unordered), "a READY that nobody waits for")
        lane.awaits_ready = False
        ready = Ready.decode(control)
        if self.step == WAITS_FOR_READY and lane.epoch == self.epoch:
            self._renewed()
        if self.ready is not None:
            return  # a later epoch's changes nothing
        apart, ours = abs(ready.clock_ms / 1000 - self.wall()), self.settings
        need(not ours.refuse_skew or apart <= MAX_SKEW_SECONDS, "the clocks are too far apart", CLOCK)
        idle, rotation = min(ours.idle, ready.idle or ours.idle), min(ours.rotation, ready.rotation or ours.rotation)
        self.ready, self.settings = ready, replace(ours, idle=idle, rotation=rotation, keepalive=ready.keepalive)

    def _on_key_update(self, lane: Half) -> None:
        if not self.terms.unordered:
            self.lanes[self.lanes.index(lane)] = lane.next()
        elif lane is self.lanes[0]:
            need(self.ahead is not None, "no generation is left", LIMIT)
            self._expect(self.ahead)

    # REKEY

    def rekey(self) -> bytes:
        """Starts one, as the initiator: the record with REKEY_HELLO."""
        need(self.initiator and self.step is None, "a REKEY that may not start now")
        need(self.epoch < LAST_EPOCH, "no epoch is left", LIMIT)
        fresh = self.make_fresh(self.terms.suite == HYBRID)
        self.step = Initiator(self.me, self.peer, fresh, inside=self._renewal())
        self._fall_due()
        return self.seal(bytes([REKEY_HELLO]) + self.step.hello, kind=1)

    def ask_for_rekey(self) -> bytes:
        """Asks for one, as the responder."""
        need(not self.initiator and self.step is None, "a REKEY_REQ that may not come now")
        self._fall_due()
        self.asked = self.clock()
        return self.seal(bytes([REKEY_REQ]), kind=1)

    def _renewal(self) -> Renewal:
        return Renewal(self.terms, self.ratchet, self.epoch + 1)

    def _on_rekey(self, kind: int, body: bytes) -> None:
        """A message of a REKEY; whatever is wrong with it, the channel is over for this reason."""
        steps = {REKEY_HELLO: self._on_hello, REKEY_REPLY: self._on_reply, REKEY_FINISH: self._on_finish}
        if self.said_close and kind != REKEY_FINISH:
            return
        try:
            steps[kind](body)
        except ChannelError as error:
            raise ChannelError(f"REKEY: {error}", REKEY_FAILED) from error

    def _on_hello(self, hello: bytes) -> None:
        need(not self.initiator and self.step is None, "a REKEY_HELLO that nobody waits for")
        need(self.epoch < LAST_EPOCH, "no epoch is left")
        self._fall_due()
        self.step = Responder(self.me, hello, self.make_fresh(False), inside=self._renewal())
        self.answers.append(self.seal(bytes([REKEY_REPLY]) + self.step.reply, kind=1))

    def _on_reply(self, reply: bytes) -> None:
        need(isinstance(self.step, Initiator), "a REKEY_REPLY that nobody waits for")
        _, finish = self.step.conclude(reply)
        self.answers.append(self.seal(bytes([REKEY_FINISH]) + finish, kind=1))
        self._enter(self.step.schedule, self.epoch + 1)
        self.step = WAITS_FOR_READY

    def _on_finish(self, finish: bytes) -> None:
        need(isinstance(self.step, Responder), "a REKEY_FINISH that nobody waits for")
        self.step.conclude(finish, lambda identity: identity == self.peer and self.trusts(identity))
        if not self.said_close:
            self.answers.append(self.seal(bytes([REKEY_END]), kind=1))
        self._enter(self.step.schedule, self.epoch + 1)
        self._renewed()
        if not self.said_close:
            self.answers.append(self.say_ready())

    def _renewed(self) -> None:
        self.step, self.due, self.asked = None, None, None
        self.epoch_began = self.clock()

    def _fall_due(self) -> None:
        self.due = self.clock() if self.due is None else self.due

    # Time

    def tick(self) -> None:
        """Does what time asks for; fails when the channel has to end."""
        now, s = self.clock(), self.settings
        if self.said_close:
            return
        need(now - self.used < s.idle, "no application record for too long", IDLE)
        if self.lanes[0].awaits_ready and self.epoch == 0:
            need(now - self.heard < s.handshake, "READY does not come")
            return
        need(not s.keepalive or now - self.heard < SILENT_INTERVALS * s.keepalive, "no sign of life")
        self._tick_rekey(now)
        if s.keepalive and now - self.said >= s.keepalive:
            self.answers.append(self.seal(bytes([KEEPALIVE]), kind=1))

    def _tick_rekey(self, now: float) -> None:
        half_used = self.records >= EPOCH_RECORDS // 2 or self.bytes >= EPOCH_BYTES // 2
        if now - self.epoch_began >= self.settings.rotation or half_used:
            self._fall_due()
        if self.due is None:
            return
        need(now - self.due < REKEY_SECONDS, "a REKEY does not complete", REKEY_FAILED)
        asked = self.asked is not None
        need(not asked or now - self.asked < self.settings.handshake, "a REKEY was asked for in vain", REKEY_FAILED)
        if self.step is None and self.initiator:
            self.answers.append(self.rekey())
        elif self.step is None and not asked:
            self.answers.append(self.ask_for_rekey())
