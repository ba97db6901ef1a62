"""The pixels that codes are fitted to, held on the device, and random draws of them.

What an instance draws depends only on the seed, its name and the number of the draw: not on which other instances there
are, nor on their order, the process or the device. So NumPy's counter-based Philox makes the random numbers, on the host: a
torch.Generator draws other numbers on other devices. 32 instances of 256 rays take 0.4 ms.
"""

import hashlib
from typing import NamedTuple

import numpy as np
import torch

import geometry

MAX_PER_INSTANCE = 2**17  # pixels, about 24 bytes each; a fit draws fewer


class Drawn(NamedTuple):
    """R pixels of each of B instances. rgb or seg_labels is None if the data set has no images or no label maps."""

    rays: geometry.Rays  # B x R
    rgb: torch.Tensor  # (B, R, C) in [-1, 1]
    seg_labels: torch.Tensor  # (B, R) int64
    places: torch.Tensor  # (B, R) int64, indices into the list of all pixels


class ObservedRays:
    """All pixels of a data set, or about MAX_PER_INSTANCE of an instance that has more, spread evenly over its views.

    dataset:      dataio.SceneClassDataset
    rgb_channels: C, number of channels to keep
    instances:    indices of the instances that will be drawn from; others are not read (default: all)
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
        self.keys = [key_of(seed, instance.name) for instance in dataset.instances]

    def draw(self, instances, number, num_rays, foreground_fraction=0.0):
        """Draw R pixels of each of the instances, (B,) int64 -> Drawn. The number of the draw selects the random numbers.

        An instance's list of pixels is cut into R equal stretches, and each stretch gives one pixel: a draw covers all views.
        `foreground_fraction` of the R pixels come first and are drawn so from the foreground alone, if an instance has one.
        """
        num_foreground = round(foreground_fraction * num_rays) if len(self.foreground) else 0
        inside, anywhere = self.chances(instances, number, num_rays).tensor_split([num_foreground], dim=1)
        places = places_in(self.spans, instances, anywhere)
        if num_foreground:
            has_foreground = self.foreground_spans[1, instances, None] > 0
            of_foreground = self.foreground[places_in(self.foreground_spans, instances, inside)]
            of_all = places_in(self.spans, instances, inside)
            places = torch.cat([torch.where(has_foreground, of_foreground, of_all), places], dim=1)
        return self.at(instances, places)

    def chances(self, instances, number, num_rays):
        """Random numbers in [0, 1) of a draw, (B, R) float64; the same for an instance that comes several times."""
        distinct, which = instances.unique(return_inverse=True)
        drawn = np.stack([uniform(self.keys[instance], number, num_rays) for instance in distinct.tolist()])
        return torch.from_numpy(drawn).to(instances.device)[which]

    def at(self, instances, places):
        """The pixels at places (B, R) of instances (B,), a Drawn."""
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
    """Every stride-th pixel of an observation: view and pixel (L, 2), is foreground (L,), rgb (L, C), labels (L,)."""
    observation = dataset.store[view]
    kept = np.arange(offset, len(dataset.uv), stride, dtype=np.int32)
    rgb, seg_labels = observation.rgb(kept), observation.seg_labels
    return (
        np.stack([np.full_like(kept, view), kept], axis=1),
        observation.foreground[kept],
        None if rgb is None else np.ascontiguousarray(rgb[:, :rgb_channels]),
        None if seg_labels is None else np.asarray(seg_labels[kept]),
    )


def places_in(spans, instances, chances):
    """A place in each of R equal stretches of every instance's span.

    spans:   (2, N) first place and number of places
    chances: (B, R) in [0, 1), where in its stretch each place lies
    returns  (B, R) int64
    """
    begin, count = spans[:, instances, None]  # (B, 1) each
    num_rays = chances.shape[1]
    chosen = ((torch.arange(num_rays, device=chances.device) + chances) / num_rays * count).long()
    last = begin + (count - 1).clamp(min=0)
    return torch.minimum(begin + chosen, last).clamp(max=spans.sum(dim=0).max() - 1)


def key_of(seed, name):
    """A number of 64 bits for an instance."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "little")


def uniform(key, number, size):
    """Random numbers in [0, 1), (size,) float64, that depend only on a key and the number of the draw."""
    return np.random.Generator(np.random.Philox(key=np.array([key, number], dtype=np.uint64))).random(size)
