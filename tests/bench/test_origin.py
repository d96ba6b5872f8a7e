"""Where records come from."""

import pytest

from acmix.bench.origin import describe_origin, spoken_command
from acmix.bench.settings import Settings


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["bench", "layers", "--official", "/home/me/ACmix"], "acmix bench layers --official ACmix"),
        (["bench", "layers", "--official=/home/me/ACmix"], "acmix bench layers --official=ACmix"),
        (["bench", "layers", "--official", "../../ACmix"], "acmix bench layers --official ACmix"),
        (["bench", "layers", "--output", "benchmarks/records"], "acmix bench layers --output benchmarks/records"),
        (["bench", "layers", "--shapes", "128x56/2"], "acmix bench layers --shapes 128x56/2"),
        (["bench", "networks", "a:b c"], "acmix bench networks 'a:b c'"),
    ],
)
def test_a_command_is_told_without_the_folders_of_a_machine(words: list[str], told: str) -> None:
    assert spoken_command(words) == told


def test_machine_and_versions_are_named() -> None:
    origin = describe_origin(Settings(), ["bench", "layers"])
    assert origin.cpu
    assert origin.instructions
    assert origin.processors >= 1
    assert origin.versions["torch"] is not None
    assert origin.started.endswith("+00:00")


def test_outside_of_a_checkout_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acmix.bench.origin._git", lambda folder, *words: None)
    origin = describe_origin(Settings(), [])
    assert (origin.commit, origin.dirty) == (None, None)


def test_a_checkout_says_commit_and_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"ls-files": "origin.py", "status": " M a.py", "rev-parse": "0123"}
    monkeypatch.setattr("acmix.bench.origin._git", lambda folder, *words: answers[words[0]])
    origin = describe_origin(Settings(), [])
    assert (origin.commit, origin.dirty) == ("0123", True)
