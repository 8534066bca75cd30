"""A failed run and a failed check are sent to the webhook and the command of params.yaml, once."""

import json
import re
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from orchestration import channels, outbox
from orchestration.alerts import build_check_alert
from orchestration.channels import COMMAND, NOBODY, WEBHOOK, tell
from orchestration.outbox import Sent, deliver
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
        self.slow_s = 0.0
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.headers["Content-Type"] == "application/json"
                inbox.got.append(json.loads(body) | {"path": self.path})
                time.sleep(inbox.slow_s)
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

    def __init__(self, root: Path, instance: dg.DagsterInstance) -> None:
        super().__init__(root, instance)
        self.cursors: dict[str, str | None] = {}

    def _ticks(self, name: str) -> str:
        sensor: Any = next(each for each in self.definitions.sensors or [] if each.name == name)
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursors.get(name))
        said = sensor(context)
        self.cursors[name] = context.cursor  # as Dagster: where a tick raises, it keeps none
        return str(said.skip_message)

    def of_checks(self) -> str:
        """The message of one tick of the sensor on checks."""
        return self._ticks("alert_failed_check")

    def of_runs(self) -> str:
        """The message of one tick of the sensor on runs."""
        return self._ticks("alert_failed_run")


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
    assert "from now on" in door.of_runs()
    failed = door.materialize("totals")
    assert door.of_runs() == f"{failed.run_id}: told alerts.webhook, alerts.command"
    assert door.of_runs() == "no run has failed since"
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


def test_a_failed_run_is_told_when_the_webhook_works_again(
    made_toy: Toy, door: Alerted, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `run_failure_sensor` of Dagster's moves on: what it could not send is never sent."""
    monkeypatch.setattr(outbox, "AGAIN_S", 0.0)
    door.of_runs()
    made_toy.set(audit__min_session_events=13, alerts__webhook=f"{inbox.address}/broken")
    failed = door.materialize("totals")
    assert door.of_runs() == f"{failed.run_id}: alerts.webhook answered 500"
    made_toy.set(alerts__webhook=f"{inbox.address}/mended")
    assert door.of_runs() == f"{failed.run_id}: told alerts.webhook"
    assert door.of_runs() == "no run has failed since"
    assert [each["path"] for each in inbox.got] == ["/broken", "/mended"]
    assert inbox.got[0]["reason"] == inbox.got[1]["reason"]


def test_runs_that_failed_before_the_sensor_began_are_not_told(made_toy: Toy, door: Alerted, inbox: Inbox) -> None:
    made_toy.set(audit__min_session_events=13, alerts__webhook=inbox.address)
    assert not door.materialize("totals").success
    door.of_runs()
    assert door.of_runs() == "no run has failed since"
    assert not inbox.got


def test_a_run_in_which_no_step_failed_says_what_its_engine_said(toy: Toy, door: Alerted, inbox: Inbox) -> None:
    toy.set(alerts__webhook=inbox.address)
    door.of_runs()
    run = door.instance.create_run_for_job(door.definitions.resolve_job_def("everything"))
    door.instance.report_engine_event("Its process was terminated by signal 9 (SIGKILL).", run)
    door.instance.report_run_failed(run)
    door.of_runs()
    (message,) = inbox.got
    assert message["reason"] == "Its process was terminated by signal 9 (SIGKILL)."


def test_the_cursor_of_an_earlier_version_is_gone_on_with(made_toy: Toy, door: Alerted, inbox: Inbox) -> None:
    """The sensor was a `run_failure_sensor`, whose cursor names the last run that it has seen."""
    made_toy.set(audit__min_session_events=13, alerts__webhook=inbox.address)
    failed = door.materialize("totals")
    door.cursors["alert_failed_run"] = '{"__class__": "RunStatusSensorCursor", "record_id": 0}'
    assert door.of_runs() == f"{failed.run_id}: told alerts.webhook"


def test_a_message_that_does_not_arrive_is_sent_again_and_is_an_error_of_the_sensor_until_then(
    toy: Toy, refused: Alerted, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "AGAIN_S", 0.5)
    toy.set(alerts__webhook=f"{inbox.address}/broken")
    assert refused.of_checks() == "metrics:model_is_good_enough: alerts.webhook answered 500"
    with pytest.raises(Exception, match="500; it is tried again"):
        refused.of_checks()
    toy.set(alerts__webhook=f"{inbox.address}/mended")
    time.sleep(0.5)
    assert refused.of_checks() == "metrics:model_is_good_enough: told alerts.webhook"
    assert len(inbox.got) == 2


def test_attempts_become_rare(toy: Toy, inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.set(alerts__webhook=f"{inbox.address}/broken")
    now, known = 0.0, {}
    monkeypatch.setattr(outbox, "time", SimpleNamespace(time=lambda: now, monotonic=time.monotonic))
    for second in range(0, 86_400, 30):
        now = float(second)
        with suppress(RuntimeError):
            known, _ = deliver(toy.root, {"run": ("1", dict)}, known)
    assert len(inbox.got) == 30  # after 0, 30, 90, ... 3,810 s, and then every hour


def test_a_channel_that_is_away_for_months_holds_up_no_other_message(toy: Toy, inbox: Inbox) -> None:
    """1,024 hourly attempts are six weeks."""
    toy.set(alerts__webhook=f"{inbox.address}/broken")
    known, said = deliver(toy.root, {"run": ("1", dict)}, {"run": Sent("1", {WEBHOOK: "it answered 500"}, tries=5_000)})
    assert said == "run: alerts.webhook answered 500"
    assert known["run"].tries == 5_001
    assert 3_500 < known["run"].again_at - time.time() <= 3_600


def test_a_tick_ends_in_time_however_many_checks_fail_and_however_slow_the_channels_are(
    toy: Toy, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster gives up on a tick after a minute and keeps no cursor of it: all would be told again, for ever."""
    assert outbox.TICK_S + 2 * channels.PATIENCE_S < 60
    monkeypatch.setattr(outbox, "TICK_S", 0.5)
    toy.set(alerts__webhook=inbox.address)
    inbox.slow_s = 0.3
    wanted = {str(number): ("1", lambda: {"text": "x"}) for number in range(5)}
    began, known, said = time.monotonic(), {}, ""
    known, said = deliver(toy.root, wanted, known)
    assert time.monotonic() - began < 1.4
    assert "4: not sent yet" in said
    for _ in range(3):
        known, said = deliver(toy.root, wanted, known)
    assert not said
    assert len(inbox.got) == 5


def test_a_name_that_nobody_looks_up_takes_no_longer_than_a_channel_may(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_up(*_: object, **__: object) -> None:
        time.sleep(2)
        raise OSError

    monkeypatch.setattr(channels, "PATIENCE_S", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    toy.set(alerts__webhook="http://hooks.example/T0")
    began = time.monotonic()
    assert tell(toy.root, {"text": "x"}, [WEBHOOK])[1] == {
        WEBHOOK: "alerts.webhook could not be reached: it did not answer within 0.2 s"
    }
    assert time.monotonic() - began < 1.5


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


def test_a_broken_channel_alone_is_tried_again(
    toy: Toy, refused: Alerted, inbox: Inbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "AGAIN_S", 0.0)
    kept = tmp_path / "kept.jsonl"
    toy.set(alerts__webhook=inbox.address, alerts__command=["false"])
    told = "metrics:model_is_good_enough: told alerts.webhook; alerts.command ended with 1: "
    assert refused.of_checks() == told
    assert refused.of_checks() == told.replace("told alerts.webhook; ", "")
    toy.set(alerts__command=[sys.executable, "-c", KEEP, str(kept)])
    assert refused.of_checks() == "metrics:model_is_good_enough: told alerts.command"
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
    monkeypatch.setattr(channels, "PATIENCE_S", 0.2)
    toy.set(alerts__webhook="$HOOK", alerts__command=command)
    _, faults = tell(toy.root, {"text": "x"}, [WEBHOOK, COMMAND])
    said = "; ".join(faults.values())
    assert "s3cr3t" not in said
    assert "T0" not in said
    assert "alerts.webhook could not be reached" in said
    assert re.search("alerts.command (did not end|ended with 3|could not be started)", said)


def test_a_secret_of_the_address_may_stand_in_the_environment(
    toy: Toy, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK", "s3cret")
    toy.set(alerts__webhook=f"{inbox.address}/$HOOK")
    assert tell(toy.root, {"text": "é"}, [WEBHOOK]) == ([WEBHOOK], {})
    assert (inbox.got[0]["path"], inbox.got[0]["text"]) == ("/s3cret", "é")


def test_a_command_that_fails_says_why(toy: Toy) -> None:
    toy.set(alerts__command=[sys.executable, "-c", "import sys; sys.exit('no such channel')"])
    _, faults = tell(toy.root, {"text": "x"}, [COMMAND])
    assert faults == {COMMAND: "alerts.command ended with 1: no such channel"}


def test_alerts_make_no_stage_stale(made_toy: Toy, door: Alerted) -> None:
    door.tick()
    made_toy.set(alerts__webhook="http://127.0.0.1:1")
    assert "up to date" in made_toy.dvc("status")
    assert "nothing new" in door.tick()
