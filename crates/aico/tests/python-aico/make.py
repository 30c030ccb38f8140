"""Makes the folders of a Python AICO beside this file, with the library that it uses itself.

    python -m venv V && V/bin/pip install apsw-sqlite3mc==3.54.0.0 cryptography==50.0.2 && V/bin/python make.py

`merged` is one that was closed, `crashed` one whose last rows are in the write-ahead log. The master key is that of the password
and the salt below, as its keyring has it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import apsw
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

HERE = Path(__file__).resolve().parent
PASSWORD, SALT = "Correct-Horse-7-é", bytes.fromhex("00112233445566778899aabbccddeeff")
FIXED = hashlib.sha256


def master() -> bytes:
    kdf = Argon2id(salt=SALT, length=32, iterations=3, lanes=4, memory_cost=1024 * 1024, ad=None, secret=None)
    return kdf.derive(PASSWORD.encode())


def database_key(key: bytes, salt: bytes) -> str:
    return PBKDF2HMAC(algorithm=hashes.SHA256(), length=32, salt=salt, iterations=100_000).derive(key + b"aico-db-libsql").hex()


def sealed(key: bytes, purpose: str, content: bytes) -> bytes:
    salt = hashlib.sha256(f"aico-file-salt-{purpose}".encode()).digest()[:16]
    kdf = Argon2id(salt=salt, length=32, iterations=1, lanes=2, memory_cost=128 * 1024, ad=None, secret=None)
    head = b"AICO" + FIXED(content).digest()[:28]
    return head + AESGCM(kdf.derive(key + f"aico-file-{purpose}".encode())).encrypt(head[20:], content, head)


def fill(path: Path, key: str, crash: bool) -> None:
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA cipher = 'aes256cbc'")
    connection.execute(f"PRAGMA key = 'x\"{key}\"'")
    connection.execute(f"PRAGMA journal_mode = {'wal' if crash else 'delete'}")
    connection.execute(
        """
        CREATE TABLE users(uuid TEXT PRIMARY KEY, full_name TEXT NOT NULL, is_active BOOLEAN DEFAULT TRUE, created_at TIMESTAMP);
        CREATE TABLE devices(uuid TEXT PRIMARY KEY, user_uuid TEXT REFERENCES users(uuid), trust REAL);
        CREATE TABLE logs(id INTEGER PRIMARY KEY AUTOINCREMENT, level TEXT, message TEXT, extra BLOB);
        INSERT INTO users VALUES('86604b81-ae1f-8fbb-01f4-f693a20b3f57', 'Ada Lovelace', TRUE, '2026-01-02 03:04:05');
        INSERT INTO devices VALUES('d-1', '86604b81-ae1f-8fbb-01f4-f693a20b3f57', 0.1);
        """
    )
    connection.executemany("INSERT INTO logs(level, message, extra) VALUES('INFO', ?, ?)", ((f"line {n} " + "x" * 60, bytes([n])) for n in range(100)))
    if crash:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("INSERT INTO users VALUES('later', 'Grace Hopper', FALSE, NULL)")
        os._exit(0)
    connection.close()


def main() -> None:
    key, salt = master(), FIXED(b"database salt").digest()[:16]
    for name in ("merged", "crashed"):
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        data = folder / "data"
        data.mkdir(parents=True)
        (data / "aico.db.salt").write_bytes(salt)
        path = data / "aico.db"
        # In a process of its own, which one of them does not survive.
        subprocess.run([sys.executable, __file__, "fill", str(path), database_key(key, salt), name], check=True)
        (data / "aico.db-shm").unlink(missing_ok=True)
    merged = HERE / "merged"
    (merged / "cache").mkdir()
    (merged / "cache" / "session.enc").write_bytes(sealed(key, "cache", b'{"session": "over"}'))
    (merged / "config.enc").write_bytes(sealed(key, "config", b"greeting: hello\n"))
    (merged / "readme.txt").write_text("not encrypted\n")
    (HERE / "master_key").write_text(key.hex() + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["fill"]:
        fill(Path(sys.argv[2]), sys.argv[3], sys.argv[4] == "crashed")
    else:
        main()
