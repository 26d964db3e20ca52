"""The runner of the suites that are written in Python: cases by name, counted exactly, and told in full when they fail.

A case is a function that returns. What it notes on its way (the request, what came) is shown only if it raises. A suite ends
with the line `N passed, N failed, 0 skipped`; there is no way to skip a case.
"""

import json
import sys
import time
import traceback
from pathlib import Path

FOLDER = Path(__file__).parent
# More of a long answer than this helps nobody.
SHOWN_CHARACTERS = 4000

_cases = []
_notes = []


def case(name):
    """Registers a function as a case."""

    def register(function):
        _cases.append((name, function, ()))
        return function

    return register


def table(name, rows):
    """Registers a function as one case for each row; a row is the case's own name and the function's arguments."""

    def register(function):
        for row_name, *arguments in rows:
            _cases.append((f"{name}: {row_name}", function, arguments))
        return function

    return register


def note(label, value):
    """Keeps a value to be shown if the case fails."""
    _notes.append((label, value))


def equal(what, found, expected):
    """Fails if what came is not what was expected."""
    if found != expected:
        raise AssertionError(f"{what}: expected {_shown(expected)}, found {_shown(found)}")


def holds(what, condition, found=None):
    """Fails if a condition on what came does not hold; `what` says what should have been."""
    if not condition:
        raise AssertionError(f"{what}; found {_shown(found)}")


def raises(kind, action):
    """The exception of this class that the action raises."""
    try:
        found = action()
    except Exception as error:
        note("error", repr(error))
        holds(f"an error of the class {kind.__name__}", isinstance(error, kind), repr(error))
        return error
    raise AssertionError(f"expected {kind.__name__}, found {_shown(found)}")


def _shown(value):
    if hasattr(value, "model_dump") and not isinstance(value, type):
        value = value.model_dump(exclude_unset=True, warnings=False)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} … ({len(text)} characters)"


def main():
    """Runs all cases of the program; `ARGUMENT` runs those alone whose name contains it."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    passed = failed = 0
    for name, function, arguments in _cases:
        if wanted not in name:
            continue
        _notes.clear()
        began = time.monotonic()
        try:
            function(*arguments)
        except Exception as error:
            failed += 1
            print(f"FAILED {name}")
            # Where the suite stood; the checks themselves are of no interest.
            frames = traceback.extract_tb(error.__traceback__)
            frame = [frame for frame in frames if Path(frame.filename).parent == FOLDER and frame.filename != __file__][-1]
            for label, value in _notes:
                print(f"    {label}: {_shown(value)}")
            print(f"    {type(error).__name__}: {error}\n    at {frame.filename}:{frame.lineno}", flush=True)
        else:
            passed += 1
            print(f"ok {name} ({time.monotonic() - began:.2f} s)", flush=True)
    print(f"{passed} passed, {failed} failed, 0 skipped", flush=True)
    sys.exit(failed != 0 or passed == 0)
