"""`fastlt predict` and `fastlt.predict`: images without labels."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from fastlt import PredictConfig, RebalanceConfig, Run, predict, rebalance
from fastlt.commands import predict as command
from fastlt.data import image
from fastlt.evaluation.classifier import open_classifier
from fastlt.evaluation.per_class import class_rows, write_class_table
from fastlt.evaluation.prior import read_frequencies
from fastlt.features.store import FeatureStore
from fastlt.inference.prediction import ImagePredictions


@pytest.fixture
def rebalanced(run_copy: Run) -> Run:
    rebalance(run_copy, RebalanceConfig(tau="0.7", device="cpu", num_threads=1))
    return run_copy


def test_probabilities_are_the_folded_heads_on_the_stored_features(rebalanced: Run, data_root: Path) -> None:
    predictions = predict(rebalanced, data_root / "test", config=PredictConfig(top=3, device="cpu", num_threads=1))
    assert predictions.method == "tau"  # the only rebalanced one
    features, labels = FeatureStore(rebalanced, device=torch.device("cpu")).split("test").tensors(torch.device("cpu"))
    from fastlt.checkpoints.native import load

    weight = load(rebalanced.method("tau") / "model.safetensors")[0]["fc.weight"]
    expected = (features @ weight.T).softmax(1).topk(3)
    assert np.array_equal(predictions.classes, expected.indices.numpy())
    np.testing.assert_allclose(predictions.probabilities, expected.values.numpy(), rtol=1e-5)
    # In the order of the files, which is that of the split
    assert [int(Path(file).parent.name) for file in predictions.files] == labels.tolist()


def test_a_head_with_a_bias_speaks_of_the_features_it_was_made_for(run_copy: Run, data_root: Path) -> None:
    live = RebalanceConfig(method="lws", features="live", protocol="released", epochs=1, device="cpu", num_threads=1)
    rebalance(run_copy, live)  # batch norm drifts: the features are no longer stage 1's
    predictions = predict(run_copy, data_root / "test", config=PredictConfig(top=99, device="cpu", num_threads=1))
    assert predictions.classes.shape == (80, 10)
    classifier_predictions = open_classifier(FeatureStore(run_copy, device=torch.device("cpu")), "lws").predictions(
        "test"
    )
    assert np.array_equal(predictions.classes[:, 0], classifier_predictions.classes)
    np.testing.assert_allclose(predictions.probabilities[:, 0], classifier_predictions.confidences, rtol=1e-4)


def test_the_command_writes_csv_and_json(rebalanced: Run, data_root: Path, tmp_path: Path) -> None:
    folder = sorted((data_root / "test").iterdir())[0]
    images = sorted(folder.iterdir())[:2]
    out, report = tmp_path / "p.csv", tmp_path / "p.json"
    arguments = [str(rebalanced.path), *map(str, images), "--method", "joint", "--out", str(out), "--json", str(report)]
    command.run(arguments)
    rows = list(csv.DictReader(out.open(encoding="utf-8")))
    content = json.loads(report.read_text())
    assert [row["file"] for row in rows] == [str(path) for path in images]
    assert (content["method"], content["skipped"]) == ("joint", [])
    for row, each in zip(rows, content["predictions"], strict=True):
        assert row["class"] == each["class"] == each["top"][0]["class"]
        assert float(row["probability_5"]) == each["top"][4]["probability"]
        shares = [part["probability"] for part in each["top"]]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) <= 1 + 1e-9


def test_flags_may_stand_between_the_run_and_the_images(
    rebalanced: Run, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = next((data_root / "test").rglob("*.jpg")).read_bytes()
    for name in ("a.jpg", "b.jpg", "-c.jpg"):
        (tmp_path / name).write_bytes(source)
    monkeypatch.chdir(tmp_path)
    run = str(rebalanced.path)
    command.run([run, "--method", "joint", "a.jpg", "--json=p.json", "b.jpg", "--top", "1", "--", "-c.jpg"])
    content = json.loads(Path("p.json").read_text())
    assert content["method"] == "joint"
    assert [(each["file"], len(each["top"])) for each in content["predictions"]] == [
        ("a.jpg", 1),
        ("b.jpg", 1),
        ("-c.jpg", 1),
    ]


def test_names_that_are_no_utf8_come_out_as_they_are_on_the_disk(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    predictions = ImagePredictions(
        run="run",
        method="joint",
        class_names=(name,),
        files=(f"{name}.jpg",),
        classes=np.zeros((1, 1), np.int64),
        probabilities=np.ones((1, 1)),
        skipped={},
    )
    predictions.write_csv(tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_bytes().splitlines()[1] == b"caf\xe9.jpg,caf\xe9,1.0,"
    truth = np.zeros(1, np.int64)
    rows = class_rows(truth, truth, class_names=[name], class_counts=[1], norms=[1.0])
    write_class_table(tmp_path, "val", rows)
    assert b"caf\xe9,1,1,100.0" in (tmp_path / "per_class.val.csv").read_bytes()
    (tmp_path / "target.csv").write_bytes(b"class,frequency\ncaf\xe9,3\n")
    for shown in (name, "caf\xe9"):  # which a spreadsheet writes with these bytes
        assert read_frequencies(tmp_path / "target.csv", [shown]) == [1.0]


def test_broken_files_get_no_prediction(
    rebalanced: Run, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    sources = sorted((data_root / "test").rglob("*.jpg"))[:3]
    for number, source in enumerate(sources):
        (folder / f"{number}.jpg").write_bytes(source.read_bytes())
    (folder / "text.jpg").write_text("no image")
    monkeypatch.chdir(tmp_path)
    whole = predict(rebalanced, "photos", config=PredictConfig(device="cpu", num_threads=1))
    assert whole.files == ("photos/0.jpg", "photos/1.jpg", "photos/2.jpg")
    assert list(whole.skipped) == ["photos/text.jpg"]
    # One breaks between the listing and its turn: another stands in for it in the batch, not in the answer
    real, gone = image.decode_bytes, (folder / "1.jpg").read_bytes()

    def decode(source: bytes, name: str) -> np.ndarray:
        if source == gone:
            raise ValueError("gone")
        return real(source, name)

    monkeypatch.setattr("fastlt.data.loaders.plan.decode_bytes", decode)
    left = predict(rebalanced, "photos", config=PredictConfig(device="cpu", num_threads=1, loader="memory"))
    assert left.files == ("photos/0.jpg", "photos/2.jpg")
    assert set(left.skipped) == {"photos/text.jpg", "photos/1.jpg"}
    assert np.array_equal(left.classes, whole.classes[[0, 2]])


def test_every_file_that_was_given_has_a_row(rebalanced: Run, data_root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    source = next((data_root / "test").rglob("*.jpg"))
    for name in ("1.jpg", "2", "3.dat"):
        (folder / name).write_bytes(source.read_bytes())
    (folder / "4.jpg").write_bytes(b"broken")
    (folder / "5.psd").write_bytes(b"8BPS")
    (folder / "Thumbs.db").write_bytes(b"x")
    out, report = tmp_path / "p.csv", tmp_path / "p.json"
    command.run([str(rebalanced.path), str(folder), "--top", "2", "--out", str(out), "--json", str(report)])
    rows = {Path(row["file"]).name: row for row in csv.DictReader(out.open(encoding="utf-8"))}
    assert list(rows) == ["1.jpg", "2", "3.dat", "4.jpg", "5.psd"]
    assert [bool(row["class"]) for row in rows.values()] == [bool(not row["reason"]) for row in rows.values()]
    assert (rows["2"]["class"], rows["5.psd"]["class"], rows["5.psd"]["probability_2"]) == (
        rows["1.jpg"]["class"],
        "",
        "",
    )
    content = json.loads(report.read_text())
    report.unlink()
    with pytest.raises(ValueError, match=r"^IMAGES: got 2 .*4\.jpg .*5\.psd .*--strict$"):
        command.run([str(rebalanced.path), "--strict", str(folder), "--json", str(report)])
    assert not report.exists()
    command.run([str(rebalanced.path), "--strict", str(folder / "1.jpg"), "--json", str(report)])
    assert json.loads(report.read_text())["skipped"] == []
    assert {Path(each["file"]).name: each["reason"] for each in content["skipped"]} == {
        name: rows[name]["reason"] for name in ("4.jpg", "5.psd")
    }
    assert content["left_out"]["of the system"] == [str(folder / "Thumbs.db")]


def test_what_cannot_be_predicted_is_said_in_one_line(rebalanced: Run, data_root: Path, tmp_path: Path) -> None:
    run = str(rebalanced.path)
    for arguments, message in (
        ([run], "^IMAGES: "),
        ([run, "nowhere"], r"^IMAGES: got nowhere\b"),
        (
            [run, str(data_root / "test"), "--method", "crt"],
            "^--method: .*crt.*fastlt rebalance|crt classifier.*fastlt rebalance",
        ),
        ([run, str(tmp_path)], f"^IMAGES: .*{tmp_path}"),
        ([run, str(data_root), "--top", "0"], r"^--top: got 0\b"),
        ([str(data_root / "test")], "fastlt train"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
            command.run(arguments)
        assert "\n" not in str(caught.value)
    rebalance(rebalanced, RebalanceConfig(method="ncm", device="cpu", num_threads=1))
    with pytest.raises(ValueError, match=r"^--method: got none\b.*\btau, ncm"):
        command.run([run, str(data_root / "test")])
