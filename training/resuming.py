"""--resume auto of a training run: the plan with which it goes on from its last checkpoint."""

import checkpoints
from runs import checkpoint_files, folders, record, resuming
from training import code_fitting, distributed, run_folder
from training.plan import Stage


def resolve(plan):
    """The plan as it goes on with the run of the same name, where --resume asks for that; None if the run has ended.

    raises util.InputError where a live process has the run, or where it was started with other options
    """
    options, path = plan.options, folders.path_of(plan.options)
    if distributed.is_main():
        folders.check(options)
    if options.resume != "auto" or not folders.has_run(path) or not checkpoint_files.files_in(path):
        return plan
    resuming.expect_same(options, resuming.inputs_of(options, run_folder.CHECKPOINTS))
    contents = checkpoints.load(path)
    if has_ended(plan, contents):
        if distributed.is_main():
            record.mark_finished(path)
        resuming.say_ended(path)
        return None
    print(f"note: this run goes on from step {contents['step']}, {contents['path']}")
    plan = plan._replace(schedule=plan.schedule._replace(start_step=None))
    if plan.stage is Stage.UPDATE_HEAD:
        return plan._replace(linear_path=contents["path"])
    return plan._replace(checkpoint_path=contents["path"], codes=plan.codes._replace(overwrite_embeddings=False))


def has_ended(plan, contents):
    """Whether the run that wrote this checkpoint came to its end with it. Files of earlier versions do not say so."""
    if "ended" in contents:
        return contents["ended"]
    if plan.stage is Stage.UPDATE_HEAD and plan.head.update_solver == "newton":
        return True
    fits = code_fitting.state_of_fits(contents) if plan.stage is Stage.FIT_CODES else None
    return (
        contents["step"] >= sum(plan.schedule.max_steps_per_img_sidelength)
        or fits is not None
        and not fits["is_active"].any()
    )
