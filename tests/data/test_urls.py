"""Sources at fsspec URLs: archives, an HTTP server and an S3 server, all real; and places that would hang."""

import functools
import http.server
import io
import os
import socketserver
import tarfile
import threading
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data.manifest import make_manifest
from data.sources import Unreadable, open_source

NAMES = ("cat/a b.png", "cat/ü.png", "dog/x#1.png", "dog/c.png")


def png(value):
    file = io.BytesIO()
    Image.new("RGB", (5, 5), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


CONTENT = {name: png(i) for i, name in enumerate(NAMES)}


@pytest.fixture
def folder(tmp_path):
    for name, content in CONTENT.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "photos" / ".hidden").mkdir()
    (tmp_path / "photos" / ".hidden" / "no.png").write_bytes(png(9))
    return tmp_path


def check(spec, names=NAMES):
    source = open_source(spec, "train")
    assert [entry.uri for entry in source.entries()] == sorted(names)
    assert source.classes == ("cat", "dog")
    assert list(source.read(source.find(list(names)))) == [CONTENT[name] for name in names]
    made = make_manifest(spec, None, None, seed=0, max_rejected=0, hold_out=False)
    assert made.counts["labelled"] == len(names)
    return source


def test_a_zip_archive_with_and_without_a_folder_in_it(folder):
    for above in ("", "set/"):
        with zipfile.ZipFile(folder / "images.zip", "w") as archive:
            for name, content in CONTENT.items():
                archive.writestr(f"{above}{name}", content)
            archive.writestr("__MACOSX/cat/._a.png", b"no image")
        check(f"folder:zip://{above.rstrip('/')}::{folder}/images.zip")
    assert check(f"folder:zip://set::{folder}/images.zip").entries()[0].mtime > 0  # so it is not read again


def test_a_tar_archive(folder):
    with tarfile.open(folder / "images.tar", "w") as archive:
        archive.add(folder / "photos", ".")
    check(f"folder:tar://::{folder}/images.tar")


def test_a_path_with_a_hash_a_space_and_a_question_mark(folder):
    odd = folder / "my photos #2 ?"
    (folder / "photos").rename(odd)
    check(f"folder:{odd}")
    images = [{"bytes": content, "path": name} for name, content in CONTENT.items()]
    pq.write_table(pa.table({"image": images, "label": [0, 0, 1, 1]}), odd / "set #1.parquet")
    assert len(open_source(f"parquet:{odd}/set #1.parquet", "train").entries()) == 4


def test_the_home_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    check("folder:~/photos")


@pytest.fixture
def web(folder):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_an_http_server(folder, web):
    plain = {name: content for name, content in CONTENT.items() if name in ("dog/c.png",)}
    (folder / "photos/cat/plain.png").write_bytes(CONTENT["cat/a b.png"])
    source = open_source(f"folder:{web}/photos", "train")
    contents = dict(zip([e.uri for e in source.entries()], source.read(source.entries()), strict=True))
    assert source.classes == ("cat", "dog")
    assert contents["dog/c.png"] == plain["dog/c.png"]
    assert contents["cat/plain.png"] == CONTENT["cat/a b.png"]
    table = pa.table({"image": [{"bytes": png(1), "path": "a.png"}], "label": [3]})
    pq.write_table(table, folder / "photos/a.parquet")
    (entry,) = open_source(f"parquet:{web}/photos/a.parquet", "train").entries()
    assert entry.uri == "a.png"
    gone = open_source(f"folder:{web}/photos", "train")
    entries = gone.entries()
    (folder / "photos/dog/c.png").unlink()
    lost = [data for e, data in zip(entries, gone.read(entries), strict=True) if e.uri == "dog/c.png"]
    assert isinstance(lost[0], Unreadable)


@pytest.fixture
def bucket(monkeypatch):
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
    client.create_bucket(Bucket="shop")
    yield client
    server.stop()


@pytest.mark.filterwarnings("ignore")  # of boto3 and moto
def test_an_s3_server(bucket):
    for name, content in CONTENT.items():
        bucket.put_object(Bucket="shop", Key=f"photos/{name}", Body=content)
    source = check("folder:s3://shop/photos")
    assert all(entry.mtime > 0 for entry in source.entries())
    images = [{"bytes": content, "path": name} for name, content in CONTENT.items()]
    file = io.BytesIO()
    pq.write_table(pa.table({"image": images, "label": ["a", "a", "b", "b"]}), file)
    bucket.put_object(Bucket="shop", Key="sets/train-0.parquet", Body=file.getvalue())
    assert open_source("parquet:s3://shop/sets", "train").classes == ("a", "b")


def test_a_pipe_is_left_out_and_does_not_hang(folder):
    os.mkfifo(folder / "photos/dog/pipe.png")
    (folder / "photos/dog/link.png").symlink_to(folder / "photos/dog/pipe.png")
    source = check(f"folder:{folder}/photos")
    assert "2 are not regular files" in "; ".join(source.remarks)


def test_a_store_a_virtual_environment_and_tool_folders_are_no_classes(folder):
    photos = folder / "photos"
    for name in ("artifacts", "drafts", "cache", "runs"):
        (photos / "store" / name).mkdir(parents=True)
    (photos / "store/cache/x.png").write_bytes(png(7))
    (photos / "env/lib").mkdir(parents=True)
    (photos / "env/pyvenv.cfg").write_text("")
    (photos / "env/lib/logo.png").write_bytes(png(7))
    for name in ("@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN"):
        (photos / "cat" / name).mkdir()
        (photos / "cat" / name / "thumb.png").write_bytes(png(8))
    source = check(f"folder:{photos}")
    (said,) = source.remarks
    assert said.startswith("7 folders are left out")
