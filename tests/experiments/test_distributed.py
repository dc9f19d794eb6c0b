"""Several processes: the curve of one device, one directory, and nobody left hanging when one of them goes."""

import os
import shutil
import signal
import socket
from pathlib import Path

import jax
import pytest
from forked import Forks
from test_split import assert_same_curve
from toy import run, write_config

from experiments import __main__ as cli

ROOT = Path(__file__).parents[2]
MORE = '[model.lstm]\ndropout = 0.3\nrecurrent_initializer = "glorot_uniform"\n'  # orthogonal takes long to compile


pytestmark = pytest.mark.usefixtures("quick_to_compile")


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    """What starts processes, of one device unless the environment says more."""
    environment = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": str(ROOT)}
    found = Forks(tmp_path_factory.mktemp("printed"), os.environ | environment)
    yield found
    found.close()


def by_hand(process, processes=2, port=None):
    """The arguments of one process."""
    address = f"127.0.0.1:{port or free_port()}"
    return "--distributed.coordinator", address, "--distributed.processes", processes, "--distributed.process", process


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def on_two(forks, config, out, *arguments, first=None, second=None):
    """Run `train` on two processes, environments apart."""
    port, command = free_port(), ("train", config, "--out", out, *arguments)
    other = forks.start(*command, *by_hand(1, port=port), **(second or {}))
    return forks.ended(forks.start(*command, *by_hand(0, port=port), **(first or {})), other)


def errors(text):
    """The lines of stderr that are ours."""
    return [line for line in text.splitlines() if line.startswith("error: ")]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The config file: a carried state, and dropout, which is drawn for the whole batch."""
    path = write_config(tmp_path_factory.mktemp("config"), MORE, evaluate_every=10)
    path.write_text(path.read_text().replace("[train]", "[train]\nstateful = true"))
    return path


@pytest.fixture(scope="module")
def one_device(config, tmp_path_factory):
    """The directory of the run of one device."""
    out = tmp_path_factory.mktemp("one") / "out"
    assert run("train", config, "--out", out)[0] == 0
    return out


def is_free(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def unfinished(run_directory, folder):
    """Copy a finished run and take its last five steps away."""
    out = folder / "out"
    shutil.copytree(run_directory, out)
    shutil.rmtree(out / "checkpoints" / "0000000020")
    for name in ("summary.json", "report.html"):
        (out / name).unlink()
    lines = metrics(out).splitlines(keepends=True)
    (out / "metrics.jsonl").write_bytes(b"".join(lines[:15]))
    return out


def metrics(out):
    return (out / "metrics.jsonl").read_bytes()


def test_four_devices_in_one_process_give_the_curve_of_one(forks, config, one_device, tmp_path):
    command = ("train", config, "--out", tmp_path / "out", "--distributed")
    ((status, printed, err),) = forks.ended(forks.start(*command, JAX_NUM_CPU_DEVICES="4"))
    assert (status, err) == (0, "")
    assert "on 4 devices (cpu), 1 process" in printed
    assert_same_curve(metrics(tmp_path / "out"), metrics(one_device))


def test_what_one_device_saved_goes_on_on_two_processes_of_a_cluster(forks, config, one_device, tmp_path):
    # SLURM is detected by what its srun sets; JAX makes the coordinator's port of the job's number.
    job = next(n for n in range(os.getpid() % 4000, 4096) if is_free(61440 + n))
    port = 61440 + job
    slurm = {
        "SLURM_JOB_ID": str(job), "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": "2",
        "JAX_COORDINATOR_BIND_ADDRESS": f"127.0.0.1:{port}",
    }  # fmt: skip
    out = unfinished(one_device, tmp_path)
    command = ("train", config, "--out", out, "--resume", "--distributed")
    (status, printed, _), (other, nothing, _) = forks.ended(
        *(forks.start(*command, SLURM_PROCID=n, SLURM_LOCALID=n, **slurm) for n in ("0", "1"))
    )
    assert (status, other) == (0, 0)
    assert "on 2 devices (cpu), 2 processes" in printed
    assert nothing == "", "process 0 alone prints"
    assert_same_curve(metrics(out), metrics(one_device))
    assert (out / "report.html").exists()


def test_a_process_that_goes_ends_process_0_and_the_run_resumes_on_one(forks, config, one_device, tmp_path):
    out = tmp_path / "out"
    # Calls end at 4, 5, 8, 10: process 1 goes when the checkpoint of step 5 is there.
    (status, _, err), (other, _, _) = on_two(forks, config, out, second={"KILL_IN_CALL": "4"})
    assert other == -signal.SIGTERM, "SIGTERM is the end of a process, not a notice"
    assert status == cli.STOPPED
    assert len(errors(err)) == 1
    assert "process 0 has lost another process" in err
    assert "--resume" in err
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["0000000005"]
    assert run("train", config, "--out", out, "--resume")[0] == 0
    assert_same_curve(metrics(out), metrics(one_device))


def test_without_process_0_the_others_end_and_the_run_resumes_on_one(forks, config, one_device, tmp_path):
    out = unfinished(one_device, tmp_path)
    (status, _, _), (other, _, _) = on_two(forks, config, out, "--resume", first={"KILL_IN_SAVE": "1"})
    assert status == -signal.SIGKILL
    assert other in (cli.STOPPED, -signal.SIGABRT), "ours, or JAX's own end of a process without its coordinator"
    assert [p.name for p in (out / "checkpoints").iterdir() if p.name.isdigit()] == ["0000000015"]
    assert run("train", config, "--out", out, "--resume")[0] == 0
    assert_same_curve(metrics(out), metrics(one_device))


def test_what_stops_process_0_ends_the_others_without_a_word(forks, config, one_device):
    before = metrics(one_device)
    (status, printed, err), other = on_two(forks, config, one_device)  # neither --resume nor --overwrite
    assert (status, printed) == (cli.UNUSABLE, "")
    assert errors(err) == [line for line in err.splitlines() if "holds a run; use --resume" in line]
    assert len(errors(err)) == 1
    assert (other[0], other[1], errors(other[2])) == (cli.UNUSABLE, "", [])
    assert metrics(one_device) == before


def test_nobody_at_the_coordinators_address_is_one_line_in_time(forks, config, tmp_path):
    arguments = (*by_hand(1, port=free_port()), "--distributed.timeout", "0.5")
    ((status, printed, err),) = forks.ended(forks.start("train", config, "--out", tmp_path / "out", *arguments))
    assert (status, printed, err.count("\n")) == (cli.UNUSABLE, "", 1), err
    assert "process 1 must reach process 0 at 127.0.0.1:" in err
    assert "within 0.5 s (--distributed.timeout), got: Connection refused" in err
    assert not (tmp_path / "out").exists()


def test_a_port_in_use_is_one_line(config, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        status, _, err = run("train", config, "--out", tmp_path / "out", *by_hand(0, port=server.getsockname()[1]))
    assert (status, err.count("\n")) == (cli.UNUSABLE, 1)
    assert "process 0 must be able to listen on 127.0.0.1:" in err
    assert "Address already in use" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (by_hand(2), "--distributed.process must be in 0 to 1 (of 2), got 2"),
        (by_hand(-1), "--distributed.process must be in 0 to 1 (of 2), got -1"),
        (by_hand(0, processes=0), "--distributed.processes must be at least 1, got 0"),
        (by_hand(0)[:2], "--distributed.processes, --distributed.process must be given too"),
        (("--distributed.process", "1"), "--distributed.coordinator, --distributed.processes must be given too"),
        (by_hand(0, port=70000), "--distributed.coordinator must be HOST:PORT of process 0, got '127.0.0.1:70000'"),
        (("--distributed.coordinator", "host", *by_hand(0)[2:]), "must be HOST:PORT of process 0, got 'host'"),
        (
            ("--distributed", "--distributed.timeout", "0"),
            "--distributed.timeout must be above 0 seconds and at most 86,400, got 0",
        ),
        (("--distributed.process", "x"), "argument --distributed.process: invalid int value: 'x'"),
    ],
)
def test_wrong_arguments_are_one_line_before_any_work(tmp_path, arguments, message):
    status, _, err = run("train", write_config(tmp_path), "--out", tmp_path / "out", *arguments)
    assert (status, err.count("\n")) == (cli.UNUSABLE, 1)
    assert message in err
    assert not (tmp_path / "out").exists()


def test_one_device_and_no_cluster_is_nothing_to_distribute(tmp_path, monkeypatch):
    def undetected(**arguments):  # as JAX raises it
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr("jax.distributed.initialize", undetected)
    monkeypatch.setattr("jax.devices", lambda one=jax.devices()[:1]: one)
    status, _, err = run("train", write_config(tmp_path), "--out", tmp_path / "out", "--distributed")
    assert (status, err.count("\n")) == (cli.UNUSABLE, 1)
    assert "--distributed finds one device, and no cluster" in err
