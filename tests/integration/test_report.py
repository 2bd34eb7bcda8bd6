"""The report: what is on the page, what it says of what is missing, and how a browser shows it."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from fastlt import RebalanceConfig, Run, rebalance
from fastlt.commands.report import run as command
from fastlt.evaluation.classifier import Classifier
from fastlt.evaluation.predictions import Predictions
from fastlt.features.store import FeatureStore
from fastlt.models import LinearHead
from fastlt.report.decision_regions import choose_classes, planes
from fastlt.report.figures import records_of
from fastlt.report.plots.geometry import Plane
from fastlt.report.plots.theme import Theme, themed
from fastlt.report.writing import write_report

CPU = torch.device("cpu")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FIGURES = (
    "accuracy_by_group",
    "accuracy_by_class_size",
    "weight_norms",
    "accuracy_by_tau",
    "tail_errors",
    "confusions",
    "decision_regions",
    "reliability",
    "training",
)


def report(run: Run) -> tuple[str, Path]:
    path, _ = write_report(run, FeatureStore(run, device=CPU))
    return path.read_text(encoding="utf-8"), path


def test_the_page_holds_every_picture_and_number(run_copy: Run) -> None:
    for method in ("tau", "logit_adjustment"):
        rebalance(run_copy, RebalanceConfig(method=method))
    path, shown = write_report(run_copy, FeatureStore(run_copy, device=CPU))
    page = path.read_text(encoding="utf-8")
    methods = {"joint", "tau", "logit_adjustment"}
    assert {(row.method, row.split) for row in shown} == {(m, s) for m in methods for s in ("val", "test")}
    for row in shown:
        assert f">{row.all.value:.1f}<" in page
    for name in FIGURES:
        for picture in (path.parent / f"{name}.png", path.parent / f"{name}.dark.png"):
            assert picture.read_bytes().startswith(b"\x89PNG")
    assert page.count("data:image/png;base64,") == 2 * len(FIGURES)
    alts = re.findall(r'<img [^>]*alt="([^"]*)"', page)
    assert len(alts) == page.count("<img ")
    assert all(len(alt) > 20 for alt in alts)
    assert not re.findall(r'(?:src|srcset|href)="(?!data:)', page)
    assert "://" not in page
    assert len(page) < 5e6


@pytest.mark.filterwarnings("error")
def test_any_class_name_can_be_drawn(tmp_path: Path) -> None:
    @themed(1.0)
    def draw(figure: Figure, _theme: Theme) -> None:
        figure.suptitle("\u65e5\u672c\u8a9e a$b_{$c \U0001f98b")

    assert draw(tmp_path) == tmp_path / "draw.png"
    assert (tmp_path / "draw.png").read_bytes() != (tmp_path / "draw.dark.png").read_bytes()


def test_the_command_takes_a_device_and_a_loader(run_copy: Run, tmp_path: Path) -> None:
    command([str(run_copy.path), "--device", "cpu", "--loader", "pillow", "--json", str(tmp_path / "out.json")])
    content = json.loads((tmp_path / "out.json").read_text())
    assert {row["method"] for row in content["results"]} == {"joint"}
    assert "No classifier is rebalanced yet" in (run_copy.path / "report" / "index.html").read_text()


def test_missing_parts_leave_a_sentence(run_copy: Run) -> None:
    rebalance(run_copy, RebalanceConfig(tau="0.7"))
    store = FeatureStore(run_copy, device=CPU)
    for split in ("val", "test"):
        store.split(split)
    stale = run_copy.path / "rebalanced" / "crt"
    shutil.copytree(run_copy.path / "rebalanced" / "tau", stale)
    (stale / "model.safetensors").write_bytes(b"cut short")
    run_copy.metrics.unlink()
    config = run_copy.path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "data_root": "/nowhere/at/all"}))
    data = run_copy.path / "data.json"
    content = json.loads(data.read_text())
    del content["splits"]["test"]
    content["class_counts"] = [5] * 10  # every class is few: two groups are empty
    data.write_text(json.dumps(content))
    page, path = report(Run(run_copy.path))
    assert "crt is left out" in page
    assert "The images are not where the run found them" in page
    assert "no records of its training" in page
    assert "The data have no test split" in page
    assert "all images of val belong to classes of one group" in page
    assert not (path.parent / "tail_errors.png").exists()


def test_names_are_escaped(run_copy: Run) -> None:
    data = run_copy.path / "data.json"
    content = json.loads(data.read_text())
    content["class_names"] = [f"<b>{index}</b>" for index in range(10)]
    data.write_text(json.dumps(content))
    page, _ = report(Run(run_copy.path))
    assert "<b>0" not in page
    assert "&lt;b&gt;" in page


def test_records_cut_short_or_repeated_are_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1, "loss": 3}\n{"epoch": 2, "loss": 2}\n{"epoch": 2, "loss": 1}\n{"epoch": 3, "lo')
    assert [(record["epoch"], record["loss"]) for record in records_of(path)] == [(1, 3), (2, 1)]


def test_planes_assign_every_image_as_the_head_does() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), 12)
    features = rng.normal(size=(60, 16)).astype(np.float32)

    class Store:
        def split(self, name: str) -> object:
            from fastlt.features.arrays import Features

            return Features.of(features, labels, name=name)

    heads = [LinearHead(torch.randn(5, 16), torch.randn(5)), LinearHead(torch.randn(5, 16), None)]
    classes = (3, 0, 4)
    found: list[Plane] = planes(
        [Classifier(method="", head=head, store=Store(), path=Path()) for head in heads],  # type: ignore[arg-type]
        classes,
        "val",
    )
    ids = np.concatenate([np.flatnonzero(labels == index) for index in classes])
    for head, plane in zip(heads, found, strict=True):
        logits = head(torch.from_numpy(features[ids])).detach().numpy()[:, classes]
        assert ((plane.points @ plane.weight.T + plane.bias).argmax(1) == logits.argmax(1)).all()
        assert plane.labels.tolist() == [0] * 12 + [1] * 12 + [2] * 12


def test_the_tail_class_is_the_one_that_the_head_takes() -> None:
    counts = np.array([500, 300, 50, 40, 5, 4])
    groups = {"many": counts > 100, "medium": (counts >= 20) & (counts <= 100), "few": counts < 20}
    labels = np.array([0, 1, 2, 3, 4, 4, 5, 5])
    classes = np.array([0, 1, 2, 3, 4, 1, 1, 1])
    predictions = Predictions(labels, classes, np.ones(8), np.zeros(8))
    assert choose_classes(predictions, counts, groups) == (1, 2, 5)
    assert choose_classes(Predictions(labels, labels, np.ones(8), np.zeros(8)), counts, groups) == (0, 3, 5)
    assert choose_classes(Predictions(labels[:2], labels[:2], np.ones(2), np.zeros(2)), counts, groups) is None


PROBE = """<script>
addEventListener("load", () => {
  const root = document.documentElement, images = [...document.images];
  root.dataset.width = root.scrollWidth;
  root.dataset.window = innerWidth;
  root.dataset.broken = images.filter((image) => !image.naturalWidth).length;
  root.dataset.requests = performance.getEntriesByType("resource").filter((entry) => !entry.name.startsWith("data:")).length;
  root.dataset.ground = getComputedStyle(document.body).backgroundColor;
  root.dataset.dark = images.filter((image) => image.currentSrc !== image.src).length;
});
</script>"""  # noqa: E501


@pytest.fixture(scope="module")
def page(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a run with a rebalanced classifier."""
    run = Run(Path(shutil.copytree(trained.path, tmp_path_factory.mktemp("reported") / "run")))
    rebalance(run, RebalanceConfig(tau="0.7"))
    return report(run)[0]


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: the page was not opened in a browser")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_browser_shows_it_on_a_phone(page: str, tmp_path: Path, dark: bool) -> None:
    copy = tmp_path / "probe.html"
    copy.write_text(page.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    # A headless window cannot be as narrow as a phone, a frame can
    frame = tmp_path / "frame.html"
    frame.write_text(
        '<iframe id="phone" src="probe.html" style="border:0;width:360px;height:740px"></iframe><script>'
        'addEventListener("load", () => setTimeout(() => { const root = document.documentElement;'
        'const page = document.getElementById("phone").contentDocument.documentElement;'
        "Object.assign(root.dataset, page.dataset); }, 300));"
        "</script>",
        encoding="utf-8",
    )
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--dump-dom", frame.as_uri(),
    ]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    seen = dict(re.findall(r'data-(\w+)="([^"]*)"', dom[: dom.index(">", dom.index("<html")) + 1]))
    assert seen["window"] == "360"
    assert int(seen["width"]) <= 360
    assert seen["broken"] == "0"
    assert seen["requests"] == "0"
    assert seen["ground"] == ("rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)")
    assert int(seen["dark"]) == (len(FIGURES) if dark else 0)
