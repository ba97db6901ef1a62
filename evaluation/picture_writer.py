"""Writes pictures as PNG, many of them in a few threads."""

import collections
import concurrent.futures

import imageio.v3 as iio

import util


def write_picture(path, picture):
    """Write an (H, W, 3) uint8 picture as PNG, and make its folder if necessary."""
    with util.replacing(path) as temporary:
        iio.imwrite(temporary, picture, extension=".png")


class PictureWriter:
    """Makes and writes pictures in a few threads while the caller renders on. Use it in a `with` statement.

    Leaving the block waits for the queued work, unless an error ends it; a signal does not drop what is queued. The first
    error of that work is raised by `do` or on leaving.
    """

    def __init__(self, num_threads=4, max_waiting=256):
        self.max_waiting = max_waiting
        self._waiting = collections.deque()
        self._pool = concurrent.futures.ThreadPoolExecutor(num_threads)

    def do(self, function, *arguments):
        """Queue a call, whose arguments must not change. If more than `max_waiting` are queued, wait for the oldest."""
        self._waiting.append(self._pool.submit(function, *arguments))
        while len(self._waiting) > self.max_waiting or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()

    def __enter__(self):
        return self

    def __exit__(self, error_type, error, traceback):
        is_error = error_type is not None and issubclass(error_type, Exception)
        self._pool.shutdown(wait=True, cancel_futures=is_error)
        if error_type is None:
            for future in self._waiting:
                future.result()
