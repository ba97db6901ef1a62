"""Writes sequences of pictures as MP4 or GIF."""

import contextlib

import imageio.v2
import numpy as np

import util
import visual

MAX_ENLARGED_HEIGHT = 256  # pixels; lower pictures are enlarged by the largest whole factor that stays within it
# A macro block of 1 keeps imageio from resizing; every player can show yuv420p.
MP4 = dict(format="FFMPEG", codec="libx264", pixelformat="yuv420p", quality=8, macro_block_size=1)


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
    with util.replacing(path) as temporary:
        settings = MP4 | {"fps": fps} if temporary.suffix == ".mp4" else {"duration": 1000 / fps, "loop": 0}
        writer = imageio.v2.get_writer(temporary, **settings)
        with contextlib.closing(writer):  # without it, ffmpeg keeps running after an error
            for picture in pictures:
                writer.append_data(enlarged(picture))


def enlarged(picture):
    """The picture, enlarged if it is small; a white row or column makes its sides even, which MP4 needs."""
    frame = visual.enlarge(picture, max(1, MAX_ENLARGED_HEIGHT // len(picture)))
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), constant_values=visual.WHITE)
