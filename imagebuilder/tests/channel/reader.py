"""Reads a channel with independent software: python-tuf's client, and boto3."""

import json
import os
import sys
import urllib.error
import urllib.request

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater

# moto reads service and region out of it, and verifies nothing.
SIGNED = (
    "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=0"
)


class Fetcher(FetcherInterface):
    """Fetches from folders and from moto."""

    def _fetch(self, url):
        if url.startswith("file://"):
            try:
                with open(url.removeprefix("file://"), "rb") as file:
                    return iter([file.read()])
            except FileNotFoundError as error:
                raise DownloadHTTPError(url, 404) from error
        request = urllib.request.Request(url, headers={"Authorization": SIGNED})
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return iter([answer.read()])
        except urllib.error.HTTPError as error:
            raise DownloadHTTPError(url, error.code) from error


def read(root, url, store, *names):
    """Verifies everything from `root` with the state in `store`, downloads `names`, and prints their digests."""
    os.makedirs(store, exist_ok=True)
    with open(root, "rb") as file:
        bootstrap = file.read()
    updater = Updater(
        metadata_dir=store,
        metadata_base_url=url + "/metadata/",
        target_dir=store,
        target_base_url=url + "/targets/",
        fetcher=Fetcher(),
        bootstrap=bootstrap,
    )
    updater.refresh()
    found = {"root": updater._trusted_set.root.version}
    for name in names:
        target = updater.get_targetinfo(name)
        with open(updater.download_target(target), "rb") as file:
            content = file.read().decode()
        found[name] = {"custom": target.custom, "content": content}
    print(json.dumps(found))


def aws(service):
    import boto3

    return boto3.client(service)


def bucket(name):
    aws("s3").create_bucket(Bucket=name)


def headers(name, prefix):
    """Content type and Cache-Control of every object, by key."""
    s3 = aws("s3")
    found = {}
    for item in s3.list_objects_v2(Bucket=name, Prefix=prefix)["Contents"]:
        head = s3.head_object(Bucket=name, Key=item["Key"])
        found[item["Key"]] = [head["ContentType"], head["CacheControl"]]
    print(json.dumps(found))


def keys(*specs):
    """Makes KMS keys that sign."""
    kms = aws("kms")
    made = [
        kms.create_key(KeyUsage="SIGN_VERIFY", KeySpec=spec)["KeyMetadata"]["KeyId"]
        for spec in specs
    ]
    print(json.dumps(made))


globals()[sys.argv[1]](*sys.argv[2:])
