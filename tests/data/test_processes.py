"""Memory that a computing process keeps."""

from __future__ import annotations

import subprocess
import sys

import pytest

from data.processes import KEPT_MEMORY, environment

FAULTS = """
import ctypes, resource, sys
from data.processes import keep_memory
if sys.argv[1] == "keep":
    keep_memory()
c = ctypes.CDLL(None)
c.malloc.restype = ctypes.c_void_p
def once():
    place = c.malloc(1 << 26)
    ctypes.memset(place, 1, 1 << 26)
    c.free(ctypes.c_void_p(place))
once()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    once()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
"""Prints how often pages were faulted in while 64 MiB were taken and given back four times."""


def faults(*words: str, **variables: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, *words],
        env=environment() | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the options are glibc's")
def test_memory_is_kept_between_steps() -> None:
    # Huge pages fault in 2 MiB at a time, so 32 faults are the fewest for 64 MiB.
    assert faults("-") >= 4 * 32
    assert faults("keep") < 32
    assert faults("-", **KEPT_MEMORY) < 32


def test_the_users_own_variables_win() -> None:
    given = dict.fromkeys(KEPT_MEMORY, str(1 << 17)) | {"MALLOC_TRIM_THRESHOLD_": "0"}
    assert faults("keep", **given) >= 4 * 32
