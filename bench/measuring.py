"""What the commands of bench/ share: facts of the machine, its limit, peak memory, time, tables and JSON."""

import argparse
import contextlib
import datetime
import functools
import json
import multiprocessing
import platform
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

import options as common
import util
from datasets.storage import processes
from rendering.precision import PRECISIONS

MODES = ("fast", "reference")
PRODUCTS = ((2048, 256, 256), (16384, 256, 256), (2048, 2048, 2048), (8192, 8192, 8192))  # of matrices; the best counts
SECONDS_PER_PRODUCT = 0.3
MIB = 2**20


# Options


def parser(description, device=True):
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    if device:
        made.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    made.add_argument("--json", metavar="FILE", help="write the figures there too")
    return made


def add_model(group):
    group.add_argument("--hidden_features", type=common.positive_int, default=256, help="width of phi and of the colour head")
    group.add_argument("--embedding_size", type=common.positive_int, default=256, help="size of a latent code")
    group.add_argument("--tracing_steps", type=common.positive_int, default=10, help="steps of the ray marcher")


def add_trained(parser, what):
    """A split and an SRN, beside which other options are train.py's. what: the split is of"""
    parser.allow_abbrev = False
    parser.add_argument("--data_root", help=what)
    parser.add_argument("--checkpoint_path", help="the SRN of stage 1: a .pth file, or a run's folder")


def add_reference(group, help):
    group.add_argument("--reference", action="store_true", help=help)


def positives(text):
    """Type of an option such as 1,4: positive integers."""
    values = common.comma_separated(int)(text)
    if not values or min(values) < 1:
        raise argparse.ArgumentTypeError(f"expected positive integers with commas between them, found {text!r}")
    return values


def use_demo(parser, options, demo, needed):
    """Where no --data_root is given, take that of the demo and all that goes with it; else see that what is needed is given.

    demo: {name of an option: a path or another value}; the folders of --data_root and of what is needed have to be there
    """
    flags = {name: f"--{name}" for name in demo if name != "data_root"}
    if options.data_root:
        missing = [flag for name, flag in flags.items() if name in needed and not getattr(options, name)]
        if missing:
            parser.error(f"--data_root: give {' and '.join(missing)} too")
        return
    if any(getattr(options, name) for name in flags):
        parser.error(f"{', '.join(flags.values())}: are for a --data_root of one's own: give it too")
    places = [demo[name] for name in ("data_root", *needed) if isinstance(demo[name], Path)]
    if not all(place.is_dir() for place in places):
        parser.error(
            f"{' and '.join(map(str, places))}: not both there; make them with `make demo`, or give --data_root "
            f"and {' and '.join(flags[name] for name in needed)}"
        )
    there = {name: value for name, value in demo.items() if not isinstance(value, Path) or value.exists()}
    vars(options).update({name: str(value) for name, value in there.items()})


# The machine


def facts(device="cpu"):
    """A dict of what figures depend on: date, processor, cores, threads, PyTorch, and the device's name."""
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "cores": processes.available(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": device.type,
        "device_name": name,
    }


def processor():
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.split(":", 1)[1].split())
    return platform.processor() or platform.machine()


def product_limit(device, precision="float32", products=PRODUCTS, seconds=SECONDS_PER_PRODUCT):
    """GFLOP/s of the device at products of matrices, the best of several sizes. precision: one of PRECISIONS"""
    dtype = PRECISIONS[precision] or torch.float32
    best = 0.0
    for rows, inner, columns in products:
        gflop = 2 * rows * inner * columns / 1e9
        if best and gflop / best > 3 * seconds:  # where this precision is slow, small products tell
            break
        a, b = (torch.randn(shape, device=device).to(dtype) for shape in ((rows, inner), (inner, columns)))
        out = a @ b
        one = timed(lambda: torch.mm(a, b, out=out), device)
        at_once = 1 + min(9, int(seconds / one))
        begin = time.perf_counter()
        while not best or time.perf_counter() - begin < seconds:
            elapsed = timed(lambda: [torch.mm(a, b, out=out) for _ in range(at_once)], device)
            best = max(best, at_once * gflop / elapsed)
    return best


# Time and memory


def synchronise(device):
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def timed(function, device="cpu"):
    """Seconds until all that a function started is done."""
    synchronise(device)
    start = time.perf_counter()
    function()
    synchronise(device)
    return time.perf_counter() - start


def peak_memory(device="cpu"):
    """MiB at most since `forget_peak`, or so far: of this process or, of a GPU, of its tensors."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    with contextlib.suppress(OSError):  # resource's figure begins with that of the process that started this one
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def forget_peak(device="cpu"):
    """Have `peak_memory` begin again with what is in use now, where the system allows it. returns that, in MiB"""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    return peak_memory(device)


def in_own_process(function, *args):
    """What a function gives in a new process, whose memory nothing else has touched."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def free_memory(device="cpu"):
    """Bytes that can still be had."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) * 1024
    return 2**32


def interleaved(modes, repeats, measure):
    """{mode: list of what measure(mode) gave}, one mode after the other, again and again: both meet the same hours."""
    found = {mode: [] for mode in modes}
    for _ in range(repeats):
        for mode in modes:
            found[mode].append(measure(mode))
    return found


def medians(rows):
    """One dict of several with the same keys: medians of their numbers."""
    return {
        key: statistics.median(row[key] for row in rows) if isinstance(first, (int, float)) else first
        for key, first in rows[0].items()
    }


def with_ratios(rows, key, keys):
    """`ratio` in the rows of mode fast: how many times more of `key` the reference takes, where it was measured.

    keys: what two rows have in common that are compared
    """
    alike = lambda row: tuple(row[name] for name in keys)  # noqa: E731
    published = {alike(row): row for row in rows if row["mode"] == "reference"}
    for row in rows:
        other = published.get(alike(row)) if row["mode"] == "fast" else None
        row["ratio"] = other[key] / row[key] if other and other.get(key) else None
    return rows


def line_through(xs, ys):
    """Slope and value at 0 of the line with the least squares of relative errors: small ys count as well as large ones."""
    x, y = (torch.tensor(list(values), dtype=torch.float64) for values in (xs, ys))
    weight = 1 / y.abs().clamp(min=max(1e-6 * y.abs().max().item(), 1e-12))
    matrix = torch.stack([x, torch.ones_like(x)], dim=1) * weight[:, None]
    slope, start = torch.linalg.lstsq(matrix, (y * weight)[:, None], driver="gelsd").solution[:, 0].tolist()
    return slope, start


@functools.cache
def flops_of(num_views, num_rays, with_classes, sizes):
    """FLOP of one evaluation of an SRN, counted by what its modules call. sizes: items of srns.SRN's arguments.

    Nothing is computed: tensors are stand-ins. A step of training takes three times as many.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    import srns

    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        model = srns.SRN(**dict(sizes))
        batch = {
            "uv": torch.empty(num_views, num_rays, 2),
            "cam2world": torch.empty(num_views, 4, 4),
            "intrinsics": torch.empty(num_views, 3, 3),
            "instance_idx": torch.empty(num_views, dtype=torch.int64),
        }
        model(batch, with_classes)
    return counter.get_total_flops()


# What comes out


def table(rows, columns):
    """Markdown of dicts; columns: {key: (title, format)}. What is None or missing stays empty."""
    cell = lambda value, spec: "" if value is None else format(value, spec)  # noqa: E731
    lines = [[title for title, _ in columns.values()], ["---"] * len(columns)]
    lines += [[cell(row.get(key), spec) for key, (_, spec) in columns.items()] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def show(figures, tables):
    """Print the tables, a list of (title, rows, columns)."""
    shown = [f"{title}\n\n{table(rows, columns)}" for title, rows, columns in tables]
    print("\n\n".join([*shown, *figures.get("notes", ())]))


def start(options):
    """The dict of figures that a command begins with; --device is told by its name from then on."""
    if hasattr(options, "device"):
        options.device = str(util.pick_device(options.device))
    return {"machine": facts(getattr(options, "device", "cpu")), "options": vars(options)}


def finish(options, figures, tables):
    """Print the tables of the figures; write both where --json says."""
    show(figures, tables)
    write(options, figures)


def write(options, figures):
    """The figures, where --json says."""
    if options.json:
        try:
            with util.replacing(options.json) as temporary:
                temporary.write_text(json.dumps(figures, indent=2, default=str) + "\n")
        except OSError as error:
            raise util.InputError(f"--json {options.json}: cannot be written ({error.strerror})") from None
