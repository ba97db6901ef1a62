"""Renders a labelled triangle mesh by ray casting with Embree: colour, class ids, depth and normals of a posed view.

Five rays sample every pixel: one through its centre, which alone gives class, depth and normal, and four through the
centres of its quarters. Colour and alpha are means over all five, so a pixel with a class is never fully transparent.

Shading depends only on the surface point, not on the view: an ambient term and a fixed light that acts equally on both
sides of a surface. The three main directions of a box get three different shades.

Shapes: R rays, T triangles, H and W height and width of the image.
"""

import numpy as np
import torch
import torch.nn.functional as F

import geometry
import util
from datasets.meshes import triangle_mesh

PURPOSE = "rendering meshes"  # what embreex is needed for
PIXEL_CENTER = 0.5  # the ray of pixel (column, row) goes through uv = (column + 0.5, row + 0.5)
SAMPLES = ((0.0, 0.0), (-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25))  # from the centre, in pixels

LIGHT_FROM = (0.4, -0.6, 0.7)  # from the right, the front and above
LIGHT = np.array(LIGHT_FROM) / np.linalg.norm(LIGHT_FROM)
AMBIENT, DIFFUSE = 0.42, 0.58

MAX_CUTOUTS = 32  # transparent surfaces that one ray can pass
PAST_CUTOUT = 1e-4  # distance behind such a surface at which the ray restarts, in diagonals of the object


class Scene:
    """A mesh prepared for `render`: Embree's tree, a shade per triangle, textures at all resolutions."""

    def __init__(self, mesh, light=LIGHT):
        """light: unit vector (3,) towards the light, or None for colours without shading"""
        mesh_construction = util.load_library("embreex.mesh_construction", PURPOSE)
        rtcore_scene = util.load_library("embreex.rtcore_scene", PURPOSE)
        corners = mesh.corners
        self.labels = mesh.labels
        self.bounds = np.stack([corners.min(axis=(0, 1)), corners.max(axis=(0, 1))])
        self._tree = rtcore_scene.EmbreeScene(robust=True)  # watertight: no ray slips between two triangles
        mesh_construction.TriangleMesh(self._tree, np.ascontiguousarray(corners, dtype=np.float32))

        normals, double_area = triangle_mesh.normals_and_areas(corners)
        double_area = np.maximum(double_area, 1e-20)
        self.normals = normals / double_area[:, None]  # (T, 3)
        self._past_cutout = PAST_CUTOUT * np.linalg.norm(self.bounds[1] - self.bounds[0])
        lit = 1.0 if light is None else AMBIENT + DIFFUSE * np.abs(normals @ light) / double_area
        self._shade = np.broadcast_to(lit, len(corners))
        self._colours = mesh.colours
        self._textured = mesh.texture_ids >= 0
        if self._textured.any():
            self._texels = _TexturePyramids(mesh, double_area)

    def cast(self, origins, directions, footprint):
        """First surface along each ray that is not transparent there.

        origins, directions: (R, 3), directions of unit length
        footprint:           width of a pixel per unit of distance; selects the resolution of textures
        returns              triangle ids (R,), -1 for rays that meet none; colours (R, 3) in [0, 1]; distances (R,)
        """
        num_rays = len(origins)
        triangle_ids, colours, distances = np.full(num_rays, -1), np.zeros((num_rays, 3)), np.full(num_rays, np.inf)
        active, travelled = np.arange(num_rays), np.zeros(num_rays)
        for _ in range(MAX_CUTOUTS):
            if not len(active):
                break
            starts = origins[active] + travelled[active, None] * directions[active]
            hit = self._tree.run(starts.astype(np.float32), directions[active].astype(np.float32), output=True)
            found = hit["primID"] >= 0
            active, ids = active[found], hit["primID"][found]
            reached = travelled[active] + hit["tfar"][found]
            rgb, solid = self._appearance(ids, hit["u"][found], hit["v"][found], reached * footprint)
            seen = active[solid]
            triangle_ids[seen], colours[seen], distances[seen] = ids[solid], rgb[solid], reached[solid]
            active = active[~solid]
            travelled[active] = reached[~solid] + self._past_cutout
        return triangle_ids, colours, distances

    def _appearance(self, ids, u, v, width):
        """Shaded colours (R, 3) at barycentric (u, v) of triangles, and whether they are opaque there (R,)."""
        rgb, solid = self._colours[ids], np.ones(len(ids), dtype=bool)
        textured = self._textured[ids]
        if textured.any():
            rgba = self._texels.lookup(ids[textured], u[textured], v[textured], width[textured])
            rgb[textured], solid[textured] = rgba[:, :3], rgba[:, 3] >= 0.5
        return rgb * self._shade[ids, None], solid


class _TexturePyramids:
    """All textures at full, half, quarter ... resolution in one table of texels."""

    def __init__(self, mesh, double_area):
        pyramids = [_pyramid(texture) for texture in mesh.textures]
        images = [image for pyramid in pyramids for image in pyramid]
        self._table = np.concatenate([image.reshape(-1, 4) for image in images])
        self._sizes = np.array([image.shape[:2] for image in images])  # height, width
        num_texels, num_levels = self._sizes.prod(axis=1), np.array([len(pyramid) for pyramid in pyramids])
        self._first_texel = np.cumsum(num_texels) - num_texels  # of each image
        self._largest, self._smallest = np.cumsum(num_levels) - num_levels, np.cumsum(num_levels) - 1  # image of each texture
        self._texture_ids, self._corner_uv = mesh.texture_ids, mesh.corner_uv

        edges = mesh.corner_uv[:, 1:] - mesh.corner_uv[:, :1]  # (T, 2, 2)
        texels = num_texels[self._largest[self._texture_ids]]
        uv_area = np.abs(edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0])
        self._texels_per_length = np.sqrt(uv_area * texels / double_area)  # (T,)

    def lookup(self, ids, u, v, width):
        """Texels (R, 4) in [0, 1] at barycentric (u, v) of triangles, averaged over roughly `width`."""
        texture = self._texture_ids[ids]
        level = np.log2(np.maximum(width * self._texels_per_length[ids], 1)).round().astype(int)
        image = np.minimum(self._largest[texture] + level, self._smallest[texture])
        corners = self._corner_uv[ids]  # (R, 3, 2)
        uv = corners[:, 0] * (1 - u - v)[:, None] + corners[:, 1] * u[:, None] + corners[:, 2] * v[:, None]
        height, columns = self._sizes[image].T
        column = np.floor(uv[:, 0] * columns).astype(int) % columns
        row = np.floor(-uv[:, 1] * height).astype(int) % height  # v counts from the bottom
        return self._table[self._first_texel[image] + row * columns + column]


def _pyramid(texture):
    """(H, W, 4) uint8 to a list of (h, w, 4) float32 in [0, 1], each half as large as the previous one."""
    image = torch.from_numpy(texture.astype(np.float32) / 255).permute(2, 0, 1)
    image[:3] *= image[3:]  # premultiplied, so that transparent texels do not affect the mean colour
    images = [image]
    while max(image.shape[1:]) > 1:
        image = F.avg_pool2d(image, [min(2, size) for size in image.shape[1:]])
        images.append(image)
    return [torch.cat([i[:3] / i[3:].clamp(min=1e-6), i[3:]]).permute(1, 2, 0).numpy() for i in images]


def render(scene, cam2world, intrinsics, height, width, with_depth=True):
    """Colour, classes, depth and normals of one posed view.

    cam2world:  (4, 4) float32 tensor
    intrinsics: (3, 3) float32 tensor, in pixels of the image
    returns     rgba (H, W, 4) uint8, alpha straight; seg_labels (H, W) uint8; depth (H, W) float32 along the camera's z
                axis; unit normals (H, W, 3) float32 in the camera's axes, on the side of the camera. All are 0 beside
                the object. Without `with_depth`, depth and normals are None.
    """
    rgba, seg_labels = np.zeros((height, width, 4), dtype=np.uint8), np.zeros((height, width), dtype=np.uint8)
    window, size = _window(scene.bounds, cam2world, intrinsics, height, width)
    origins, directions, depth_per_length = _rays(window, size, cam2world, intrinsics)
    ids, colours, distances = scene.cast(origins, directions, footprint=1 / float(intrinsics[0, 0]))
    ids, colours = ids.reshape(len(SAMPLES), *size), colours.reshape(len(SAMPLES), *size, 3)
    hits = ids >= 0
    colour = colours.sum(axis=0) / np.maximum(hits.sum(axis=0), 1)[..., None]
    rgba[window] = np.concatenate([colour, hits.mean(axis=0)[..., None]], axis=-1) * 255 + 0.5
    seg_labels[window] = np.where(hits[0], scene.labels[ids[0]], 0)
    if not with_depth:
        return rgba, seg_labels, None, None

    depth, normals = np.zeros((height, width), dtype=np.float32), np.zeros((height, width, 3), dtype=np.float32)
    central, ids = np.flatnonzero(hits[0]), ids[0][hits[0]]  # of the rays through centres of pixels, those that hit
    depth[window][hits[0]] = distances[central] * depth_per_length[central]
    facing = scene.normals[ids]
    facing *= np.sign(-np.einsum("nc,nc->n", facing, directions[central]))[:, None]
    normals[window][hits[0]] = facing @ np.linalg.inv(cam2world[:3, :3].double().numpy()).T
    return rgba, seg_labels, depth, normals


def _rays(window, size, cam2world, intrinsics):
    """The rays of the pixels in a window of the image, sample by sample.

    returns origins (R, 3), unit directions (R, 3), depth gained per unit of length (R,), all float64
    """
    rows, columns = window
    uv = geometry.pixel_grid(*size, PIXEL_CENTER) + torch.tensor([columns.start, rows.start])
    uv = (uv + torch.tensor(SAMPLES)[:, None]).flatten(0, 1)
    directions, depth_per_length = geometry.rays(uv, cam2world, intrinsics)
    origin = geometry.camera_centre(cam2world)[0].double().numpy()
    directions = directions.double().numpy()
    return np.broadcast_to(origin, directions.shape), directions, depth_per_length[:, 0].double().numpy()


def _window(bounds, cam2world, intrinsics, height, width):
    """(slices of rows and columns, their lengths) that contain all rays that can meet the box `bounds` (2, 3)."""
    corners = torch.cartesian_prod(*torch.tensor(bounds.T, dtype=torch.float32))
    in_camera = geometry.world_to_camera(corners, cam2world)
    low, high = np.array([0, 0]), np.array([width, height])
    if in_camera[:, 2].min() >= 1e-3:  # else a corner beside or behind the camera has no projection
        uv = geometry.project(in_camera, intrinsics).numpy()
        low = np.clip(np.floor(uv.min(axis=0)).astype(int) - 1, 0, high)
        high = np.clip(np.ceil(uv.max(axis=0)).astype(int) + 1, low, high)
    return (slice(low[1], high[1]), slice(low[0], high[0])), (high[1] - low[1], high[0] - low[0])
