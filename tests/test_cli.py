"""The command line: every verb is real, helps with an example, and fails in words."""

import os
import shlex
import subprocess
import sys

import pytest

from atlas_nnunet.cli import COMMANDS, main

VERBS = [
    "demo", "datasets", "convert", "fingerprint", "plan", "preprocess", "train", "transfer",
    "predict", "evaluate", "compare", "env",
]  # fmt: skip


def test_the_verbs_are_those_that_are_real():
    assert list(COMMANDS) == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_help_ends_in_an_example_that_the_parser_takes(verb, capsys, monkeypatch):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    _, found, example = printed.rpartition("example")
    assert found, printed
    text = example.replace("\\\n", " ").replace('eval "$(', "").replace(')"', "")
    lines = [line.strip() for line in text.splitlines() if "atlas-nnunet " in line]
    assert lines, printed
    calls = [shlex.split(line) for line in lines]
    assert calls[0][1] == verb
    for words in calls:
        verb = words[1]  # an example may show what comes before or after
        called = {}
        monkeypatch.setattr(
            f"atlas_nnunet.{verb}.command.run", lambda args, seen=called: seen.update(vars(args))
        )
        assert main(words[1:]) == 0
        assert called["command"] == verb


@pytest.mark.parametrize(
    "words",
    ["convert KEY DIR", "datasets overlap A B", "fingerprint 1", "preprocess 1", "evaluate P R"],
)
def test_commands_that_work_case_by_case_offer_the_same_workers(words, monkeypatch):
    called = {}
    verb = words.split()[0]
    monkeypatch.setattr(f"atlas_nnunet.{verb}.command.run", lambda args: called.update(vars(args)))
    assert main([*words.split(), "-np", "3", "--cluster", "tcp://scheduler:8786"]) == 0
    assert (called["processes"], called["cluster"]) == (3, "tcp://scheduler:8786")


def test_a_wrong_call_ends_with_2_and_in_words(capsys, monkeypatch, tmp_path):
    for words in (["nonsense"], ["convert"], ["train", "1", "2d", "0", "-device", "abacus"]):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 2
    monkeypatch.delenv("nnUNet_raw", raising=False)
    assert main(["fingerprint", "701"]) == 2
    assert 'eval "$(atlas-nnunet env' in capsys.readouterr().err
    assert main(["convert", "abdomenatlas", str(tmp_path)]) == 2
    assert "abdomenatlas-1.1-mini" in capsys.readouterr().err, "the nearest keys are named"
    assert main(["demo", "-o", str(tmp_path), "--source", "openkbp=/nowhere"]) == 2
    assert "--target" in capsys.readouterr().err


def test_a_closed_pipe_is_no_error():
    done = subprocess.run(
        f"{shlex.quote(sys.executable)} -m atlas_nnunet.cli datasets totalsegmentator-v2 | head -1",
        shell=True, capture_output=True, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert done.stdout.startswith("TotalSegmentator v2")
    assert done.stderr == ""
