"""--resume auto: whether the run of that name is the one that the options ask for, and whether it has ended."""

import os
import zlib
from pathlib import Path

import util
from runs import checkpoint_files, folders, record

FREE = """
    resume logging_root log_dir config_filepath device num_workers preload cache no_check fused compile checkpoint_marching
    rays_per_block kept_rays on_nan steps_til_ckpt minutes_til_ckpt keep_checkpoints steps_til_val
    val_root validation max_num_instances_val max_num_observations_val batch_size format fps
""".split()  # options that may differ: they do not change what is computed, apart from rounding
MOST_NAMED = 4


def expect_same(options, inputs):
    """An InputError that names what has changed since the run in the folder of these options was started.

    inputs: as for folders.start
    """
    folder = folders.path_of(options)
    recorded = read_params(folder)
    given = {name: str(value) for name, value in vars(options).items() if name not in FREE}
    changed = [name for name in sorted(given) if name in recorded and recorded[name] != given[name]]
    if changed:
        found = ", ".join(f"--{name} {recorded[name]}, not {given[name]}" for name in changed[:MOST_NAMED])
        more = f" and {len(changed) - MOST_NAMED} more" if len(changed) > MOST_NAMED else ""
        raise util.InputError(f"{folder}: this run was started with {found}{more}; {advice(folder)}")
    known = (record.read(folder) or {}).get("inputs") or {}
    for name, digest in inputs.items():
        if known.get(name, digest) != digest:
            found = f"--{name} {given[name]} holds other contents than when this run was started"
            raise util.InputError(f"{folder}: {found}; {advice(folder)}")


def advice(folder):
    return f"give that, or --resume never to move it aside and start anew, or another --log_dir than {folder.name}"


def read_params(folder):
    """{name: text} of the options of a run."""
    lines = (folder / folders.PARAMS).read_text().splitlines()
    return dict(line.split(": ", 1) for line in lines if ": " in line)


def inputs_of(options, checkpoint_options):
    """{option: digest of the checkpoint or data that it names}, by which `expect_same` sees whether they have changed.

    checkpoint_options: those that name a checkpoint, and may be left out
    """
    named = {name: getattr(options, name) for name in checkpoint_options if getattr(options, name)}
    inputs = {name: checkpoint_files.digest(checkpoint_files.find(path)) for name, path in named.items()}
    return inputs | {"data_root": digest_of_data(options.data_root)}


def digest_of_data(root):
    """A short text that differs between splits of other instances, or made in another way: see dataset.json."""
    facts = Path(root).resolve().parent / "dataset.json"
    made = facts.read_bytes() if facts.is_file() else b""
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir()) if os.path.isdir(root) else []
    return f"{zlib.crc32(' '.join(names).encode(), zlib.crc32(made)):08x}"


def say_ended(folder):
    """Say that a run is left alone, and what came out of it."""
    facts = record.read(folder) or {}
    when = f" on {facts['ended']}" if facts.get("ended") else ""
    print(f"{folder}: this run has ended{when} and is left as it is; --resume never moves it aside and starts anew")


def is_done(options, inputs):
    """Whether a run that cannot go on halfway has ended, and may be left alone. raises as `expect_same`"""
    folder = folders.path_of(options)
    if options.resume != "auto" or not folders.has_run(folder):
        return False
    folders.check(options)
    expect_same(options, inputs)
    has_ended = (record.read(folder) or {}).get("state") == record.FINISHED
    if has_ended:
        say_ended(folder)
    return has_ended
