"""Profile three training steps: a table of the time that each kernel or operator takes.

python -m bench.trace --device cuda --batch 8
"""

import torch
from torch.profiler import ProfilerActivity, profile

import options as common
import util
from bench import measuring, scene
from rendering.precision import PRECISIONS
from training import objectives, row_adam

NUM_STEPS = 3


def build_parser():
    parser = measuring.parser(__doc__.splitlines()[0])
    parser.add_argument("--side", type=common.positive_int, default=128, help="side of the images")
    parser.add_argument("--batch", type=common.positive_int, default=8, help="images per step")
    parser.add_argument("--precision", choices=sorted(PRECISIONS), default="float32", help="as in train.py")
    parser.add_argument("--rows", type=common.positive_int, default=25, help="rows of the table")
    measuring.add_model(parser)
    return parser


@util.command
def main(argv=None):
    options = build_parser().parse_args(argv)
    figures = measuring.start(options)
    device = torch.device(options.device)
    model = scene.make_model(scene.sizes_of(options, 100), device)
    batch = scene.make_batch(options.batch, options.side, 100, device)
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

    for _ in range(3):
        step()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities) as profiler:
        for _ in range(NUM_STEPS):
            step()
        measuring.synchronise(device)
    key = f"self_{device.type}_time_total" if device.type == "cpu" else "self_device_time_total"
    rows = sorted(profiler.key_averages(), key=lambda row: -getattr(row, key))
    total = sum(getattr(row, key) for row in rows)
    figures["rows"] = [
        {
            "kernel": row.key[:90],
            "calls": row.count / NUM_STEPS,
            "ms": getattr(row, key) / 1000 / NUM_STEPS,
            "share": getattr(row, key) / total,
        }
        for row in rows[: options.rows]
    ]
    figures["ms_per_step"] = total / 1000 / NUM_STEPS
    columns = {"kernel": ("kernel", ""), "calls": ("calls/step", ".1f"), "ms": ("ms/step", ".3f"), "share": ("share", ".1%")}
    title = f"{figures['ms_per_step']:.1f} ms of {device.type} time per step, {options.precision}, batch {options.batch}"
    measuring.finish(options, figures, [(title, figures["rows"], columns)])


if __name__ == "__main__":
    main()
