"""Training on several devices and in several processes gives what one device gives."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from helpers import TO_TRAIN, tiny_classifier

from dmformer_keras import DMFormerError
from dmformer_keras.training import Recipe, distribution, train

SCRIPT = Path(__file__).with_name("distributed_run.py")
BACKEND = keras.config.backend()


@pytest.fixture
def folder(tmp_path):
    model = tiny_classifier(num_classes=4, input_shape=(32, 32, 3), **TO_TRAIN)
    model.save_to_preset(tmp_path / "preset")
    return tmp_path


def check_equal(folder, devices, processes):
    """Runs the script in processes of these environments, and reads what it found."""
    # With one thread TensorFlow adds up half a batch in another order than the whole, and where a
    # gradient is almost zero AdamW makes an update of the difference.
    own = {name: value for name, value in os.environ.items() if name != "TF_NUM_INTRAOP_THREADS"}
    running = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(folder), str(devices)],
            env={**own, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for environment in processes
    ]
    told = [process.communicate(timeout=600)[0] for process in running]
    for process, output in zip(running, told, strict=True):
        assert process.returncode == 0, output
    assert "2 devices" in told[0]
    assert told[0].rstrip().endswith("Equal")
    # Only the first of several processes prints what training prints.
    assert all("Epoch" not in output for output in told[1:])


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch has one process a device")
@pytest.mark.slow(on=["jax"])  # which compiles for minutes
def test_two_devices_train_as_one(folder):
    check_equal(folder, 2, [{"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}])


@pytest.mark.slow(on=["tensorflow", "jax"])
def test_two_processes_train_as_one(folder):
    check_equal(folder, 1, two_processes())


def two_processes():
    """The environments of two processes that are to train together."""
    ports = [str(port) for port in free_ports(2)]
    if BACKEND == "tensorflow":
        cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
        tasks = [{"type": "worker", "index": index} for index in range(2)]
        return [
            {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task}), "PROCESS": str(index)}
            for index, task in enumerate(tasks)
        ]
    if BACKEND == "jax":
        shared = {
            "KERAS_DISTRIBUTION_JOB_ADDRESSES": f"127.0.0.1:{ports[0]}",
            "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
        }
        return [
            {**shared, "KERAS_DISTRIBUTION_PROCESS_ID": str(index), "PROCESS": str(index)}
            for index in range(2)
        ]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": ports[0], "WORLD_SIZE": "2"}
    return [{**shared, "RANK": str(index), "LOCAL_RANK": str(index)} for index in range(2)]


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.mark.skipif(BACKEND != "torch", reason="others see their devices by themselves")
def test_pytorch_says_how_it_is_started(folder, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(DMFormerError, match="torchrun --nproc-per-node"):
        train(Recipe(), folder / "preset", "digits", folder / "run", distribute=True)
    assert not (folder / "run").exists()


@pytest.mark.once_under_torch
def test_a_process_that_does_not_see_the_run_to_resume_says_so(tmp_path):
    other = distribution.OneDevice()
    other.process, other.processes = 1, 2
    with (
        pytest.raises(DMFormerError, match="Process 1 does not see the run"),
        other.folder(tmp_path / "elsewhere", resume=True),
    ):
        pass
    with other.folder(tmp_path / "new", resume=False) as folder:
        assert folder.is_dir()
