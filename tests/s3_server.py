"""A real S3 server (moto's) on loopback, in a process of its own, and what names it to programs."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import boto3

KEY, SECRET, REGION = "someone", "secret", "us-east-1"
START_S = 60.0


class S3Server:
    """The server, and a client of its own. folder: where it says what goes wrong."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            self.port = bound.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        with (folder / "moto").open("w") as said:
            self.process = subprocess.Popen(command, stdout=said, stderr=said)
        self.client: Any = boto3.client(
            "s3", endpoint_url=self.address, aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name=REGION
        )
        ends_at = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < ends_at, (folder / "moto").read_text()
                assert self.process.poll() is None, (folder / "moto").read_text()
                time.sleep(0.1)

    @property
    def environment(self) -> dict[str, str]:
        """How a person's programs find it."""
        told = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": REGION}
        return told | {"AWS_EC2_METADATA_DISABLED": "true", "AWS_ENDPOINT_URL": self.address}

    def put(self, key: str, content: bytes, bucket: str = "logs") -> None:
        self.client.put_object(Bucket=bucket, Key=key, Body=content)

    def end(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
