"""Films: pictures one after the other, as MP4 or GIF."""

import contextlib

import imageio.v2
import numpy as np
from PIL import Image

import util
import visual

WATCHABLE_SIDE = 256  # pixels; lower pictures are enlarged by the largest whole factor that stays within it


def can_write_mp4():
    """Whether ffmpeg is at hand. Its Python package is optional: requirements-video.txt."""
    try:
        import imageio_ffmpeg

        return bool(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        return False


def write(path, pictures, fps):
    """Write a film that is an MP4 or a GIF as the path's suffix says; a GIF starts again when it has ended.

    pictures: an iterable of (H, W, 3) uint8, all of one size
    fps:      pictures per second; a GIF keeps time in hundredths of a second
    """
    frames = (watchable(picture) for picture in pictures)
    with util.replacing(path) as temporary:
        if temporary.suffix == ".mp4":
            write_mp4(temporary, frames, fps)
        else:
            write_gif(temporary, frames, fps)


def watchable(picture):
    """The picture, enlarged if it is small, its sides made even, as MP4 wants them, by a white row or column."""
    frame = visual.enlarge(picture, max(1, WATCHABLE_SIDE // len(picture)))
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), constant_values=visual.WHITE)


def write_mp4(path, frames, fps):
    # A macro block of 1 keeps imageio from resizing; yuv420p is what every player understands.
    settings = dict(codec="libx264", pixelformat="yuv420p", quality=8, macro_block_size=1)
    writer = imageio.v2.get_writer(path, format="FFMPEG", fps=fps, **settings)
    with contextlib.closing(writer):  # the writer itself leaves ffmpeg running where there is an error
        for frame in frames:
            writer.append_data(frame)


def write_gif(path, frames, fps):
    images = map(Image.fromarray, frames)
    next(images).save(path, save_all=True, append_images=images, duration=1000 / fps, loop=0)
