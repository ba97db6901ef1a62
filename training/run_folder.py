"""What a stage of training leaves: the run's folder, checkpoints, and what tensorboard shows."""

import functools
from pathlib import Path

import checkpoints
import dataio
import options as common
import util
from rendering import renderer
from training import distributed, loop, stage_data, summaries, validation


def start_run(options, module, continues=None):
    """The run's folder with params.txt, model.txt and an empty checkpoints folder. See options.start_run.

    Of several processes the main one makes it, when all have come here: until then, others may read in an earlier one.
    """
    distributed.barrier()
    if not distributed.is_main():
        return Path(options.logging_root) / options.log_dir
    folder = common.start_run(options, continues["path"] if continues else None)
    (folder / "checkpoints").mkdir(exist_ok=True)
    num_parameters = sum(parameter.numel() for parameter in module.parameters())
    with util.replacing(folder / "model.txt") as temporary:
        temporary.write_text(f"{module}\n{num_parameters:,} parameters\n")
    return folder


def save_checkpoint(options, data, folder, module, sizes, optimizers, step, **more):
    """Write what checkpoints.py describes; `more` are further entries."""
    num_images = sum(len(instance.views) for instance in data.train)
    images_seen = sum(batch_size * max(0, min(step, end) - first) for _, batch_size, first, end in loop.schedule(options))
    contents = (
        {f"optimizer_{i}": optimizer.state_dict() for i, optimizer in enumerate(optimizers)}
        | {
            "model": module.state_dict(),
            "sizes": sizes,
            "step": step,
            "instances": stage_data.names_of(data.train),
            "split": Path(options.data_root).resolve().name,
            "views": {instance.name: list(instance.views) for instance in data.train},
            "observed": stage_data.observed(options),
            "settings": vars(data.settings),
        }
        | more
    )
    checkpoints.save(folder / "checkpoints" / checkpoints.file_name(images_seen // num_images, step), contents)


def watch(options, data, run, model, head=None, rows=None, with_classes=True, fitted=None):
    """Have the run show pictures of training views, latent codes, and validation scores and pictures.

    rows:   rows of the latent table that the training instances have (default: all, in order)
    fitted: an SRN and the rows of its table for the validation instances (default: `model` knows them by name)
    """
    if not distributed.is_main():
        return
    names = stage_data.names_of(data.train)
    rows = rows or list(range(len(names)))
    side = options.img_sidelengths[-1]
    every = options.steps_til_val
    render = functools.partial(renderer.render, head=head, with_classes=with_classes)
    modules = (model,) if head is None else (model, head)

    dataset = stage_data.make_dataset(options, data, data.train, side)
    run.every.append((every, validation.Preview(modules, functools.partial(render, model), dataset, rows, run)))
    if model.latent_codes is not None:
        codes = model.latent_codes.weight
        run.every.append((every, lambda step: summaries.write_code_range(run.writer, codes[rows], step)))
        run.every.append((run.num_steps, lambda step: summaries.write_code_projector(run.writer, codes[rows], names, step)))
    if data.val:
        if fitted is None:
            row_of = dict(zip(names, rows))
            fitted = model, [row_of.get(name, 0) for name in stage_data.names_of(data.val)]  # 0: codes come with the data
        val_model, val_rows = fitted
        modules = (val_model, *modules[1:])
        dataset = stage_data.make_dataset(options, data, data.val, side, read_often=True)
        batches = dataio.ordered_batches(dataset, batch_size=16, num_workers=options.num_workers)
        render = functools.partial(render, val_model)
        run.every.append((every, validation.Validation(modules, render, batches, val_rows, run)))
        run.every.append((every, validation.Preview(modules, render, dataset, val_rows, run, prefix="val_")))
