"""requirements.lock -> the image of a Bento: wheels of the locked versions, no compiler, no root user, a health check.

The lock is read only when a Bento is built: the service imports this module in the image too, where there is no lock.
"""

import json
from pathlib import Path
from typing import Any

import attrs
import bentoml
from bentoml.exceptions import BentoMLException

from contracts.errors import InputError
from serving.packing.locked import ROOT, locked
from serving.packing.settings import OF_INDEX, Deployment

PYTHON_VERSION = "3.11"
BACKEND_VARIABLE = "UV_TORCH_BACKEND"
"""Tells uv, which installs the image's packages, where to find torch's build for a CPU or a CUDA version."""
SILENT = {"BENTOML_DO_NOT_TRACK": "true", "FEAST_USAGE": "False"}
INSTALLER = "uv==0.13.9"
"""Installs the packages and is none of them; without a version BentoML's Dockerfile takes the newest."""
HEALTH = (
    "import os, urllib.request; "
    "urllib.request.urlopen('http://127.0.0.1:' + os.environ.get('BENTOML_PORT', '3000') + '/livez', timeout=2)"
)


@attrs.define
class ServingImage(bentoml.images.Image):
    """BentoML's image, whose packages are determined at the build."""

    def freeze(self, bento_fs: Path, *args: Any, **kwargs: Any) -> Any:
        """Add the packages of the lock, then freeze as BentoML does."""
        try:
            Deployment.read().check()
            packages = locked(ROOT)
        except InputError as error:
            raise BentoMLException(str(error)) from error
        own, *others = dict.fromkeys(self.commands)  # BentoML 1.4.39 lists its own twice
        # its compilers and git are 470 MB that wheels do not need; system packages of bentofile.yaml need its apt-get
        self.commands = [f"pip install --no-cache-dir {INSTALLER}", *([own, *others] if others else [])]
        self.python_packages("--only-binary :all:", *packages)
        self.run(f"python -c 'import torch, feast'\n\n{health_check()}")
        return super().freeze(bento_fs, *args, **kwargs)


def serving_image() -> ServingImage:
    """The image that `bentoml build` makes a Dockerfile of."""
    return ServingImage(distro="debian", python_version=PYTHON_VERSION, lock_python_packages=False)


def variables(torch: str) -> list[dict[str, str]]:
    """The image's environment: nothing is reported to the tools' makers; where a torch not of the index is found."""
    told = SILENT if torch == OF_INDEX else {**SILENT, BACKEND_VARIABLE: torch}
    return [{"name": name, "value": value} for name, value in told.items()]


def health_check() -> str:
    """The HEALTHCHECK line of the Dockerfile. BentoML has no setting for it, so it is appended to a RUN line."""
    asked = json.dumps(["python", "-c", HEALTH])
    return f"HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 CMD {asked}"
