"""Secrets in URLs are masked, and only the process that masked them can open the source."""

import subprocess
import sys

import pytest

from data.errors import ConfigError
from data.secrets import known, learn, mask, mask_all, reveal, scrub
from data.sources import open_source

URLS = [
    ("folder:https://me:s3cret@host/x", "folder:https://me:***@host/x"),
    ("folder:s3://key:s3cret@bucket/x", "folder:s3://key:***@bucket/x"),
    ("parquet:https://host/a.parquet?sig=s3cret&sv=1", "parquet:https://host/a.parquet?sig=***&sv=1"),
    ("folder:https://h/x?X-Amz-Signature=s3cret", "folder:https://h/x?X-Amz-Signature=***"),
    ("folder:zip://a::https://me:s3cret@h/x.zip", "folder:zip://a::https://me:***@h/x.zip"),
    ("csv:https://h/l.csv?access_token=s3cret&a=b", "csv:https://h/l.csv?access_token=***&a=b"),
]
PLAIN = ["digits", "folder:/a/b@c:d", "folder:s3://bucket/key=x", "torchvision:CIFAR10?root=/x", "a:b@c"]


@pytest.mark.parametrize(("url", "masked"), URLS)
def test_a_secret_is_masked_and_can_be_revealed(url, masked):
    assert mask(url) == masked
    assert mask(masked) == masked
    assert reveal(masked) == url
    assert scrub(f"HTTP 403 for {url} : s3cret") == f"HTTP 403 for {masked} : ***"


@pytest.mark.parametrize("text", PLAIN)
def test_what_has_no_secret_stays(text):
    assert mask(text) == reveal(text) == text


def test_a_source_shows_its_masked_text_and_opens_the_real_one():
    source = open_source(mask("folder:memory://me:s3cret@x/photos"), "train")
    assert "s3cret" not in source.spec
    assert "s3cret" in source.place


def test_nested_values_and_other_processes():
    url, masked = URLS[0]
    assert mask_all({"data": {"train": url}, "list": [url, 3], "k": 2}) == {
        "data": {"train": masked},
        "list": [masked, 3],
        "k": 2,
    }
    assert known()[masked] == url
    learn({masked: url})
    code = (
        "from data.sources import open_source\n"
        f"try: open_source({masked!r}, 'train')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith("ConfigError")
    assert "give the source again" in said


def test_a_masked_source_of_a_stored_configuration_is_refused():
    with pytest.raises(ConfigError, match="was masked"):
        open_source("folder:https://you:***@elsewhere/y", "train")
