"""The provider ``gcp`` with google-auth's real session, against the simulated Google Cloud. Jobs run on paper here."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from threading import Barrier

import pytest

from cloud_train.errors import ProviderError
from cloud_train.providers.base import TAKEN, AlreadyLaunchedError, Diagnosed, Handle, LaunchUnknownError, ManyObserved, RegistryLogin
from cloud_train.providers.cloud.request import RUN
from cloud_train.providers.gcp import jobs
from cloud_train.providers.registry import load_provider
from cloud_train.run.states import Cause, State
from tests.clouds.faults import Fault
from tests.clouds.gcp_jobs import Timing
from tests.clouds.gcp_simulator import PROJECT, REGION, REPOSITORY
from tests.providers.gcp_google import Bench, bench

RUN_ID = "digits-261124-120000-abcd"
SECRET = "sesame-open-4711"


@pytest.fixture
def gcp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with bench(tmp_path, monkeypatch) as running:
        yield running


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with bench(tmp_path, monkeypatch, Timing(queued=60, pending=120, restarting=90, grace=30, log_lag=10)) as running:
        yield running


def old(handle: Handle) -> Handle:
    """The same of long ago."""
    return replace(handle, reference={**handle.reference, "launched": 0.0})


def test_it_is_built_in_and_has_what_a_cloud_may_have(tmp_path: Path) -> None:
    provider = load_provider("gcp", tmp_path)
    assert provider.capabilities.pulls_images
    assert isinstance(provider, ManyObserved)
    assert isinstance(provider, RegistryLogin)
    assert isinstance(provider, Diagnosed)


def test_a_launch_creates_the_job_that_was_rendered_with_three_requests(gcp: Bench) -> None:
    request = gcp.request()
    handle = gcp.provider.launch(request, {})
    [job] = gcp.google.jobs_of(RUN_ID)
    assert job.body == request["body"]
    assert (handle.run_id, handle.attempt, handle.provider, handle.store) == (RUN_ID, 1, "gcp", request["store"])
    assert handle.reference["job"] == job.name
    assert gcp.google.count() == 3


def test_a_launch_with_secrets_needs_no_more_than_six_requests(gcp: Bench) -> None:
    gcp.provider.launch(gcp.request(secrets=["TOKEN"]), {"TOKEN": SECRET})
    assert gcp.google.count() <= 6


def test_an_attempt_is_launched_once(gcp: Bench) -> None:
    gcp.provider.launch(gcp.request(), {})
    with pytest.raises(AlreadyLaunchedError, match="attempt 1 of digits-261124-120000-abcd was already launched"):
        gcp.another().launch(gcp.request(), {})
    assert len(gcp.google.jobs) == 1
    gcp.provider.launch(gcp.request(attempt=2, retry={"attempts": 2}), {})
    assert len(gcp.google.jobs) == 2


def test_of_two_submitters_that_race_the_older_job_stays_and_the_other_is_cancelled(gcp: Bench) -> None:
    together = Barrier(4)

    def launched() -> Handle | None:
        together.wait(10)
        try:
            return gcp.another().launch(gcp.request(), {})
        except AlreadyLaunchedError:
            return None

    with ThreadPoolExecutor(4) as pool:
        handles = [handle for handle in [each.result() for each in [pool.submit(launched) for _ in range(4)]] if handle]
    assert len(handles) == 1
    alive = [job for job in gcp.google.jobs_of(RUN_ID) if job.state != "JOB_STATE_CANCELLED"]
    assert [job.name for job in alive] == [handles[0].reference["job"]]


def test_a_job_whose_answer_was_lost_is_found_and_there_is_one(gcp: Bench) -> None:
    gcp.google.faults.add("customJobs.create", Fault.LOST_ANSWER)
    handle = gcp.provider.launch(gcp.request(), {})
    [job] = gcp.google.jobs_of(RUN_ID)
    assert handle.reference["job"] == job.name


def test_a_lost_answer_is_looked_for_with_patience_where_listings_lag(gcp: Bench) -> None:
    gcp.google.faults.add("customJobs.create", Fault.LOST_ANSWER)
    gcp.google.faults.hide("jobs", requests=2)
    handle = gcp.provider.launch(gcp.request(), {})
    assert handle.reference["job"] == gcp.google.jobs_of(RUN_ID)[0].name
    assert sum(gcp.pauses) > 0
    assert gcp.google.count() <= 6


def test_an_answer_that_stays_lost_is_told_and_the_job_is_found_later(gcp: Bench) -> None:
    gcp.google.faults.add("customJobs.create", Fault.LOST_ANSWER)
    gcp.google.faults.hide("jobs", requests=4)
    with pytest.raises(LaunchUnknownError, match="it is unknown whether attempt 1 of"):
        gcp.provider.launch(gcp.request(), {})
    found = gcp.another().find(RUN_ID, 1, "gs://my-bucket/runs", gcp.google.settings)
    assert found is not None
    assert len(gcp.google.jobs) == 1


def test_a_creation_that_failed_on_the_way_is_not_sent_again(gcp: Bench) -> None:
    gcp.google.faults.add("customJobs.create", Fault.SERVER_ERROR)
    with pytest.raises(LaunchUnknownError):
        gcp.provider.launch(gcp.request(), {})
    assert gcp.google.count("customJobs.create") == 1


def test_throttling_is_outlasted(gcp: Bench) -> None:
    gcp.google.faults.add("customJobs.list", Fault.THROTTLE, times=3)
    gcp.google.faults.add("customJobs.create", Fault.THROTTLE, times=3)
    gcp.provider.launch(gcp.request(), {})
    assert len(gcp.google.jobs) == 1
    assert len(gcp.pauses) >= 6


def test_a_throttling_storm_ends_in_one_message(gcp: Bench) -> None:
    gcp.google.faults.add("customJobs.list", Fault.THROTTLE, times=100)
    with pytest.raises(ProviderError, match="too many requests"):
        gcp.provider.launch(gcp.request(), {})
    assert gcp.google.count() <= 5


def test_a_token_that_expired_is_renewed(gcp: Bench) -> None:
    handle = gcp.provider.launch(gcp.request(), {})
    gcp.clock.advance(2 * 3600)
    assert gcp.provider.observe(handle).state is State.RUNNING
    gcp.google.faults.add("customJobs.get", Fault.EXPIRED_TOKEN)
    assert gcp.provider.observe(handle).cause is None


def test_an_attempt_that_was_never_launched_is_not_found(gcp: Bench) -> None:
    gcp.provider.launch(gcp.request(), {})
    assert gcp.provider.find(RUN_ID, 2, "gs://my-bucket/runs", gcp.google.settings) is None
    assert gcp.provider.find(f"{RUN_ID[:-4]}zzzz", 1, "gs://my-bucket/runs", gcp.google.settings) is None


def test_finding_says_if_it_cannot_ask(gcp: Bench) -> None:
    gcp.google.rights.denied.add("aiplatform.customJobs.list")
    with pytest.raises(ProviderError, match=r"lack the permission aiplatform\.customJobs\.list"):
        gcp.provider.find(RUN_ID, 1, "gs://my-bucket/runs", gcp.google.settings)


def test_what_was_found_is_what_was_launched(gcp: Bench) -> None:
    handle = gcp.provider.launch(gcp.request(secrets=["TOKEN"]), {"TOKEN": SECRET})
    found = gcp.another().find(RUN_ID, 1, handle.store, gcp.google.settings)
    assert found is not None
    assert replace(found, reference={**found.reference, "launched": handle.reference["launched"]}) == handle
    assert json.loads(json.dumps(asdict(handle))) == asdict(handle)


def test_a_life_is_observed_from_the_queue_to_its_end(slow: Bench) -> None:
    handle = slow.provider.launch(slow.request(), {})
    seen = [slow.provider.observe(handle).state]
    for seconds in (61, 121):
        slow.clock.advance(seconds)
        seen.append(slow.provider.observe(handle).state)
    slow.google.finish(RUN_ID, 0)
    seen.append(slow.provider.observe(handle).state)
    assert seen == [State.QUEUED, State.STARTING, State.RUNNING, TAKEN.state], "the run directory says how it ended"


def test_an_interruption_with_retry_is_no_end(slow: Bench) -> None:
    handle = slow.provider.launch(slow.request(resources={"spot": True}, retry={"attempts": 2}), {})
    slow.clock.advance(61)
    slow.provider.observe(handle)
    slow.clock.advance(121)
    assert slow.provider.observe(handle).state is State.RUNNING
    slow.google.preempt(RUN_ID)
    assert slow.provider.observe(handle).state is State.STARTING
    slow.clock.advance(91)
    assert slow.provider.observe(handle).state is State.RUNNING


def test_an_interruption_without_retry_ends_the_attempt_as_preempted(gcp: Bench) -> None:
    handle = gcp.provider.launch(gcp.request(resources={"spot": True}), {})
    assert gcp.provider.observe(handle).state is State.RUNNING
    gcp.google.preempt(RUN_ID)
    assert gcp.provider.observe(handle).cause is Cause.PREEMPTED


def test_a_worker_that_fails_is_started_again_five_times_and_the_job_three_times(gcp: Bench) -> None:
    handle = gcp.provider.launch(gcp.request(retry={"attempts": 2}), {})
    ends = 0
    while not gcp.provider.observe(handle).state.is_end:
        gcp.google.finish(RUN_ID, 10)
        ends += 1
    assert ends == (5 + 1) * (3 + 1)


def test_a_worker_without_retry_that_never_exits_with_0_is_restarted_in_place_and_its_last_status_is_the_cause(gcp: Bench) -> None:
    handle = gcp.provider.launch(gcp.request(), {})
    ends = 0
    while not gcp.provider.observe(handle).state.is_end:
        gcp.google.finish(RUN_ID, 14)
        ends += 1
    assert ends == 5 + 1
    assert gcp.provider.observe(handle).cause is Cause.TIMED_OUT


def test_no_capacity_is_no_fault_of_the_program(gcp: Bench) -> None:
    gcp.google.faults.add("customJobs.create", Fault.NO_CAPACITY)
    handle = gcp.provider.launch(gcp.request(), {})
    observation = gcp.provider.observe(handle)
    assert observation.cause is Cause.INFRASTRUCTURE
    assert "choose another gcp.region or gcp.machine" in observation.message


def test_the_time_limit_at_the_cloud_ends_a_job_that_goes_on(gcp: Bench) -> None:
    handle = gcp.provider.launch(gcp.request(limits={"duration": "1h", "grace": "60 s"}), {})
    gcp.provider.observe(handle)
    gcp.clock.advance(3600 + 60 + 15 * 60 + 1)
    assert gcp.provider.observe(handle).cause is Cause.TIMED_OUT


def test_cancelling_leaves_the_worker_its_grace_and_then_kills_it(slow: Bench) -> None:
    handle = slow.provider.launch(slow.request(), {})
    slow.clock.advance(61)
    slow.provider.observe(handle)
    slow.clock.advance(121)
    slow.provider.observe(handle)
    [job] = slow.google.jobs_of(RUN_ID)
    paper = job.places[0].replica
    paper.heeds_sigterm = False  # type: ignore[union-attr] # it is on paper here
    slow.provider.cancel(handle)
    assert slow.provider.observe(handle).state is State.STOPPING
    slow.clock.advance(31)
    assert slow.provider.observe(handle).cause is Cause.CANCELLED
    for force in (False, True):
        slow.provider.cancel(handle, force)


def test_cancelling_a_job_that_waits_ends_it(slow: Bench) -> None:
    handle = slow.provider.launch(slow.request(), {})
    slow.provider.cancel(handle)
    assert slow.provider.observe(handle).cause is Cause.CANCELLED


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_job_that_does_not_show_was_deleted_unless_it_is_young_wherever_google_s_clock_stands(gcp: Bench, hours: int) -> None:
    gcp.clock.advance(time.time() + hours * 3600 - gcp.clock.now())
    handle = gcp.provider.launch(gcp.request(), {})
    found = gcp.another().find(RUN_ID, 1, handle.store, gcp.google.settings)
    gcp.google.jobs.clear()
    for young in (handle, found):  # a listing may show what another question does not yet
        assert young is not None
        observation = gcp.provider.observe(young)
        assert (observation.state, observation.cause) == (State.QUEUED, Cause.UNKNOWN)
    observation = gcp.provider.observe(old(handle))
    assert observation.cause is Cause.INFRASTRUCTURE
    assert "deleted from Vertex AI" in observation.message


def test_an_attempt_that_cannot_be_asked_about_is_taken_to_go_on(gcp: Bench) -> None:
    handle = gcp.provider.launch(gcp.request(), {})
    gcp.google.rights.denied.add("aiplatform.customJobs.get")
    for unknown in (handle, replace(handle, reference={**handle.reference, "endpoint": "no-such-thing"})):
        observation = gcp.provider.observe(unknown)
        assert (observation.state, observation.cause) == (State.RUNNING, Cause.UNKNOWN)


def test_a_connection_that_stays_open_without_an_answer_is_given_up(gcp: Bench) -> None:
    handle = gcp.provider.launch(gcp.request(), {})
    gcp.google.faults.add("customJobs.get", Fault.HALF_OPEN, times=5)
    assert gcp.another((1.0, 0.1)).observe(handle).cause is Cause.UNKNOWN


def test_many_attempts_are_observed_with_one_listing_a_page(gcp: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert jobs._PAGE_JOBS == 100, "as many as Vertex AI gives"
    monkeypatch.setattr(jobs, "_PAGE_JOBS", 10)  # so that fifteen jobs are two pages
    handles = []
    for number in range(15):
        run_id = f"digits-261124-120000-{number:04d}"
        handles.append(gcp.provider.launch(gcp.request(run_id=run_id), {}))
    for _ in range(6):  # as often as Vertex AI starts it
        gcp.provider.observe(handles[7])
        gcp.google.finish(handles[7].run_id, 10)
    before = gcp.google.count()
    seen = gcp.provider.observe_all(handles)
    assert gcp.google.count() - before == 2
    assert [number for number, observation in enumerate(seen) if observation.state is not State.RUNNING] == [7]
    assert seen[7].cause is Cause.FAILED


def test_observing_many_asks_for_those_that_no_listing_has(gcp: Bench) -> None:
    first = gcp.provider.launch(gcp.request(), {})
    gone = replace(old(first), reference={**old(first).reference, "job": f"{first.reference['job']}1"})
    assert [each.state for each in gcp.provider.observe_all([first, gone])] == [State.RUNNING, State.INTERRUPTED]


def test_observing_many_never_raises(gcp: Bench) -> None:
    handle = gcp.provider.launch(gcp.request(), {})
    gcp.google.rights.denied.add("aiplatform.customJobs.list")
    [observation] = gcp.provider.observe_all([handle])
    assert observation.cause is Cause.UNKNOWN


def test_a_listing_of_the_project_s_other_jobs_is_not_waded_through(gcp: Bench) -> None:
    for number in range(3):
        gcp.provider.launch(gcp.request(run_id=f"old-261124-120000-{number:04d}"), {})
    gcp.clock.advance(86400)
    handle = gcp.provider.launch(gcp.request(), {})
    gcp.provider.observe_all([handle])
    [asked] = [each.request.query["filter"] for each in gcp.google.server.requests[-1:]]
    assert asked.startswith(f"labels.{RUN}:* AND create_time>=")


def test_secrets_lie_in_secret_manager_and_nowhere_else(gcp: Bench) -> None:
    handle = gcp.provider.launch(gcp.request(secrets=["TOKEN"]), {"TOKEN": SECRET})
    [name] = gcp.google.secrets.names()
    assert name == f"projects/{PROJECT}/secrets/cloud-train-{RUN_ID}-1"
    [job] = gcp.google.jobs_of(RUN_ID)
    arguments = job.body["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]["args"]
    assert arguments[-2:] == ["--secrets", f"gcp-secret:{gcp.google.server.url}/secretmanager/v1/{name}"]
    bodies = [logged.request.body for logged in gcp.google.server.requests if logged.operation != "secrets.addVersion"]
    assert not any(SECRET.encode() in body for body in bodies)
    assert SECRET not in json.dumps(asdict(handle))


def test_a_secret_is_deleted_after_the_end_and_not_before(gcp: Bench) -> None:
    handle = gcp.provider.launch(gcp.request(secrets=["TOKEN"]), {"TOKEN": SECRET})
    gcp.provider.clean_up(handle)
    assert len(gcp.google.secrets.names()) == 1
    gcp.google.finish(RUN_ID, 0)
    for _ in range(2):
        gcp.provider.clean_up(handle)
        assert gcp.google.secrets.names() == []


def test_a_secret_expires_by_itself(gcp: Bench) -> None:
    gcp.provider.launch(gcp.request(secrets=["TOKEN"]), {"TOKEN": SECRET})
    gcp.clock.advance(9 * 86400)
    assert gcp.google.secrets.names() == []


def test_a_launch_that_is_refused_leaves_no_secret(gcp: Bench) -> None:
    gcp.google.rights.denied.add("aiplatform.customJobs.create")
    with pytest.raises(ProviderError, match=r"lack the permission aiplatform\.customJobs\.create"):
        gcp.provider.launch(gcp.request(secrets=["TOKEN"]), {"TOKEN": SECRET})
    assert gcp.google.secrets.names() == []
    assert gcp.google.jobs == {}


def test_a_secret_that_a_launch_left_which_was_cut_off_is_used_again(gcp: Bench) -> None:
    gcp.google.faults.add("secrets.addVersion", Fault.SERVER_ERROR, times=5)
    with pytest.raises(ProviderError, match="cannot store the job's secrets in Secret Manager"):
        gcp.provider.launch(gcp.request(secrets=["TOKEN"]), {"TOKEN": SECRET})
    gcp.provider.launch(gcp.request(secrets=["TOKEN"]), {"TOKEN": SECRET})
    assert len(gcp.google.secrets.names()) == 1


def test_the_log_is_read_in_pages_without_loss_or_doubles(slow: Bench) -> None:
    handle = slow.provider.launch(slow.request(), {})
    identifier = handle.reference["job"].rpartition("/")[2]
    slow.google.logging.most_entries = 20
    slow.google.logging.repeats = 3
    cursor, read = None, b""
    expected = [f"line {number}" for number in range(200)]
    for number, line in enumerate(expected):
        slow.google.logging.write(identifier, "workerpool0-0", line)
        slow.clock.advance(0.5)
        if number % 40 == 0:
            said, cursor = slow.provider.logs(handle, cursor)
            read += said
    slow.clock.advance(60)
    for _ in range(20):
        said, cursor = slow.provider.logs(handle, cursor)
        read += said
        if not said:
            break
    assert [line for line in read.decode().splitlines() if line.startswith("line ")] == expected
    assert slow.provider.logs(handle, cursor) == (b"", cursor)


def test_entries_that_come_late_are_read_all_the_same(slow: Bench) -> None:
    handle = slow.provider.launch(slow.request(), {})
    identifier = handle.reference["job"].rpartition("/")[2]
    early = slow.clock.now()
    slow.clock.advance(20)
    slow.google.logging.write(identifier, "workerpool0-0", "second")
    slow.clock.advance(11)
    said, cursor = slow.provider.logs(handle, None)
    assert b"second\n" in said
    slow.google.logging.write(identifier, "workerpool1-0", "first", at=early + 10)
    slow.clock.advance(11)
    assert slow.provider.logs(handle, cursor)[0] == b"workerpool1-0: first\n"


def test_the_cursor_of_a_long_log_stays_small(gcp: Bench) -> None:
    handle = gcp.provider.launch(gcp.request(), {})
    identifier = handle.reference["job"].rpartition("/")[2]
    for number in range(1500):
        gcp.google.logging.write(identifier, "workerpool0-0", f"line {number}")
        gcp.clock.advance(1)
    said, cursor = gcp.provider.logs(handle, None)
    assert said.count(b"\n") >= 1500
    assert cursor is not None
    assert len(cursor) < 10_000


def test_the_login_of_artifact_registry_is_an_access_token(gcp: Bench) -> None:
    login = gcp.provider.registry_login({**gcp.google.settings, "repository": REPOSITORY})
    assert login is not None
    assert login[0] == "oauth2accesstoken"
    assert login[1].startswith("ya29.")
    assert gcp.provider.registry_login({**gcp.google.settings, "repository": "registry.example.com/jobs"}) is None


def test_a_repository_is_made_only_where_the_settings_want_that(gcp: Bench) -> None:
    gcp.google.repositories.clear()
    gcp.provider.registry_login({**gcp.google.settings, "repository": REPOSITORY})
    assert gcp.google.repositories == set()
    gcp.provider.registry_login({**gcp.google.settings, "repository": REPOSITORY, "create_repository": True})
    assert gcp.google.repositories == {f"v1/projects/{PROJECT}/locations/{REGION}/repositories/cloud-train"}


def test_a_job_has_a_page_in_googles_console_once_google_has_named_it(gcp: Bench) -> None:
    request = gcp.request()
    handle = gcp.provider.launch(request, {})
    project, region, number = handle.reference["job"].split("/")[1::2]
    page = f"https://console.cloud.google.com/ai/platform/locations/{region}/training/{number}?project={project}"
    assert gcp.provider.console_url(handle) == page
    assert gcp.provider.console_url(request) is None
    assert gcp.provider.console_url(replace(handle, reference={**handle.reference, "job": "https://attacker.example/"})) is None
