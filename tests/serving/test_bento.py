"""What a Bento asks for. tests/doors/test_serve.py builds one and serves it."""

import sys

from serving.bento import requirements
from tests.clones import ROOT


def test_its_packages_are_pinned_as_locked() -> None:
    pinned = requirements(ROOT)
    assert all("==" in line for line in pinned)
    assert {"bentoml==1.4.39", "feast==0.67.0", "torch==2.13.0"} <= set(pinned)
    assert not [line for line in pinned if line.startswith(("lightning", "dagster", "dvc", "duckdb"))]
    assert sys.version_info[:2] in ((3, 11), (3, 12))
