"""Replay on a Dask cluster, whose workers see the recordings under the same paths; needs the extra `dask`."""

import contextlib
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, Final

from replay.errors import UsageError, WorkerError
from replay.fleet.local import CHUNK_FILES, TRIES, Answer, Work
from replay.fleet.work import Question, lost, replay_chunk

CONNECT_SECONDS: Final = 30


class DaskPool:
    """Workers of a Dask cluster. address: tcp://host:port, tls://..., or dask://host:port, which is tcp."""

    def __init__(self, address: str, work: Work = replay_chunk) -> None:
        """Connect. Raises UsageError without the library, WorkerError when there is no scheduler or no worker."""
        try:
            distributed: Any = import_module("distributed")
        except ImportError:
            raise UsageError("--scheduler needs the library distributed", advice="pip install 'kvm-replay[dask]'") from None
        self._distributed = distributed
        self._work = work
        self._address = address.replace("dask://", "tcp://", 1)
        try:
            self._client: Any = distributed.Client(self._address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise WorkerError(str(error) or "no answer", where=address, expected="a Dask scheduler") from None
        self.workers = len(self._client.scheduler_info(n_workers=-1)["workers"])
        if not self.workers:
            self.close()
            raise WorkerError("the cluster has no worker", where=address, expected="at least one", advice="start dask workers")

    def results(self, paths: Sequence[str], question: Question, known: frozenset[str]) -> Iterator[Answer]:
        """Yield (version of the code, results) of some paths at a time, in the order in which they are done."""
        client = self._client
        size = max(1, min(CHUNK_FILES, len(paths) // (8 * self.workers)))
        chunks = [tuple(paths[first : first + size]) for first in range(0, len(paths), size)]
        seen = client.scatter(known, broadcast=True) if known else known

        def submitted(chunk: tuple[str, ...]) -> Any:
            return client.submit(self._work, chunk, question, seen, pure=False)

        making = {submitted(chunk): chunk for chunk in chunks}
        done = self._distributed.as_completed(list(making), loop=client.loop)
        for future in done:
            chunk = making.pop(future)
            error = future.exception() if future.status == "error" else None
            if error is None:
                yield future.result()
            elif not isinstance(error, self._distributed.KilledWorker):
                raise WorkerError(f"{type(error).__name__}: {error}", where=self._address) from error
            elif len(chunk) == 1:
                yield "", [lost(chunk[0], TRIES)]
            else:
                for path in chunk:  # the cluster gave all of them up: find the one to blame
                    single = submitted((path,))
                    making[single] = (path,)
                    done.add(single)
            future.release()

    def close(self) -> None:
        """Leave the cluster."""
        with contextlib.suppress(OSError, TimeoutError):
            self._client.close()
