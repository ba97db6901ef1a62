"""The documents: links lead somewhere, and programs accept the commands that documents show."""

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("tests/data/parity/README.md", "datasets/making/furniture_labels/README.md")),
]
PROGRAM_OF = {"result_scripts": "test", "test_scripts": "train", "seg_scripts": "train", "training_scripts": "train"}
PROGRAM_OF |= {"interpolate.sh": "interpolate", "suggest_labels.sh": "suggest_labels"}
OTHERS = {"source", "pip", "conda", "export", "tensorboard", "pytest", "pre-commit"}  # commands with no file to check
OTHERS_OPTIONS = {"--nnodes", "--nproc_per_node", "--standalone", "--rdzv_backend", "--logdir", "--check", "--fix", "--index"}


def name_of(path):
    return str(path.relative_to(ROOT))


def each_document(test):
    return pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)(test)


def lines_of(path):
    """(line, whether it is code) of a document: code is fenced, or indented by four or more."""
    fenced = False
    for line in path.read_text().splitlines():
        is_fence = line.lstrip().startswith("```")
        fenced ^= is_fence
        if not is_fence:
            yield line, fenced or line.startswith("    ")


def prose_of(path):
    return "\n".join(line for line, is_code in lines_of(path) if not is_code)


def anchors_of(path):
    """The anchors that GitHub gives the headings of a document."""
    headings = re.findall(r"(?m)^#+ (.*)$", prose_of(path))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def pieces_of(path):
    """Every line of code of a document and every code span of its text."""
    for line, is_code in lines_of(path):
        yield from [line.strip()] if is_code else re.findall(r"`([^`]+)`", line)


def words_of_commands(path):
    """The words of each shell command that a document shows, without the environment variables before it."""
    for piece in pieces_of(path):
        for part in re.split(r"&&|;|\|", re.split(r"(?:^|\s)#", piece)[0]):
            try:
                words = shlex.split(part)
            except ValueError:  # an apostrophe in a listing
                continue
            while words and (re.match(r"[A-Z_]+=", words[0]) or words[0] == "srun"):
                words.pop(0)
            if words:
                yield words


def parser_of(program):
    parser = importlib.import_module(program).build_parser()
    found = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += action.choices.values()
    return found


def options_of(program):
    """Every option of a program and of its subcommands."""
    return {option for parser in parser_of(program) for action in parser._actions for option in action.option_strings}


def target_of(words):
    """(file, program, arguments) of a command of this project; program is None where no parser knows its options."""
    if words[0] == "torchrun" or words[0] == "python" and words[1:2] != ["-m"]:
        start = next((i for i, word in enumerate(words) if word.endswith(".py")), None)
        if start is not None:
            name = words[start].removesuffix(".py")
            return words[start], None if "/" in name else name, words[start + 1 :]
    if words[:2] == ["python", "-m"] and len(words) > 2:
        return words[2].replace(".", "/") + ".py", words[2], words[3:]
    folder, _, script = words[0].partition("/")
    if folder in PROGRAM_OF and script:
        return words[0], PROGRAM_OF.get(script, PROGRAM_OF[folder]), words[1:]
    return None


def given_options(arguments):
    return [word.split("=")[0] for word in arguments if word.startswith("--")]


@each_document
def test_links_lead_to_files_and_headings(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose_of(path)):
        if re.match(r"https?://", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{link}: no such file"
        assert not anchor or anchor in anchors_of(target), f"{link}: no such heading"


@each_document
def test_commands_name_files_and_options_that_exist(path):
    for words in words_of_commands(path):
        target = target_of(words)
        if target is None:
            continue
        file, program, arguments = target
        assert (ROOT / file).is_file(), f"{' '.join(words)}: no file {file}"
        known = options_of(program) if program else set()
        if program and program.startswith("bench."):
            known |= options_of("train")  # which some of them take as well
        for option in given_options(arguments) if program else ():
            assert option in known, f"{' '.join(words)}: {program} has no {option}"
        for config in (arguments[i + 1] for i, word in enumerate(arguments) if word == "-c"):
            assert (ROOT / config).is_file(), f"{' '.join(words)}: no file {config}"


@each_document
def test_targets_of_make_and_options_of_setup_exist(path):
    targets = set(re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text()))
    setup = (ROOT / "setup.sh").read_text()
    for words in words_of_commands(path):
        if words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= targets, words
        if words[0] == "./setup.sh":
            assert all(f"{option})" in setup or f"{option} |" in setup for option in given_options(words[1:])), words


@each_document
def test_every_command_is_known(path):
    """A command in a block that begins like a program is one of this project or of its tools."""
    for line, is_code in lines_of(path):
        words = line.split()
        if is_code and words and (words[0].startswith("./") or words[0].endswith((".sh", ".py"))):
            assert target_of(words) or words[0] == "./setup.sh", line


@each_document
def test_options_in_the_text_are_those_of_a_program(path):
    programs = (
        "train test interpolate suggest_labels make_dataset check_dataset convert_checkpoint compare_results status demo"
    )
    known = OTHERS_OPTIONS.union(*(options_of(program) for program in programs.split()))
    known |= set(re.findall(r"--\w+", (ROOT / "setup.sh").read_text() + (ROOT / "bench" / "all.py").read_text()))
    for span in re.findall(r"`([^`\n]+)`", prose_of(path)):
        if not span.startswith("python -m bench"):
            for option in re.findall(r"(?<![\w-])--[a-z][\w]*(?!\w*\*)", span):
                assert option in known, f"`{span}`: no program has {option}"


def test_files_in_the_text_exist():
    pattern = r"`((?:tests|bench|docs|train_configs|test_configs|datasets|\w+_scripts)/[\w/.]+\.\w+)`"
    for path in DOCUMENTS:
        for file in re.findall(pattern, prose_of(path)):
            assert (ROOT / file).exists(), f"{path.name}: no file {file}"


def test_the_readme_is_an_overview():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    linked = set(re.findall(r"\]\((docs/\w+\.md)\)", (ROOT / "README.md").read_text()))
    assert linked == {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}


def test_every_script_and_variable_is_described():
    text = (ROOT / "docs" / "stages.md").read_text() + (ROOT / "docs" / "published.md").read_text()
    for script in ROOT.glob("*_scripts/*.sh"):
        assert script.name in text, script
    for variable in re.findall(r"\$\{([A-Z]+):-", (ROOT / "common.sh").read_text()):
        assert f"`{variable}`" in text or f"`{variable}=" in text or variable in ("RESUME",), variable


def test_conda_and_make_install_the_same_versions():
    conda, make = (ROOT / "environment.yml").read_text(), (ROOT / "Makefile").read_text()
    required = re.search(r"REQUIREMENTS := (.*)", make)[1].split()
    assert "-c requirements/constraints.txt" in conda and all(f"-r {name}" in conda for name in required)
    constraints = (ROOT / "requirements" / "constraints.txt").read_text()
    pinned = set(re.findall(r"(?m)^([^#=\s]+)==", constraints))
    for name in [*required, "requirements/video.txt"]:
        for line in (ROOT / name).read_text().splitlines():
            assert line.startswith("#") or re.split(r"[>=]", line)[0] in pinned, f"no version for {line}"
