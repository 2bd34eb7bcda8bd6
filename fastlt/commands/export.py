"""`fastlt export`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..config import ExportConfig
from .common import RunArgument, open_run, parse, say, settings_of, write_output


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export(RunArgument, ExportConfig):
    """Write a run's network, with one of its classifiers, for other programs."""


def run(argv: Sequence[str]) -> None:
    """Run `fastlt export`."""
    parsed = parse(Export, argv, "export")
    run = open_run(parsed.run, parsed.data_root, parsed.lists)
    from ..inference.exporting import export

    result = export(run, settings_of(parsed, ExportConfig))
    check = "" if result.difference is None else f"; logits in ONNX Runtime within {result.difference:.1e} of PyTorch's"
    say(f"{result.format} file of {run.path} with {result.method}: {result.path}{check}")
    write_output(parsed.json, dataclasses.asdict(result) | {"path": str(result.path)})
