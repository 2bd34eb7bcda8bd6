"""Features, rebalancing, evaluation and the report of a finished run."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fastlt import EvaluateConfig, RebalanceConfig, Run, evaluate, rebalance
from fastlt.checkpoints.native import load
from fastlt.data.image import decode_rgb
from fastlt.data.registry import open_data
from fastlt.data.transforms.augmentation import EvalTransform
from fastlt.evaluation.calibration import fit_temperature, with_temperature
from fastlt.evaluation.classifier import FOLDS
from fastlt.evaluation.prior import adjust_to_prior
from fastlt.features.store import FeatureStore, load_model
from fastlt.metrics import shot_accuracy
from fastlt.rebalancing import nearest_class_mean_predict, tau_curve, tau_normalize
from fastlt.rebalancing.engine.folds import stratified_folds
from fastlt.rebalancing.problem import Problem
from fastlt.rebalancing.run import read_released

CPU = torch.device("cpu")


def results(run: Run, name: str = "rebalanced/tau") -> list[dict]:
    content = json.loads((run.path / name / "results.json").read_text())
    assert content["schema"] == 1
    return content["results"]


def test_features_are_the_backbones_on_the_decoded_images(run_copy: Run) -> None:
    store = FeatureStore(run_copy, device=CPU)
    stored = store.split("test")
    dataset = open_data(run_copy.config)["test"]
    assert stored.features.shape == (80, 128)
    assert stored.labels.tolist() == dataset.labels.tolist()
    from PIL import Image

    config = run_copy.config
    sample = [0, 17, 79]
    box = EvalTransform(size=config.image_size, resize=config.resize).boxes(dataset.sizes[sample])
    images = np.stack(
        [
            np.asarray(
                Image.fromarray(decode_rgb(dataset.path(i))).resize((32, 32), Image.Resampling.BILINEAR, tuple(box[j]))
            )
            for j, i in enumerate(sample)
        ]
    )
    x = (torch.from_numpy(images).float() / 255 - 0.5) / 0.25
    with torch.inference_mode():
        expected = store.model.features(x.permute(0, 3, 1, 2))
    torch.testing.assert_close(torch.from_numpy(stored.features[sample].copy()), expected, atol=2e-3, rtol=2e-2)


def test_features_are_computed_once_and_anew_when_stale(run_copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []
    original = FeatureStore.compute
    monkeypatch.setattr(
        FeatureStore, "compute", lambda self, name, *rest: (computed.append(name), original(self, name, *rest))
    )
    first = np.array(FeatureStore(run_copy, device=CPU).split("val").features)
    FeatureStore(run_copy, device=CPU).split("val")
    assert computed == ["val"]
    path = run_copy.checkpoint("best")
    tensors, metadata = load(path)
    tensors["conv1.weight"] *= 1.5
    from fastlt.checkpoints import native

    native.save(path, tensors, metadata)
    second = FeatureStore(run_copy, device=CPU).split("val").features
    assert computed == ["val", "val"]
    assert np.abs(first - second).max() > 1e-3


def test_rebalanced_checkpoint_is_the_same_network_with_another_last_layer(run_copy: Run) -> None:
    rebalance(run_copy, RebalanceConfig(tau="0.7", temperature=False))
    before, _ = load(run_copy.checkpoint("best"))
    after, metadata = load(run_copy.path / "rebalanced" / "tau" / "model.safetensors")
    assert metadata["params"] == {"tau": 0.7}
    assert set(before) - set(after) == {"fc.bias"}
    assert all(torch.equal(before[key], after[key]) for key in after if key != "fc.weight")
    weight = before["fc.weight"]
    torch.testing.assert_close(after["fc.weight"], weight / weight.norm(dim=1, keepdim=True) ** 0.7)


def test_results_are_the_accuracies_of_the_networks_predictions(run_copy: Run) -> None:
    rebalance(run_copy, RebalanceConfig(tau="0.5"))
    store = FeatureStore(run_copy, device=CPU)
    features, labels = store.split("test").tensors(CPU)
    counts = run_copy.data["class_counts"]
    rows = {(row["method"], row["split"]): row for row in results(run_copy)}
    assert set(rows) == {(method, split) for method in ("joint", "tau") for split in ("val", "test")}
    weight = store.head.weight.detach()
    logits = {
        "joint": features @ weight.T + store.head.bias.detach(),
        "tau": features @ (weight / weight.norm(dim=1, keepdim=True) ** 0.5).T,
    }
    for method, scores in logits.items():
        expected = shot_accuracy(scores.argmax(1), labels, counts)
        row = rows[method, "test"]
        for name in ("all", "class_mean", "many", "medium", "few"):
            value = getattr(expected, name)
            assert (row[name] is None) == (value is None)
            if value is not None:
                assert row[name]["value"] == pytest.approx(100 * value)
                assert row[name]["ci95"][0] <= row[name]["value"] <= row[name]["ci95"][1]
    assert rows["joint", "test"]["all"]["n"] == 80
    assert rows["tau", "test"]["selected_on"] is None


def test_auto_takes_the_best_tau_on_val(run_copy: Run) -> None:
    rebalance(run_copy, RebalanceConfig(tau="auto", select_by="all"))
    rows = {(row["method"], row["split"]): row for row in results(run_copy)}
    assert rows["tau", "val"]["selected_on"] == "val"
    store = FeatureStore(run_copy, device=CPU)
    features, labels = store.split("val").tensors(CPU)
    weight = store.head.weight.detach().double()
    grid = [
        ((features.double() @ (weight / weight.norm(dim=1, keepdim=True) ** tau).T).argmax(1) == labels)
        .double()
        .mean()
        .item()
        for tau in np.linspace(0, 2, 201)
    ]
    assert rows["tau", "val"]["all"]["value"] >= 100 * max(grid) - 1e-6


def test_rebalancing_again_gives_the_same_files(run_copy: Run) -> None:
    rebalance(run_copy, RebalanceConfig(tau="0.7"))
    folder = run_copy.path / "rebalanced" / "tau"
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    rebalance(run_copy, RebalanceConfig(tau="0.7"))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_evaluate_reads_the_checkpoints_back(run_copy: Run) -> None:
    rebalance(run_copy, RebalanceConfig(tau="0.7"))
    for method in ("joint", "tau"):
        got = evaluate(run_copy, config=EvaluateConfig(method=method, split="test")).find(method, "test")
        row = next(r for r in results(run_copy) if (r["method"], r["split"]) == (method, "test"))
        assert got.to_json() == row


def test_a_rebalanced_classifier_of_other_weights_is_refused(run_copy: Run) -> None:
    rebalance(run_copy, RebalanceConfig(tau="0.7"))
    from fastlt.checkpoints import native

    tensors, metadata = load(run_copy.checkpoint("best"))
    tensors["bn1.bias"] += 1
    native.save(run_copy.checkpoint("best"), tensors, metadata)
    with pytest.raises(ValueError, match=r"\btau\b.*\bother weights|\bother weights"):
        evaluate(run_copy, config=EvaluateConfig(method="tau"))


def test_the_network_loads_without_its_data(run_copy: Run) -> None:
    tensors, _ = load(run_copy.checkpoint("best"))
    model = load_model(run_copy.config, tensors, 10, run_copy.checkpoint("best"))
    assert not model.training
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_a_temperature_changes_confidences_and_no_prediction(run_copy: Run) -> None:
    rebalance(run_copy, RebalanceConfig(tau="0.7", temperature=False))
    plain, _ = load(run_copy.path / "rebalanced" / "tau" / "model.safetensors")
    scores = results(run_copy)
    rebalance(run_copy, RebalanceConfig(tau="0.7"))
    cooled, metadata = load(run_copy.path / "rebalanced" / "tau" / "model.safetensors")
    temperature = metadata["params"]["temperature"]
    torch.testing.assert_close(cooled["fc.weight"] * temperature, plain["fc.weight"])
    ignored = {"params", "ece", "nll"}
    assert [{k: v for k, v in row.items() if k not in ignored} for row in results(run_copy)] == [
        {k: v for k, v in row.items() if k not in ignored} for row in scores
    ]


def test_a_target_prior_moves_the_bias(run_copy: Run) -> None:
    rebalance(run_copy, RebalanceConfig(tau="0.7", temperature=False, target="train"))
    tensors, metadata = load(run_copy.path / "rebalanced" / "tau" / "model.safetensors")
    counts = torch.tensor(run_copy.data["class_counts"]).double()
    torch.testing.assert_close(tensors["fc.bias"].double(), (counts / counts.mean()).log(), atol=1e-5, rtol=1e-5)
    assert metadata["params"]["target"] == "train"


def test_a_problem_has_the_split_that_chooses_and_stage_1s_batch(run_copy: Run) -> None:
    store = FeatureStore(run_copy, device=CPU)
    for name, config in (
        ("val", RebalanceConfig()),
        ("test", RebalanceConfig(method="tau", select_on="test", force=True)),
    ):
        problem = Problem.of_run(store, config, num_views=0)
        assert (problem.selected_on, len(problem.selection)) == (name, len(store.split(name)))
        assert (problem.train, problem.batch_size, problem.dataset) == ((), 32, "folder")
        assert problem.class_counts.tolist() == run_copy.data["class_counts"]


def test_a_temperature_is_fitted_where_settings_are_chosen(run_copy: Run) -> None:
    store = FeatureStore(run_copy, device=CPU)
    temperatures = {}
    for name in ("val", "test"):
        rebalance(run_copy, RebalanceConfig(tau="0.7", select_on=name, force=True, device="cpu", num_threads=1))
        _, metadata = load(run_copy.method("tau") / "model.safetensors")
        temperatures[name] = metadata["params"]["temperature"]
        expected = fit_temperature(tau_normalize(store.head, 0.7), *store.split(name).tensors(CPU))
        assert temperatures[name] == pytest.approx(expected, rel=1e-6)
    assert abs(temperatures["val"] - temperatures["test"]) > 1e-3


def test_folds_score_val_with_what_the_others_chose(run_copy: Run) -> None:
    config = RebalanceConfig(tau="auto", select_on="folds", temperature=False, device="cpu", num_threads=1)
    rebalance(run_copy, config)
    row = next(r for r in results(run_copy) if (r["method"], r["split"]) == ("tau", "val"))
    assert (row["selected_on"], row["selection"], row["all"]["n"]) == ("folds", "class_mean on folds", 60)
    store = FeatureStore(run_copy, device=CPU)
    features, labels = store.split("val").tensors(CPU)
    folds = torch.from_numpy(stratified_folds(labels.numpy()))
    hits = 0
    for fold in range(5):
        rest = folds != fold
        tau = tau_curve(store.head, features[rest], labels[rest], run_copy.data["class_counts"]).best("class_mean").tau
        weight = store.head.weight.detach()
        scores = features[~rest] @ (weight / weight.norm(dim=1, keepdim=True) ** tau).T
        hits += int((scores.argmax(1) == labels[~rest]).sum())
    assert row["all"]["value"] == pytest.approx(100 * hits / 60)
    # evaluate says the same of val, and a choice on all of val takes it back
    again = evaluate(run_copy, config=EvaluateConfig(method="tau", device="cpu"))
    assert again.find("tau", "val").to_json() == row
    rebalance(run_copy, dataclasses.replace(config, select_on="val"))
    row = next(r for r in results(run_copy) if (r["method"], r["split"]) == ("tau", "val"))
    assert row["selection"] == "class_mean on val"
    assert evaluate(run_copy, config=EvaluateConfig(method="tau", device="cpu")).find("tau", "val").to_json() == row


def test_folds_fit_their_temperature_and_aim_without_what_they_score(run_copy: Run) -> None:
    rebalance(run_copy, RebalanceConfig(tau="auto", select_on="folds", target="train", device="cpu", num_threads=1))
    store, counts = FeatureStore(run_copy, device=CPU), np.array(run_copy.data["class_counts"])
    features, labels = store.split("val").tensors(CPU)
    folds = torch.from_numpy(stratified_folds(labels.numpy()))
    with np.load(run_copy.method("tau") / FOLDS) as predictions:
        assert np.array_equal(predictions["labels"], labels)
        for fold in range(5):
            rest = folds != fold
            tau = tau_curve(store.head, features[rest], labels[rest], counts).best("class_mean").tau
            head = tau_normalize(store.head, tau)
            head = with_temperature(head, fit_temperature(head, features[rest], labels[rest]))
            head = adjust_to_prior(head, counts, np.ones(len(counts)))
            shares = head(features[~rest]).detach().softmax(1)
            np.testing.assert_allclose(predictions["confidences"][~rest], shares.max(1).values, rtol=1e-4)
            assert np.array_equal(predictions["classes"][~rest], shares.argmax(1))


def test_a_target_is_estimated_and_reported_under(run_copy: Run, data_root: Path) -> None:
    spec = f"estimate:{data_root / 'train'}"
    rebalance(run_copy, RebalanceConfig(tau="0.7", target=spec, device="cpu", num_threads=1))
    _, metadata = load(run_copy.path / "rebalanced" / "tau" / "model.safetensors")
    prior = np.array(metadata["prior"])
    assert prior.sum() == pytest.approx(1)
    counts = np.array(run_copy.data["class_counts"])
    assert np.abs(prior - counts / counts.sum()).sum() < np.abs(prior - 1 / len(prior)).sum()  # a long tail was seen
    row = next(r for r in results(run_copy) if (r["method"], r["split"]) == ("tau", "test"))
    assert row["params"]["target"] == spec
    assert (
        row["target"]["value"]
        == evaluate(run_copy, config=EvaluateConfig(method="tau", split="test", device="cpu"))
        .find("tau", "test")
        .target.value
    )


def test_a_wrong_target_is_found_before_anything_is_fitted(run_copy: Run) -> None:
    with pytest.raises(FileNotFoundError, match=r"^--target: got nowhere\.csv\b"):
        rebalance(run_copy, RebalanceConfig(tau="0.7", target="nowhere.csv"))
    assert not (run_copy.path / "rebalanced").exists()


def test_the_released_nearest_class_means_are_scored_beside_their_linear_twin(run_copy: Run) -> None:
    rebalance(run_copy, RebalanceConfig(method="ncm", device="cpu", num_threads=1))
    rows = {(row.split, *row.params.values()): row for row in read_released(run_copy, "ncm") or ()}
    assert len(rows) == 2 * 3 * 2
    store = FeatureStore(run_copy, device=CPU)
    features, labels = store.split("test").tensors(CPU)
    predictions = nearest_class_mean_predict(*store.split("train").tensors(CPU), features)
    assert rows["test", "cl2n l2"].all.value == pytest.approx(100 * float((predictions == labels).float().mean()))
