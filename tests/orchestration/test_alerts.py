"""A failed run and a failed check are sent to the webhook and the command of params.yaml, once."""

import json
import re
import shutil
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from orchestration import alerts
from orchestration.alerts import NOBODY, build_check_alert, send
from tests.orchestration.conftest import Seen, Toy, environment
from tests.orchestration.test_doors import Door

pytestmark = pytest.mark.filterwarnings(  # Dagster's words about itself
    "ignore::dagster.PreviewWarning",
    "ignore::dagster.BetaWarning",
    "ignore::DeprecationWarning",
)
KEEP = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read() + chr(10))"


class Inbox:
    """A server that keeps what is posted to it."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.headers["Content-Type"] == "application/json"
                inbox.got.append(json.loads(body) | {"path": self.path})
                self.send_response(500 if self.path == "/broken" else 200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    inbox = Inbox()
    thread = threading.Thread(target=inbox.server.serve_forever)
    thread.start()
    yield inbox
    inbox.server.shutdown()
    thread.join()
    inbox.server.server_close()


class Alerted(Door):
    """The door with its sensors that tell."""

    checked: str | None = None

    def _sensor(self, name: str) -> Any:
        return next(each for each in self.definitions.sensors or [] if each.name == name)

    def of_checks(self) -> str:
        """The message of one tick of the sensor on checks."""
        context = dg.build_sensor_context(instance=self.instance, cursor=self.checked)
        said = self._sensor("alert_failed_check")(context)
        self.checked = context.cursor
        return str(said.skip_message)

    def of_run(self, run: dg.ExecuteInProcessResult) -> str:
        """What the sensor on runs says of a failed one."""
        context = dg.build_run_status_sensor_context(
            "alert_failed_run", run.get_run_failure_event(), self.instance, run.dagster_run
        ).for_run_failure()
        return str(self._sensor("alert_failed_run")(context).skip_message)


@pytest.fixture
def door(toy: Toy, instance: dg.DagsterInstance) -> Alerted:
    return Alerted(toy.root, instance)


@pytest.fixture(scope="module")
def refusing(made_template: Path, empty_instance: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """The toy pipeline with a check that fails, run by `dvc repro` and seen by Dagster's sensor."""
    home = tmp_path_factory.mktemp("refusing")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(home).items():
            patch.setenv(name, value)
        toy = Toy(shutil.copytree(made_template, home / "repository"))
        toy.set(serve__clock="now")
        toy.dvc("repro")
        return Seen.by(Door, toy.root, empty_instance)


@pytest.fixture
def refused(refusing: Seen, toy: Toy) -> Iterator[Alerted]:
    """The door to copies of both; the repository is where `toy` is."""
    with refusing.copied(Alerted, toy.root) as door:
        yield door


def test_a_failed_run_is_reported_with_its_reason_to_both_recipients(
    made_toy: Toy, door: Alerted, inbox: Inbox, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.jsonl"
    made_toy.set(audit__min_session_events=13)
    made_toy.set(alerts__webhook=f"{inbox.address}/hook", alerts__command=[sys.executable, "-c", KEEP, str(kept)])
    failed = door.materialize("totals")
    assert door.of_run(failed) == "told alerts.webhook, alerts.command"
    (message,) = inbox.got
    assert message["path"] == "/hook"
    assert "min_session_events is 13, the limit is 12" in message["reason"]
    assert (message["what"], message["name"], message["run_id"]) == ("run", "everything", failed.run_id)
    assert json.loads(kept.read_text()) | {"path": "/hook"} == message


def test_a_failed_check_is_reported_once_and_again_if_it_fails_again(toy: Toy, refused: Alerted, inbox: Inbox) -> None:
    toy.set(alerts__webhook=inbox.address)
    assert "metrics:model_is_good_enough: told" in refused.of_checks()
    assert refused.of_checks() == "no check has failed since"
    (message,) = inbox.got
    assert (message["what"], message["severity"]) == ("check", "ERROR")
    assert "the clock" in message["text"]
    assert not refused.materialize("metrics").success
    assert "told" in refused.of_checks()
    toy.set(serve__clock="log_end")
    assert refused.materialize("metrics").success
    assert refused.of_checks() == "no check has failed since"
    assert len(inbox.got) == 2


def test_without_recipients_nothing_is_sent_and_the_sensor_says_so(refused: Alerted) -> None:
    assert refused.of_checks() == f"metrics:model_is_good_enough: {NOBODY}"


def test_a_message_that_does_not_arrive_is_an_error_of_the_sensor_and_is_sent_again(
    toy: Toy, refused: Alerted, inbox: Inbox
) -> None:
    toy.set(alerts__webhook=f"{inbox.address}/broken")
    with pytest.raises(Exception, match="500"):
        refused.of_checks()
    toy.set(alerts__webhook=f"{inbox.address}/mended")
    assert "told" in refused.of_checks()


def test_two_checks_of_one_run_are_both_told_though_a_tick_falls_between(
    toy: Toy, inbox: Inbox, instance: dg.DagsterInstance
) -> None:
    """Dagster numbers both records when the run is planned, whichever is judged first."""
    toy.set(alerts__webhook=inbox.address)
    late, early = (dg.AssetCheckKey(dg.AssetKey(each), "good") for each in ("late", "early"))
    sensor, cursors = build_check_alert(toy.root, [late, early]), ["7"]  # as an earlier version left it

    def tick() -> None:
        context = dg.build_sensor_context(instance=instance, cursor=cursors[-1])
        sensor(context)
        cursors.append(str(context.cursor))

    def stage(key: dg.AssetCheckKey, deps: list[str], before: Callable[[], None]) -> dg.AssetsDefinition:
        @dg.multi_asset(
            name=f"make_{key.asset_key.path[0]}",
            specs=[dg.AssetSpec(key.asset_key, deps=deps)],
            check_specs=[dg.AssetCheckSpec(key.name, asset=key.asset_key)],
        )
        def make() -> Iterator[dg.MaterializeResult]:
            before()
            verdict = dg.AssetCheckResult(passed=False, check_name=key.name)
            yield dg.MaterializeResult(asset_key=key.asset_key, check_results=[verdict])

        return make

    for first, second in ((late, early), (early, late)):  # in one order or the other the first has the higher id
        inbox.got.clear()
        stages = [stage(first, [], lambda: None), stage(second, [first.asset_key.path[0]], tick)]
        assert dg.materialize(stages, instance=instance).success
        tick()
        tick()
        assert [each["name"] for each in inbox.got] == [first.to_user_string(), second.to_user_string()]


def test_a_broken_channel_alone_is_tried_again(toy: Toy, refused: Alerted, inbox: Inbox, tmp_path: Path) -> None:
    kept = tmp_path / "kept.jsonl"
    toy.set(alerts__webhook=inbox.address, alerts__command=["false"])
    assert refused.of_checks() == "metrics:model_is_good_enough: told; alerts.command ended with 1: "
    for _ in range(2):  # the cursor is kept by now
        with pytest.raises(RuntimeError, match=r"alerts\.command ended with 1"):
            refused.of_checks()
    toy.set(alerts__command=[sys.executable, "-c", KEEP, str(kept)])
    assert refused.of_checks() == "metrics:model_is_good_enough: told"
    assert refused.of_checks() == "no check has failed since"
    assert len(inbox.got) == len(kept.read_text().splitlines()) == 1


@pytest.mark.parametrize("value", ["s3cr3t.example/T0", "s3cr3t://T0", "http://127.0.0.1:1/s3cr3t", "http://s3cr3t T0"])
@pytest.mark.parametrize(
    "command",
    [["sh", "-c", "exec sleep 9", "$HOOK"], ["sh", "-c", "echo $HOOK >&2; exit 3"], ["./$HOOK"]],
)
def test_no_error_holds_the_value_of_a_variable(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, value: str, command: list[str]
) -> None:
    monkeypatch.setenv("HOOK", value)
    monkeypatch.setattr(alerts, "PATIENCE_S", 0.2)
    toy.set(alerts__webhook="$HOOK", alerts__command=command)
    with pytest.raises(RuntimeError) as raised:
        send(toy.root, {"text": "x"})
    said = "".join(traceback.format_exception(raised.value))
    assert "s3cr3t" not in said
    assert "T0" not in said
    assert "alerts.webhook could not be reached" in said
    assert re.search("alerts.command (did not end|ended with 3|could not be started)", said)


def test_a_secret_of_the_address_may_stand_in_the_environment(
    toy: Toy, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK", "s3cret")
    toy.set(alerts__webhook=f"{inbox.address}/$HOOK")
    assert send(toy.root, {"text": "é"}) == ["alerts.webhook"]
    assert (inbox.got[0]["path"], inbox.got[0]["text"]) == ("/s3cret", "é")


def test_a_command_that_fails_says_why(toy: Toy) -> None:
    toy.set(alerts__command=[sys.executable, "-c", "import sys; sys.exit('no such channel')"])
    with pytest.raises(RuntimeError, match="ended with 1: no such channel"):
        send(toy.root, {"text": "x"})


def test_alerts_make_no_stage_stale(made_toy: Toy, door: Alerted) -> None:
    door.tick()
    made_toy.set(alerts__webhook="http://127.0.0.1:1")
    assert "up to date" in made_toy.dvc("status")
    assert "nothing new" in door.tick()
