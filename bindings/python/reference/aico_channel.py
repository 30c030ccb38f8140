"""The channel of docs/spec/channel.md, a second time: libsodium through PyNaCl, ML-KEM-768 through cryptography.

Written to be read beside the specification. Nothing here is fast or hardened; it is what another language needs.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass

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
MAX_PLAINTEXT, MAX_METADATA = 16 * 1024 * 1024, 16 * 1024
NO_PSK = bytes(32)


class ChannelError(Exception):
    """The handshake or the channel is over."""


def need(holds: bool, why: str) -> None:
    if not holds:
        raise ChannelError(why)


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
        raise ChannelError("authentication failed") from error


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


def mac1(responder: bytes, body: bytes) -> bytes:
    return kdf(transcript("m", responder)[:32], "mac1", body, 16)


@dataclass
class Inside:
    """What a REKEY takes over from the channel that it happens in."""

    suite: int
    ratchet: bytes
    epoch: int


class Initiator:
    def __init__(self, me: Secret, expected: Identity, fresh: Fresh, inside: Inside | None = None) -> None:
        self.me, self.expected, self.fresh, self.inside = me, expected, fresh, inside
        self.suites = [HYBRID, CLASSICAL] if fresh.kem_seed else [CLASSICAL]
        if inside:
            self.suites = [inside.suite]
        self.kem = MLKEM768PrivateKey.from_seed_bytes(fresh.kem_seed) if fresh.kem_seed else None
        body = MAGIC + bytes([1, 1, VERSION, len(self.suites)])
        body += b"".join(struct.pack(">H", suite) for suite in self.suites) + bytes(2)
        body += fresh.nonce + fresh.public + block(self.kem.public_key().public_bytes_raw() if self.kem else b"")
        self.hello = body + (bytes(16) if inside else mac1(expected.key, body))
        self.schedule = Schedule(self.hello)

    def on_reply(self, reply: bytes) -> tuple[bytes, Channel]:
        if reply[:9] == MAGIC + b"\x7f":
            raise ChannelError(f"refused with alert {reply[9:].hex()}")
        opened, sealed = reply[:-SEALED_IDENTITY_BYTES], reply[-SEALED_IDENTITY_BYTES:]
        reader = Reader(opened)
        need(reader.take(9) == MAGIC + b"\x02" and reader.number(1) == VERSION, "not a REPLY of version 1")
        suite = reader.number(2)
        need(suite in self.suites and reader.number(2) == 0, "a suite or flags that were not offered")
        reader.take(32)
        e_r, ct = reader.take(32), reader.take(reader.number(2))
        reader.end()
        need(len(ct) == (CT_BYTES if suite == HYBRID else 0), "a ciphertext that does not fit the suite")
        ss = self.kem.decapsulate(ct) if suite == HYBRID and self.kem else b""
        s = self.schedule
        psk = self.inside.ratchet if self.inside else NO_PSK
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
        return finish, Channel(s, True, self.me, self.expected, suite)


class Responder:
    def __init__(self, me: Secret, hello: bytes, fresh: Fresh, inside: Inside | None = None) -> None:
        self.me, self.inside = me, inside
        body, mac = hello[:-16], hello[-16:]
        need(same(bytes(16) if inside else mac1(me.identity.key, body), mac), "silence")
        reader = Reader(body)
        need(reader.take(9) == MAGIC + b"\x01", "not a HELLO")
        versions = list(reader.take(reader.number(1)))
        suites = [reader.number(2) for _ in range(reader.number(1))]
        flags = reader.number(2)
        reader.take(32)
        e_i, ek = reader.take(32), reader.take(reader.number(2))
        reader.end()
        need(len(set(versions)) == len(versions) and len(set(suites)) == len(suites), "an offer stands there twice")
        need(flags & ~3 == 0 and flags & 3 != 3, "flags")
        need(len(ek) == (EK_BYTES if HYBRID in suites else 0), "an encapsulation key that does not fit the offer")
        try:
            kem = MLKEM768PublicKey.from_public_bytes(ek) if ek else None  # checked even if it is not chosen
        except ValueError as error:
            raise ChannelError("an encapsulation key that is not reduced") from error
        known = [suite for suite in suites if suite in (CLASSICAL, HYBRID)]
        need(VERSION in versions and bool(known), "no common version or suite")
        need(not inside or (suites == [inside.suite] and flags == 0), "a REKEY with other terms")
        self.suite = known[0]
        ct, ss = b"", b""
        if known[0] == HYBRID:
            ss, ct = fresh.encapsulated or kem.encapsulate()
        opened = MAGIC + bytes([2, VERSION]) + struct.pack(">HH", known[0], 0) + fresh.nonce + fresh.public + block(ct)
        s = self.schedule = Schedule(hello)
        psk = inside.ratchet if inside else NO_PSK
        s.meet(opened, agree(fresh.ephemeral, e_i), e_i, fresh.public, ss, psk)
        mine = me.identity.encode()
        signed = me.sign(s.responder_signed(mine))
        self.reply = opened + seal(s.k_r, bytes(24), s.th2, mine + signed + s.responder_fin(signed))

    def on_finish(self, finish: bytes) -> tuple[Identity, Channel]:
        s = self.schedule
        need(len(finish) == 9 + SEALED_IDENTITY_BYTES and finish[:9] == MAGIC + b"\x03", "not a FINISH")
        plain = unseal(s.k_i, bytes(24), s.th5, finish[9:])
        identity, signature, fin = plain[:64], plain[64:128], plain[128:]
        need(identity != self.me.identity.encode(), "our own identity")
        theirs = Identity.decode(identity)
        verify(theirs.key, s.initiator_signed(identity), signature)
        need(same(fin, s.initiator_fin(signature)), "authentication failed")
        s.finish(self.inside.epoch if self.inside else 0)
        return theirs, Channel(s, False, self.me, theirs, self.suite)


# Records

READY, CLOSE, ERROR, KEYUPDATE, REKEY_HELLO, REKEY_REPLY, REKEY_FINISH, REKEY_REQ, KEEPALIVE = range(9)
CONTROL_SIZES = {READY: 25, CLOSE: 3, KEYUPDATE: 1, REKEY_REQ: 1, KEEPALIVE: 1}
REKEY_MESSAGES = (REKEY_HELLO, REKEY_REPLY, REKEY_FINISH)


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


class Half:
    """One direction of one epoch: its key, generation and counter."""

    def __init__(self, key: bytes, cid: bytes, epoch: int) -> None:
        self.key, self.cid, self.epoch, self.generation, self.counter = key, cid, epoch, 0, 0

    def prefix(self, kind: int) -> bytes:
        return struct.pack(">BBHH", 1, kind, self.epoch, self.generation) + self.cid

    def update(self) -> None:
        self.generation += 1
        self.key = kdf(self.key, "key update", struct.pack(">HH", self.epoch, self.generation), 32)
        self.counter = 0


class Channel:
    def __init__(self, schedule: Schedule, initiator: bool, me: Secret, peer: Identity, suite: int) -> None:
        self.me, self.peer, self.suite, self.initiator = me, peer, suite, initiator
        self.exporter, self.over, self.old, self.epoch = schedule.exporter, False, None, 0
        self.under_way: Initiator | Responder | None = None
        self._enter(schedule)

    def _enter(self, schedule: Schedule) -> None:
        """Goes on in the schedule's epoch. The initiator takes the old one's records until READY."""
        up, down = (schedule.to_responder, schedule.cid_i), (schedule.to_initiator, schedule.cid_r)
        mine, theirs = (up, down) if self.initiator else (down, up)
        if self.epoch and self.initiator:
            self.old = self.receiving
        self.sending, self.receiving = Half(*mine, self.epoch), Half(*theirs, self.epoch)
        self.ratchet, self.awaits_ready = schedule.ratchet, self.initiator

    def _inside(self) -> Inside:
        return Inside(self.suite, self.ratchet, self.epoch + 1)

    def rekey(self, fresh: Fresh) -> bytes:
        """Starts a REKEY, as the initiator; the record to send."""
        need(self.initiator and self.under_way is None, "a REKEY that may not start now")
        self.under_way = Initiator(self.me, self.peer, fresh, self._inside())
        return self.seal(bytes([REKEY_HELLO]) + self.under_way.hello, kind=1)

    def on_rekey(self, plaintext: bytes, fresh: Fresh, ready: bytes) -> list[bytes]:
        """Goes on with a REKEY; the records to send. `ready` is the body of the responder's READY."""
        kind, message = plaintext[0], plaintext[1:]
        if kind == REKEY_HELLO:
            need(not self.initiator and self.under_way is None, "a REKEY HELLO out of place")
            self.under_way = Responder(self.me, message, fresh, self._inside())
            return [self.seal(bytes([REKEY_REPLY]) + self.under_way.reply, kind=1)]
        need(self.under_way is not None, "a REKEY message out of place")
        if kind == REKEY_REPLY:
            need(self.initiator, "a REKEY REPLY out of place")
            finish, following = self.under_way.on_reply(message)
            last = self.seal(bytes([REKEY_FINISH]) + finish, kind=1)
            schedule, answers = self.under_way.schedule, [last]
        else:
            need(not self.initiator, "a REKEY FINISH out of place")
            theirs, following = self.under_way.on_finish(message)
            need(theirs == self.peer, "another identity")
            schedule, answers = self.under_way.schedule, []
        del following
        self.under_way, self.epoch = None, self.epoch + 1
        self._enter(schedule)
        return answers or [self.seal(bytes([READY]) + ready, kind=1)]

    def seal(self, plaintext: bytes, kind: int = 0) -> bytes:
        half = self.sending
        nonce = half.prefix(kind) + struct.pack(">Q", half.counter)
        half.counter += 1
        frame = RECORD_MAGIC + nonce + struct.pack(">I", 2) + b"{}" + seal(half.key, nonce, b"{}", plaintext)
        if kind == 1 and plaintext[:1] == bytes([KEYUPDATE]):
            half.update()
        return frame

    def open(self, frame: bytes) -> tuple[int, bytes]:
        """The kind and plaintext of the next record; any failure is the end of the channel."""
        need(not self.over, "the channel is over")
        self.over = True
        result = self._open(frame)
        self.over = result[0] == 1 and result[1][0] == CLOSE
        return result

    def _open(self, frame: bytes) -> tuple[int, bytes]:
        reader = Reader(frame)
        need(reader.take(8) == RECORD_MAGIC, "not a record")
        prefix, counter, size = reader.take(16), reader.number(8), reader.number(4)
        old = self.old is not None and prefix in (self.old.prefix(0), self.old.prefix(1))
        half = self.old if old else self.receiving
        need(size <= MAX_METADATA, "metadata of more than 16 KiB")
        metadata, sealed = reader.take(size), reader.data
        need(16 <= len(sealed) <= MAX_PLAINTEXT + 16, "a record of a wrong size")
        kinds = [kind for kind in (0, 1) if prefix == half.prefix(kind)]
        need(bool(kinds) and counter == half.counter, "a record out of order or of another channel")
        plaintext = unseal(half.key, prefix + struct.pack(">Q", counter), metadata, sealed)
        half.counter += 1
        kind = kinds[0]
        need(metadata == b"{}" or (kind == 0 and is_object(metadata)), "metadata")
        if not old:
            self.old = None  # the other side has entered the new epoch
        if kind == 0:
            need(old or not self.awaits_ready, "application data before READY")
        else:
            self._control(plaintext, half, old)
        return kind, plaintext

    def _control(self, plaintext: bytes, half: Half, old: bool) -> None:
        need(bool(plaintext), "an empty control record")
        kind = plaintext[0]
        need(kind in CONTROL_SIZES or kind == ERROR or kind in REKEY_MESSAGES, "a control record that is not spoken here")
        fits = is_error(plaintext[1:]) if kind == ERROR else len(plaintext) == CONTROL_SIZES.get(kind, len(plaintext))
        need(fits, "a control record of a wrong form")
        if kind == READY:
            need(1 <= int.from_bytes(plaintext[9:13], "big") <= MAX_PLAINTEXT, "READY with an impossible size")
        if not old:
            need((kind == READY) == self.awaits_ready, "READY is the first record of the responder, and only that")
            self.awaits_ready = False
        if kind == KEYUPDATE:
            half.update()


# Padding


def padded_size(policy: int, plaintext: int) -> int:
    """Bytes of a padded plaintext: policy 1 is Padmé, policy 2 the powers of two."""
    if policy == 0:
        return plaintext
    size = max(plaintext + 1, 256)
    if policy == 2:
        return 1 << (size - 1).bit_length()
    exponent = size.bit_length() - 1
    step = 1 << (exponent - exponent.bit_length())
    return -(-size // step) * step


def pad(policy: int, plaintext: bytes) -> bytes:
    return plaintext if policy == 0 else (plaintext + b"\x80").ljust(padded_size(policy, len(plaintext)), b"\0")


def unpad(policy: int, padded: bytes) -> bytes:
    if policy == 0:
        return padded
    plaintext = padded.rstrip(b"\0")
    need(plaintext[-1:] == b"\x80" and padded_size(policy, len(plaintext) - 1) == len(padded), "padding")
    return plaintext[:-1]
