"""Cameras and rays: lifting pixels to points, projecting points to pixels, normals, camera placement.

Conventions, everywhere in this project:
  * OpenCV axes: x right, y down, z into the scene. `cam2world` is the (4, 4) camera-to-world pose.
  * `depth` is the z coordinate in the camera, not the distance along the ray.
  * Half pixels: `uv` are continuous coordinates in the image plane, and the functions below add nothing to
    them. Published data sends the ray of pixel (column, row) through uv = (column, row); data with
    `"pixel_center": 0.5` in its `dataset.json` through (column + 0.5, row + 0.5). The data set adds it.

Shapes: B views, R rays; a leading `...` means any.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F


class Rays(NamedTuple):
    """Rays in world space, R for each of B views or instances."""

    origin: torch.Tensor  # (B, R, 3), or (B, 1, 3) where they share it
    direction: torch.Tensor  # (B, R, 3) of unit length
    depth_per_length: torch.Tensor  # (B, R, 1) gained in the camera of each

    def at(self, distance):
        """Points (B, R, 3) at a distance (B, R, 1) from the origins."""
        return self.origin + distance * self.direction


def pixel_grid(height, width, pixel_center=0.0, device=None):
    """uv of every pixel, (height * width, 2) float32, rows from top to bottom, u running fastest."""
    index = torch.arange(height * width, device=device)
    return torch.stack([index % width, index // width], dim=-1).float() + pixel_center


def lift(uv, depth, intrinsics):
    """Back-project pixels to camera space.

    uv:         (..., R, 2) u right, v down
    depth:      (..., R, 1) along the camera's z axis
    intrinsics: (..., 3, 3) in pixels of the image that uv indexes
    returns     (..., R, 3) points in camera space
    """
    pixels = torch.cat([uv, torch.ones_like(uv[..., :1])], dim=-1)  # (..., R, 3)
    return transform(pixels, inverse(intrinsics)) * depth  # pixels lifted to the plane z == 1


def inverse(matrix):
    """Inverse of (..., n, n). On CUDA torch.linalg.inv makes the host wait to check for singular matrices; this does not."""
    return torch.linalg.inv_ex(matrix).inverse


def transform(points, matrix):
    """Multiply every point by its matrix. points (..., R, n), matrix (..., m, n) -> (..., R, m)."""
    if points.shape[-2] == 1:  # a matrix per point: CUDA limits batches of matrix products to 65,535
        return (points * matrix).sum(dim=-1).unsqueeze(-2)
    return points @ matrix.transpose(-1, -2)


def project(points, intrinsics):
    """Camera-space points (..., R, 3) to uv (..., R, 2), given intrinsics (..., 3, 3). Undoes `lift`."""
    homogeneous = transform(points, intrinsics)
    return homogeneous[..., :2] / homogeneous[..., 2:]


def world_to_camera(points, cam2world):
    """World-space points (..., R, 3) to camera space, given cam2world (..., 4, 4)."""
    return transform(points - camera_centre(cam2world), inverse(cam2world[..., :3, :3]))


def camera_centre(cam2world):
    """World position of the camera, (..., 1, 3), from cam2world (..., 4, 4)."""
    return cam2world[..., None, :3, 3]


def rays(uv, cam2world, intrinsics):
    """The ray through each pixel, in world space.

    uv (..., R, 2), cam2world (..., 4, 4), intrinsics (..., 3, 3)
    returns unit directions (..., R, 3), and the depth gained per unit of length along each, (..., R, 1)
    """
    unit_depth = transform(lift(uv, torch.ones_like(uv[..., :1]), intrinsics), cam2world[..., :3, :3])
    length = unit_depth.norm(dim=-1, keepdim=True)
    return unit_depth / length, 1 / length


def cast(uv, cam2world, intrinsics):
    """The Rays through pixels uv (..., R, 2) of cameras cam2world (..., 4, 4) with intrinsics (..., 3, 3)."""
    return Rays(camera_centre(cam2world), *rays(uv, cam2world, intrinsics))


def normal_map(points):
    """Unit normals from the finite differences of a map of surface points.

    points: (..., 3, H, W) camera or world space; returns (..., 3, H - 2, W - 2). In camera space a surface that
    faces the camera has the normal (0, 0, -1). Where the points coincide the normal is 0.
    """
    along_u = points[..., 1:-1, 2:] - points[..., 1:-1, :-2]
    along_v = points[..., 2:, 1:-1] - points[..., :-2, 1:-1]
    return F.normalize(torch.linalg.cross(along_v, along_u, dim=-3), dim=-3)


def look_at(eye, target=(0.0, 0.0, 0.0), up=(0.0, 0.0, 1.0)):
    """cam2world (..., 4, 4) of cameras at `eye` (..., 3) that see `target` at the centre, `up` pointing up.

    Straight down or straight up, where `up` gives no direction, the image's top points to world +y.
    """
    eye = eye if isinstance(eye, torch.Tensor) else torch.tensor(eye, dtype=torch.get_default_dtype())
    up = torch.as_tensor(up, dtype=eye.dtype, device=eye.device).expand_as(eye)
    forward = F.normalize(torch.as_tensor(target, dtype=eye.dtype, device=eye.device) - eye, dim=-1)
    right = torch.linalg.cross(forward, up, dim=-1)
    vertical = right.norm(dim=-1, keepdim=True) < 1e-6
    fallback = torch.linalg.cross(forward, torch.tensor([0.0, 1.0, 0.0]).to(eye).expand_as(eye), dim=-1)
    right = F.normalize(torch.where(vertical, fallback, right), dim=-1)
    down = torch.linalg.cross(forward, right, dim=-1)

    cam2world = torch.eye(4).to(eye).repeat(*eye.shape[:-1], 1, 1)
    cam2world[..., :3, :] = torch.stack([right, down, forward, eye], dim=-1)
    return cam2world


def on_sphere(azimuth_deg, elevation_deg, radius):
    """Points (..., 3) at a distance from the origin. z is up; azimuth 0 is the front (-y), 90 the right (+x)."""
    azimuth, elevation = torch.deg2rad(azimuth_deg), torch.deg2rad(elevation_deg)
    horizontal = torch.cos(elevation)
    direction = [torch.sin(azimuth) * horizontal, -torch.cos(azimuth) * horizontal, torch.sin(elevation)]
    return radius * torch.stack(direction, dim=-1)


def nearest_to_axes(cam2world, weights=None):
    """The point (3,) nearest to the optical axes of cameras (V, 4, 4), and the spread of the axes.

    weights: (V,) of the axes; default: equal
    The spread, a float, is the mean square sine of the angles to the direction that the axes share best. Where it is 0 (one
    view, parallel axes), the axes leave the point open: it is the candidate nearest to the origin.
    """
    centres, axes = cam2world[:, :3, 3], F.normalize(cam2world[:, :3, 2], dim=-1)
    weights = torch.ones_like(axes[:, :1]) if weights is None else weights[:, None]
    weights = weights / weights.sum()
    across = centres - axes * (centres * axes).sum(dim=-1, keepdim=True)  # without the part along the axis
    matrix = torch.eye(3).to(axes) - (weights * axes).T @ axes
    point = torch.linalg.pinv(matrix, rtol=1e-4, hermitian=True) @ (weights * across).sum(dim=0)
    return point, torch.linalg.eigvalsh(matrix)[0].item()


def viewing_target(cam2world):
    """The point (3,) that cameras (V, 4, 4) look at, see `nearest_to_axes`."""
    return nearest_to_axes(cam2world)[0]


def viewing_distance(cam2world):
    """Mean distance (float) from cameras (V, 4, 4) to the point they look at, `viewing_target`."""
    return (cam2world[:, :3, 3] - viewing_target(cam2world)).norm(dim=-1).mean().item()


def orbit(target, radius, elevation_deg, num_views, up="z"):
    """cam2world (V, 4, 4) of a full turn about `target` (3,), anticlockwise seen from above.

    The axis `up` of the world ("x", "y" or "z") points up; about z the turn begins at the front, see `on_sphere`.
    The last view is one step short of the first, so that the turn can be repeated.
    """
    turn = "zxy".index(up)  # so many cyclic steps of the axes put z there
    azimuth_deg = torch.arange(num_views) * (360 / num_views)
    eyes = on_sphere(azimuth_deg, torch.full_like(azimuth_deg, elevation_deg), radius).roll(turn, dims=-1)
    return look_at(target + eyes.to(target), target, up=torch.eye(3)["xyz".index(up)])
