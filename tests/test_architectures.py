"""Every variant, at a quarter of its channels: what holds of a backbone holds of each of them."""

from suites import BackboneSuite

from dmformer_keras.architectures import ARCHITECTURES


def narrow(name):
    config = dict(ARCHITECTURES[name]["config"])
    return {**config, "channels": tuple(channels // 4 for channels in config["channels"])}


class TestN(BackboneSuite):
    config = narrow("dmformer_n")


class TestT(BackboneSuite):
    config = narrow("dmformer_t")


class TestS(BackboneSuite):
    config = narrow("dmformer_s")


class TestB(BackboneSuite):
    config = narrow("dmformer_b")


class TestL(BackboneSuite):
    config = narrow("dmformer_l")


def test_no_variant_is_left_out():
    tested = [suite.config for suite in (TestN, TestT, TestS, TestB, TestL)]
    assert tested == [narrow(name) for name in ARCHITECTURES]
