"""Models and batches with random contents, for benchmarks that need no data."""

import torch

import geometry
import srns

FOCAL, DISTANCE = 1.2, 1.3  # focal length in units of the side; distance of the camera from the object in world units


def sizes_of(options, num_instances, num_classes=None):
    """Arguments of srns.SRN for the options of command_line.add_model."""
    return {
        "num_instances": num_instances,
        "latent_dim": options.embedding_size,
        "hidden_features": options.hidden_features,
        "tracing_steps": options.tracing_steps,
        "num_classes": num_classes,
    }


def make_model(sizes, device):
    """An SRN whose marched rays end at the object."""
    torch.manual_seed(0)
    model = srns.SRN(**sizes)
    model.ray_marcher.aim_at(DISTANCE)
    return model.to(device)


def make_batch(num_views, sidelength, num_instances, device, num_classes=None):
    """Whole images of random colours and classes; views are sorted by instance as in dataio.collate.

    returns a dict of uv, cam2world, intrinsics, rgb, instance_idx, instances, instance_of and, with num_classes, seg_labels.
    """
    generator = torch.Generator().manual_seed(0)
    focal = FOCAL * sidelength
    intrinsics = torch.tensor([[focal, 0, sidelength / 2], [0, focal, sidelength / 2], [0, 0, 1]])
    azimuth_deg = 360 * torch.rand(num_views, generator=generator)
    elevation_deg = 60 * torch.rand(num_views, generator=generator)
    uv = geometry.pixel_grid(sidelength, sidelength, 0.5)  # (R, 2)
    idx = (torch.arange(num_views) % num_instances).sort().values
    instances, instance_of = idx.unique(return_inverse=True)
    batch = {
        "uv": uv.expand(num_views, -1, -1).contiguous(),
        "cam2world": geometry.look_at(geometry.on_sphere(azimuth_deg, elevation_deg, DISTANCE)),
        "intrinsics": intrinsics.expand(num_views, -1, -1).contiguous(),
        "rgb": 2 * torch.rand(num_views, len(uv), 3, generator=generator) - 1,
        "instance_idx": idx,
        "instances": instances,
        "instance_of": instance_of,
    }
    if num_classes:
        batch["seg_labels"] = torch.randint(num_classes, (num_views, len(uv)), generator=generator)
    return {name: tensor.to(device) for name, tensor in batch.items()}


def per_view(batch):
    """The batch without `instances`, so that the hypernetwork is evaluated once per view as in the published method."""
    return {name: tensor for name, tensor in batch.items() if name not in ("instances", "instance_of")}
