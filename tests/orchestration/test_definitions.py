"""The code location: light, in process, everything off that costs without being asked for."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

LOAD = """
import json, resource, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {heavy}:
            raise ImportError(name + " has no place in the code location")
sys.meta_path.insert(0, Blocked())
from pathlib import Path
from orchestration.definitions import build_definitions
repository = build_definitions(Path.cwd()).get_repository_def()
print(json.dumps({
    "cpu_s": resource.getrusage(resource.RUSAGE_SELF).ru_utime,
    "sensors": {sensor.name: sensor.default_status.value for sensor in repository.sensor_defs},
    "schedules": {schedule.name: schedule.default_status.value for schedule in repository.schedule_defs},
    "executor": repository.get_job("everything").executor_def.name,
}))
"""
HEAVY = ("torch", "lightning", "feast", "great_expectations", "bentoml", "ibis", "duckdb", "pandas", "pyarrow")


def test_the_code_location_loads_without_the_heavy_libraries_and_fast() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOAD.replace("{heavy}", repr(set(HEAVY)))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert loaded["cpu_s"] < 3
    assert loaded["sensors"] == {"dvc_lock": "RUNNING"}
    assert loaded["schedules"] == {"nightly": "STOPPED", "hourly_absorb": "STOPPED"}
    assert loaded["executor"] == "in_process"
