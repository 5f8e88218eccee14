"""Trainings in processes of their own, several at a time."""

import concurrent.futures
import os


def side_by_side(train, runs, jobs):
    """Calls `train(run, environment)` for each run, `jobs` at a time.

    `environment` is for the process that `train` starts: an equal share of the processors.
    """
    threads = max((os.cpu_count() or 1) // jobs, 1)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "TF_NUM_INTEROP_THREADS": "1",
    }
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda run: train(run, environment), runs))
