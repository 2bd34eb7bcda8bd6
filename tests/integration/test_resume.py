"""A run that was stopped and resumed is the run that was not, to the bit."""

import dataclasses
import itertools
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from fastlt import Run, TrainConfig, train
from fastlt.checkpoints.native import load, save
from fastlt.checkpoints.reading import Checkpoint, read_checkpoint
from fastlt.training import trainer
from fastlt.training.setup import open_run
from fastlt.training.signals import InterruptedTrainingError
from fastlt.training.trainer import Trainer


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch, signum: int) -> None:
    """Send a signal to this very process when the training step `step` is done."""
    original = trainer.loss_function

    def counting(*settings):
        inner = original(*settings)
        calls = itertools.count(1)

        def loss_and_hits(*args):
            if next(calls) == step:
                os.kill(os.getpid(), signum)
            return inner(*args)

        return loss_and_hits

    monkeypatch.setattr(trainer, "loss_function", counting)


def records(run: Run) -> list[dict]:
    """The epochs' records without the rates, which are times."""
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key not in ("images_per_s", "data_wait_share")} for line in lines
    ]


@pytest.fixture(scope="module", params=["instance_balanced", "progressively_balanced"])
def whole(request: pytest.FixtureRequest, trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that was never stopped."""
    if request.param == trained.config.sampling:
        return trained
    out = tmp_path_factory.mktemp("whole") / "run"
    return train(dataclasses.replace(trained.config, sampling=request.param, ema=0.9, out=out))


@pytest.mark.parametrize(("step", "name"), [(5, "SIGTERM"), (9, "SIGHUP"), (13, "SIGINT")])
def test_resumed_is_bit_identical(
    step: int, name: str, whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = dataclasses.replace(whole.config, out=Path("parts"))
    assert len(records(whole)) == config.epochs
    with monkeypatch.context() as patch:
        stop_at(step, patch, signal.Signals[name])
        with pytest.raises(InterruptedTrainingError, match=rf"stopped by {name} at step {step} of 27.*--resume"):
            train(config)
    parts = train(dataclasses.replace(Run.open(Path("parts")).config, resume=True))

    for name in ("last", "best"):
        expected, _ = load(whole.checkpoint(name))
        got, _ = load(parts.checkpoint(name))
        assert expected.keys() == got.keys()
        different = [key for key in expected if not torch.equal(expected[key], got[key])]
        assert different == []
    assert records(parts) == records(whole)


def test_a_crash_between_checkpoints_loses_only_the_epoch(
    small_config: TrainConfig, trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:

        def crash(*_args: object) -> None:
            raise RuntimeError("power cut")

        calls = iter([trainer.Trainer.validate, trainer.Trainer.validate])
        patch.setattr(Trainer, "validate", lambda self, loader: next(calls, crash)(self, loader))
        with pytest.raises(RuntimeError, match="power cut"):
            train(dataclasses.replace(small_config, out=Path("parts")))
    parts = train(dataclasses.replace(small_config, out=Path("parts"), resume=True))
    expected, _ = load(trained.checkpoint("last"))
    got, _ = load(parts.checkpoint("last"))
    assert all(torch.equal(expected[key], got[key]) for key in expected)
    assert records(parts) == records(trained)


def test_ctrl_c_saves_and_says_how_to_go_on(
    small_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGINT)  # a background job of a shell ignores it
    stop_at(2, monkeypatch, signal.SIGINT)
    with pytest.raises(InterruptedTrainingError, match=r"SIGINT.*fastlt train --resume --out here"):
        train(dataclasses.replace(small_config, out=Path("here")))
    assert signal.getsignal(signal.SIGINT) is before
    _, metadata = load(Path("here/checkpoints/last.safetensors"))
    assert metadata["progress"]["step"] == 2


def test_a_late_signal_ends_the_step_but_not_the_save(
    small_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fastlt.runtime.signals.PATIENCE_S", -1)  # every signal comes late
    original = trainer.native.save

    def press_and_save(*args: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        original(*args)

    monkeypatch.setattr(trainer.native, "save", press_and_save)
    with pytest.raises(InterruptedTrainingError, match=r"at step 9 of"):
        train(dataclasses.replace(small_config, out=Path("saved")))
    assert load(Path("saved/checkpoints/last.safetensors"))[1]["progress"]["step"] == 9
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        stop_at(2, monkeypatch, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            train(dataclasses.replace(small_config, out=Path("cut")))
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_run_that_was_killed_before_its_first_step_becomes_the_last_one_when_it_goes_on(
    run_copy: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = dataclasses.replace(run_copy.config, out=run_copy.path, resume=True)
    open_run(config, torch.device("cpu"))
    assert not Path("runs").exists()
    for name in ("best", "last"):
        run_copy.checkpoint(name).unlink()
    open_run(config, torch.device("cpu"))
    assert Run.open().path.resolve() == run_copy.path.resolve()


def test_a_finished_run_has_nothing_to_resume(run_copy: Run) -> None:
    before = run_copy.checkpoint("last").read_bytes()
    train(dataclasses.replace(run_copy.config, out=run_copy.path, resume=True))
    assert run_copy.checkpoint("last").read_bytes() == before


def test_resuming_with_other_settings_is_refused(run_copy: Run) -> None:
    config = dataclasses.replace(run_copy.config, out=run_copy.path, resume=True, lr=0.3)
    with pytest.raises(ValueError, match=r"^--lr: got 0\.3\b.* 0\.1\b"):
        train(config)


def test_a_checkpoint_of_other_settings_is_refused_and_one_that_records_none_is_not(run_copy: Run) -> None:
    path = run_copy.checkpoint("last")
    config = dataclasses.replace(run_copy.config, out=run_copy.path, resume=True)
    tensors, metadata = load(path)
    assert metadata["settings"] == run_copy.config.fingerprint()
    save(path, tensors, metadata | {"settings": "0"})
    with pytest.raises(ValueError, match=rf"^{path}: .*config.json"):
        train(config)
    older = {key: value for key, value in metadata.items() if key != "settings"}
    save(path, tensors, older | {"config": "0"})
    train(config)


def test_resuming_on_other_data_is_refused(run_copy: Run, data_root: Path, tmp_path: Path) -> None:
    import shutil

    changed = Path(shutil.copytree(data_root, tmp_path / "changed"))
    victim = next((changed / "train").rglob("*.jpg"))
    victim.unlink()
    config = dataclasses.replace(run_copy.config, out=run_copy.path, resume=True, data_root=changed)
    with pytest.raises(ValueError, match=r"\btrain data\b"):
        train(config)


def test_a_run_is_trained_by_one_process_at_a_time(
    small_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        stop_at(5, patch, signal.SIGTERM)
        with pytest.raises(InterruptedTrainingError):
            train(dataclasses.replace(small_config, out=Path("run")))
    run = Run.open(Path("run"))
    resumed = dataclasses.replace(run.config, resume=True)
    with run.held(), pytest.raises(ValueError, match=r"^run: .*another process"):
        train(resumed)
    train(resumed)


def test_a_training_reads_its_initial_weights_once_and_resumes_with_the_same_flag(
    trained: Run, small_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(trained.checkpoint("best"), "start.safetensors")
    paths: list[Path] = []

    def read(path: Path) -> Checkpoint:
        paths.append(path)
        return read_checkpoint(path)

    monkeypatch.setattr("fastlt.checkpoints.start.read_checkpoint", read)
    config = dataclasses.replace(small_config, init=Path("start.safetensors"), epochs=1, out=Path("run"))
    train(config)
    assert paths == [tmp_path / "start.safetensors"]
    train(dataclasses.replace(config, resume=True))
    assert len(paths) == 1
