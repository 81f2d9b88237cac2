"""Recordings: what is written is read again, and garbage is refused with the number of its line."""

import dataclasses
import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poolctl.errors import BadInput, CannotDo
from poolctl.observe.recording import RecordingWriter, hide_all_literals, read_recording
from poolctl.observe.snapshot import (
    Backend,
    ClientProcess,
    HostSample,
    Observation,
    Refusal,
    RoleFacts,
    ServerFacts,
    ServerSample,
    Snapshot,
    Source,
    StatementCounters,
)
from poolctl.serialize import from_dict, to_dict

FACTS = ServerFacts(
    "db:5432/app", "18.6", 180006, "ann", "app", 100, 3, settings={"lock_timeout": 0.0}, roles=(RoleFacts("ann", 5),)
)
BACKEND = Backend(7, "ann", "app", state="idle", query="SELECT 1 WHERE name = 'Ann'", blocked_by=(8, 9))
STATEMENT = StatementCounters(-5, "ann", "app", "ALTER ROLE ann PASSWORD 'hunter2'", 3, 0.25)
HOST = HostSample(True, processes=(ClientProcess(1, 2, "app --password hunter2", "sleeping"),), listen_queues={5432: 1})
FIRST = Snapshot(1.5, ServerSample(1.25, 0.5, (BACKEND,), statements=(STATEMENT,)), host=HOST)
SECOND = Snapshot(2.5, refusal=Refusal("server-slots", "sorry", "53300", "InitProcess", "db:5432/app"))
OBSERVATION = Observation((FIRST, SECOND), FACTS, (Source("postgres", "db:5432/app", ok=False, reason="gone"),), 1.0)


def recorded(path: Path, observation: Observation = OBSERVATION, *, show_literals: bool = True) -> list[str]:
    with RecordingWriter(path, show_literals=show_literals) as recorder:
        for snapshot in observation.snapshots:
            recorder.write(snapshot, observation)
    return path.read_text().splitlines()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "night.jsonl"


SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=5),
    int: st.integers(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
}


def any_of(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a type that the snapshots use."""
    arguments = get_args(kind)
    if dataclasses.is_dataclass(kind):
        return st.builds(cast("type[Any]", kind), **{name: any_of(hint) for name, hint in get_type_hints(kind).items()})
    if get_origin(kind) is Literal:
        return st.sampled_from(arguments)
    if get_origin(kind) is tuple:
        return st.lists(any_of(arguments[0]), max_size=2).map(tuple)
    if get_origin(kind) is Mapping:
        return st.dictionaries(any_of(arguments[0]), any_of(arguments[1]), max_size=2)
    if arguments:
        return st.none() | any_of(arguments[0])
    return SCALARS[kind]


@given(any_of(Observation))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_any_observation_comes_back_as_it_was(observation: Observation) -> None:
    plain = json.loads(json.dumps(to_dict(observation)))

    assert from_dict(Observation, plain) == observation


def test_a_gauge_that_is_no_number_was_not_seen() -> None:
    assert from_dict(HostSample, to_dict(HostSample(True, cpu_share=float("nan")))) == HostSample(True)


def test_a_recording_reads_as_what_was_observed(path: Path) -> None:
    lines = recorded(path, hide_all_literals(OBSERVATION))

    observation, note = read_recording(path)

    hidden = hide_all_literals(OBSERVATION)
    assert observation.server == hidden.server
    assert observation.sources == hidden.sources
    assert observation.interval == 1.0
    assert observation.snapshots[0].server == hidden.snapshots[0].server
    assert observation.snapshots[1] == hidden.snapshots[1]
    assert note == ""
    assert len(lines) == 4


def test_neither_literals_nor_passwords_are_written(path: Path) -> None:
    text = "\n".join(recorded(path, show_literals=False))

    assert "hunter2" not in text
    assert "Ann" not in text
    assert "ALTER ROLE ann PASSWORD '...'" in text


def test_shown_literals_still_show_no_password_of_a_command_line(path: Path) -> None:
    text = "\n".join(recorded(path, show_literals=True))

    assert "name = 'Ann'" in text
    assert "--password ***" in text


def test_facts_are_written_when_they_are_learned_and_the_last_ones_count(path: Path) -> None:
    with RecordingWriter(path) as recorder:
        recorder.write(SECOND, Observation((SECOND,), None, (), 1.0))
        recorder.write(FIRST, OBSERVATION)
        recorder.write(FIRST, OBSERVATION)

    observation, _ = read_recording(path)

    assert [next(iter(json.loads(line))) for line in path.read_text().splitlines()][1:] == [
        "about",
        "snapshot",
        "about",
        "snapshot",
        "snapshot",
    ]
    assert observation.server == FACTS
    assert len(observation.snapshots) == 3


def test_every_line_is_on_disk_before_the_next_is_written(path: Path) -> None:
    with RecordingWriter(path) as recorder:
        recorder.write(FIRST, OBSERVATION)
        assert len(path.read_text().splitlines()) == 3


@pytest.mark.parametrize("lost", [1, 20, 60])
def test_a_last_line_that_was_cut_off_is_left_out_with_a_note(path: Path, lost: int) -> None:
    recorded(path)
    text = path.read_text()
    path.write_text(text[: -1 - lost])

    observation, note = read_recording(path)

    assert len(observation.snapshots) == 1
    assert note == f"the last line of {path} is cut off; it was left out"


def test_a_last_line_without_its_newline_is_whole(path: Path) -> None:
    recorded(path)
    path.write_text(path.read_text().rstrip("\n"))

    observation, note = read_recording(path)

    assert (len(observation.snapshots), note) == (2, "")


def test_what_a_newer_poolctl_adds_is_left_out(path: Path) -> None:
    lines = recorded(path)
    entry = json.loads(lines[2])
    entry["snapshot"]["new"] = entry["snapshot"]["server"]["backends"][0]["new"] = {"a": 1}
    path.write_text("\n".join([*lines[:2], json.dumps(entry), '{"later": 1}', lines[3], ""]))

    assert len(read_recording(path)[0].snapshots) == 2


@pytest.mark.parametrize(
    ("number", "line", "reason"),
    [
        (1, "hello", "not JSON: Expecting value"),
        (1, "[]", "an object was expected"),
        (1, '{"a": 1}', "not a recording of poolctl's"),
        (1, '{"poolctl_recording": 9}', "it has the format 9, and this poolctl reads format 1"),
        (3, "}{", "not JSON: Expecting value"),
        (3, "[" * 100_000, "it is nested too deeply"),
        (3, '{"snapshot": []}', "an object was expected, not a list"),
        (3, '{"snapshot": {}}', "at is missing"),
        (3, '{"snapshot": {"at": "noon"}}', "at: a number was expected, not a text"),
        (3, '{"snapshot": {"at": NaN}}', "NaN is not a number in JSON"),
        (3, '{"snapshot": {"at": 1e999}}', "at: the number is too large"),
        (3, '{"snapshot": {"at": 1, "server": {"at": 1, "started_at": 1, "backends": [{"pid": true, "user": null, '
            '"database": null}]}}}', "server: backends: pid: a whole number was expected, not true or false"),
        (3, '{"snapshot": {"at": 1, "refusal": {"by": "me", "text": ""}}}', "refusal: by: 'me' is none of server-sl"),
        (2, '{"about": {"sources": 3}}', "sources: a list was expected, not a whole number"),
    ],
)  # fmt: skip
def test_garbage_is_refused_with_the_number_of_its_line(path: Path, number: int, line: str, reason: str) -> None:
    lines = recorded(path)
    lines[number - 1] = line
    path.write_text("\n".join([*lines, ""]))

    with pytest.raises(BadInput) as refused:
        read_recording(path)

    assert refused.value.message.startswith(f"{path}, line {number}: {reason}")


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_at_all_are_refused_and_nothing_else_happens(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "garbage"
    path.write_bytes(garbage)

    with pytest.raises(BadInput):
        read_recording(path)


def test_a_recording_without_a_snapshot_is_refused(path: Path) -> None:
    RecordingWriter(path).close()

    with pytest.raises(BadInput, match="holds no snapshot"):
        read_recording(path)


def test_a_file_that_cannot_be_opened_is_told_with_the_systems_reason(tmp_path: Path) -> None:
    with pytest.raises(CannotDo, match=r"cannot read the recording .*: No such file"):
        read_recording(tmp_path / "none")
    with pytest.raises(CannotDo, match=r"cannot write the recording .*: Is a directory"):
        RecordingWriter(tmp_path)


def test_a_mapping_that_nobody_can_change_is_written_like_any_other() -> None:
    facts = types.MappingProxyType({"lock_timeout": 0.0})

    assert to_dict(RoleFacts("ann", settings=facts)) == {"name": "ann", "settings": {"lock_timeout": 0.0}}  # type: ignore[arg-type]
