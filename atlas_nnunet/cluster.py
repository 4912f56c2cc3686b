"""Cases on the workers of a dask.distributed cluster; memory is a resource that they offer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar
from uuid import uuid4

from atlas_nnunet.errors import AtlasError, SourceError

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")

RESOURCE = "memory_gb"
START = f'dask worker ADDRESS --resources "{RESOURCE}=64"'


def on_cluster(
    call: Callable[[str, Job], Outcome], jobs: Mapping[str, Job], address: str, title: str,
    need_gb: Mapping[str, float] | None = None,
) -> Iterator[tuple[str, Outcome | SourceError]]:  # fmt: skip
    """Call for every case. What a lost worker had in hand, dask gives to another; cases that
    were on `distributed.scheduler.allowed-failures` lost workers are tried once more, alone.

    Args:
        call: case, job -> outcome.
        jobs: Case -> job.
        address: Of the scheduler.
        title: What the cases' keys begin with on dask's dashboard.
        need_gb: Case -> how much of the resource `memory_gb` it asks for; None asks for none.

    Raises:
        AtlasError: dask.distributed is not installed, nobody answers at the address, or no worker
            offers what a case asks for.
    """
    try:
        from distributed import KilledWorker, as_completed
    except ImportError as error:
        raise AtlasError("dask.distributed is not installed", where="--cluster",
                         do="python -m pip install 'atlas-nnunet[cluster]'") from error  # fmt: skip
    with _client(address) as client:
        if need_gb is not None:
            _check_offer(client, need_gb, address)

        def submit(case: str) -> Any:
            asked = None if need_gb is None else {RESOURCE: need_gb[case]}
            key = f"{title}-{case}-{uuid4()}"
            return client.submit(call, case, jobs[case], key=key, resources=asked)

        order = sorted(jobs, key=lambda case: -need_gb[case]) if need_gb else list(jobs)
        futures = {submit(case): case for case in order}
        suspects = []
        for future in as_completed(futures, raise_errors=False):
            try:
                yield futures[future], future.result()
            except KilledWorker:
                suspects.append(futures[future])
        for case in suspects:  # one after another: what only stood beside a death goes through
            try:
                yield case, submit(case).result()
            except KilledWorker as error:
                yield case, SourceError(
                    f"workers died with it: {error}", where=case,
                    do="run again on workers with more memory; the other cases are done",
                )  # fmt: skip


def _client(address: str) -> Any:
    from distributed import Client

    try:
        return Client(address)
    except (OSError, TimeoutError, ValueError) as error:
        raise AtlasError(
            f"no scheduler answers: {error}", where=f"--cluster {address}",
            do="start one: dask scheduler --port 8786; and workers: dask worker ADDRESS",
        ) from error  # fmt: skip


def _check_offer(client: Any, need_gb: Mapping[str, float], address: str) -> None:
    """Dask waits for ever for a worker that offers enough, so look now."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()  # some releases: 5 of them
    offer = max((w["resources"].get(RESOURCE, 0) for w in workers), default=0)
    where = f"--cluster {address} --memory-gb"
    if not offer:
        raise AtlasError(f"no worker of the cluster offers {RESOURCE}", where=where,
                         do=f"start workers with what each may use: {START}")  # fmt: skip
    most = max(need_gb.values(), default=0)
    if most > offer:
        raise AtlasError(
            f"a case asks for {most:.3g} GB, the largest worker offers {offer:g}", where=where,
            do=f"--memory-gb {offer:g}, or start workers with more: {START}",
        )  # fmt: skip
