"""Work spread over processes keeps its order, passes errors on, and leaves no process behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.spread import spread


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
def test_worker_processes_do_not_outlive_a_killed_parent(tmp_path):
    code = (
        "import os, time; from data.spread import spread\n"
        "if __name__ == '__main__':\n"
        "    print(*spread(abs, range(2), 2), flush=True)\n"
        "    list(spread(time.sleep, [60.0] * 4, 2))\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    with subprocess.Popen(
        [sys.executable, script], env={**os.environ, "PYTHONPATH": os.getcwd()}, stdout=-1
    ) as parent:
        assert parent.stdout.readline().split() == [b"0", b"1"]
        deadline = time.monotonic() + 60
        while len(workers := children(parent.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        parent.kill()
    assert len(workers) >= 2
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def children(pid):
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def test_spread_keeps_the_order_and_passes_errors_on():
    assert list(spread(abs, range(-5, 0), 0)) == [5, 4, 3, 2, 1]
    with pytest.raises(TypeError):
        list(spread(abs, ["x"], 2))
