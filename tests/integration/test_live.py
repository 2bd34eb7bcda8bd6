"""Stage 2 on live images: what is trained, what drifts, and that it is scored under the network that is written."""

import dataclasses
import json

import pytest
import torch

from fastlt import EvaluateConfig, RebalanceConfig, Run, evaluate, rebalance
from fastlt.checkpoints.native import load, save
from fastlt.data.registry import open_data
from fastlt.evaluation.classifier import open_classifier
from fastlt.features.store import FeatureStore

CPU = torch.device("cpu")
LIVE = RebalanceConfig(method="crt", features="live", epochs=1, device="cpu", num_threads=1, temperature=False)


def changed(run: Run, method: str) -> set[str]:
    """Names of the tensors that differ between stage 1 and a rebalanced checkpoint."""
    before, _ = load(run.checkpoint("best"))
    after, _ = load(run.method(method) / "model.safetensors")
    assert set(before) == set(after)
    return {key for key in before if not torch.equal(before[key], after[key])}


def is_statistic(key: str) -> bool:
    return key.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")


@pytest.mark.parametrize("method", ["crt", "lws", "los"])
def test_the_papers_protocol_changes_the_classifier_alone(run_copy: Run, method: str) -> None:
    rebalance(run_copy, dataclasses.replace(LIVE, method=method))
    assert changed(run_copy, method) == {"fc.weight", "fc.bias"}
    rows = json.loads((run_copy.method(method) / "results.json").read_text())["results"]
    params = next(row["params"] for row in rows if row["method"] == method)
    assert params.get("smoothing") == (LIVE.label_smoothing if method == "los" else None)


def test_lws_scales_every_class_with_its_bias(run_copy: Run) -> None:
    rebalance(run_copy, dataclasses.replace(LIVE, method="lws"))
    before, _ = load(run_copy.checkpoint("best"))
    after, _ = load(run_copy.method("lws") / "model.safetensors")
    scale = after["fc.bias"] / before["fc.bias"]
    torch.testing.assert_close(after["fc.weight"], before["fc.weight"] * scale[:, None])
    assert (scale - 1).abs().max() > 1e-3


def test_the_released_protocol_lets_statistics_drift_and_scores_the_drifted_network(run_copy: Run) -> None:
    config = dataclasses.replace(LIVE, method="lws", protocol="released", epochs=2)
    rebalance(run_copy, config)
    moved = changed(run_copy, "lws") - {"fc.weight", "fc.bias"}
    tensors, _ = load(run_copy.method("lws") / "model.safetensors")
    assert moved == {key for key in tensors if is_statistic(key)}
    rows = json.loads((run_copy.method("lws") / "results.json").read_text())["results"]
    after = next(row for row in rows if (row["method"], row["split"]) == ("lws", "test"))
    store = FeatureStore(run_copy, device=CPU)
    drifted = store.with_backbone(tensors, "lws")
    assert drifted is not store
    images, labels = drifted.split("test").tensors(CPU)
    hits = (images @ tensors["fc.weight"].T + tensors["fc.bias"]).argmax(1) == labels
    assert after["all"]["value"] == pytest.approx(100 * hits.double().mean().item())
    again = evaluate(run_copy, config=EvaluateConfig(method="lws", split="test", device="cpu")).find("lws", "test")
    assert again.to_json() == after
    joint = next(row for row in rows if (row["method"], row["split"]) == ("joint", "test"))
    joint_again = evaluate(run_copy, config=EvaluateConfig(method="joint", split="test", device="cpu")).find(
        "joint", "test"
    )
    assert joint_again.to_json() == joint


def test_a_classifier_is_told_its_backbone_by_hash_and_older_ones_by_their_tensors(run_copy: Run) -> None:
    for method, protocol in (("crt", "paper"), ("lws", "released")):
        rebalance(run_copy, dataclasses.replace(LIVE, method=method, protocol=protocol))
        path = run_copy.method(method) / "model.safetensors"
        tensors, metadata = load(path)
        store = FeatureStore(run_copy, device=CPU)
        opened = open_classifier(store, method).store
        assert metadata["backbone"] == opened.backbone_hash
        assert (opened is store) == (protocol == "paper")
        del metadata["backbone"]
        save(path, tensors, metadata)
        assert open_classifier(store, method).store.backbone_hash == opened.backbone_hash


@pytest.mark.parametrize(("fine_tune", "frozen"), [("last_block", ("conv1", "bn1", "layer1", "layer2")), ("all", ())])
def test_the_ablation_trains_the_parts_it_names(run_copy: Run, fine_tune: str, frozen: tuple[str, ...]) -> None:
    rebalance(run_copy, dataclasses.replace(LIVE, fine_tune=fine_tune))
    tensors, _ = load(run_copy.method("crt") / "model.safetensors")
    assert changed(run_copy, "crt") == {key for key in tensors if key.partition(".")[0] not in frozen}


def test_live_training_is_reproducible(run_copy: Run) -> None:
    rebalance(run_copy, LIVE)
    first = (run_copy.method("crt") / "model.safetensors").read_bytes()
    rebalance(run_copy, LIVE)
    assert (run_copy.method("crt") / "model.safetensors").read_bytes() == first
    rebalance(run_copy, dataclasses.replace(LIVE, seed=1))
    assert (run_copy.method("crt") / "model.safetensors").read_bytes() != first


def test_a_grid_is_chosen_on_val_without_rates_that_diverge(run_copy: Run) -> None:
    rebalance(run_copy, dataclasses.replace(LIVE, lr=(1e20, 1e-9, 0.05), epochs=2))
    _, metadata = load(run_copy.method("crt") / "model.safetensors")
    assert metadata["selected_on"] == "val"
    assert metadata["params"]["lr"] == 0.05


def test_reestimated_statistics_are_written_and_scored(run_copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    config = RebalanceConfig(tau="0", reestimate_batch_norm=True, device="cpu", num_threads=1, temperature=False)
    rebalance(run_copy, config)
    before, _ = load(run_copy.checkpoint("best"))
    after, _ = load(run_copy.method("tau") / "model.safetensors")
    moved = {key for key in after if not torch.equal(before[key], after[key])}
    assert moved == {key for key in after if is_statistic(key)}
    first = (run_copy.method("tau") / "results.json").read_bytes()
    monkeypatch.setattr("fastlt.rebalancing.engine.batch_norm.estimate", lambda *_: pytest.fail("estimated again"))
    rebalance(run_copy, config)
    assert (run_copy.method("tau") / "results.json").read_bytes() == first
    for change in ({"seed": 1}, {"batch_size": 16}):
        with pytest.raises(pytest.fail.Exception, match="estimated again"):
            rebalance(run_copy, dataclasses.replace(config, **change))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "ncm"}, r"^--features: got live with --method ncm\b.*\bcrt, lws, los\b"),
        ({"method": "all"}, r"^--features: got live with --method all\b"),
        ({"loss": "ldam"}, r"^--loss: got ldam with --features live\b"),
        ({"fine_tune": "all", "lr": (0.1, 0.2)}, r"^--fine-tune: got all with 2\b"),
        ({"lr": (0.1, 0.2), "select_on": "folds"}, r"^--select-on: got folds with 2\b"),
        ({"reestimate_batch_norm": True, "protocol": "released"}, r"^--reestimate-batch-norm: .*--protocol released\b"),
        ({"lr": (1e20,)}, r"^--lr: got 1e\+20\b"),
    ],
)
def test_what_has_no_live_form_is_refused(run_copy: Run, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rebalance(run_copy, dataclasses.replace(LIVE, **changes))
    assert not (run_copy.path / "rebalanced").exists()


def test_a_data_set_that_changed_is_not_trained_on(run_copy: Run) -> None:
    data = json.loads((run_copy.path / "data.json").read_text())
    data["splits"]["train"] |= {"fingerprint": "0", "content": "0"}
    (run_copy.path / "data.json").write_text(json.dumps(data))
    assert open_data(run_copy.config)["train"].fingerprint != "0"
    with pytest.raises(ValueError, match=r"\btrain data\b"):
        rebalance(run_copy, LIVE)
