"""Shared by the benchmarks: facts about the machine, time, peak memory, tables and JSON."""

import contextlib
import datetime
import functools
import json
import multiprocessing
import os
import platform
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

import util
from rendering.precision import PRECISIONS

MODES = ("fast", "reference")
PRODUCTS = ((2048, 256, 256), (16384, 256, 256), (2048, 2048, 2048), (8192, 8192, 8192))  # rows, inner, columns
SECONDS_PER_PRODUCT = 0.3
MIB = 2**20


# The machine


def facts(device="cpu"):
    """A dict of what the figures depend on: date, processor, cores, threads, PyTorch, device and its name."""
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
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
    """Speed limit of the device in GFLOP/s: the best over matrix products of several sizes. precision: one of PRECISIONS"""
    dtype = PRECISIONS[precision] or torch.float32
    best = 0.0
    for rows, inner, columns in products:
        gflop = 2 * rows * inner * columns / 1e9
        if best and gflop / best > 3 * seconds:  # a slow precision: the next, larger size takes too long
            break
        a, b = (torch.randn(shape, device=device).to(dtype) for shape in ((rows, inner), (inner, columns)))
        out = a @ b
        one = timed(lambda: torch.mm(a, b, out=out), device)
        per_timing = 1 + min(9, int(seconds / one))
        begin = time.perf_counter()
        while not best or time.perf_counter() - begin < seconds:
            elapsed = timed(lambda: [torch.mm(a, b, out=out) for _ in range(per_timing)], device)
            best = max(best, per_timing * gflop / elapsed)
    return best


# Time and memory


def synchronise(device):
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def timed(function, device="cpu"):
    """Seconds that a function takes, including the work that it leaves to the device."""
    synchronise(device)
    start = time.perf_counter()
    function()
    synchronise(device)
    return time.perf_counter() - start


def peak_memory(device="cpu"):
    """Peak in MiB since `forget_peak`, or since the start: of this process on a CPU, of the tensors on a GPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    with contextlib.suppress(OSError):  # getrusage starts from the peak of the parent process
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def forget_peak(device="cpu"):
    """Reset `peak_memory` to the present use, if the system allows it. returns that use in MiB"""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    return peak_memory(device)


def in_own_process(function, *args):
    """Result of a function in a new process, so that its peak memory includes nothing else."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def free_memory(device="cpu"):
    """Bytes of memory that are available."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) * 1024
    return 2**32


def interleaved(modes, repeats, measure):
    """{mode: list of the results of measure(mode)}, with the modes in turn, so that a change in load affects all alike."""
    found = {mode: [] for mode in modes}
    for _ in range(repeats):
        for mode in modes:
            found[mode].append(measure(mode))
    return found


def medians(rows):
    """Merge dicts with the same keys: medians of numbers, the first of other values."""
    return {
        key: statistics.median(row[key] for row in rows) if isinstance(first, (int, float)) else first
        for key, first in rows[0].items()
    }


def modes_of(options):
    return MODES if options.reference else MODES[:1]


def median_by_mode(options, function, size):
    """{mode: medians of the dicts that function(options, mode, size) returns}, each in --repeats new processes."""

    def measure(mode):
        return in_own_process(function, options, mode, size)

    return {mode: medians(rows) for mode, rows in interleaved(modes_of(options), options.repeats, measure).items()}


def with_ratios(rows, key, keys):
    """Add `ratio` to the rows: `key` of the reference over `key` of the fast row, None if either was not measured.

    keys: names whose values are equal in two rows that are compared
    """
    reference = {tuple(row[name] for name in keys): row for row in rows if row["mode"] == "reference"}
    for row in rows:
        other = reference.get(tuple(row[name] for name in keys)) if row["mode"] == "fast" else None
        row["ratio"] = other[key] / row[key] if other and other.get(key) else None
    return rows


def line_through(xs, ys):
    """Slope and intercept of the line with the least relative squared error, so that small ys count as much as large ones."""
    x, y = (torch.tensor(list(values), dtype=torch.float64) for values in (xs, ys))
    weight = 1 / y.abs().clamp(min=max(1e-6 * y.abs().max().item(), 1e-12))
    matrix = torch.stack([x, torch.ones_like(x)], dim=1) * weight[:, None]
    slope, start = torch.linalg.lstsq(matrix, (y * weight)[:, None], driver="gelsd").solution[:, 0].tolist()
    return slope, start


@functools.cache
def flops_of(num_views, num_rays, with_classes, sizes):
    """FLOP of one evaluation of an SRN, counted on fake tensors; a training step takes three times as many.

    sizes: a tuple of the items of srns.SRN's arguments
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


# Output


def table(rows, columns):
    """Markdown table of dicts; columns: {key: (title, format)}. A value that is None or missing gives an empty cell."""

    def cell(value, spec):
        return "" if value is None else format(value, spec)

    lines = [[title for title, _ in columns.values()], ["---"] * len(columns)]
    lines += [[cell(row.get(key), spec) for key, (_, spec) in columns.items()] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def table_of_rows(figures, title, columns, describe):
    """[(title, rows, columns)] of figures["rows"]; describe(options) completes the title, without figures there is none."""
    if "options" in figures:
        title += f": {describe(figures['options'])}"
    return [(title, figures.get("rows", []), columns)]


def show(figures, tables):
    """Print the tables, a list of (title, rows, columns), and the notes of the figures."""
    shown = [f"{title}\n\n{table(rows, columns)}" for title, rows, columns in tables]
    print("\n\n".join([*shown, *figures.get("notes", ())]))


def start(options):
    """Resolve options.device, such as auto, to a name; returns the figures so far: the machine and the options."""
    if hasattr(options, "device"):
        options.device = str(util.pick_device(options.device))
    return {"machine": facts(getattr(options, "device", "cpu")), "options": vars(options)}


def finish(options, figures, tables):
    """Print the tables and write the figures to --json, if given."""
    show(figures, tables)
    write(options, figures)


def write(options, figures):
    if options.json:
        try:
            with util.replacing(options.json) as temporary:
                temporary.write_text(json.dumps(figures, indent=2, default=str) + "\n")
        except OSError as error:
            raise util.InputError(f"--json {options.json}: cannot be written ({error.strerror})") from None
