"""The pixels that codes are fitted to, held on the device, and random draws of them that are the same in any company.

What an instance draws depends on the seed, on its name and on the number of the draw alone: not on which other instances
there are, in which order, in which process or on which device.
"""

import hashlib
from typing import NamedTuple

import numpy as np
import torch

import geometry

MAX_PER_INSTANCE = 2**17  # of about 24 bytes each; a fit draws fewer
GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # the increment of splitmix64 and its two factors, as int64
FACTORS = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64
MAX_PER_DRAW = 2**24  # pixels of one instance


class Drawn(NamedTuple):
    """R pixels of each of B instances. What is not observed is None."""

    rays: geometry.Rays  # B x R
    rgb: torch.Tensor  # (B, R, C) in [-1, 1]
    seg_labels: torch.Tensor  # (B, R) int64
    places: torch.Tensor  # (B, R) int64 in the list of all pixels


class ObservedRays:
    """All pixels of all views of a data set, or about MAX_PER_INSTANCE of an instance, spread evenly over its views.

    dataset:      dataio.SceneClassDataset
    rgb_channels: C, how many channels are compared
    instances:    indices of the instances that will be asked for; of the others nothing is read (default: all)
    """

    def __init__(self, dataset, device, rgb_channels=3, seed=0, instances=None):
        wanted = set(range(len(dataset.instances)) if instances is None else instances)
        views = [len(instance.views) for instance in dataset.instances]
        first_view = np.cumsum([0, *views])
        pixels, foregrounds, colours, labels = [], [], [], []
        for index, num_views in enumerate(views):
            stride = -(-len(dataset.uv) * num_views // MAX_PER_INSTANCE)
            in_views = range(num_views) if index in wanted else ()
            read = [pixels_of(dataset, first_view[index] + i, i % stride, stride, rgb_channels) for i in in_views]
            for held, number in zip((pixels, foregrounds, colours, labels), range(4)):
                held.append([view[number] for view in read if view[number] is not None])

        def joined(held):
            parts = [part for of_instance in held for part in of_instance]
            return torch.from_numpy(np.concatenate(parts)).to(device) if parts else None

        def spans(held):
            counts = torch.tensor([sum(map(len, of_instance)) for of_instance in held], device=device)
            return torch.stack([counts.cumsum(0) - counts, counts])

        self.view_and_pixel, self.spans = joined(pixels), spans(pixels)  # (L, 2) int32; first and number, (2, N)
        is_foreground = joined(foregrounds)  # (L,) bool
        self.foreground = torch.nonzero(is_foreground).squeeze(1)
        in_foreground = [[part[part] for part in of_instance] for of_instance in foregrounds]
        self.foreground_spans = spans(in_foreground)
        self.rgb, self.seg_labels = joined(colours), joined(labels)  # (L, C) float32; (L,) int8 or int16
        self.uv = torch.from_numpy(dataset.uv).to(device)
        self.intrinsics = torch.from_numpy(dataset.intrinsics).to(device)  # (N, 3, 3)
        self.cam2world = torch.from_numpy(np.concatenate([i.poses for i in dataset.instances])).to(device)
        self.keys = torch.tensor([key_of(seed, instance.name) for instance in dataset.instances], device=device)

    def draw(self, instances, number, num_rays, foreground_fraction=0.0):
        """Draw number `number` of R pixels of each of the instances, (B,) int64 -> Drawn.

        Of R equal stretches of an instance's list of pixels each gives one, so that a draw shows all of the picture. A
        share of the pixels is drawn so from the foreground alone, of instances that have one, and comes first.
        """
        num_foreground = round(foreground_fraction * num_rays) if len(self.foreground) else 0
        places = self.places(self.spans, instances, number, num_rays - num_foreground)
        if num_foreground:
            inside = self.foreground[self.places(self.foreground_spans, instances, number, num_foreground, stream=1)]
            anywhere = self.places(self.spans, instances, number, num_foreground, stream=1)
            has_foreground = self.foreground_spans[1, instances, None] > 0
            places = torch.cat([torch.where(has_foreground, inside, anywhere), places], dim=1)
        return self.at(instances, places)

    def places(self, spans, instances, number, num_rays, stream=0):
        """(B, R) places, one of each of R equal stretches of every instance's span. streams are independent draws."""
        begin, count = spans[:, instances, None]  # (B, 1) each
        ray = torch.arange(num_rays, device=begin.device)
        chance = uniform(self.keys[instances, None], (2 * number + stream) * MAX_PER_DRAW + ray)
        chosen = ((ray + chance) / num_rays * count).long()
        last = begin + (count - 1).clamp(min=0)
        return torch.minimum(begin + chosen, last).clamp(max=spans.sum(dim=0).max() - 1)

    def at(self, instances, places):
        """The pixels at places (B, R) of instances (B,)."""
        view, pixel = self.view_and_pixel[places].long().unbind(dim=-1)  # (B, R) each
        uv = self.uv[pixel].unsqueeze(2)  # (B, R, 1, 2): a camera for each ray
        rays = geometry.cast(uv, self.cam2world[view], self.intrinsics[instances, None])
        return Drawn(
            geometry.Rays(*(x.squeeze(2) for x in rays)),
            None if self.rgb is None else self.rgb[places],
            None if self.seg_labels is None else self.seg_labels[places].long(),
            places,
        )


def pixels_of(dataset, view, offset, stride, rgb_channels):
    """Every stride-th pixel of an observation: view and pixel (L, 2), whether foreground (L,), rgb (L, C), labels (L,)."""
    observation = dataset.store[view]
    kept = np.arange(offset, len(dataset.uv), stride, dtype=np.int32)
    rgb, seg_labels = observation.rgb(kept), observation.seg_labels
    columns = np.stack([np.full_like(kept, view), kept], axis=1)
    return (
        columns,
        observation.foreground[kept],
        None if rgb is None else np.ascontiguousarray(rgb[:, :rgb_channels]),
        None if seg_labels is None else np.asarray(seg_labels[kept]),
    )


def key_of(seed, name):
    """A number of 64 bits for an instance."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "little", signed=True)


def uniform(key, counter):
    """Random numbers in [0, 1), float64, that depend on a key and a counter alone: splitmix64. int64 (...) each -> (...)."""
    x = key + counter * GOLDEN  # int64 wraps around
    for shift, factor in zip((30, 27), FACTORS):
        x = (x ^ shifted(x, shift)) * factor
    return shifted(x ^ shifted(x, 31), 11).double() / 2**53


def shifted(x, bits):
    """Shift right, zeros coming in from the left."""
    return (x >> bits) & (2 ** (64 - bits) - 1)
