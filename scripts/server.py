"""A cachalot server as a child process, for scripts that talk to one."""

import os
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The binary has been built; the rest is loading a small model.
START_TIMEOUT_S = 300
STOP_TIMEOUT_S = 60


class Server:
    """Started by a command, on a free port; its output is shown line by line."""

    def __init__(self, command, name="server"):
        self.name = name
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"CACHALOT_PORT": "0"},
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = None
        # Reads to the end, so that the server never waits for its output to be read.
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            print(f"{self.name}: {line}", end="", flush=True)
            if match := re.search(r"http://(127\.0\.0\.1:\d+)", line):
                self.address = match[1]

    def wait(self):
        """Returns when requests are taken."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}")
            try:
                if self.address and urllib.request.urlopen(f"http://{self.address}/health").status == 200:
                    return
            except (urllib.error.URLError, ConnectionError):
                pass
            time.sleep(0.1)
        raise RuntimeError(f"the server was not ready within {START_TIMEOUT_S} s")

    def stop(self):
        """Asks the server to end, and insists on the exit status 0."""
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise RuntimeError(f"the server did not end within {STOP_TIMEOUT_S} s of SIGTERM") from None
        if status != 0:
            raise RuntimeError(f"SIGTERM ended the server with {status}")
