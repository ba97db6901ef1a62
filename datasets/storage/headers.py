"""Quick checks of files by their first and last bytes, without decoding them: for the index of a split."""

import os

import numpy as np

import data_util
import util


def check_png(path):
    """(height, width) of a PNG; util.InputError for a missing, foreign, truncated, 16-bit or too small file."""
    with util.reading(path, "a PNG", OSError):
        head, tail, _ = _ends_of(path, 25, 12)
    if head[:8] != b"\x89PNG\r\n\x1a\n":
        raise util.InputError(f"{path}: not a PNG file; expected an 8-bit grey, RGB or RGBA PNG")
    if b"IEND" not in tail:
        raise util.InputError(f"{path}: the PNG is cut short; copy or render it again")
    height, width = int.from_bytes(head[20:24], "big"), int.from_bytes(head[16:20], "big")
    if min(height, width) < 2:
        raise util.InputError(f"{path}: is {width} x {height} pixels; expected 2 x 2 or more")
    if head[24] > 8:
        raise util.InputError(f"{path}: expected an 8-bit grey, RGB or RGBA image, found {head[24]} bits per channel")
    return height, width


def check_seg_labels(path, sound_heads):
    """Raise util.InputError for a missing, foreign or truncated label map, as data_util.open_seg_labels does.

    sound_heads: a set that the caller keeps, of the headers and sizes found sound so far. Most label maps have the same
        header and size, and are then not opened.
    """
    try:
        head, _, size = _ends_of(path, 128, 0)
    except OSError:
        head, size = b"", 0
    end = 10 + int.from_bytes(head[8:10], "little") if head[6:7] == b"\1" else np.inf
    if end > len(head) or (head[:end], size) not in sound_heads:
        data_util.open_seg_labels(path, mmap_mode="r")
        if end <= len(head):
            sound_heads.add((head[:end], size))


def _ends_of(path, num_first, num_last):
    """(first bytes, last bytes, size) of a file."""
    file = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(file).st_size
        return os.pread(file, num_first, 0), os.pread(file, num_last, max(0, size - num_last)), size
    finally:
        os.close(file)
