"""A run is a function of its config: interrupted or not, on one device or eight, in one process or two."""

import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import monitoring

from celltrack_jax.errors import InputError
from celltrack_jax.models.functional import FunctionalModel
from celltrack_jax.training import checkpoint, loop, progress
from tests import mains
from tests.training.toy_task import Samples, ToyTask, toy_config

STARTED = ThreadPoolExecutor(2)


def start_toy(workdir, steps, *options):
    return STARTED.submit(mains.call_module, "tests.training.run_toy", workdir, steps, *options, limit_s=300)


def run_toy(workdir, steps, *options):
    return finish(start_toy(workdir, steps, *options))


def finish(process):
    done = process.result()
    return done.returncode, done.stdout, done.stderr


def losses(workdir):
    return {row["step"]: row["loss"] for row in progress.read_history(workdir) if row["kind"] == "train"}


def final_variables(workdir, config, which="latest"):
    return checkpoint.restore_variables(workdir, which, FunctionalModel(ToyTask(config).model))[1]


def assert_identical(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    status, _, err = run_toy(workdir, 9)
    assert status == 0, err
    return workdir


@pytest.mark.parametrize("how", [pytest.param("term_at=6", marks=pytest.mark.slow), "kill_at=6"])
def test_an_interrupted_run_resumes_bit_identically(uninterrupted, tmp_path, how):
    workdir = tmp_path / "run"
    status, out, err = run_toy(workdir, 9, how)
    if how.startswith("kill"):
        assert status == -9
        # Step 6 was being evaluated; the save of step 3 may have been cut short, and then counts for nothing.
        assert checkpoint.checkpoint_steps(workdir) in ([], [3])
    else:
        assert status == 0, err
        assert "stopped at step 6 of 9" in out
        assert not json.loads(out.splitlines()[-1])["complete"]
    saved = checkpoint.checkpoint_steps(workdir)
    status, out, err = run_toy(workdir, 9)
    assert status == 0, err
    assert ("resumed at step" in out) == bool(saved)
    assert losses(workdir) == losses(uninterrupted)
    evaluations = [row["step"] for row in progress.read_history(workdir) if row["kind"] == "eval"]
    assert evaluations == [3, 6, 9]
    assert_identical(final_variables(workdir, toy_config()), final_variables(uninterrupted, toy_config()))


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "precision", "tolerance"), [("group", "f32", 1e-4), ("batch", "f64", 1e-8)])
def test_any_number_of_devices_gives_the_same_losses(tmp_path, norm, precision, tolerance):
    options = ["devices=1,4,8", f"norm={norm}", *(["f64=1"] if precision == "f64" else [])]
    status, _, err = run_toy(tmp_path, 20, *options)
    assert status == 0, err
    histories = [losses(tmp_path / f"on_{devices}") for devices in (1, 4, 8)]
    assert all(sorted(history) == list(range(1, 21)) for history in histories)
    one, four, eight = ([history[step] for step in range(1, 21)] for history in histories)
    np.testing.assert_allclose(four, one, rtol=tolerance)
    np.testing.assert_allclose(eight, one, rtol=tolerance)


def test_a_run_saved_on_eight_devices_resumes_on_one(uninterrupted, tmp_path):
    workdir = tmp_path / "run"
    status, _, err = run_toy(workdir, 9, "devices=8", "term_at=6")
    assert status == 0, err
    status, out, err = run_toy(workdir, 9, "devices=1")
    assert status == 0, err
    assert "resumed at step 6" in out
    expected = losses(uninterrupted)
    np.testing.assert_allclose(list(losses(workdir).values()), list(expected.values()), rtol=1e-4)


def test_every_program_compiles_once(tmp_path):
    compiled = []

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration_secs)

    monitoring.register_event_duration_secs_listener(listen)
    try:
        counts = []
        for length in (6, 12):
            config = toy_config(steps=length)
            loop.train(ToyTask(config), config, tmp_path / f"run_{length}")
            counts.append(len(compiled))
    finally:
        monitoring.unregister_event_duration_listener(listen)
    assert counts[0] > 0
    # A run of twice the steps, evaluations and saves compiles no more than the shorter one did.
    assert counts[1] - counts[0] <= counts[0]


def test_saves_leave_no_thread_behind(tmp_path):
    config = toy_config(steps=8, save_every=1)
    loop.train(ToyTask(config), config, tmp_path)
    assert [thread.name for thread in threading.enumerate() if "_run_loop" in thread.name] == []


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    config = toy_config(steps=9)
    with pytest.raises(InputError, match=r"loss of step 5 is nan.*that of step 3 is kept"):
        loop.train(ToyTask(config, poison=4 * 8 + 1), config, tmp_path)
    assert checkpoint.checkpoint_steps(tmp_path) == [3]
    for leaf in jax.tree.leaves(final_variables(tmp_path, config)):
        assert np.isfinite(leaf).all()


def test_the_log_says_what_takes_long_before_it_begins(tmp_path, capsys):
    for steps, first in (
        (1, ["making the first weights", "compiling the step"]),
        (2, ["resumed at step 1 of 2", "compiling the step"]),
    ):
        config = toy_config(steps=steps)
        loop.train(ToyTask(config), config, tmp_path)
        assert capsys.readouterr().out.splitlines()[:2] == first


def test_a_checkpoint_is_described_with_the_end_of_its_run(tmp_path):
    config = toy_config(steps=9)
    with pytest.raises(InputError):
        loop.train(ToyTask(config, poison=7 * 8 + 1), config, tmp_path)
    assert checkpoint.described(tmp_path, 3, config) == (
        f"{tmp_path}: step 3 of 9; the run has come to step 6: if it was stopped, launch.train's command goes on"
    )
    loop.train(ToyTask(config), config, tmp_path)
    assert checkpoint.described(tmp_path, 3, config) == f"{tmp_path}: step 3 of 9"
    assert checkpoint.described(tmp_path, 9, config) == f"{tmp_path}: step 9 of 9"
    # Weights alone, as a copied embedder's, are of no run.
    (tmp_path / "metrics.jsonl").unlink()
    assert checkpoint.described(tmp_path, 3, toy_config(steps=12)) == f"{tmp_path}: step 3 of 12"


def test_of_equally_good_checkpoints_the_last_one_is_the_best():
    assert checkpoint._best([3, 6, 9, 12], {3: 0.9, 6: 1.0, 9: 1.0, 15: 2.0}) == 9
    assert checkpoint._best([3, 6], {}) is None


def test_the_best_checkpoint_outlives_newer_ones(tmp_path):
    config = toy_config(steps=15, keep_latest=1)
    task = ToyTask(config)
    scores = iter([0.1, 0.9, 0.5, 0.4, 0.3])
    task.evaluate = lambda model, variables, stop: {"score": next(scores)}
    loop.train(task, config, tmp_path)
    assert checkpoint.checkpoint_steps(tmp_path) == [6, 15]
    assert checkpoint.restore_variables(tmp_path, "best", FunctionalModel(task.model))[0] == 6


def test_what_is_killed_while_it_evaluates_has_saved_and_evaluates_when_it_goes_on(tmp_path):
    config = toy_config(steps=9)
    task = ToyTask(config)

    def killed(model, variables, stop):
        raise KeyboardInterrupt

    task.evaluate = killed
    with pytest.raises(KeyboardInterrupt):
        loop.train(task, config, tmp_path)
    assert checkpoint.checkpoint_steps(tmp_path) == [3]
    loop.train(ToyTask(config), config, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [3, 6, 9]


def test_a_gradient_that_is_not_finite_stops_the_run_before_its_state_is_saved(tmp_path):
    """The loss of a step is that of the parameters before it: a bad gradient poisons the state that comes after."""
    config = toy_config(steps=9)
    task = ToyTask(config)
    plain = task.loss

    def loss(apply, batch, keys, step):
        value, stats, metrics = plain(apply, batch, keys, step)
        # The slope of the root at 0 is infinite.
        value = jax.lax.cond(step == 5, lambda v: v + jnp.sqrt(0 * v), lambda v: v, value)
        return value, stats, metrics

    task.loss = loss
    with pytest.raises(InputError, match=r"gradient norm of step 6 is nan.*that of step 3 is kept"):
        loop.train(task, config, tmp_path)
    assert checkpoint.checkpoint_steps(tmp_path) == [3]


def test_a_batch_that_cannot_be_made_keeps_what_was_learned(tmp_path):
    config = toy_config(steps=9)
    task = ToyTask(config)

    class Short:
        def __init__(self, samples):
            self.samples = samples

        def __len__(self):
            return 10_000

        def __getitem__(self, index):
            if index >= 5 * 8:
                raise InputError("frame 7: a crop holds 300 cells")
            return self.samples[index]

    task.train_data = lambda process: grain.MapDataset.source(Short(Samples(None, "float32"))).batch(8)
    with pytest.raises(InputError, match="300 cells"):
        loop.train(task, config, tmp_path)
    assert checkpoint.checkpoint_steps(tmp_path)[-1] == 5


def test_an_evaluation_that_was_interrupted_is_made_up_for_without_saving_the_state_again(tmp_path):
    config = toy_config(steps=3)
    task = ToyTask(config)
    task.on_evaluate = lambda: signal.raise_signal(signal.SIGTERM)
    assert not loop.train(task, config, tmp_path)
    folder = tmp_path / "checkpoints"
    (saved,) = [path for path in folder.iterdir() if path.is_dir()]
    identity = saved.stat().st_ino, saved.stat().st_ctime_ns
    assert loop.train(ToyTask(config), config, tmp_path)
    assert (saved.stat().st_ino, saved.stat().st_ctime_ns) == identity
    config.train.steps = 6
    better = ToyTask(config)
    better.evaluate = lambda model, variables, stop: {"score": -1e9}
    loop.train(better, config, tmp_path)
    assert checkpoint.restore_variables(tmp_path, "best", FunctionalModel(better.model))[0] == 3


def test_a_disk_that_fills_while_a_checkpoint_is_written_is_said_in_one_line(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise ValueError(
            "RESOURCE_EXHAUSTED: Error writing local file [OS error 28: ENOSPC No space left on device]"
        )

    monkeypatch.setattr(checkpoint.ocp.training.Checkpointer, "save_checkpointables_async", full)
    config = toy_config(steps=3)
    with pytest.raises(
        InputError, match="checkpoint of step 3: No space left on device; free some space, then run"
    ):
        loop.train(ToyTask(config), config, tmp_path)


def test_a_run_goes_on_with_another_length_and_on_other_devices(tmp_path):
    config = toy_config(steps=3)
    loop.train(ToyTask(config), config, tmp_path)
    config.train.steps, config.train.log_every, config.data.prefetch = 6, 1, 1
    assert loop.train(ToyTask(config), config, tmp_path)
    assert checkpoint.load_config(tmp_path).train.steps == 6


def test_a_config_may_be_corrected_until_something_was_saved(tmp_path):
    config = toy_config(steps=3)
    checkpoint.save_config(tmp_path, config)
    (tmp_path / "config.json").write_text("{ cut short")
    config.optimizer.learning_rate = 0.5
    checkpoint.save_config(tmp_path, config)
    assert checkpoint.load_config(tmp_path).optimizer.learning_rate == 0.5


def test_a_work_folder_of_another_config_is_refused(tmp_path):
    config = toy_config(steps=3)
    loop.train(ToyTask(config), config, tmp_path)
    config.optimizer.learning_rate = 0.5
    with pytest.raises(InputError, match=r"another config \(optimizer.learning_rate differ\)"):
        loop.train(ToyTask(config), config, tmp_path)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    config = toy_config(steps=3)
    loop.train(ToyTask(config), config, tmp_path)
    wider = ToyTask(config, norm="batch")
    with pytest.raises(InputError, match=r"checkpoint 3 .* does not fit this config's model"):
        checkpoint.restore_variables(tmp_path, "latest", FunctionalModel(wider.model))
    with pytest.raises(InputError, match=r"no checkpoint 7 in .*: there are \[3\]"):
        checkpoint.restore_variables(tmp_path, 7, FunctionalModel(wider.model))


def test_a_log_cut_short_by_a_crash_is_read_to_its_last_whole_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "kind": "train", "loss": 2.0}\n{"step": 2, "ki')
    assert progress.read_history(tmp_path) == [{"step": 1, "kind": "train", "loss": 2.0}]
