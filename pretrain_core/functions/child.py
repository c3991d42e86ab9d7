"""Calls a function of the user's, in a process that may hang or die without us.

`python child.py FILE NAME`: says {"ready": true}, then answers each JSON line of keyword arguments
by {"answer": […]}. What the function raises ends the process, its trace is on stderr; what it
prints goes there too.
"""

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main(file: str, name: str) -> None:
    """Load the function, then serve until stdin ends."""
    # Its own prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(answer: dict[str, Any]) -> None:
        # Numbers of NumPy and torch become plain ones.
        answers.write(json.dumps(answer, default=float) + "\n")
        answers.flush()

    function = load(file, name)
    say({"ready": True})
    for line in sys.stdin:
        say({"answer": list(function(**json.loads(line)))})


def load(file: str, name: str) -> Callable[..., Any]:
    """The function of a file; its folder can be imported from."""
    sys.path.insert(0, str(Path(file).resolve().parent))
    spec = importlib.util.spec_from_file_location("user_function", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[..., Any] = getattr(module, name)
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
