"""Writes sequences of pictures as MP4 or GIF."""

import contextlib

import imageio.v2
import numpy as np
from PIL import Image

import util
import visual

MAX_ENLARGED_HEIGHT = 256  # pixels; lower pictures are enlarged by the largest whole factor that stays within it


def can_write_mp4():
    """Whether ffmpeg is installed. Its Python package is optional, see requirements/video.txt."""
    try:
        import imageio_ffmpeg

        return bool(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        return False


def write(path, pictures, fps):
    """Write an MP4 or a GIF, by the path's suffix. A GIF repeats endlessly.

    pictures: an iterable of (H, W, 3) uint8, all of one size
    fps:      pictures per second; a GIF rounds each picture's duration to hundredths of a second
    """
    frames = (enlarged(picture) for picture in pictures)
    with util.replacing(path) as temporary:
        if temporary.suffix == ".mp4":
            write_mp4(temporary, frames, fps)
        else:
            images = map(Image.fromarray, frames)
            next(images).save(temporary, save_all=True, append_images=images, duration=1000 / fps, loop=0)


def enlarged(picture):
    """The picture, enlarged if it is small; a white row or column makes its sides even, which MP4 needs."""
    frame = visual.enlarge(picture, max(1, MAX_ENLARGED_HEIGHT // len(picture)))
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), constant_values=visual.WHITE)


def write_mp4(path, frames, fps):
    # A macro block of 1 keeps imageio from resizing; every player can show yuv420p.
    settings = dict(codec="libx264", pixelformat="yuv420p", quality=8, macro_block_size=1)
    writer = imageio.v2.get_writer(path, format="FFMPEG", fps=fps, **settings)
    with contextlib.closing(writer):  # without it, ffmpeg keeps running after an error
        for frame in frames:
            writer.append_data(frame)
