"""Two processes train as one does: the same images, the same weights, one run folder, one end."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from fastlt import TrainConfig
from fastlt.checkpoints.native import load
from fastlt.models import create_model
from fastlt.runtime.distributed import World
from fastlt.runtime.launch import check_gpus
from fastlt.training.setup import check_shares

WORKER = Path(__file__).with_name("worker.py")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
EPOCHS, STEPS = 2, 18

Train = Callable[..., tuple[dict[str, torch.Tensor], dict[str, np.ndarray]]]


@pytest.fixture(scope="module")
def trained_by(small_config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Train in float64 with one process or two; what was asked for before is not done again."""
    outcomes: dict[str, tuple[dict[str, torch.Tensor], dict[str, np.ndarray]]] = {}

    def run(processes: int, *, out: Path | None = None, stop: int = 0, **changes: object):
        key = json.dumps([processes, str(out), stop, changes], default=str)
        if key not in outcomes:
            folder = tmp_path_factory.mktemp("trained")
            config = dataclasses.replace(
                small_config,
                precision="fp32",
                **{
                    "epochs": EPOCHS,
                    "sampling": "class_balanced",
                    "samples_per_class": 4,
                    "out": out or folder / "run",
                }
                | changes,
            )
            worker = [str(WORKER), json.dumps(config.to_json()), str(folder), str(stop)]
            command = [sys.executable, *(TORCHRUN if processes > 1 else ()), *worker]
            done = subprocess.run(
                command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
            )
            assert done.returncode == 0, done.stderr
            parts = [dict(np.load(folder / f"rank{rank}.npz")) for rank in range(processes)]
            seen = {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}
            outcomes[key] = load((out or folder / "run") / "checkpoints/last.safetensors")[0], seen
        return outcomes[key]

    return run


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """The same weights, momentum and running statistics, to 1e-10."""
    assert ours.keys() == theirs.keys()
    assert {str(value.dtype) for value in ours.values()} == {"torch.float64", "torch.int64"}
    worst = max((ours[key] - theirs[key]).abs().max().item() for key in ours)
    assert worst < 1e-10


def test_two_processes_see_the_same_images_and_end_with_the_same_weights(trained_by: Train) -> None:
    alone, its_images = trained_by(1)
    together, their_images = trained_by(2)
    assert len(its_images["ids"]) == STEPS
    for name in its_images:  # samples, windows and flips (as pixels), and colour factors
        np.testing.assert_array_equal(their_images[name], its_images[name])
    assert_same(together, alone)


def test_two_processes_stop_at_the_same_step_and_one_goes_on(trained_by: Train, tmp_path: Path) -> None:
    alone, its_images = trained_by(1)
    stopped, their_images = trained_by(2, out=tmp_path / "run", stop=5)
    assert len(their_images["ids"]) == 5  # on both: rank 1 alone was sent the signal
    assert stopped["model.bn1.num_batches_tracked"] == 5
    resumed, rest = trained_by(1, out=tmp_path / "run", resume=True)
    for name in its_images:
        np.testing.assert_array_equal(np.concatenate([their_images[name], rest[name]]), its_images[name])
    assert_same(resumed, alone)
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2]


def test_gradients_averaged_in_bf16_are_those_of_the_whole_batch_but_rounded(trained_by: Train) -> None:
    first_step = {"stop": 1, "weight_decay": 0.0}  # after which momentum is the gradient
    exact, _ = trained_by(1, **first_step)
    rounded, _ = trained_by(2, bf16_gradients=True, **first_step)
    gradients = [key for key in exact if key.startswith("momentum.")]
    assert len(gradients) == len(PARAMETERS)
    for key in gradients:
        assert torch.equal(rounded[key], rounded[key].bfloat16().double())
        assert (rounded[key] - exact[key]).abs().max() < 0.02 * exact[key].abs().max()


GHOST = {"bn_group": 8, "mixup": 0.5, "randaugment": 1, "ema": 0.9}


def test_ghost_batch_norm_is_the_same_on_one_process_and_on_two(trained_by: Train) -> None:
    alone, _ = trained_by(1, **GHOST)
    together, _ = trained_by(2, **GHOST)
    assert any(key.startswith("ema.") for key in alone)
    assert_same(together, alone)


def test_late_weights_are_of_the_whole_batch_on_one_process_and_on_two(trained_by: Train) -> None:
    # Weights of a piece's or a process's own images would give each share of the batch another scale. The last of five
    # epochs is weighted; the rate is low, since LDAM's scale of 30 makes rounding grow from step to step.
    ldam = {"loss": "ldam", "epochs": 5, "sampling": "instance_balanced", "samples_per_class": None, "bn_group": 8}
    alone, _ = trained_by(1, lr=0.005, **ldam)
    in_pieces, _ = trained_by(2, lr=0.005, accumulate=2, **ldam)
    weights = [key for key in alone if key.startswith("momentum.") or key.removeprefix("model.") in PARAMETERS]
    assert max((alone[key] - in_pieces[key]).abs().max().item() for key in weights) < 1e-10


def test_pieces_of_a_batch_give_the_gradients_of_the_whole(trained_by: Train) -> None:
    alone, _ = trained_by(1, **GHOST)
    in_pieces, _ = trained_by(2, accumulate=2, **GHOST)
    weights = [key for key in alone if key.startswith("momentum.") or key.removeprefix("model.") in PARAMETERS]
    assert len(weights) == 2 * len(PARAMETERS)
    assert max((alone[key] - in_pieces[key]).abs().max().item() for key in weights) < 1e-10


ENDINGS = """
import sys
from pathlib import Path
import torch
from torch import distributed, nn
from fastlt.runtime.distributed import World

rank = int(sys.argv[1])
for number in range(30):
    store = f"file://{Path.cwd() / str(number)}"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    world = World(rank=rank, size=2)
    module = world.parallel(nn.Linear(4, 4), torch.device("cpu"))
    module(torch.ones(2, 4)).sum().backward()
    world.barrier()
    distributed.destroy_process_group()
    del module  # after the group, as where an exception's traceback still holds the module
"""


def test_processes_that_end_do_not_wait_for_each_other_for_ever(tmp_path: Path) -> None:
    started = [
        subprocess.Popen([sys.executable, "-c", ENDINGS, str(rank)], cwd=tmp_path, env=ENVIRONMENT) for rank in range(2)
    ]
    try:
        assert [process.wait(60) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()


PARAMETERS = {name for name, _ in create_model("resnet8", 10).named_parameters()}


def command(config: TrainConfig, *flags: str) -> list[str]:
    """The command line of a short run."""
    shape = ("--backbone", "resnet8", "--image-size", "32", "--eval-resize", "32", "--batch-size", "32", "--lr", "0.1")
    data = ("--dataset", "folder", "--data-root", str(config.data_root), "--num-threads", "1", "--device", "cpu")
    return [sys.executable, "-m", "fastlt", "train", *data, *shape, "--gpus", "2", *flags]


def test_gpus_starts_processes_that_write_one_run_and_stop_on_ctrl_c(
    small_config: TrainConfig, tmp_path: Path, ctrl_c: Callable[[Sequence[str]], tuple[str, str]]
) -> None:
    output, error = ctrl_c(command(small_config, "--epochs", "500"))
    assert error.count("\n") == 1
    assert "stopped by SIGINT at step" in error
    runs = [path for path in (tmp_path / "runs/folder").iterdir() if path.is_dir()]
    assert len(runs) == 1
    assert output.count("training resnet8 on folder") == 1
    steps = [json.loads(line)["step"] for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_what_is_left_when_a_process_is_killed_goes_on_to_the_same_bits(
    small_config: TrainConfig, tmp_path: Path
) -> None:
    """The launcher's end ends its processes; a process's end ends the others; neither says more than a line."""

    def start(*flags: str) -> subprocess.Popen[str]:
        flags = ("--epochs", "4", "--log-every", "1", *flags)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command(small_config, *flags), cwd=tmp_path, env=ENVIRONMENT, **pipes)

    def ranks(process: subprocess.Popen[str]) -> list[int]:
        """The processes by rank, once the second epoch has begun."""
        assert process.stdout is not None
        while "epoch 2/" not in process.stdout.readline():
            assert process.poll() is None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return sorted(
            map(int, children), key=lambda child: b"\0RANK=0\0" not in Path(f"/proc/{child}/environ").read_bytes()
        )

    whole = start("--out", "whole")
    assert whole.wait(120) == 0

    parts = start("--out", "parts")
    os.kill(ranks(parts)[0], signal.SIGKILL)
    _, error = parts.communicate(timeout=60)
    assert parts.returncode == 2
    assert re.fullmatch(r"fastlt: --gpus: got SIGKILL in process 0\b.*--resume\n", error)

    parts = start("--out", "parts", "--resume")
    left = ranks(parts)
    parts.kill()
    assert parts.communicate(timeout=60)[1] == ""
    wait_until_gone(left)

    parts = start("--out", "parts", "--resume")
    assert parts.wait(120) == 0
    for name in ("last", "best"):
        expected, got = (load(tmp_path / run / f"checkpoints/{name}.safetensors")[0] for run in ("whole", "parts"))
        assert [key for key in expected if not torch.equal(expected[key], got[key])] == []


def wait_until_gone(processes: Sequence[int]) -> None:
    deadline = time.monotonic() + 30
    while any(is_alive(process) for process in processes):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().split()[2] != "Z"


def test_a_failure_before_the_first_step_is_one_line(small_config: TrainConfig, tmp_path: Path) -> None:
    wrong = command(small_config, "--data-root", "nowhere")
    done = subprocess.run(wrong, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert re.match(r"fastlt: .*\bnowhere\b.*--data-root|fastlt: --data-root: .*\bnowhere\b", done.stderr)
    assert done.stderr.count("\n") == 1


def test_torchrun_trains_too(small_config: TrainConfig, tmp_path: Path) -> None:
    arguments = command(small_config, "--epochs", "1", "--out", "run")[1:]
    started = [sys.executable, *TORCHRUN, *arguments]
    subprocess.run(started, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, timeout=120, check=True)
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("size", "settings", "message"),
    [
        (3, {}, r"^--gpus: got 3 processes x 1 pieces.*--batch-size 32"),
        (1, {"accumulate": 3}, r"^--accumulate: got 1 process x 3 pieces.*--batch-size 32"),
        (2, {"bn_group": 12}, r"^--bn-group: got 12\b.*\b16 images"),
        (32, {"mixup": 0.2}, r"^--mixup: .*\b1 image"),
    ],
)
def test_what_does_not_divide_the_batch_is_refused(size: int, settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_shares(TrainConfig(batch_size=32, **settings), World(size=size))


def test_more_gpus_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^--gpus: got 999\b.*\b\d+ .*CUDA"):
        check_gpus(TrainConfig(gpus=999))
    with pytest.raises(ValueError, match=r"^--device: got cuda:1\b.*--gpus 2\b"):
        check_gpus(TrainConfig(gpus=2, device="cuda:1"))
