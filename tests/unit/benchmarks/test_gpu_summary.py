"""The page of a GPU run: whatever figures are there, as tables."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MACHINE = {"device": "a GPU", "driver_version": "580.10", "commit": None}
STEP = {
    "machine": MACHINE,
    "batch_size": 256,
    "image_size": 224,
    "results": [
        {
            "backbone": "resnet50",
            "variant": variant,
            "images_per_s": rate,
            "peak_gib": 20.04,
            "bandwidth_share": 0.5,
            "error": None if rate else "torchvision is not installed",
        }
        for variant, rate in (("torchvision compiled", 4000.0), ("fastlt", 5000.0), ("timm compiled", None))
    ],
}
RATES = {
    "machine": MACHINE,
    "backbone": "resnet50",
    "batch_size": 256,
    "as it is": {"images_per_s": 1000.0, "peak_gib": None},
    "rewritten": {"images_per_s": 1500.0, "peak_gib": None},
    "too large": {"error": "out of memory"},
}
END_TO_END = {
    "machine": MACHINE,
    "backbone": "resnet50",
    "batch_size": 256,
    "step_images_per_s": 5000.0,
    "dali": {"images_per_s": 4800.0, "share_of_step": 0.96},
    "plain": {"images_per_s": 900.0},
}
PROFILE = {
    "machine": MACHINE,
    "backbone": "resnet50",
    "batch_size": 256,
    "precision": "bf16",
    "ms_a_step": 50.0,
    "gb_a_step": 100.0,
    "copied_gb_per_s": 4000.0,
    "share_of_ceiling": 0.5,
    "kernels": [{"name": "triton|fused", "ms": 20.0, "share": 0.4, "calls": 12.0}],
}

OPERATIONS = {
    "machine": MACHINE,
    "rows": [
        {"shape": [512, 365, 64], "group": "rank", "method": method, "ms": ms, "times_product": ms / 2, "peak_mb": 1.0}
        for method, ms in (("product", 2.0), ("fastlt label_rank", 3.0))
    ],
}


@pytest.fixture(scope="module")
def summary(script: Callable[[str], Any]) -> Any:
    return script("gpu.summary")


def test_tables_of_what_was_reached(summary: Any, tmp_path: Path) -> None:
    contents = {"step": STEP, "candidates": RATES, "end_to_end": END_TO_END, "profile": PROFILE}
    contents |= {"ops": OPERATIONS, "lws": {"machine": MACHINE, "ms": {"eager": 1.5}}}
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "loader.json").write_text('{"results": [')  # killed while it wrote
    page = summary.page(tmp_path)
    assert page.count("\n## ") == 6
    assert "| resnet50 | fastlt | 5,000 | 20.0 | 50% | 1.25 |" in page
    assert "| resnet50 | timm compiled | - | 20.0 | 50% | torchvision is not installed |" in page
    assert "| rewritten | 1,500 | 1.50 |" in page
    assert "| too large | - | out of memory |" in page
    assert "| dali | 4,800 | 96% |" in page
    assert "| plain | 900 | - |" in page
    assert "It must move 100.0 GB (by a model), and memory is copied at 4,000 GB/s: 50% of that ceiling" in page
    assert "| `triton/fused` | 20.000 | 40.0% | 12 |" in page
    assert "`step.json`: device a GPU, driver_version 580.10." in page
    assert "512 rows, 365 classes, width 64." in page
    assert "| rank: fastlt label_rank | 3.000 | 1.50 | 1 |" in page
    assert "| eager | 1.500 |" in page
    assert "Without figures: switches, networks, evaluation, loss_curve, loader, tune, compile." in page
