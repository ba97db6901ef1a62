"""The parser that train.py, test.py and interpolate.py share: what --help, --help_all and --version print."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import interpolate
import options
import test
import train

ROOT = Path(__file__).resolve().parent.parent


def made(shown=()):
    parser = options.parser("Trains.", shown)
    options.add_common(parser)
    group = parser.add_argument_group("schedule")
    group.add("--lr", type=float, default=1e-3, help="learning rate")
    group.add("--steps", type=int, help="number of steps")
    group.add("--name", default="x", help="a name (default: that of the folder)")
    group.add("--no_validation", dest="validation", action="store_false", help="do not validate")
    return parser


def printed(parser, capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(arguments)
    assert not stopped.value.code
    return capsys.readouterr().out


def test_help_names_every_default_once_and_none_where_there_is_none(capsys):
    text = " ".join(printed(made(), capsys, "--help").split())
    assert "learning rate (default: 0.001)" in text and "number of steps --name" in text
    assert "that of the folder) --no_validation" in text and text.endswith("do not validate")
    assert "None" not in text and "usage: " in text and "--data_root DATA_ROOT [options]" in text


def test_help_prints_the_options_that_are_shown_and_help_all_the_others_too(capsys):
    short = printed(made(["lr", "device"]), capsys, "-h")
    assert set(re.findall(r"--\w+", short)) == {"--help", "--help_all", "--version", "--data_root", "--device", "--lr"}
    whole = printed(made(["lr", "device"]), capsys, "--help_all")
    assert {"--steps", "--cache", "--no_validation"} < set(re.findall(r"--\w+", whole))


def test_version_is_that_of_the_project(capsys):
    assert re.fullmatch(r"semantic-srn \d+\.\d+\.\d+\n", printed(made(), capsys, "--version"))


def test_help_leaves_nothing_in_the_options():
    assert not {"help", "help_all", "version"} & set(vars(made(["lr"]).parse_args(["--data_root", "x"])))


@pytest.mark.parametrize("program", [train, test, interpolate], ids=lambda program: program.__name__)
def test_no_help_text_of_the_programs_names_two_defaults_or_none(program):
    text = " ".join(program.build_parser().format_help().split())
    assert "default: None" not in text and not re.search(r"\(default:[^()]*\) \(default", text)


@pytest.mark.parametrize("program", [train, test, interpolate], ids=lambda program: program.__name__)
def test_what_help_prints_are_options_of_the_program(program):
    actions = program.build_parser()._actions
    for action in actions:
        if isinstance(action, options.ShortHelp):
            assert action.const <= {other.dest for other in actions}


@pytest.mark.slow
def test_a_python_without_the_packages_is_told_so_in_one_sentence():
    done = subprocess.run([sys.executable, "-S", "train.py"], cwd=ROOT, capture_output=True, text=True, env={})
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "configargparse is not installed" in done.stderr and "source .venv/bin/activate" in done.stderr
