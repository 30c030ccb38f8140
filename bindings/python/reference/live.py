"""Starts a backend of its own, enrols the Python client through the owner's consent, and runs all tests against it."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TESTS = ["test_reference", "test_audit", "test_vault"]


def main() -> int:
    with tempfile.TemporaryDirectory() as root:
        home, identity = Path(root, "data"), Path(root, "python.key")
        env = {"PATH": os.environ["PATH"], "HOME": root, "AICO_HOME": str(home), "AICO_KEY_DIR": str(Path(root, "keys"))}
        aico = [os.environ["AICO_BIN"]]
        password = Path(root, "password")
        password.write_text("a password of the tests\n")
        home.mkdir(mode=0o700)
        (home / "security.yaml").write_text("security:\n  vault:\n    stretch_memory: 64\n")
        backend = subprocess.Popen([*aico, "up"], env=env, stdout=subprocess.DEVNULL)
        try:
            while subprocess.run([*aico, "status"], env=env, capture_output=True).returncode:
                assert backend.poll() is None, "the backend ended"
                time.sleep(0.05)
            setup = ["security", "setup", "--password-file", str(password)]
            subprocess.run([*aico, *setup], env=env, check=True, stdout=subprocess.DEVNULL)
            client = [sys.executable, str(HERE / "aico_client.py"), "--home", str(home), "--identity", str(identity)]
            waiting = subprocess.Popen([*client, "enrol"], stdout=subprocess.PIPE, text=True)
            fingerprint = waiting.stdout.readline().strip()
            approve = ["identity", "approve", fingerprint, "--password-file", str(password)]
            subprocess.run([*aico, *approve], env=env, check=True)
            assert waiting.communicate(timeout=30)[0].strip() == "enrolled"
            live = os.environ | {"AICO_LIVE_HOME": str(home), "AICO_LIVE_IDENTITY": str(identity)}
            tests = subprocess.run([sys.executable, "-m", "unittest", "-v", *TESTS], env=live, cwd=HERE)
            subprocess.run([*aico, "down"], env=env, check=True, stdout=subprocess.DEVNULL)
            return tests.returncode or backend.wait(timeout=30)
        finally:
            backend.kill()


if __name__ == "__main__":
    sys.exit(main())
