"""Submission without Ray: what is sent, what is followed, when the same is sent again, what is refused before that."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykd import submission
from raykd.submission import Followed, Submission, check_address, entry_point, exit_code, headers, read_runtime_env

ROOT = Path(__file__).parents[1]
JOBS = str(Path(__file__).with_name("tiny_jobs.py"))
SECRET = "hunter2-swordfish"
ADDRESS = "http://head:8265"
ON = ("--storage", "/shared/raykd", "--address", ADDRESS, "--working-dir", str(ROOT))
LOG = ["one\ntwo\n", "three\n"]


@dataclass
class FakeJob:
    submission_id: str
    status: str = "RUNNING"
    driver_exit_code: int | None = None
    message: str | None = None
    sent: dict[str, Any] = field(default_factory=dict)


@dataclass
class FakeJobs:
    """A job server. Each job that is started ends as the next of `ends` says: with an exit code, or lost for a reason."""

    ends: list[int | str] = field(default_factory=lambda: [0])
    jobs: list[FakeJob] = field(default_factory=list)
    breaks: list[int] = field(default_factory=list)
    """After how many chunks the next connections break."""
    stopped: list[str] = field(default_factory=list)
    on_list: Callable[[], None] = lambda: None

    def submit_job(self, **sent: Any) -> str:
        if sent["submission_id"] in [job.submission_id for job in self.jobs]:
            raise RuntimeError("already exists")
        self.jobs.append(FakeJob(sent["submission_id"], sent=sent))
        return sent["submission_id"]

    def list_jobs(self) -> Sequence[FakeJob]:
        self.on_list()
        return list(self.jobs)

    async def tail_job_logs(self, job_id: str) -> AsyncGenerator[str, None]:
        (job,) = [job for job in self.jobs if job.submission_id == job_id]
        last = self.breaks.pop(0) if self.breaks else len(LOG) + 1
        for number, chunk in enumerate(LOG):
            if number == last:
                raise RuntimeError("the connection is gone")
            yield chunk
        end = self.ends.pop(0)
        job.status = "SUCCEEDED" if end == 0 else "FAILED"
        job.driver_exit_code = end if isinstance(end, int) else None
        job.message = end if isinstance(end, str) else None

    def stop_job(self, job_id: str) -> bool:
        self.stopped.append(job_id)
        return True


def followed(jobs: Any, submitted: Submission | None = None) -> tuple[Followed, list[str], list[str], list[float]]:
    shown: list[str] = []
    said: list[str] = []
    pauses: list[float] = []
    given = submitted or Submission("python a.py kd", {"env_vars": {"TOKEN": SECRET}})
    return Followed(jobs, given, shown.append, said.append, pauses.append), shown, said, pauses


def test_a_job_that_succeeds_is_shown_to_its_end_and_gives_0() -> None:
    jobs = FakeJobs()
    run, shown, said, pauses = followed(jobs)
    assert run.run(3) == 0
    assert "".join(shown) == "".join(LOG)
    assert len(jobs.jobs) == 1
    assert run.job == jobs.jobs[0].submission_id == f"{run.submission.name}-1"
    assert "python a.py kd" in said[0]
    assert pauses == []


@pytest.mark.parametrize("end", [1, 137, -9, "node died"])
def test_a_job_that_is_lost_is_submitted_again_under_the_next_number_with_longer_pauses(end: int | str) -> None:
    jobs = FakeJobs([end, end, 0])
    run, shown, said, pauses = followed(jobs)
    assert run.run(3) == 0
    assert [job.submission_id for job in jobs.jobs] == [f"{run.submission.name}-{i}" for i in (1, 2, 3)]
    first, *others = [{**job.sent, "submission_id": None} for job in jobs.jobs]
    assert all(other == first for other in others)
    assert pauses == [submission.PAUSE_S, 2 * submission.PAUSE_S]
    assert "".join(shown) == 3 * "".join(LOG)
    assert any((end if isinstance(end, str) else f"exit code {end}") in line for line in said)


def test_it_is_not_submitted_more_often_than_asked() -> None:
    jobs = FakeJobs([1] * 9)
    assert followed(jobs)[0].run(2) == 1
    assert len(jobs.jobs) == 3
    jobs = FakeJobs([1] * 9)
    assert followed(jobs)[0].run(0) == 1
    assert len(jobs.jobs) == 1


@pytest.mark.parametrize("code", [2, 3, 130])
def test_a_mistake_a_divergence_or_an_interrupt_is_not_submitted_again(code: int) -> None:
    jobs = FakeJobs([code, 0])
    assert followed(jobs)[0].run(3) == code
    assert len(jobs.jobs) == 1


def test_a_job_that_is_stopped_counts_as_interrupted() -> None:
    assert exit_code(FakeJob("x", "STOPPED")) == 130
    assert exit_code(None) == 1


def test_a_connection_that_breaks_shows_each_character_once() -> None:
    jobs = FakeJobs(breaks=[1, 0, 1])
    run, shown, _, pauses = followed(jobs)
    assert run.run(0) == 0
    assert "".join(shown) == "".join(LOG)
    assert len(pauses) == 3


def test_a_connection_that_dies_without_a_word_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "QUIET_S", 0.05)

    class Silent(FakeJobs):
        tails = 0

        async def tail_job_logs(self, job_id: str) -> AsyncGenerator[str, None]:
            self.tails += 1
            if self.tails == 1:
                await asyncio.sleep(60)
            async for chunk in super().tail_job_logs(job_id):
                yield chunk

    run, shown, _, _ = followed(Silent())
    assert run.run(0) == 0
    assert "".join(shown) == "".join(LOG)


def test_the_log_of_a_job_that_is_over_may_be_gone() -> None:
    jobs = FakeJobs(breaks=[0] * 99)
    run, _, _, _ = followed(jobs)
    jobs.on_list = lambda: [setattr(job, "status", "SUCCEEDED") for job in jobs.jobs] and None
    assert run.run(0) == 0


def test_the_same_submission_that_runs_is_followed_and_one_that_is_over_gets_the_next_number() -> None:
    jobs = FakeJobs([0, 0])
    run, _, said, _ = followed(jobs)
    jobs.jobs = [FakeJob(f"{run.submission.name}-1", "FAILED"), FakeJob(f"{run.submission.name}-7")]
    assert run.run(3) == 0
    assert run.job == f"{run.submission.name}-7"
    assert len(jobs.jobs) == 2
    assert "followed" in said[0]
    run = followed(jobs)[0]
    assert run.run(3) == 0
    assert run.job == f"{run.submission.name}-8"


def test_jobs_of_others_are_not_taken_for_the_same() -> None:
    jobs = FakeJobs()
    run = followed(jobs)[0]
    jobs.jobs = [FakeJob("raysubmit_x"), FakeJob(f"{run.submission.name}x-1"), FakeJob(f"{run.submission.name}-1-1")]
    run.submit()
    assert run.job == f"{run.submission.name}-1"


def test_who_loses_the_race_to_submit_follows_the_winner() -> None:
    class Raced(FakeJobs):
        def submit_job(self, **sent: Any) -> str:
            super().submit_job(**sent)
            return super().submit_job(**sent)

    jobs = Raced()
    run = followed(jobs)[0]
    assert run.run(0) == 0
    assert len(jobs.jobs) == 1


def test_a_job_that_the_cluster_forgot_is_submitted_again() -> None:
    jobs = FakeJobs([0, 0], breaks=[0])
    run = followed(jobs)[0]
    run.submit()
    jobs.on_list, forget = (lambda: forget.pop()() if forget else None), [jobs.jobs.clear]
    run.jobs = jobs
    assert run._follow() is None
    assert run.run(1) == 0


def test_a_cluster_that_is_away_for_a_while_is_asked_again_and_not_for_ever() -> None:
    away = [RuntimeError("503"), ConnectionError("refused"), ConnectionError("refused")]

    def answer() -> None:
        if away:
            raise away.pop()

    jobs = FakeJobs()
    jobs.on_list = answer
    run, _, said, pauses = followed(jobs)
    assert run.run(0) == 0
    assert pauses == [submission.ASK_S] * 3
    assert sum("does not answer" in line for line in said) == 1
    away.extend([ConnectionError(f"refused {SECRET}")] * 10_000)
    with pytest.raises(ConnectionError, match="has not answered") as error:
        followed(jobs)[0].run(0)
    assert SECRET not in str(error.value)


def test_a_refusal_of_the_cluster_is_one_line_without_secrets() -> None:
    class Full(FakeJobs):
        def submit_job(self, **sent: Any) -> str:
            raise RuntimeError(f"status 500:\n{sent['runtime_env']}")

    with pytest.raises(OSError, match="took no job: status 500") as error:
        followed(Full())[0].run(0)
    assert SECRET not in str(error.value)
    assert "\n" not in str(error.value)


def test_the_reason_of_a_failure_has_no_secret() -> None:
    jobs = FakeJobs([f"runtime_env setup failed: {SECRET}\nmore"])
    run, _, said, _ = followed(jobs)
    assert run.run(0) == 1
    assert "runtime_env setup failed: ***" in said[-1]
    assert SECRET not in "".join(said)


def test_the_name_says_what_is_made_by_which_command_and_nothing_else() -> None:
    one = Submission("a", {"env_vars": {"TOKEN": SECRET}}, {"stage": "s", "raykd": "1"})
    assert one.name == Submission("a", {}, {"stage": "s", "raykd": "2"}).name
    assert one.name not in (Submission("b", {}, {"stage": "s"}).name, Submission("a", {}, {"stage": "t"}).name)


@given(st.lists(st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]))))
def test_a_shell_takes_the_entry_point_apart_again(words: list[str]) -> None:
    def command(by_itself: bool, target: str) -> list[str]:
        return shlex.split(
            entry_point(target, words, folder=ROOT, file=ROOT / "jobs" / "fashion.py", by_itself=by_itself)
        )

    assert command(True, "anywhere/fashion.py:kd") == ["python", "jobs/fashion.py", "kd", *words]
    assert command(False, "fashion.py:kd") == ["python", "-m", "raykd", "run", "jobs/fashion.py:kd", *words]
    assert command(False, "jobs.fashion:kd") == ["python", "-m", "raykd", "run", "jobs.fashion:kd", *words]


def test_a_file_that_would_stay_here_is_refused(tmp_path: Path) -> None:
    for target in ("own.py:kd", "own:kd"):
        with pytest.raises(ValueError, match="outside of the working directory"):
            entry_point(target, [], folder=ROOT, file=tmp_path / "own.py", by_itself=False)
    installed = tmp_path / "site-packages" / "own.py"
    assert entry_point("own:kd", [], folder=ROOT, file=installed, by_itself=False) == "python -m raykd run own:kd"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n- b", "not a mapping"),
        ("env_vars: ]", "line 1"),
        ("env_varz: {}", "'env_varz'"),
        ("working_dir: .", "--working-dir"),
        ("env_vars: {PORT: 8000}", "PORT"),
        ("env_vars: [A]", "not a mapping"),
        ("excludes: .git", "not a list"),
        ("&a [*a]", "not a mapping"),
    ],
)
def test_a_wrong_runtime_environment_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "env.yaml"
    file.write_text(f"{text}\n")
    with pytest.raises(ValueError, match=said) as error:
        read_runtime_env(file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)
    assert "8000" not in str(error.value)


def test_a_runtime_environment_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        read_runtime_env(tmp_path / "absent.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not YAML"):
        read_runtime_env(tmp_path / "bytes.yaml")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_runtime_env(tmp_path / "empty.yaml") == {}


def test_our_runtime_environment_leaves_big_folders_here_and_takes_what_a_job_needs() -> None:
    from ray._private.thirdparty.pathspec import PathSpec  # what packs the folder

    found = read_runtime_env(ROOT / "cluster" / "runtime-env.yaml")
    left = PathSpec.from_lines("gitwildmatch", found["excludes"])
    for path in (".git/objects/a", ".venv/bin/python", "storage/cache/v1/a.arrow", "raykd/__pycache__/cli.pyc"):
        assert left.match_file(path), path
    needed = [*(ROOT / "raykd").rglob("*.py"), *(ROOT / "jobs").glob("*.py"), ROOT / "raykd" / "py.typed"]
    assert [path for path in needed if left.match_file(path.relative_to(ROOT).as_posix())] == []
    assert not left.match_file("raykd/storage.py")
    assert "pip" not in found


@pytest.mark.parametrize("address", ["head:8265", "auto", "ray://head:10001", "10.0.0.1:6379", "http://", "https:"])
def test_an_address_that_is_no_job_server_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="http://HEAD:8265"):
        check_address(address)


def test_credentials_in_an_address_are_not_shown() -> None:
    assert check_address(f"https://me:{SECRET}@head:8265/x") == "https://head:8265"
    with pytest.raises(ValueError, match="job server") as error:
        check_address(f"ray://me:{SECRET}@head")
    assert SECRET not in str(error.value)


def test_headers_are_a_json_object_of_strings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_HEADERS", raising=False)
    assert headers() == {}
    monkeypatch.setenv("RAY_JOB_HEADERS", f'{{"Authorization": "{SECRET}"}}')
    assert headers() == {"Authorization": SECRET}
    for wrong in (SECRET, f'["{SECRET}"]', f'{{"{SECRET}": 1}}'):
        monkeypatch.setenv("RAY_JOB_HEADERS", wrong)
        with pytest.raises(ValueError, match="RAY_JOB_HEADERS") as error:
            headers()
        assert SECRET not in str(error.value)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeJobs:
    """What `raykd submit` talks to."""
    from raykd.runtime import cluster

    jobs = FakeJobs()
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_JOB_HEADERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cluster, "job_client", lambda address, headers: jobs)
    return jobs


def test_submit_sends_the_command_that_would_run_here(raykd: Any, server: FakeJobs) -> None:
    done = raykd("submit", "jobs/digits.py:kd", "--tau", "2", *ON, "--lr=0.2", "--no-baseline", "--retries", "0")
    assert (done.code, done.out) == (0, "".join(LOG))
    (job,) = server.jobs
    assert job.sent["entrypoint"] == ("python jobs/digits.py kd --tau 2 --storage /shared/raykd --lr=0.2 --no-baseline")
    assert job.sent["runtime_env"]["working_dir"] == str(ROOT)
    assert "MALLOC_TRIM_THRESHOLD_" in job.sent["runtime_env"]["env_vars"]
    planned = raykd("plan", "jobs/digits.py:kd", "--tau", "2", "--lr", "0.2", "--json").json
    assert job.sent["metadata"]["stage"] == planned["stage"]
    assert job.sent["metadata"]["target"] == "jobs/digits.py:kd"
    assert all(isinstance(value, str) for value in job.sent["metadata"].values())


def test_what_variables_say_here_goes_with_the_command_unless_the_job_has_its_own(
    raykd: Any, server: FakeJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYKD_STORAGE", "/laptop/raykd")
    monkeypatch.setenv("RAYKD_CACHE", "s3://bucket/raykd")
    server.ends = [0, 0]
    words = ("submit", f"{JOBS}:kd", *ON[2:])
    assert raykd(*words).code == 0
    (first,) = server.jobs
    assert "--storage /laptop/raykd" in first.sent["entrypoint"]
    assert "--cache s3://bucket/raykd" in first.sent["entrypoint"]
    (tmp_path / "env.yaml").write_text(f"env_vars: {{RAYKD_STORAGE: /shared/raykd, TOKEN: {SECRET}}}\n")
    done = raykd(*words, "--runtime-env", str(tmp_path / "env.yaml"))
    assert done.code == 0
    sent = server.jobs[1].sent
    assert "--storage" not in sent["entrypoint"]
    assert "python -m raykd run tests/tiny_jobs.py:kd" in sent["entrypoint"]
    assert SECRET not in f"{sent['metadata']}{sent['entrypoint']}{sent['submission_id']}{done.out}{done.err}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("jobs/digits.py:kdd", *ON), "did you mean 'kd'"),
        (("jobs/none.py:kd", *ON), "no recipe file"),
        (("jobs/digits.py:kd", *ON, "--tau", "hot"), "'hot' is not a valid float"),
        (("jobs/digits.py:kd", *ON, "--tow", "2"), "No such option '--tow'"),
        (("jobs/digits.py:kd", *ON, "--precision", "int8"), "int8"),
        ((f"{JOBS}:mismatched", *ON), "7"),
        (("jobs/digits.py:kd", *ON[2:], "--storage", "storage"), "temporary folder"),
        (("jobs/digits.py:kd", *ON[2:], "--storage", "s3://bucket"), "temporary folder"),
        (("jobs/digits.py:kd", *ON[2:]), "no storage is named"),
        (("jobs/digits.py:kd", *ON, "--working-dir", "raykd"), "outside of the working directory"),
        (("jobs/digits.py:kd", *ON, "--working-dir", "/nowhere"), "no working directory"),
        (("jobs/digits.py:kd", *ON, "--runtime-env", "/nowhere.yaml"), "cannot be read"),
        (("jobs/digits.py:kd", *ON, "--address", "head:8265"), "http://HEAD:8265"),
        ((*ON,), "TARGET"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_sent(
    raykd: Any, server: FakeJobs, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.delenv("RAYKD_STORAGE")
    done = raykd("submit", *words)
    assert done.code == 2
    assert said in done.err
    assert len(done.err.splitlines()) == 1
    assert server.jobs == []


def test_what_only_the_cluster_can_write_is_sent_unchecked(raykd: Any, server: FakeJobs) -> None:
    assert raykd("submit", f"{JOBS}:mismatched", *ON, "--no-check").code == 0
    assert "stage" not in server.jobs[0].sent["metadata"]


def test_data_that_only_the_cluster_has_do_not_hold_up_a_stage_that_is_written_without_them(
    raykd: Any, server: FakeJobs
) -> None:
    done = raykd("submit", f"{JOBS}:elsewhere", *ON)
    assert done.code == 0
    assert "/no/such/folder" in done.err
    assert "stage" not in server.jobs[0].sent["metadata"]


def test_without_waiting_the_name_of_the_job_is_printed(raykd: Any, server: FakeJobs) -> None:
    done = raykd("submit", f"{JOBS}:kd", *ON, "--no-wait")
    assert (done.code, done.out.strip()) == (0, server.jobs[0].submission_id)
    assert server.jobs[0].status == "RUNNING"


async def interrupted() -> AsyncGenerator[str, None]:
    """As by Ctrl-C in the middle of a log."""
    yield LOG[0]
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.sleep(60)


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupt_leaves_the_job_running_and_says_how_to_stop_it(raykd: Any, server: FakeJobs) -> None:
    server.tail_job_logs = lambda job_id: interrupted()  # type: ignore[method-assign, assignment]
    done = raykd("submit", f"{JOBS}:kd", *ON)
    assert done.code == 130
    assert f"ray job stop --address {ADDRESS} {server.jobs[0].submission_id}" in done.err
    assert server.stopped == []
    assert raykd("submit", f"{JOBS}:kd", *ON, "--stop-on-interrupt").code == 130
    assert server.stopped == [job.submission_id for job in server.jobs]
    assert len(server.jobs) == 1


def test_without_a_cluster_the_same_command_runs_here(raykd: Any, server: FakeJobs) -> None:
    done = raykd("submit", f"{JOBS}:kd", "--tau", "3", "--local", "--json", "--no-baseline")
    assert done.code == 0
    assert done.json["label"] == "tiny kd"
    assert "runs here" in done.err
    assert server.jobs == []


def test_help_has_the_options_of_submitting_of_running_and_of_the_recipe(raykd: Any) -> None:
    shown = raykd("submit", "jobs/digits.py:kd", "--help")
    assert shown.code == 0
    for option in ("--address", "--retries", "--stop-on-interrupt", "--storage", "--tau"):
        assert option in shown.out
    assert "--retries" in raykd("submit", "--help").out


def test_a_knob_that_is_named_like_an_option_of_submitting_is_refused(
    raykd: Any, server: FakeJobs, tmp_path: Path
) -> None:
    (tmp_path / "named.py").write_text("from raykd import Stage\ndef named(retries: int = 1) -> Stage: ...\n")
    done = raykd("submit", f"{tmp_path}/named.py:named", *ON)
    assert done.code == 2
    assert "rename it" in done.err
