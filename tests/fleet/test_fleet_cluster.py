"""Promises of the fleet on a Dask cluster of two workers, of which one is killed."""

import os
import socket
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import fleet_samples
import pytest
from fleet_samples import Here, run, write_fleet

from replay.cli import main
from replay.errors import WorkerError
from replay.fleet.cluster import DaskPool

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what it says of what it imports is not ours to mend
    distributed: Any = import_module("distributed")


def worker_pids(cluster: Any) -> list[int]:
    """List the processes of a cluster: workers, and the nannies that start them anew."""
    return [worker.process.process.pid for worker in cluster.workers.values()]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Give a cluster of two worker processes on this machine, of which nothing is left behind."""
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None, "silence_logs": 50}
    with distributed.LocalCluster(**options, local_directory=str(tmp_path_factory.mktemp("dask"))) as made:
        yield made
        pids, port = worker_pids(made), int(made.scheduler_address.rpartition(":")[2])
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


@pytest.mark.filterwarnings("ignore")
class TestCluster:
    """The same answer as on this machine, whoever dies."""

    def test_worker_killed_in_the_middle(self, cluster: Any, tmp_path: Path) -> None:
        """A worker that is killed loses nothing: the summary is that of a run without a cluster."""
        paths = write_fleet(tmp_path / "all", 24)
        pool = DaskPool(cluster.scheduler_address.replace("tcp://", "dask://"), fleet_samples.dies_once)
        try:
            fleet, results = run(paths, pool)
        finally:
            pool.close()
        assert (tmp_path / "died").exists()
        assert sorted(result.path for result in results) == paths
        assert fleet.report() == run(paths, Here())[0].report()

    def test_verb(self, cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """--scheduler gives the summary that --jobs gives, byte for byte."""
        write_fleet(tmp_path / "all", 3)
        common = ["fleet", str(tmp_path / "all"), "--format", "json"]
        assert main([*common, "--scheduler", cluster.scheduler_address]) == 2
        first = capsys.readouterr().out
        assert main([*common, "--jobs", "1"]) == 2
        assert capsys.readouterr().out == first

    def test_nobody_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An address where no scheduler answers is an error."""
        monkeypatch.setattr("replay.fleet.cluster.CONNECT_SECONDS", 0.5)
        with pytest.raises(WorkerError):
            DaskPool("tcp://127.0.0.1:1")
