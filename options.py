"""Options that train.py and test.py share, and how they are read: YAML file first, the command line wins."""

import argparse
import itertools
from pathlib import Path

import configargparse

import util
from kernels import fused

PARAMS = "params.txt"  # what a run was asked to do, an option per line; marks a folder as a run's


class Parser(configargparse.ArgumentParser):
    """Reports errors as every other user's mistake is reported: one sentence, without the usage."""

    def error(self, message):
        raise util.InputError(message)


def parser(description):
    return Parser(
        description=description,
        config_file_parser_class=configargparse.YAMLConfigFileParser,
        allow_abbrev=False,  # a mistyped or unknown option is named, never taken for another
        formatter_class=configargparse.ArgumentDefaultsHelpFormatter,
    )


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


def at_least(low):
    """Type of an option that is an integer, `low` or more."""

    def convert(text):
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < low:
            raise argparse.ArgumentTypeError(f"expected an integer of at least {low}, found {text!r}")
        return value

    return convert


def positive_int(text):
    return at_least(1)(text)


positive = positive_int


def count_or_all(text):
    value = int(text)
    if value < 1 and value != -1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, or -1 for all, found {value}")
    return value


def weight(text):
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number that is not negative, found {value}")
    return value


def fraction(text):
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, found {value}")
    return value


def positive_float(text):
    return _numbers(text, 1, "a number above 0", lambda value: value > 0)[0]


def field_of_view(text):
    """Type of an option that is the opening angle of a pinhole camera, in degrees."""
    return _numbers(text, 1, "an angle above 0 and below 180 degrees", lambda angle: 0 < angle < 180)[0]


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


def _numbers(text, count, expected, is_valid):
    """`count` finite numbers, separated by commas, for which is_valid(*numbers) holds."""
    try:
        numbers = [float(word) for word in text.split(",")]
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


def add_common(group):
    """Options of every stage: where things are, on what they run."""
    group.add("-c", "--config_filepath", is_config_file=True, help="YAML file of options; the command line wins over it")
    group.add("--data_root", required=True, help="split folder, such as data/Chair/Chair.train")
    group.add("--obj_name", help="class name: its class list is <obj_name>-level-1.txt beside the split folder")
    group.add("--logging_root", default="./logs", help="all runs are below this folder")
    group.add("--log_dir", default="", help="folder of this run below --logging_root (default: that folder itself)")
    group.add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    group.add("--seed", type=at_least(0), default=0, help="of weights, of the order of views and of the choice of rays")
    group.add("--num_workers", type=at_least(0), default=0, help="processes that read images; 0: read in this one")
    kept = group.add_mutually_exclusive_group()
    kept.add(
        "--preload",
        action="store_true",
        help="hold decoded images in memory: 64 KiB each at 128 x 128, and 16 with "
        "labels; 256 where they are resized to that",
    )
    kept.add(
        "--cache",
        metavar="DIR",
        help="keep decoded images in files below this folder, as large as with --preload; "
        "they are mapped into memory, and the next run decodes nothing",
    )
    group.add(
        "--blend_alpha",
        action="store_true",
        default=None,
        help="composite half-transparent pixels over white (default: as dataset.json beside the split says, else no)",
    )
    group.add("--specific_observation_idcs", type=comma_separated(int), help="indices into the sorted views, with commas")
    group.add(
        "--specific_ins",
        type=comma_separated(str),
        default=[],
        nargs="+",
        action=Joined,
        help="names of the instances to use, with commas or blanks between them; a list in YAML",
    )


def add_model_variants(group):
    """Options that say which model it is. A checkpoint tells that itself, and a contradiction is refused."""
    group.add("--embedding_size", type=positive, help="size of a latent code (published: 256)")
    group.add("--tracing_steps", type=positive, help="steps of the ray marcher (published: 10)")
    group.add("--fit_single_srn", action="store_true", help="one object only: no codes, no hypernetwork")
    group.add(
        "--has_params", action="store_true", help="latent codes come with the data, from the instances' params/ folders"
    )
    group.add(
        "--use_unet_renderer",
        action="store_true",
        help="colours by a U-Net on the image of features; sides are multiples of 128",
    )


def add_fused(group):
    group.add_argument(
        "--fused",
        choices=("auto", "on", "off"),
        default="auto",
        help="on a CPU, compute what every ray goes "
        "through in C, compiled at the first start; auto: if there is gcc or clang; on: stop if there is "
        "none",
    )


def use_fused(options, device):
    """Have `fused` compute, or not, as --fused says. With --compile, torch.compile does that work."""
    is_compiled = getattr(options, "compile", False)
    if is_compiled and options.fused == "on":
        raise util.InputError("--fused on and --compile are two ways to the same end: give one of them")
    fused.use("off" if is_compiled else options.fused, device)


def wanted_sizes(options):
    """The sizes of srns.SRN that were asked for; None, or no entry, where the user leaves them open."""
    names = ("hidden_features", "tracing_steps", "rgb_channels", "fit_single_srn", "has_params", "use_unet_renderer")
    sizes = {name: getattr(options, name, None) or None for name in names}
    return sizes | {"latent_dim": options.embedding_size}


def start_run(options, continues=None):
    """Make the run's folder, `<logging_root>/<log_dir>`, with params.txt in it, and return it.

    An earlier run's folder of that name is renamed to `<log_dir>.1`, `.2`, ..., so that nothing of it is lost or
    mixed in, unless this run continues a checkpoint (a path) that lies in it.
    """
    folder = Path(options.logging_root) / options.log_dir
    if not options.log_dir and (folder / PARAMS).exists() and continues is None:
        raise util.InputError(f"--logging_root {folder}: holds a run itself already; give this one a folder with --log_dir")
    inside = continues is not None and folder.resolve() in Path(continues).resolve().parents
    try:
        if (folder / PARAMS).exists() and not inside:
            aside = next(path for i in itertools.count(1) if not (path := folder.with_name(f"{folder.name}.{i}")).exists())
            folder.rename(aside)
            print(f"note: the earlier run in {folder} is now {aside}")
        folder.mkdir(parents=True, exist_ok=True)
        lines = [f"{name}: {value}\n" for name, value in sorted(vars(options).items())]
        with util.replacing(folder / PARAMS) as temporary:
            temporary.write_text("".join(lines))
    except OSError as error:
        raise util.InputError(f"--logging_root, --log_dir: {folder} cannot be written ({error.strerror})") from None
    return folder
