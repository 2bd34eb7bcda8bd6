"""`fastlt export`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..config import ExportConfig
from .common import RunArgument, narrow, open_run, parse, say, write_output


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export(RunArgument, ExportConfig):
    """Write a run's network, with one of its classifiers, for other programs."""


def run(argv: Sequence[str]) -> None:
    """Run `fastlt export`."""
    parsed = parse(Export, argv, "export")
    run = open_run(parsed)
    from ..inference.exporting import export

    made = export(run, narrow(parsed, ExportConfig))
    compared = "" if made.difference is None else f"; logits in ONNX Runtime within {made.difference:.1e} of PyTorch's"
    say(f"{made.format} file of {run.path} with {made.method}: {made.path}{compared}")
    write_output(parsed.json, dataclasses.asdict(made) | {"path": str(made.path)})
