import os

import numpy as np
import pytest

from dmformer_keras.system.memory import forget_peak, peak_resident, resident_now

pytestmark = pytest.mark.backend_independent


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux")
def test_peak_memory_is_of_what_follows():
    size = 64 * 2**20
    np.ones(size, "uint8").sum()
    forget_peak()
    base = resident_now()
    assert peak_resident() - base < size / 4
    np.ones(size, "uint8").sum()
    assert peak_resident() - base > 0.9 * size
