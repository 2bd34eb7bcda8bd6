"""`fastlt report`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..config.base import LOADERS, Device, Loader, check_choice
from .common import RunArgument, open_run, parse, say, write_output


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report(RunArgument):
    """Write the report of a run: a page of accuracies and pictures."""

    device: Device = "auto"
    """Device to compute on; auto takes a CUDA device if there is one."""
    loader: Loader = "auto"
    """Image loader for features not computed yet."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        check_choice("--loader", self.loader, LOADERS)


def run(argv: Sequence[str]) -> None:
    """Run `fastlt report`."""
    parsed = parse(Report, argv, "report")
    run = open_run(parsed.run, parsed.data_root, parsed.lists)
    from ..features.store import FeatureStore
    from ..report.writing import write_report
    from ..runtime.device import resolve_device

    store = FeatureStore(run, device=resolve_device(parsed.device), loader=parsed.loader)
    path, results = write_report(run, store)
    write_output(parsed.json, results.to_json())
    say(f"report with pictures: {path}")
