"""K-means in its own process: results, forbidden imports, failures and kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from data.errors import DataError, Interrupted, PipelineError
from models.clustering import apart
from models.clustering.apart import Clustering, cluster_apart

ROOT = Path(__file__).parents[2]
LONG = Clustering(k=8000, iterations=1000)
"""Minutes of work on 400 000 features."""


def features(n=300, d=12, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32) * np.arange(
        1, d + 1, dtype=np.float32
    )


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def run(code, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, text=True, **options)


def test_finds_what_the_projects_k_means_finds(temporary):
    from models.clustering.kmeans import kmeans
    from models.clustering.nearest import nearest_two
    from models.clustering.space import fit_space

    x, wanted = features(), Clustering(k=7, pca=5, iterations=10, seed=3)
    found = cluster_apart(x, wanted)
    y = fit_space(lambda: iter([x]), 5, True).apply(x)
    expected, _, _ = nearest_two(y, kmeans(y, 7, iterations=10, seed=3, device="cpu").centroids, "cpu")
    assert found.dtype == np.int64
    assert np.array_equal(found, expected)
    assert not list(temporary.iterdir())


def test_neither_process_loads_both_torch_and_faiss(tmp_path):
    np.save(tmp_path / "features.npy", features(50))
    (tmp_path / "settings.json").write_text(json.dumps(asdict(Clustering(k=3))))
    code = (
        "import sys; from pathlib import Path; from models.clustering import apart\n"
        "assert 'faiss' not in sys.modules\n"
        f"assert apart.main(Path({str(tmp_path)!r})) == 0\n"
        "assert 'faiss' in sys.modules and 'torch' not in sys.modules"
    )
    with run(code, stdin=subprocess.PIPE) as child:
        assert child.wait() == 0
    assert len(np.load(tmp_path / "labels.npy")) == 50


@pytest.mark.parametrize(
    ("x", "wanted", "error", "message"),
    [
        (features(9), Clustering(k=10), DataError, "only 9 vectors"),
        (features(9), Clustering(k="many"), PipelineError, "9 features .* status 1 .*TypeError"),
    ],
)
def test_its_errors_are_ours(x, wanted, error, message, temporary):
    with pytest.raises(error, match=message) as raised:
        cluster_apart(x, wanted)
    assert type(raised.value) is error
    assert not list(temporary.iterdir())


def test_a_stop_ends_the_child_and_leaves_nothing(temporary, monkeypatch):
    started = []

    class Popen(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            started.append(self)
            signal.setitimer(signal.ITIMER_REAL, 0.3)

    def stop(number, frame):
        raise Interrupted("stopped")

    monkeypatch.setattr(apart.subprocess, "Popen", Popen)
    before = signal.signal(signal.SIGALRM, stop)
    try:
        with pytest.raises(Interrupted):
            cluster_apart(features(400_000, 32), LONG)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert started[0].returncode == -signal.SIGKILL
    assert not list(temporary.iterdir())


def test_the_child_dies_with_its_parent(tmp_path):
    code = (
        "import subprocess, tempfile, numpy as np\n"
        f"tempfile.tempdir = {str(tmp_path)!r}\n"
        "from models.clustering import apart\n"
        "class Popen(subprocess.Popen):\n"
        "    def __init__(self, *args, **kwargs):\n"
        "        super().__init__(*args, **kwargs); print(self.pid, flush=True)\n"
        "apart.subprocess.Popen = Popen\n"
        "x = np.random.default_rng(0).normal(size=(400_000, 32)).astype(np.float32)\n"
        f"apart.cluster_apart(x, apart.{LONG!r})"
    )
    with run(code, stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        for _ in range(400):  # wait until it works, because it would then continue without its folder
            if "features.npy" in Path(f"/proc/{child}/maps").read_text():
                break
            time.sleep(0.05)
        parent.kill()
    for _ in range(200):
        if not alive(child) and not list(tmp_path.iterdir()):
            return
        time.sleep(0.05)
    raise AssertionError("the child goes on, or its files are still there")


def alive(process):
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
