import pytest

from dmformer_keras.system import machine
from dmformer_keras.system.machine import cpu_flags, describe_machine, machine_sentence

pytestmark = pytest.mark.backend_independent


def test_the_sentence_says_what_was_described():
    found = describe_machine(threads=2)
    sentence = machine_sentence(found)
    assert f"2 of {found['processors']} processors" in sentence
    assert f"keras {found['libraries']['keras']}" in sentence
    assert f"Python {found['python']}" in sentence


def test_instructions_are_read_from_the_list_of_the_system(monkeypatch):
    lists = {"flags": "fpu avx2 avx512_vnni"}
    monkeypatch.setattr(machine, "_from_file", lambda path, key: lists.get(key))
    assert cpu_flags() == {"fpu", "avx2", "avx512_vnni"}
    lists.clear()
    assert cpu_flags() == frozenset()
