"""Converts a checkpoint between our form and those of the published programs.

    python convert_checkpoint.py published.pth ours.pth --form ours --instances data/Chair/Chair.train
    python convert_checkpoint.py logs/chairs epoch_0062_iter_003000.pth --form semantic

train.py and test.py read every form. Our form also stores which instance each latent code belongs to.
"""

import argparse
from pathlib import Path

import checkpoints
import dataio
import published
import srns
import util
from options import positive_int

OURS = "ours"
ONLY_OURS = ("instances", "split", "views", "observed", "srn")  # published files do not store these


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("source", metavar="SOURCE", help="checkpoint of any form: a .pth file, or a folder whose latest one is converted")
    add("target", metavar="TARGET", type=Path, help="the .pth file to write")
    forms = (OURS, *published.FORMS)
    add("--form", choices=forms, required=True, help="semantic: for Semantic SRN (2020); srn2019: for SRN (2019)")
    add(
        "--instances", type=Path, help="with --form ours: text file of the names of the codes in order, or the training split"
    )
    add("--tracing_steps", type=positive_int, help="with --form ours: steps of the ray marcher (published files: 10)")
    add("--overwrite", action="store_true", help="replace TARGET if it exists")
    return parser


def sizes_of(checkpoint, tracing_steps):
    """All sizes of a checkpoint, with tracing_steps. Raises util.InputError if its model does not fit them."""
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
    if path.is_dir():
        return [folder.name for folder in dataio.instance_folders(path)]
    expected = "; expected a text file or a split folder"
    with util.reading(f"--instances {path}", "names of instances", OSError, UnicodeDecodeError, advice=expected):
        return [line.strip() for line in path.read_text().splitlines() if line.strip()]


def names_for(checkpoint, path):
    """The names in `path`. Raises util.InputError unless there is a different one for each latent code of the checkpoint."""
    names = read_names(path)
    num_codes = len(checkpoint["model"].get(published.CODES, ()))
    if len(names) != num_codes:
        found = f"{len(names)} names, but {checkpoint['path']} has {num_codes} latent codes"
        raise util.InputError(f"--instances {path}: found {found}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise util.InputError(f"--instances {path}: found {twice} more than once; expected different names")
    if checkpoint["instances"] not in (None, names):
        raise util.InputError(f"--instances {path}: {checkpoint['path']} stores other names; leave --instances out")
    return names


def describe(sizes):
    if "kind" in sizes:
        return f"{sizes['kind']} head from {sizes['in_features']} channels to {sizes['num_classes']} classes"
    codes = f"{sizes['num_instances'] or 'no'} codes of {sizes['latent_dim']}"
    variants = [name for name in published.ONLY_IN_2019 if sizes[name]]
    classes = f"{sizes['num_classes'] or 'no'} classes"
    return ", ".join([f"SRN with {codes}", f"{sizes['hidden_features']} features", classes, *variants])


@util.command
def main(argv=None):
    options = build_parser().parse_args(argv)
    for name in ("instances", "tracing_steps"):
        if options.form != OURS and getattr(options, name) is not None:
            raise util.InputError(f"--{name}: --form {options.form} cannot store it; leave it out")
    target = options.target
    if target.exists() and not options.overwrite:
        raise util.InputError(f"{target}: exists; choose another name, or pass --overwrite")
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
            notes.append(f"the step is lost; to keep it, name the file {checkpoints.file_name(0, step)}")
    try:
        checkpoints.save(target, contents)
    except OSError as error:
        raise util.InputError(f"{target}: cannot write it ({error.strerror})") from None

    for note in notes:
        print(f"note: {note}")
    lost = [name for name in ONLY_OURS if name not in contents and checkpoint.get(name)]
    print(f"wrote {target}, form {options.form}: {describe(checkpoint['sizes'])}; left out: {', '.join(lost) or 'nothing'}")


if __name__ == "__main__":
    main()
