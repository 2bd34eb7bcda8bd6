"""`python -m benchmarks.table`: a saved run as a table, against the last one saved under its name; README's ratios."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "benchmarks/results"


@pytest.fixture
def table(script: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module, with a folder of results and a README of its own."""
    module = script("table")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(module, "README", tmp_path / "README.md")
    module.RESULTS.mkdir()
    module.README.write_text(f"before\n{module.headlines.BEGIN}\nstale\n{module.headlines.END}\nafter\n")
    return module


def saved(date: str, medians: dict[str, float], *, brand: str = "a CPU") -> dict[str, Any]:
    """What pytest-benchmark writes, as far as it is read."""
    return {
        "datetime": f"{date}T12:00:00",
        "machine_info": {
            "node": "host",
            "python_version": "3.12.1",
            "cpu": {"count": 2, "brand_raw": brand, "hz_actual_friendly": "2.5 GHz"},
        },
        "commit_info": {"id": "0123456789abcdef", "dirty": True},
        "benchmarks": [
            {
                "name": name,
                "stats": {"median": median, "iqr": 0.0, "rounds": 5, "data": [median] * 5},
                "extra_info": {"images_per_s": 1 / median},
            }
            for name, median in medians.items()
        ],
    }


def convert(table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: dict[str, Any], name: str) -> str:
    file = tmp_path / "saved.json"
    file.write_text(json.dumps(content))
    monkeypatch.setattr(sys, "argv", ["table", str(file), name])
    table.main()
    written: str = (table.RESULTS / f"{name}-{content['datetime'][:10]}.md").read_text()
    return written


def test_ratios_to_the_last_record(table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = {"same": 1.0, "slow": 1.0, "fast": 1.0, "gone": 1.0}
    first = convert(table, tmp_path, monkeypatch, saved("2026-01-31", dict.fromkeys(old, 9.0)), "cpu")
    assert "against" not in first
    convert(table, tmp_path, monkeypatch, saved("2026-02-01", old), "cpu")
    convert(table, tmp_path, monkeypatch, saved("2026-02-02", dict.fromkeys(old, 7.0)), "ops-cpu")  # another name
    new = {"same": 1.09, "slow": 1.5, "fast": 0.5, "fresh": 1.0}
    text = convert(table, tmp_path, monkeypatch, saved("2026-02-03", new), "cpu")
    assert "against 2026-02-01" in text
    last = {line.split(" | ")[0].strip("| "): line.split(" | ")[-1].strip(" |") for line in text.splitlines()[4:8]}
    assert last == {"same": "1.09 x slower", "slow": "**1.50 x slower**", "fast": "**2.00 x faster**", "fresh": "new"}
    assert "No longer measured: gone." in text
    assert "compare machines" not in text
    again = convert(table, tmp_path, monkeypatch, saved("2026-02-03", new, brand="another CPU"), "cpu")
    assert "| 1.00 x faster |" in again
    assert "The last record is from 2 cores of a CPU" in again


def test_a_record_says_where_it_comes_from(table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = convert(table, tmp_path, monkeypatch, saved("2026-02-01", {"step": 0.25}), "cpu")
    record = json.loads((table.RESULTS / "cpu-2026-02-01.json").read_text())
    assert record["clock"] == "2.5 GHz"
    assert record["commit"] == "0123456789ab+"
    assert record["versions"]["torch"]
    assert record["benchmarks"] == [{"name": "step", "median_s": 0.25, "iqr_s": 0.0, "rounds": 5, "images_per_s": 4.0}]
    assert "host" not in json.dumps(record)
    assert "2 cores of a CPU, 2.5 GHz, commit 0123456789ab+" in text


def test_the_records_in_the_repository_can_be_compared_with(table: Any) -> None:
    record = table.records.newest("cpu", RESULTS)
    assert record is not None
    assert all(row.endswith("| 1.00 x faster |") for row in table.markdown(record, record).splitlines()[4:])


def test_operations_become_a_record(table: Any) -> None:
    row = {"shape": [8, 4, 2], "group": "rank", "method": "product", "ms": 5.0, "times_product": 1.0, "peak_mb": 3.0}
    machine = {"device": "2 cores of a CPU", "threads": 2, "commit": "0123", "python": "3.12.0", "torch": "2.13.0"}
    record = table.slim({"date": "2026-02-01", "machine": machine, "rows": [row]})
    assert record["hardware"] == "2 cores of a CPU, 2 threads"
    assert "| rank, product, 8 x 4 x 2 | 5 | - | - | times_product 1, peak_mb 3 |" in table.markdown(record)


def test_readme_has_the_ratios_of_the_newest_records(table: Any) -> None:
    readme = (ROOT / "README.md").read_text()
    assert table.headlines.table(RESULTS) in readme
    assert table.headlines.BEGIN in readme


def test_readme_is_refreshed_from_whole_records_only(
    table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stale = table.README.read_text()
    convert(table, tmp_path, monkeypatch, saved("2026-02-01", {"step": 0.25}), "cpu")
    assert table.README.read_text() == stale
    assert "README is left as it is" in capsys.readouterr().out
    names = {name for row in table.headlines.CPU for name in (row.theirs, *row.ours)}
    shapes = {f"tau curve, {name}, 4 x 3 x 2" for name in ("fastlt tau_intervals", "21 products eager", "product")}
    times = {name: 8.0 if "ours" in name or "tau_intervals" in name else 16.0 for name in names | shapes}
    for name in ("cpu", "ops-cpu"):
        convert(table, tmp_path, monkeypatch, saved("2026-02-02", times), name)
    text = table.README.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "stale" not in text
    assert "| 21 products and argmaxes, a grid of 21 taus | 2.0 to 2.0x faster |" in text
    assert "| NumPy, vectorised | 2.0x / 2.0x |" in text
    assert "2 cores of a CPU (python" in text


def test_another_file_is_refused_in_one_line(table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.json").write_text("{}")
    for name, value in (("other.json", "'machine_info'"), ("absent.json", "No such file")):
        monkeypatch.setattr(sys, "argv", ["table", str(tmp_path / name), "cpu"])
        with pytest.raises(SystemExit, match=f"^{tmp_path / name}: (?=.*{value}).*--benchmark-json.*--out"):
            table.main()
