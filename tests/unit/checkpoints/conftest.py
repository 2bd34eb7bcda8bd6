"""Processes that die in the middle of writing."""

import os
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def killed_at() -> Callable[[int, Callable[[], object]], int]:
    """Run an action in a process that dies before its n-th rename; return how it ended: with 9 if it died, or 0."""

    def run(call: int, action: Callable[[], object]) -> int:
        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        left = [call]

        def dying(original: Callable[..., None]) -> Callable[..., None]:
            def rename(*arguments: Any, **options: Any) -> None:
                left[0] -= 1
                if not left[0]:
                    os._exit(9)
                original(*arguments, **options)

            return rename

        os.rename, os.replace = dying(os.rename), dying(os.replace)
        try:
            action()
            os._exit(0)
        finally:
            os._exit(1)

    return run
