"""Converts a checkpoint between the form of this program and those of the published ones.

    python convert_checkpoint.py published.pth ours.pth --form ours --instances data/Chair/Chair.train
    python convert_checkpoint.py logs/chairs epoch_0062_iter_003000.pth --form semantic

train.py and test.py read every form; a file of ours also knows whose each latent code is.
"""

import argparse
from pathlib import Path

import checkpoints
import dataio
import published
import srns
import util

OURS = "ours"
ONLY_OURS = ("instances", "split", "views", "observed", "srn")  # published files have no place for these


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "source", metavar="SOURCE", help="checkpoint of any form: a .pth file, or a folder of which the last is taken"
    )
    parser.add_argument("target", metavar="TARGET", help="the .pth file to write")
    parser.add_argument(
        "--form",
        choices=(OURS, *published.FORMS),
        required=True,
        help="semantic: as the Semantic SRN of 2020 reads it; srn2019: as the SRN of 2019 does",
    )
    parser.add_argument(
        "--instances",
        help="with --form ours: names of the instances in the order of the latent codes, a text "
        "file with one per line or the split folder that was trained on",
    )
    parser.add_argument(
        "--tracing_steps",
        type=int,
        help="with --form ours: steps of the ray marcher, which published files do not tell "
        f"(default: {published.TRACING_STEPS})",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace TARGET if there is one")
    return parser


def read_options(argv):
    """Parse, and refuse what cannot work before any file is read."""
    parser = build_parser()
    options = parser.parse_args(argv)
    for name in ("instances", "tracing_steps"):
        if options.form != OURS and getattr(options, name) is not None:
            parser.error(f"--{name}: the form {options.form} has no place for it; leave it out")
    if options.tracing_steps is not None and options.tracing_steps < 1:
        parser.error(f"--tracing_steps must be positive, found {options.tracing_steps}")
    return options


def sizes_of(checkpoint, tracing_steps):
    """All sizes of a checkpoint, tracing_steps included; util.InputError where the model does not fit them."""
    sizes = checkpoint["sizes"]
    if "kind" not in sizes:
        return checkpoints.load_srn(checkpoint, tracing_steps=tracing_steps).sizes
    if tracing_steps is not None:
        raise util.InputError(f"--tracing_steps: {checkpoint['path']} holds a segmentation head, not an SRN")
    head = srns.HEADS[sizes["kind"]](sizes["in_features"], sizes["num_classes"])
    checkpoints.load_state(head, checkpoint["model"], checkpoint["path"])
    return sizes


def read_names(path):
    """Names of instances: the lines of a text file, or the folders of a split."""
    path = Path(path)
    if path.is_dir():
        return [folder.name for folder in dataio.instance_folders(path)]
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise util.InputError(f"--instances {path}: expected a text file or a split folder ({error})") from None
    return [line for line in lines if line]


def names_for(checkpoint, path):
    """The names in `path`, one for each latent code of the checkpoint; util.InputError where they are not that."""
    names = read_names(path)
    num_codes = len(checkpoint["model"].get(published.CODES, ()))
    if len(names) != num_codes:
        raise util.InputError(
            f"--instances {path}: gives {len(names)} names, but {checkpoint['path']} has {num_codes} latent codes"
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise util.InputError(f"--instances {path}: gives the name {twice} to more than one code")
    if checkpoint["instances"] not in (None, names):
        raise util.InputError(f"--instances {path}: {checkpoint['path']} names its codes otherwise; leave it out")
    return names


def describe(sizes):
    if "kind" in sizes:
        return f"{sizes['kind']} head from {sizes['in_features']} channels to {sizes['num_classes']} classes"
    codes = f"{sizes['num_instances'] or 'no'} codes of {sizes['latent_dim']}"
    variants = [name for name in published.ONLY_IN_2019 if sizes[name]]
    return ", ".join(
        [f"SRN with {codes}", f"{sizes['hidden_features']} features", f"{sizes['num_classes'] or 'no'} classes", *variants]
    )


@util.command
def main(argv=None):
    options = read_options(argv)
    target = Path(options.target)
    if target.exists() and not options.overwrite:
        raise util.InputError(f"{target}: exists; choose another name, or replace it with --overwrite")
    checkpoint = checkpoints.load(options.source)
    checkpoint["sizes"] = sizes_of(checkpoint, options.tracing_steps)
    if options.instances is not None:
        checkpoint["instances"] = names_for(checkpoint, options.instances)

    if options.form == OURS:
        contents, notes = {name: entry for name, entry in checkpoint.items() if name != "path"}, []
    else:
        contents, notes = published.to_published(checkpoint, options.form)
        step = checkpoint.get("step", 0)
        if step and checkpoints.steps_in_name(target) != step:
            notes.append(f"its step is lost; a file name such as {checkpoints.file_name(0, step)} would tell it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        checkpoints.save(target, contents)
    except OSError as error:
        raise util.InputError(f"{target}: cannot be written ({error.strerror})") from None

    for note in notes:
        print(f"note: {note}")
    lost = [n for n in ONLY_OURS if n not in contents and checkpoint.get(n) is not None and len(checkpoint[n])]
    what = describe(checkpoint["sizes"])
    print(f"wrote {target}, form {options.form}: {what}; left out: {', '.join(lost) or 'nothing'}")


if __name__ == "__main__":
    main()
