"""The folder of a training run: its options, a description of the model, checkpoints."""

from pathlib import Path

import checkpoints
import util
from runs import folders
from training import distributed, stage_data


def start(plan, module, resumed_path=None):
    """Make the run's folder with params.txt, model.txt and an empty checkpoints folder; see folders.start.

    module: what is trained, for model.txt
    resumed_path: the checkpoint that this run goes on from, or None; a run that goes on in its own folder keeps that
    Of several processes rank 0 makes it, after all have come here: until then, others may read an earlier run in it.
    """
    distributed.barrier()
    if not distributed.is_main():
        return Path(plan.options.logging_root) / plan.options.log_dir
    folder = folders.start(plan.options, resumed_path)
    (folder / "checkpoints").mkdir(exist_ok=True)
    num_parameters = sum(parameter.numel() for parameter in module.parameters())
    with util.replacing(folder / "model.txt") as temporary:
        temporary.write_text(f"{module}\n{num_parameters:,} parameters\n")
    return folder


def attach_saver(plan, data, run, module, sizes, optimizers, more=dict):
    """Have the run write checkpoints, see checkpoints.py.

    data: stage_data.StageData; sizes: arguments that build the module; more: function that returns further entries
    """
    num_images = sum(len(instance.views) for instance in data.train)
    facts = {
        "sizes": sizes,
        "instances": stage_data.names_of(data.train),
        "split": Path(plan.sources.data_root).resolve().name,
        "views": {instance.name: list(instance.views) for instance in data.train},
        "observed": plan.observed,
        "settings": vars(data.settings),
    }

    def save(step):
        states = {f"optimizer_{i}": optimizer.state_dict() for i, optimizer in enumerate(optimizers)}
        contents = states | {"model": module.state_dict(), "step": step} | facts | more()
        epoch = plan.schedule.images_seen(step) // num_images
        checkpoints.save(run.folder / "checkpoints" / checkpoints.file_name(epoch, step), contents)

    run.every.append((plan.schedule.steps_til_ckpt, save))
