"""The folder of a training run: its options, a description of the model, checkpoint_files."""

import itertools
from pathlib import Path

import util
from runs import checkpoint_files, folders, record, resuming
from training import distributed, stage_data
from training.plan import Stage

PROGRAM = "train.py"
NEXT = {
    Stage.PRETRAIN: "seg_scripts/linear_update.sh learns classes, test_scripts/single_shot.sh fits unseen objects",
    Stage.UPDATE_HEAD: "result_scripts/train_val.sh scores the training objects, test_scripts/single_shot.sh fits others",
    Stage.FIT_CODES: "result_scripts/single_shot.sh, or the script there with this one's name, renders and scores them",
}
CHECKPOINTS = ("checkpoint_path", "linear_path", "validation_path")  # options that name one


def start(plan, module, resumed_path=None):
    """Make the run's folder with params.txt, run.json, model.txt and an empty checkpoints folder; see folders.start.

    module: what is trained, for model.txt
    resumed_path: the checkpoint that this run goes on from, or None; a run that goes on in its own folder keeps that
    Of several processes rank 0 makes it, after all have come here: until then, others may read an earlier run in it.
    """
    distributed.barrier()
    path = folders.path_of(plan.options)
    if not distributed.is_main():
        return folders.RunFolder(path)
    is_inside = resumed_path is not None and path.resolve() in Path(resumed_path).resolve().parents
    continues = is_inside or not list(path.glob("checkpoints/*.pth"))
    folder = folders.start(plan.options, PROGRAM, continues, resuming.inputs_of(plan.options, CHECKPOINTS))
    (path / "checkpoints").mkdir(exist_ok=True)
    util.remove_leftovers(path / "checkpoints")
    num_parameters = sum(parameter.numel() for parameter in module.parameters())
    with util.replacing(path / "model.txt") as temporary:
        temporary.write_text(f"{module}\n{num_parameters:,} parameters\n")
    return folder


def say_what_is_next(plan):
    """Print the folder of a run that has ended, its scores, and the script of the next stage."""
    if distributed.is_main():
        path = folders.path_of(plan.options)
        scores = (record.read(path) or {}).get("scores") or {}
        shown = "".join(f"{name} {value:.3f}, " for name, value in scores.items())
        print(f"{path}: {shown}next: {NEXT[plan.stage]}")


def attach_saver(plan, data, run, module, sizes, optimizers, more=dict):
    """Have the run write checkpoints, see checkpoints.py, and delete old ones.

    data: stage_data.StageData; sizes: arguments that build the module; more: function that returns further entries
    """
    instances = data.train
    num_images = sum(len(instance.views) for instance in instances)
    schedule = plan.schedule
    stage_ends = set(itertools.accumulate(schedule.max_steps_per_img_sidelength))
    facts = {
        "sizes": sizes,
        "instances": stage_data.names_of(instances),
        "split": Path(plan.sources.data_root).resolve().name,
        "views": {instance.name: list(instance.views) for instance in instances},
        "observed": plan.observed,
        "settings": vars(data.settings),
    }

    def write(step):
        if spoilt := checkpoint_files.not_finite(module.state_dict()):
            found = f"{spoilt[0]} holds numbers that are not finite after step {step}"
            raise util.InputError(f"{found}, so it was not saved; a smaller --lr usually helps")
        states = {f"optimizer_{i}": optimizer.state_dict() for i, optimizer in enumerate(optimizers)}
        contents = states | {"model": module.state_dict(), "step": step, "ended": step == run.num_steps} | facts | more()
        folder = run.folder.path / "checkpoints"
        path = folder / checkpoint_files.file_name(schedule.images_seen(step) // num_images, step)
        checkpoint_files.save(path, contents)
        checkpoint_files.prune(folder, path, schedule.keep_checkpoints, stage_ends)
        return path

    run.write, run.minutes_til_ckpt = write, schedule.minutes_til_ckpt
    run.every.append((schedule.steps_til_ckpt, run.save))
    run.together.append(lambda: distributed.average_statistics(module))
    run.observations = [f"{instance.name}/{view}" for instance in instances for view in instance.views]
