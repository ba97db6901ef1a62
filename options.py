"""Options that train.py and test.py share, and how they are read: YAML file first, the command line wins."""

import argparse
import itertools
import sys
import tomllib
from pathlib import Path

try:
    import configargparse
except ModuleNotFoundError as error:  # the first package that train.py imports, so this covers the others too
    sys.exit(f"{error.name} is not installed in {sys.executable}: `make environment`, then `source .venv/bin/activate`")

import util
from kernels import backends
from kernels.encoding import MAX_OCTAVES


class HelpFormatter(argparse.HelpFormatter):
    """Names the default once: none for flags and for options without one, nor where the help text names it."""

    def _get_help_string(self, action):
        has_default = action.nargs != 0 and action.default not in (None, "", [], argparse.SUPPRESS)
        return action.help + " (default: %(default)s)" if has_default and "default:" not in action.help else action.help


class Parser(configargparse.ArgumentParser):
    """Reports errors as every other user's mistake is reported: one sentence, without the usage."""

    def error(self, message):
        raise util.InputError(message)

    def format_help(self):
        required = [f"{action.option_strings[-1]} {action.dest.upper()}" for action in self._actions if action.required]
        self.usage = " ".join(["%(prog)s", *required, "[options]"])
        return super().format_help()


class ShortHelp(argparse.Action):
    """--help: prints the options whose names are in `const`, and required ones."""

    def __call__(self, parser, namespace, values, option_string=None):
        for action in parser._actions:
            if not action.required and action.dest not in self.const:
                action.help = argparse.SUPPRESS
        parser.print_help()
        parser.exit()


class Version(argparse.Action):
    """--version: prints the version of pyproject.toml, the only place that holds it."""

    def __call__(self, parser, namespace, values, option_string=None):
        project = tomllib.loads(Path(__file__).with_name("pyproject.toml").read_text())["project"]
        print(project["name"], project["version"])
        parser.exit()


def parser(description, shown=()):
    """A parser of the command line and of YAML files.

    shown: names of the options that --help prints, --help_all prints the others too; without any, --help prints all
    """
    made = Parser(
        description=description,
        config_file_parser_class=configargparse.YAMLConfigFileParser,
        add_config_file_help=False,
        allow_abbrev=False,  # a mistyped or unknown option is an error, never taken for another
        add_help=not shown,
        formatter_class=HelpFormatter,
    )
    hidden = {"nargs": 0, "dest": argparse.SUPPRESS, "default": argparse.SUPPRESS}
    if shown:
        shown = {*shown, argparse.SUPPRESS}
        made.add("-h", "--help", action=ShortHelp, const=shown, help="print the common options and exit", **hidden)
        made.add("--help_all", action="help", help="print all options and exit", dest=argparse.SUPPRESS)
    made.add("--version", action=Version, help="print the version and exit", **hidden)
    return made


def comma_separated(kind):
    """Type of an option such as 64,128: a list of `kind`, non-empty."""

    def convert(text):
        try:
            return [kind(part) for part in str(text).split(",") if part.strip()]
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected {kind.__name__}s with commas between them, found {text!r}") from None

    return convert


class Joined(argparse.Action):
    """Several comma-separated lists as one list."""

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, list(itertools.chain.from_iterable(values)))


def number(expected, is_valid, kind=float):
    """Type of an option that is one finite number, a float or an int, for which is_valid(number) holds."""
    return lambda text: _numbers(text, 1, expected, is_valid, kind)[0]


def at_least(low):
    """Type of an option that is an integer, `low` or more."""
    return number(f"an integer of at least {low}", lambda value: value >= low, int)


positive_int = at_least(1)
octaves = number(f"an integer from 0 to {MAX_OCTAVES}", lambda value: 0 <= value <= MAX_OCTAVES, int)
count_or_all = number("1 or more, or -1 for all", lambda value: value >= 1 or value == -1, int)
weight = number("a number of at least 0", lambda value: value >= 0)
fraction = number("a number from 0 to 1", lambda value: 0 <= value <= 1)
positive_float = number("a number above 0", lambda value: value > 0)
field_of_view = number("an angle above 0 and below 180 degrees", lambda angle: 0 < angle < 180)


def elevations(text):
    """Type of an option LOW,HIGH: two elevations in degrees, a tuple."""
    expected = "LOW,HIGH from -90 to 90 degrees, LOW first"
    return tuple(_numbers(text, 2, expected, lambda low, high: -90 <= low <= high <= 90))


def direction(text):
    """Type of an option X,Y,Z: a unit vector, a tuple; `none` is None."""
    if text == "none":
        return None
    vector = _numbers(text, 3, "a direction X,Y,Z of three numbers, not all 0, or none", lambda *vector: any(vector))
    length = sum(number * number for number in vector) ** 0.5
    return tuple(number / length for number in vector)


def _numbers(text, count, expected, is_valid, kind=float):
    """`count` finite numbers, separated by commas, for which is_valid(*numbers) holds."""
    try:
        numbers = [kind(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    is_finite = all(abs(number) < float("inf") for number in numbers)
    if len(numbers) != count or not is_finite or not is_valid(*numbers):
        raise argparse.ArgumentTypeError(f"expected {expected}, found {text!r}")
    return numbers


def folder_name(text):
    """Type of an option that names one folder, not a hidden one."""
    if not text or text.startswith(".") or "/" in text:
        raise argparse.ArgumentTypeError(f"expected a name such as Chair, without / and no . in front, found {text!r}")
    return text


def add_common(parser, seed_help="of the weights, the order of views and the choice of rays"):
    """Options of every stage: the data, the run's folder, the machine."""
    group = parser.add_argument_group("data and run")
    group.add("-c", "--config_filepath", is_config_file=True, metavar="YAML", help="file of options; the command line wins")
    group.add("--data_root", required=True, help="split folder, such as data/Chair/Chair.train")
    group.add("--obj_name", help="class name: the class list is <obj_name>-level-1.txt beside the split folder")
    group.add("--logging_root", default="./logs", help="parent folder of all runs")
    group.add("--log_dir", default="", help="folder of this run below --logging_root (default: --logging_root itself)")
    add_resume(group)
    group.add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    group.add("--seed", type=at_least(0), default=0, help=seed_help)
    group.add("--num_workers", type=at_least(0), default=0, help="processes that read images; 0: the main process reads")
    kept = group.add_mutually_exclusive_group()
    kept.add("--preload", action="store_true", help="hold decoded images in memory (sizes: docs/data.md)")
    kept.add("--cache", metavar="DIR", help="keep decoded images in memory-mapped files below this folder")
    group.add("--blend_alpha", action="store_true", default=None, help="composite over white (default: as dataset.json says)")
    group.add("--specific_observation_idcs", type=comma_separated(int), help="indices into the sorted views, comma-separated")
    group.add(
        "--specific_ins", type=comma_separated(str), default=[], nargs="+", action=Joined, help="names, comma-separated"
    )


def add_resume(group):
    what = "auto: go on with the run of this name, or leave it if it has ended; never: move it aside"
    group.add("--resume", choices=("auto", "never"), default="never", help=what)


def add_model_variants(group):
    """Options that choose the variant of the model. A checkpoint stores its variant; a contradiction is an error."""
    group.add("--embedding_size", type=positive_int, help="size of a latent code (published: 256)")
    group.add("--tracing_steps", type=positive_int, help="steps of the ray marcher (published: 10)")
    group.add("--fit_single_srn", action="store_true", help="one object only: no latent codes, no hypernetwork")
    group.add("--has_params", action="store_true", help="read latent codes from the params/ folders of the instances")
    group.add("--use_unet_renderer", action="store_true", help="colours by a U-Net on features, at multiples of 128 pixels")


def add_encoding(group):
    """Options of the positional encoding, which only training asks for: a checkpoint stores it."""
    group.add("--positional_encoding", type=octaves, help="octaves of waves that phi reads beside points (published: 0)")
    group.add("--scene_radius", type=positive_float, help="scale of the encoding (default: the cameras' mean distance)")


def add_fused(group):
    choices = ("auto", "on", "off")
    group.add_argument(
        "--fused", choices=choices, default="auto", help="on a CPU, march in C; auto: if gcc or clang is there"
    )


def use_fused(options, device):
    """Choose the backends of the layers and the march as --fused says, and print them. With --compile that is PyTorch."""
    is_compiled = getattr(options, "compile", False)
    if is_compiled and options.fused == "on":
        raise util.InputError("--fused on and --compile exclude each other: give one of them")
    choice = "torch" if is_compiled else {"auto": "auto", "on": "c", "off": "torch"}[options.fused]
    print(backends.select(choice, device, getattr(options, "precision", "float32")))


def wanted_sizes(options):
    """The sizes of srns.SRN that were asked for; None, or no entry, where the user leaves them open."""
    names = ("hidden_features", "tracing_steps", "rgb_channels", "fit_single_srn", "has_params", "use_unet_renderer")
    sizes = {name: getattr(options, name, None) or None for name in names}
    added = {name: getattr(options, name, None) for name in ("positional_encoding", "scene_radius")}
    return sizes | added | {"latent_dim": options.embedding_size}
