"""The batches of a source as a `keras.utils.PyDataset`."""

import threading
from concurrent.futures import ThreadPoolExecutor

import keras


class BatchDataset(keras.utils.PyDataset):
    """Batches by number, prepared in advance (`prefetch` of them) on this dataset's own threads.

    The batch of a number never changes, whoever reads it and in whatever order; the numbers
    continue from epoch to epoch. So Keras needs no workers for it, and has none.
    """

    def __init__(self, plan, workers, prefetch):
        super().__init__()
        self._plan = plan
        self._prefetch = prefetch
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="images")
        self._pending = {}
        self._lock = threading.Lock()

    @property
    def num_batches(self):
        """The number of batches, None for no end."""
        return self._plan.num_batches

    def __getitem__(self, step):
        """One batch; returns a float32 array (batch, height, width, channels) in 0..255, int32
        array (batch,), or float32 (batch, classes) where images are mixed.
        """
        if step < 0 or (self.num_batches is not None and step >= self.num_batches):
            raise IndexError(f"batch {step} of {self.num_batches}")
        examples = [future.result() for future in self._submitted(step)]
        return self._plan.batch(step, examples)

    def _submitted(self, step):
        """The futures of a batch; those of the next batches are started, too."""
        end = step + self._prefetch + 1
        if self.num_batches is not None:
            end = min(end, self.num_batches)
        with self._lock:
            for ahead in range(step, end):
                if ahead not in self._pending:
                    self._pending[ahead] = [
                        self._pool.submit(self._plan.example, number)
                        for number in self._plan.numbers(ahead)
                    ]
            # Batches that were prepared for another position are dropped.
            for stale in [number for number in self._pending if not step <= number < end]:
                for future in self._pending.pop(stale):
                    future.cancel()
            return self._pending.pop(step)
