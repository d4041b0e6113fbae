"""A real object store on this machine, which speaks S3 over HTTP and can fall silent."""

import contextlib
import os
from collections.abc import Iterator
from unittest import mock

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "loom"
SECRET = "kept-in-the-environment"
REGION = "us-east-1"


class ObjectStore:
    """An S3 server; what it stores outlives its silence."""

    def __init__(self) -> None:
        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        self.endpoint = "http://{}:{}".format(*self._server.get_host_and_port())

    def client(self):
        """Returns a client of another implementation than ours."""
        return boto3.client("s3", endpoint_url=self.endpoint, region_name=REGION)

    def names(self) -> list[str]:
        """Returns the names of all objects."""
        return [item["Key"] for item in self.client().list_objects_v2(Bucket=BUCKET).get("Contents", [])]

    def stop(self) -> None:
        """Falls silent for good."""
        self._server.stop()


@contextlib.contextmanager
def object_store(bucket: str = BUCKET) -> Iterator[ObjectStore]:
    """Serves an empty bucket while the block runs; the environment knows where, and who may write."""
    store = ObjectStore()
    environment = {
        "AWS_ENDPOINT_URL": store.endpoint,
        "AWS_ACCESS_KEY_ID": "loom",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with mock.patch.dict(os.environ, environment):
        store.client().create_bucket(Bucket=bucket)
        try:
            yield store
        finally:
            store.stop()
