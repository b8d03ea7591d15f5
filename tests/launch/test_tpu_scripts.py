"""The scripts for TPU pods: what they would run, and how they get through preemption with a stub of gcloud."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

SCRIPTS = ROOT / "launch" / "tpu"
WHERE = "--zone=z --project=p"
SETTINGS = {"NAME": "sim", "ZONE": "z", "PROJECT": "p", "POLL": "0"}
FLAGS = ("--config=a b.py:sim", "--workdir=$HOME/bucket/sim")
WORKER = "celltrack-jax/launch/tpu/worker.sh"
TRAIN = r"--config=a\ b.py:sim --workdir=\$HOME/bucket/sim"

STUB = """#!/usr/bin/env bash
# Records each call; answers it from the file named by its verb and noun, a line at a time, the last one for ever.
echo "$*" >>"$STUB/calls"
case "$*" in
  *ssh*status*) topic=status ;;
  *ssh*start*) topic=start ;;
  *tpu-vm\\ describe*value\\(state\\)*) topic=state ;;
  *queued-resources\\ describe*) topic=request ;;
  *networkEndpoints*) topic=hosts ;;
  *queued-resources\\ create*) topic=create ;;
  *) exit 0 ;;
esac
answer=$(head -1 "$STUB/$topic" 2>/dev/null)
[ "$(wc -l <"$STUB/$topic" 2>/dev/null || echo 0)" -lt 2 ] || sed -i 1d "$STUB/$topic"
case $answer in
  NOT_FOUND) echo "ERROR: NOT_FOUND: no such resource" >&2; exit 1 ;;
  FAILS) echo "ERROR: the service is unavailable" >&2; exit 1 ;;
esac
printf '%b\\n' "$answer"
"""


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    """A folder with the stub on PATH, whose answers a test sets: cloud("state", "PREEMPTED", "READY")."""
    stub = tmp_path / "gcloud"
    stub.write_text(STUB)
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("STUB", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def answers(topic: str, *lines: str) -> Path:
        (tmp_path / topic).write_text("".join(line + "\n" for line in lines))
        return tmp_path

    answers("hosts", "10.0.0.5;10.0.0.6")
    answers("request", "ACTIVE")
    answers("start", "")
    return answers


def call(script: str, *flags: str, **settings: str) -> tuple[int, list[str], str]:
    """Returns exit status, lines of stdout, and stderr."""
    command = [str(SCRIPTS / script), *flags]
    environment = {**os.environ, **SETTINGS, **settings}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout.splitlines(), done.stderr


def calls(folder: Path) -> list[str]:
    """Returns the verbs and nouns that gcloud was called with."""
    lines = (folder / "calls").read_text().splitlines()
    words = [line.removeprefix("compute tpus ").split() for line in lines]
    verbs = [" ".join(line[:2]) for line in words]
    return [
        f"{verb} {'status' if line.endswith(f'status {WHERE}') else 'start'}"
        if verb == "tpu-vm ssh" and "setup" not in line
        else verb
        for verb, line in zip(verbs, lines, strict=True)
    ]


@pytest.fixture(scope="session")
def shellcheck():
    """The linter; installed as Debian's package where we may."""
    if shutil.which("shellcheck") is None and os.geteuid() == 0 and shutil.which("apt-get"):
        install = "apt-get install -y -qq shellcheck || { apt-get update -qq && apt-get install -y -qq shellcheck; }"
        subprocess.run(["bash", "-c", install], capture_output=True, check=False, timeout=300)
    if (found := shutil.which("shellcheck")) is None:
        pytest.skip("shellcheck is not installed, and no Debian package could be: apt-get install shellcheck")
    return found


def test_the_scripts_have_no_lint(shellcheck):
    scripts = sorted(map(str, SCRIPTS.glob("*.sh")))
    done = subprocess.run([shellcheck, "-x", *scripts], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


CREATE = [
    f"gcloud compute tpus queued-resources create sim --node-id=sim --runtime-version=v2-alpha-tpuv5-lite "
    f"--accelerator-type=v5litepod-16 --spot {WHERE}",
    rf"gcloud compute tpus queued-resources describe sim --format=value\(state.state\) {WHERE}",
    "git archive --format=tar.gz --prefix=celltrack-jax/ --output=/t/celltrack-jax-sim.tar.gz HEAD",
    f"gcloud compute tpus tpu-vm scp /t/celltrack-jax-sim.tar.gz sim:code.tar.gz --worker=all {WHERE}",
    rf"gcloud compute tpus tpu-vm ssh sim --worker=all --command=tar\ -xzf\ code.tar.gz\ \&\&\ BUCKET=\'\'\ DISK=\'\'\ "
    rf"bash\ {WORKER}\ setup {WHERE}",
]
RUN = [
    rf"gcloud compute tpus tpu-vm describe sim --format=value\(networkEndpoints\[\].ipAddress\) {WHERE}",
    rf"gcloud compute tpus tpu-vm ssh sim --worker=all --command=bash\ {WORKER}\ start\ 10.0.0.1\\\,10.0.0.2\ "
    rf"--config=a\\\ b.py:sim\ --workdir=\\\$HOME/bucket/sim {WHERE}",
]
DELETE = [f"gcloud compute tpus queued-resources delete sim --force --quiet {WHERE}"]
STATE = [rf"gcloud compute tpus tpu-vm describe sim --format=value\(state\) {WHERE}"]
STATUS = [rf"gcloud compute tpus tpu-vm ssh sim --worker=all --command=bash\ {WORKER}\ status {WHERE}"]


@pytest.mark.parametrize(
    ("script", "flags", "expected"),
    [
        ("create.sh", (), CREATE),
        ("run.sh", FLAGS, RUN),
        ("logs.sh", (), [rf"gcloud compute tpus tpu-vm ssh sim --worker=0 --command=tail\ -n\ 200\ -F\ "
                         rf"celltrack-jax/run/log {WHERE}"]),
        ("delete.sh", (), DELETE),
        ("watch.sh", FLAGS, [*STATE, *DELETE, *CREATE, *RUN, *STATE, *STATUS]),
    ],
)  # fmt: skip
def test_a_dry_run_prints_every_command_in_order_and_runs_none(cloud, script, flags, expected):
    folder = cloud("start", "")
    status, lines, stderr = call(script, *flags, DRY_RUN="1")
    assert (status, [line.replace(f"{folder}/", "/t/") for line in lines]) == (0, expected), stderr
    assert not (folder / "calls").exists()


def test_settings_choose_the_capacity_and_the_disk():
    chosen = {
        "QUEUED": "0",
        "SPOT": "0",
        "TYPE": "v6e-8",
        "VERSION": "v2-alpha-tpuv6e",
        "DISK": "projects/p/d",
    }
    _, lines, _ = call("create.sh", DRY_RUN="1", **chosen)
    assert lines[0] == (
        "gcloud compute tpus tpu-vm create sim --version=v2-alpha-tpuv6e --accelerator-type=v6e-8 "
        rf"--data-disk=source=projects/p/d\,mode=read-only {WHERE}"
    )
    assert call("delete.sh", DRY_RUN="1", QUEUED="0")[1] == [
        f"gcloud compute tpus tpu-vm delete sim --quiet {WHERE}"
    ]


@pytest.mark.parametrize("missing", ["NAME", "ZONE", "PROJECT"])
def test_a_missing_setting_is_named(missing):
    status, lines, stderr = call("create.sh", **{missing: ""})
    assert (status, lines) == (1, [])
    assert f"give {missing}=" in stderr


def test_xpk_runs_the_same_worker_in_a_cluster():
    settings = {"CLUSTER": "pods", "DRY_RUN": "1"}
    status, lines, stderr = call("xpk.sh", "create", *FLAGS, **settings)
    assert status == 0, stderr
    assert lines[0].startswith(
        "xpk workload create --workload=sim --tpu-type=v5litepod-16 --num-slices=1 --spot "
    )
    assert "--max-restarts=100 --restart-on-user-code-failure" in lines[0]
    assert lines[0].endswith(" --cluster=pods --zone=z --project=p")
    assert (
        r"worker.sh\ setup\ \&\&\ exec\ bash\ launch/tpu/worker.sh\ train\ --config=a\\\ b.py:sim" in lines[0]
    )
    assert call("xpk.sh", "list", **settings)[1] == [
        f"xpk workload list --filter-by-job=sim --cluster=pods {WHERE}"
    ]
    assert call("xpk.sh", "delete", **settings)[1] == [
        f"xpk workload delete --workload=sim --force --cluster=pods {WHERE}"
    ]
    assert call("xpk.sh", "stop", **settings)[0] == 1


MADE = ["tpu-vm describe", "queued-resources describe", "queued-resources create", "queued-resources describe",
        "tpu-vm scp", "tpu-vm ssh"]  # fmt: skip
RAN = ["tpu-vm describe", "tpu-vm ssh start"]


def test_a_preempted_tpu_is_made_anew_and_the_training_goes_on(cloud):
    cloud("request", "NOT_FOUND", "WAITING_FOR_RESOURCES", "ACTIVE")
    cloud("state", "READY", "PREEMPTED", "NOT_FOUND", "CREATING", "READY")
    folder = cloud(
        "status", "celltrack: running", r"celltrack: running\ncelltrack: exited 0", "celltrack: exited 0"
    )
    status, _, stderr = call("watch.sh", *FLAGS)
    assert status == 0, stderr
    made = [*MADE[:4], "queued-resources describe", *MADE[4:]]
    looked = ["tpu-vm describe", "tpu-vm ssh status"]
    renewed = ["tpu-vm describe", "queued-resources delete", *made, *RAN]
    assert calls(folder) == [*looked, *renewed, "tpu-vm describe", *looked, *looked]
    started = [line for line in (folder / "calls").read_text().splitlines() if " start " in line]
    assert started == [
        rf"compute tpus tpu-vm ssh sim --worker=all --command=bash {WORKER} start 10.0.0.5\,10.0.0.6 {TRAIN} {WHERE}"
    ]


def test_a_stopped_training_continues_and_a_failing_one_is_given_up(cloud):
    cloud("state", "READY")
    folder = cloud(
        "status", r"celltrack: exited 75\ncelltrack: exited 1", "celltrack: idle", "celltrack: exited 0"
    )
    assert call("watch.sh", *FLAGS)[0] == 0
    look = ["tpu-vm describe", "tpu-vm ssh status"]
    assert calls(folder) == [*look, *RAN, *look, *RAN, *look]

    cloud("status", "celltrack: exited 1")
    (folder / "calls").unlink()
    status, _, stderr = call("watch.sh", *FLAGS, RETRIES="2")
    assert status == 1
    assert "error: gave up: workers say celltrack: exited 1: see logs.sh" in stderr
    assert calls(folder) == [*look, *RAN, *look, *RAN, *look]


def test_a_silent_cloud_is_asked_again_and_then_given_up(cloud):
    folder = cloud("state", "FAILS")
    status, _, stderr = call("watch.sh", *FLAGS, RETRIES="1")
    assert status == 1
    assert "the cloud does not answer" in stderr
    assert calls(folder) == ["tpu-vm describe"] * 2


def test_a_failed_request_says_what_to_do(cloud):
    cloud("state", "NOT_FOUND")
    cloud("request", "NOT_FOUND", "FAILED")
    status, _, stderr = call("create.sh")
    assert status == 1
    assert "the request is FAILED: call delete.sh" in stderr


def test_create_goes_on_with_a_request_that_exists(cloud):
    cloud("state", "NOT_FOUND")
    folder = cloud("request", "WAITING_FOR_RESOURCES", "ACTIVE")
    assert call("create.sh")[0] == 0
    assert "queued-resources create" not in calls(folder)
    assert not (folder / "celltrack-jax-sim.tar.gz").exists()


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """worker.sh in a folder whose Python records its arguments and ends as told; returns a function that calls it."""
    script = tmp_path / "celltrack-jax" / "launch" / "tpu" / "worker.sh"
    python = tmp_path / "celltrack-jax" / ".venv" / "bin" / "python"
    script.parent.mkdir(parents=True)
    python.parent.mkdir(parents=True)
    shutil.copy(SCRIPTS / "worker.sh", script)
    python.write_text(
        '#!/usr/bin/env bash\nprintf "%s\\n" "$@" >"$0.args"\nwhile [ -e "$0.wait" ]; do sleep 0.05; done\nexit 3\n'
    )
    python.chmod(0o755)
    curl = tmp_path / "curl"
    curl.write_text("#!/usr/bin/env bash\necho 1\n")  # the metadata server: this is worker 1
    curl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "HOME": "/home/me", **settings}
        return subprocess.run(
            ["bash", str(script), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    return run, python


def test_a_worker_trains_in_the_background_as_one_of_several(worker):
    run, python = worker
    wait = python.with_name("python.wait")
    wait.touch()
    assert run("status").stdout == "celltrack: idle\n"
    hosts = "10.0.0.5,10.0.0.6"
    run("start", hosts, *FLAGS)
    assert run("status").stdout == "celltrack: running\n"
    pid = (python.parents[2] / "run" / "pid").read_text()
    run("start", hosts, *FLAGS)  # a second start leaves the first one alone
    assert (python.parents[2] / "run" / "pid").read_text() == pid
    wait.unlink()
    deadline = time.monotonic() + 20
    while run("status").stdout == "celltrack: running\n" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert run("status").stdout == "celltrack: exited 3\n"
    assert python.with_name("python.args").read_text().splitlines() == [
        "-m", "launch.train", "--config=a b.py:sim", "--workdir=/home/me/bucket/sim",
        "--coordinator=10.0.0.5:8476", "--processes=2", "--process=1",
    ]  # fmt: skip


def test_a_pod_of_gke_trains_in_the_foreground(worker):
    run, python = worker
    assert run("train", "--workdir=w", TPU_WORKER_HOSTNAMES="a,b,c", TPU_WORKER_ID="2").returncode == 3
    shared = ["--coordinator=a:8476", "--processes=3", "--process=2"]
    said = python.with_name("python.args").read_text().splitlines()
    assert said == ["-m", "launch.train", "--workdir=w", *shared]
    run("train", "--workdir=w")  # a slice of one host
    assert python.with_name("python.args").read_text().splitlines() == ["-m", "launch.train", "--workdir=w"]
    assert run("sing").returncode == 2


def test_a_pod_that_is_told_to_stop_tells_the_training(worker, tmp_path):
    """The pod's shell signals the process that it started, as `(setup && exec worker.sh train) &` does."""
    _, python = worker
    python.write_text(
        '#!/usr/bin/env bash\ntrap "exit 75" TERM\ntouch "$0.up"\nwhile true; do sleep 0.05; done\n'
    )
    script = python.parents[2] / "launch" / "tpu" / "worker.sh"
    pod = subprocess.Popen(["bash", "-c", f"(true && exec bash {script} train --workdir=w) & wait $!"])
    while not python.with_name("python.up").exists():
        assert pod.poll() is None
        time.sleep(0.02)
    (child,) = subprocess.check_output(["pgrep", "-P", str(pod.pid)], text=True).split()
    os.kill(int(child), signal.SIGTERM)
    assert pod.wait(10) == 75
