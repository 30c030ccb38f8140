"""Starts a backend of its own, enrols the Python client through the owner's consent, and runs all tests against it.

Then it stops the backend, and runs the tests of what it left on the disk.
"""

import json
import os
import pty
import re
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from recovery_shares import Share, restore, spell
from vault_header import Header

HERE = Path(__file__).resolve().parent
TESTS = ["test_reference", "test_audit", "test_vault", "test_sealed", "test_shares", "test_live.Running"]
CONFIGURATION = """security:
  transport: {padding: padme}
  components: {backend: {listen_address: "127.0.0.1:0"}}
  vault: {stretch_memory: 64}
"""
OLD, NEW = "a password of the tests", "ein anderes, mit Größe"


class Trial:
    """A home of its own and its backend."""

    def __init__(self, root: str) -> None:
        self.root, self.home, self.keys = Path(root), Path(root, "data"), Path(root, "keys")
        self.env = {"PATH": os.environ["PATH"], "HOME": root, "AICO_HOME": str(self.home), "AICO_KEY_DIR": str(self.keys)}
        self.home.mkdir(mode=0o700)
        (self.home / "security.yaml").write_text(CONFIGURATION)
        self.aico = os.environ["AICO_BIN"]
        self.backend = subprocess.Popen([self.aico, "up"], env=self.env, stdout=subprocess.DEVNULL)

    def run(self, *command: str, passwords: tuple[str, ...] = ()) -> str:
        """What a command prints; it is given the passwords, one a line."""
        if passwords:
            file = self.root / "passwords"
            file.touch(0o600)
            file.write_text("".join(password + "\n" for password in passwords))
            command += ("--password-file", str(file))
        ran = subprocess.run([self.aico, *command], env=self.env, check=True, stdout=subprocess.PIPE, text=True, timeout=120)
        return ran.stdout

    def wait(self) -> dict:
        """The status, once there is one."""
        while subprocess.run([self.aico, "status"], env=self.env, capture_output=True).returncode:
            assert self.backend.poll() is None, "the backend ended"
            time.sleep(0.05)
        return json.loads(self.run("status", "--json"))

    def enrol(self, identity: Path) -> None:
        """The Python client asks, and the owner approves."""
        client = [sys.executable, str(HERE / "aico_client.py"), "--home", str(self.home), "--identity", str(identity)]
        waiting = subprocess.Popen([*client, "enrol"], stdout=subprocess.PIPE, text=True)
        self.run("identity", "approve", waiting.stdout.readline().strip(), passwords=(OLD,))
        assert waiting.communicate(timeout=30)[0].strip() == "enrolled"

    def recovery(self, *options: str) -> list[str]:
        """Has a code or its shares made, on a terminal: it types back the words that are asked for, and the password."""
        process, terminal = pty.fork()
        if process == 0:
            os.execve(self.aico, [self.aico, "security", "recovery", *options], self.env)
        papers, words, said, deadline = {}, {}, "", time.monotonic() + 60
        while time.monotonic() < deadline and select.select([terminal], [], [], 60)[0]:
            try:
                said += os.read(terminal, 4096).decode()
            except OSError:
                break  # it has ended
            words |= {int(number): word for number, word in re.findall(r"(\d+)\. ([a-z]+)", said)}
            asked = re.search(r"(?:word (\d+) of ([a-z0-9 ]+)|[Pp]assword)[^\n]*: ?$", said)
            if asked:
                if asked[2]:
                    papers[asked[2]] = " ".join(word for _, word in sorted(words.items()))
                time.sleep(0.2)  # for the terminal to stop its echo
                os.write(terminal, (words[int(asked[1])] if asked[1] else OLD).encode() + b"\n")
                said = ""
        _, status = os.waitpid(process, 0)
        assert status == 0, f"no recovery code: {said}"
        return list(papers.values())

    def tests(self, names: list[str], **known: object) -> int:
        live = os.environ | {f"AICO_LIVE_{name}": str(value) for name, value in known.items()}
        return subprocess.run([sys.executable, "-m", "unittest", "-v", *names], env=live, cwd=HERE).returncode


def main() -> int:
    with tempfile.TemporaryDirectory() as root:
        trial = Trial(root)
        try:
            tcp = trial.wait()["tcp"]
            trial.run("security", "setup", passwords=(OLD,))
            identity, cli = Path(root, "python.key"), trial.keys / "clients" / "cli.key"
            trial.enrol(identity)
            (code,) = trial.recovery()
            Header.parse((trial.home / "vault.aico").read_bytes()).with_recovery_code(code)
            shares = [Share.read(words) for words in trial.recovery("--split", "2/3")]
            code = spell(restore([shares[2], shares[0]]), 15, "recovery check")
            known = {"HOME": trial.home, "KEYS": trial.keys, "IDENTITY": identity, "CLI": cli, "TCP": tcp, "HEAD": Path(root, "head")}
            known |= {"OLD": OLD, "NEW": NEW, "CODE": code}
            (Path(root, "before")).write_bytes((trial.home / "vault.aico").read_bytes())
            failed = trial.tests(TESTS, **known)
            trial.run("security", "passwd", "--rotate", passwords=(OLD, NEW))
            trial.run("down")
            failed = trial.backend.wait(timeout=30) or failed
            return trial.tests(["test_live.Stopped"], BEFORE=Path(root, "before"), **known) or failed
        finally:
            trial.backend.kill()


if __name__ == "__main__":
    sys.exit(main())
