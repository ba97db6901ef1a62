"""Options shared by the benchmarks."""

import argparse
from pathlib import Path

import options as common


def parser(name, doc, device=True):
    """Parser of `python -m bench.<name>`, with --json and, if `device`, --device. doc: the docstring of its module"""
    made = argparse.ArgumentParser(
        prog=f"python -m bench.{name}", description=doc.splitlines()[0], formatter_class=common.HelpFormatter
    )
    if device:
        made.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    made.add_argument("--json", metavar="FILE", help="also write the figures to this file")
    return made


def add_model(group):
    group.add_argument("--hidden_features", type=common.positive_int, default=256, help="width of phi and of the colour head")
    group.add_argument("--embedding_size", type=common.positive_int, default=256, help="size of a latent code")
    group.add_argument("--tracing_steps", type=common.positive_int, default=10, help="steps of the ray marcher")


def add_trained(parser, data_help):
    """Options for a split and a trained SRN. The caller passes the options that it does not know on to train.py."""
    parser.allow_abbrev = False
    parser.add_argument("--data_root", help=data_help)
    parser.add_argument("--checkpoint_path", help="SRN of stage 1: a .pth file or a run folder (default: the demo's)")


def add_reference(group):
    group.add_argument("--reference", action="store_true", help="also measure the published method")


def add_repeats(group, default=1):
    group.add_argument("--repeats", type=common.positive_int, default=default, help="processes per mode; tables show medians")


def positives(text):
    """Type of an option such as 1,4: positive integers."""
    values = common.comma_separated(int)(text)
    if not values or min(values) < 1:
        raise argparse.ArgumentTypeError(f"expected positive integers, comma-separated, found {text!r}")
    return values


def names_among(choices):
    """Type of an option such as row_adam,adam: some of the names in `choices`."""

    def convert(text):
        names = common.comma_separated(str)(text)
        unknown = [name for name in names if name not in choices]
        if unknown or not names:
            raise argparse.ArgumentTypeError(
                f"expected names among {', '.join(choices)}, found {', '.join(unknown) or 'none'}"
            )
        return names

    return convert


def use_demo(parser, options, demo, required):
    """Without --data_root, fill in the demo's data and all that belongs to it; with it, check that `required` is given.

    demo: {name of an option: a path or another value}; --data_root and `required` are names in it whose folders must exist
    """
    flags = {name: f"--{name}" for name in demo if name != "data_root"}
    if options.data_root:
        missing = [flag for name, flag in flags.items() if name in required and not getattr(options, name)]
        if missing:
            parser.error(f"--data_root: give {' and '.join(missing)} too")
        return
    given = [flag for name, flag in flags.items() if getattr(options, name)]
    if given:
        parser.error(f"{', '.join(given)}: without --data_root the demo's files are used; give --data_root too")
    folders = [demo[name] for name in ("data_root", *required) if isinstance(demo[name], Path)]
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        parser.error(
            f"{' and '.join(missing)}: no such folder; make the demo's files with `make demo`, or give --data_root "
            f"and {' and '.join(flags[name] for name in required)}"
        )
    existing = {name: value for name, value in demo.items() if not isinstance(value, Path) or value.exists()}
    vars(options).update({name: str(value) for name, value in existing.items()})
