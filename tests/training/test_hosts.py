import pytest

from celltrack_jax.errors import InputError
from celltrack_jax.training import hosts

STEP = {
    "SLURM_JOB_ID": "71",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_PROCID": "3",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "1",
}


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node001", "node001"),
        ("node001,host2", "node001"),
        ("node[001-0015],host2", "node001"),
        ("node[007,009-015],host2", "node007"),
        ("login1,node[1-2]", "login1"),
        ("rack[1-2]-gpu", "rack1-gpu"),
    ],
)
def test_the_coordinator_is_the_first_node(nodes, first):
    assert hosts.first_host(nodes) == first


def test_tasks_per_node_are_counted():
    assert hosts.tasks_per_node("2(x3),1") == [2, 2, 2, 1]
    assert hosts.tasks_per_node("4") == [4]


def test_a_step_of_tasks_is_a_cluster():
    cluster = hosts.from_slurm(STEP)
    assert cluster is not None
    assert cluster[1:4] == (4, 3, None)
    assert cluster.coordinator.startswith("gpu07:")
    other = hosts.from_slurm(STEP | {"SLURM_STEP_ID": "3"})
    assert other is not None
    assert other.coordinator != cluster.coordinator


def test_a_batch_script_and_a_single_task_are_one_process():
    assert hosts.from_slurm({}) is None
    assert hosts.from_slurm({"SLURM_JOB_ID": "71", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}) is None
    assert hosts.from_slurm(STEP | {"SLURM_STEP_NUM_TASKS": "1"}) is None


@pytest.mark.parametrize(
    ("tasks", "visible", "local", "devices"),
    [
        (
            "1(x2)",
            "0,1,2,3",
            "0",
            (0, 1, 2, 3),
        ),  # one task per node has all its GPUs; jax alone would take one
        ("2(x2)", "0,1,2,3", "1", (2, 3)),
        ("2(x2)", "5", "1", (0,)),  # --gpus-per-task=1: each task sees one, as its number 0
        ("4(x1)", "0,1,2,3", "2", (2,)),
        ("1(x2)", "", "0", ()),
    ],
)
def test_each_task_takes_its_share_of_the_gpus_that_it_sees(tasks, visible, local, devices):
    node = "1" if tasks.endswith("(x2)") else "0"
    given = {"SLURM_STEP_TASKS_PER_NODE": tasks, "CUDA_VISIBLE_DEVICES": visible, "SLURM_LOCALID": local}
    cluster = hosts.from_slurm(STEP | given | {"SLURM_NODEID": node})
    assert cluster is not None
    assert cluster.local_devices == devices


def test_gpus_that_do_not_divide_name_the_cure():
    with pytest.raises(InputError, match=r"2 tasks of this node see 3 GPUs.*--ntasks-per-node=1"):
        hosts.from_slurm(STEP | {"CUDA_VISIBLE_DEVICES": "0,1,2"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("nowhere", 2, 0), "is not host:port"), (("a:1", 2, 2), "is none of --processes=2")],
)
def test_flags_that_make_no_cluster_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        hosts.from_flags(*arguments)


def test_flags_make_a_cluster():
    assert hosts.from_flags("[::1]:8000", 2, 1)[:3] == ("[::1]:8000", 2, 1)


OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
}


@pytest.mark.parametrize(
    ("uri", "host"),
    [
        ("1531576320.0;tcp://10.96.0.1,10.148.0.1:34911", "10.96.0.1:"),
        ("1314521088.0;tcp6://[fe80::b9b,2620:10d::2]:43370", "[fe80::b9b]:"),
    ],
)
def test_tasks_of_open_mpi_are_a_cluster(uri, host):
    cluster = hosts.from_environment(
        OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": uri, "CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    )
    assert cluster is not None
    assert cluster[1:4] == (4, 3, (2, 3))
    assert cluster.coordinator is not None
    assert cluster.coordinator.startswith(host)
    assert 61440 <= int(cluster.coordinator.rpartition(":")[2]) < 65536


def test_tasks_that_open_mpi_starts_within_slurm_are_those_of_open_mpi():
    cluster = hosts.from_environment(STEP | OPEN_MPI)
    assert cluster is not None
    assert cluster.origin == "Open MPI"


def test_open_mpi_5_needs_to_be_told_where_process_0_runs():
    newer = {key: value for key, value in OPEN_MPI.items() if "hnp" not in key}
    with pytest.raises(InputError, match="mpirun -x JAX_COORDINATOR_ADDRESS="):
        hosts.from_environment(newer)
    cluster = hosts.from_environment(newer | {"JAX_COORDINATOR_ADDRESS": "n0:12345"})
    assert cluster is not None
    assert cluster.coordinator == "n0:12345"
