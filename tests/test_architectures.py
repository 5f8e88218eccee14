"""Every variant, at a quarter of its channels: what holds of a backbone holds of each of them."""

import pytest
from suites import BackboneSuite

from dmformer_keras.architectures import ARCHITECTURES

# What the backends compute is tried with the first; the others have more blocks and channels.
once = pytest.mark.once_under_torch


def narrow(name):
    config = dict(ARCHITECTURES[name]["config"])
    return {**config, "channels": tuple(channels // 4 for channels in config["channels"])}


class TestN(BackboneSuite):
    config = narrow("dmformer_n")


@once
class TestT(BackboneSuite):
    config = narrow("dmformer_t")


@once
class TestS(BackboneSuite):
    config = narrow("dmformer_s")


@once
class TestB(BackboneSuite):
    config = narrow("dmformer_b")


@once
class TestL(BackboneSuite):
    config = narrow("dmformer_l")


@once
def test_no_variant_is_left_out():
    tested = [suite.config for suite in (TestN, TestT, TestS, TestB, TestL)]
    assert tested == [narrow(name) for name in ARCHITECTURES]
