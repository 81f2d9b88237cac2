"""Staged leaks under ``poolctl guard``, in each library where they can happen: each is named by its line."""

from collections.abc import Callable
from functools import cache

import pytest
from guard_programs import EXPECTED, LEAK, LIBRARIES, Library, line_of, shapes_of, write_program
from guard_runs import Guarded, run_program

pytestmark = pytest.mark.server
CASES = [(library, shape) for library in LIBRARIES for shape in shapes_of(library)]
IDS = [f"{library.name}-{shape}" for library, shape in CASES]


@pytest.fixture(scope="module")
def guarded(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[Library], Guarded]:
    """What the guard reports of a library's program, which is run when its first shape is looked at."""
    folder = tmp_path_factory.mktemp("guard")

    @cache
    def run(library: Library) -> Guarded:
        pytest.importorskip(library.module)
        return run_program(write_program(library), environment, folder, name=library.file)

    return run


@pytest.mark.parametrize(("library", "shape"), CASES, ids=IDS)
def test_a_staged_leak_is_named_by_file_and_line(
    library: Library, shape: str, guarded: Callable[[Library], Guarded]
) -> None:
    result = guarded(library)
    place = f"{library.file}:{line_of(write_program(library), shape)}"

    found = {one["code"] for one in result.document["findings"] if one["evidence"].get("acquired_at") == place}

    assert found & set(EXPECTED.get(shape, LEAK)), (place, [one["summary"] for one in result.document["findings"]])


@pytest.mark.parametrize("library", LIBRARIES, ids=[library.name for library in LIBRARIES])
def test_nothing_else_is_called_a_leak(library: Library, guarded: Callable[[Library], Guarded]) -> None:
    program = write_program(library)
    places = {f"{library.file}:{line_of(program, shape)}" for shape in shapes_of(library)}

    named = {one["evidence"]["acquired_at"] for one in guarded(library).document["findings"] if one["code"] in LEAK}

    assert named <= places
