#!/usr/bin/env python3
"""Runs the examples of README.md as they stand there, so that the README cannot promise what does not work.

An example is a fenced code block after a comment of its own line:

    <!-- example: server -->              starts the server; the examples after it talk to it; SIGTERM has to end it with 0
    <!-- example: shows PATTERN -->       runs it; its output has to match the regular expression

Blocks marked `python` run in this interpreter's environment, all others in bash. The address that the README shows is
replaced by the one that the server has got. The last line is `N passed, N failed, N skipped`.
"""

import re
import subprocess
import sys

from server import ROOT, Server

README_ADDRESS = "127.0.0.1:8000"
EXAMPLE = re.compile(r"^<!-- example: (?P<kind>server|shows) ?(?P<pattern>.*?) ?-->\n```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S)
EXAMPLE_TIMEOUT_S = 300


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
            server = Server(["bash", "-c", f"exec {code.strip()}"])
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
