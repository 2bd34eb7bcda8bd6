"""What a command left on the disk, in a form that two runs of it can be compared by."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np

TIMES = ("images_per_s", "data_wait_share")  # of an epoch's record
VOLATILE = ("environment.json", "tensorboard", "written.json")  # the last keeps what outputs were before, too

Tree = dict[str, str]


def snapshot(folder: Path) -> Tree:
    """Return a digest of everything below a folder by its path, without what depends on the time."""
    return {
        path.relative_to(folder).as_posix(): digest(path)
        for path in sorted(folder.rglob("*"))
        if not any(part in VOLATILE for part in path.relative_to(folder).parts)
    }


def digest(path: Path) -> str:
    """Return what a path is, and a hash of its content."""
    if path.is_symlink():
        return f"link to {path.readlink()}"
    if path.is_dir():
        return "folder"
    content = path.read_bytes()
    if path.name == "metrics.jsonl":
        rows = [json.loads(line) for line in content.decode().splitlines()]
        content = json.dumps([{key: row[key] for key in row if key not in TIMES} for row in rows]).encode()
    elif path.suffix == ".npz":  # its members have times
        with np.load(io.BytesIO(content)) as arrays:
            content = b"".join(name.encode() + arrays[name].tobytes() for name in sorted(arrays))
    return hashlib.sha256(content).hexdigest()[:16]


def differences(expected: Tree, got: Tree) -> list[str]:
    """Return what distinguishes a tree from the expected one."""
    found = [f"no {path}" for path in expected if path not in got]
    found += [f"left {path}" for path in got if path not in expected]
    return found + [f"other {path}" for path in expected if path in got and got[path] != expected[path]]
