"""Profile training steps and print the time of each kernel on a GPU, or of each operator on one thread of a CPU.

python -m bench.trace --device cuda --batch 8
"""

import torch
from torch.profiler import ProfilerActivity, profile

import options as common
import util
from bench import command_line, measuring, scene
from rendering.precision import PRECISIONS
from training import objectives, row_adam

NUM_STEPS = 3
NUM_INSTANCES = 100
COLUMNS = {
    "kernel": ("kernel or operator", ""),
    "calls": ("calls/step", ".1f"),
    "ms": ("ms/step", ".3f"),
    "share": ("share", ".1%"),
}


def build_parser():
    parser = command_line.parser("trace", __doc__)
    parser.add_argument("--side", type=common.positive_int, default=128, help="side of the images in pixels")
    parser.add_argument("--batch", type=common.positive_int, default=8, help="images per step")
    parser.add_argument("--precision", choices=sorted(PRECISIONS), default="float32", help="as in train.py")
    parser.add_argument("--rows", type=common.positive_int, default=25, help="rows of the table")
    command_line.add_model(parser)
    return parser


def make_step(options, device):
    """A function that takes one training step of a random SRN on a random batch."""
    model = scene.make_model(scene.sizes_of(options, NUM_INSTANCES), device)
    batch = scene.make_batch(options.batch, options.side, NUM_INSTANCES, device)
    optimizers = [row_adam.RowAdam([model.latent_codes.weight]), torch.optim.Adam(model.networks(), fused=True)]
    rays_per_block = objectives.RAYS_PER_BLOCK[device.type]
    objective = objectives.SRNObjective(
        model, objectives.Weights(), rays_per_block=rays_per_block, precision=options.precision
    )

    def step():
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        sum(objective(batch).values()).backward()
        for optimizer in optimizers:
            optimizer.step()

    return step


def events_of(step, device):
    """Profile NUM_STEPS steps; returns [(name, number of calls, milliseconds)], the longest first.

    On a GPU only its kernels and copies count: an operator's device time is that of its kernels, and that of an
    annotation such as Optimizer.step includes the kernels in it.
    """
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu) as profiler:
        for _ in range(NUM_STEPS):
            step()
        measuring.synchronise(device)
    events = profiler.key_averages()
    if on_gpu:
        kernels = [e for e in events if e.device_type == torch.autograd.DeviceType.CUDA and not e.is_user_annotation]
        found = [(event.key, event.count, event.self_device_time_total / 1000) for event in kernels]
    else:
        found = [(event.key, event.count, event.self_cpu_time_total / 1000) for event in events]
    return sorted(found, key=lambda event: -event[2])


@util.command
def main(argv=None):
    options = build_parser().parse_args(argv)
    device = util.pick_device(options.device)
    if device.type == "cpu":
        torch.set_num_threads(1)  # the profiler records only the thread that starts it
    figures = measuring.start(options)
    step = make_step(options, device)
    for _ in range(3):
        step()  # warms up
    events = events_of(step, device)
    total = sum(ms for _, _, ms in events)
    figures["rows"] = [
        {"kernel": name[:90], "calls": count / NUM_STEPS, "ms": ms / NUM_STEPS, "share": ms / total}
        for name, count, ms in events[: options.rows]
    ]
    figures["ms_per_step"] = total / NUM_STEPS
    title = f"{figures['ms_per_step']:.1f} ms of {device.type} time per step, {options.precision}, batch {options.batch}"
    measuring.finish(options, figures, [(title, figures["rows"], COLUMNS)])


if __name__ == "__main__":
    main()
