#!/usr/bin/env python3
"""Runs the examples of README.md as they stand there, so that the README cannot promise what does not work.

An example is a fenced code block after a comment of its own line:

    <!-- example: server -->              starts the server; the examples after it talk to it; SIGTERM has to end it with 0
    <!-- example: shows PATTERN -->       runs it; its output has to match the regular expression

Blocks marked `python` run in this interpreter's environment, all others in bash. The address that the README shows is
replaced by the one that the server has got. The last line is `N passed, N failed, N skipped`.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README_ADDRESS = "127.0.0.1:8000"
EXAMPLE = re.compile(r"^<!-- example: (?P<kind>server|shows) ?(?P<pattern>.*?) ?-->\n```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S)
# The binary has been built; the rest is loading a small model.
START_TIMEOUT_S = 300
EXAMPLE_TIMEOUT_S = 300


class Server:
    """The server of the README's first command, on a free port."""

    def __init__(self, code):
        self.process = subprocess.Popen(
            ["bash", "-c", f"exec {code.strip()}"],
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
            print(f"server: {line}", end="", flush=True)
            if match := re.search(r"http://(127\.0\.0\.1:\d+)", line):
                self.address = match[1]

    def wait(self):
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
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise RuntimeError("the server did not end within 60 s of SIGTERM") from None
        if status != 0:
            raise RuntimeError(f"SIGTERM ended the server with {status}")


def run(language, code, pattern, address):
    command = [sys.executable, "-c"] if language == "python" else ["bash", "-euo", "pipefail", "-c"]
    code = code.replace(README_ADDRESS, address) if address else code
    result = subprocess.run(
        [*command, code], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=EXAMPLE_TIMEOUT_S
    )
    print(result.stdout)
    if result.returncode != 0:
        raise RuntimeError(f"it ended with {result.returncode}")
    if not re.search(pattern, result.stdout, re.S):
        raise RuntimeError(f"its output does not match {pattern}")


def main():
    passed = failed = 0
    server = None

    def attempt(name, action):
        nonlocal passed, failed
        try:
            action()
            passed += 1
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            print(f"FAILED: {name}: {error}", flush=True)
            failed += 1

    examples = list(EXAMPLE.finditer((ROOT / "README.md").read_text(encoding="utf-8")))
    if not examples:
        sys.exit("README.md has no examples")
    for example in examples:
        kind, code = example["kind"], example["code"]
        print(f"--- {kind} {example['pattern']}\n{code}", flush=True)
        if kind == "server":
            server = Server(code)
            attempt("start of the server", server.wait)
        else:
            address = server.address if server else None
            attempt(code.strip().splitlines()[0], lambda: run(example["language"], code, example["pattern"], address))
    if server:
        attempt("end of the server", server.stop)
    print(f"{passed} passed, {failed} failed, 0 skipped")
    sys.exit(failed != 0)


if __name__ == "__main__":
    main()
