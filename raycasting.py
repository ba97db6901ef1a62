"""Casts rays at a labelled triangle mesh with Embree: one posed view in colour and in class ids.

Every pixel is seen by five rays: one through its centre, which alone gives the class, and four through the
centres of its quarters. All five share in colour and alpha, so a pixel with a class is never wholly transparent.

Shading is a function of the surface point alone, not of the view: a fixed light, equally strong on both sides
of a surface, and an ambient term. The three main directions of a box come out in three shades.

Shapes: R rays, T triangles, H and W height and width of the image.
"""

import numpy as np
import torch

import geometry
import util

PIXEL_CENTER = 0.5  # the ray of pixel (column, row) goes through uv = (column + 0.5, row + 0.5)
SAMPLES = ((0.0, 0.0), (-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25))  # from the centre, in pixels

LIGHT = np.array([0.40, -0.60, 0.70]) / np.linalg.norm([0.40, -0.60, 0.70])  # from the right, the front and above
AMBIENT, DIFFUSE = 0.42, 0.58

MAX_CUTOUTS = 32  # surfaces with holes that one ray may pass through
PAST_CUTOUT = 1e-4  # how far behind such a surface the ray goes on; objects have a diagonal of 1


class Scene:
    """A mesh made ready for `render`: the search tree, a shade per triangle, texels at all resolutions."""

    def __init__(self, mesh):
        rtcore_scene, mesh_construction = _import_embree()
        corners = mesh.corners
        self.labels = mesh.labels
        self.bounds = np.stack([corners.min(axis=(0, 1)), corners.max(axis=(0, 1))])
        self._tree = rtcore_scene.EmbreeScene(robust=True)  # watertight: no ray slips between two triangles
        mesh_construction.TriangleMesh(self._tree, np.ascontiguousarray(corners, dtype=np.float32))

        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        double_area = np.maximum(np.linalg.norm(normals, axis=1), 1e-20)
        self._shade = AMBIENT + DIFFUSE * np.abs(normals @ LIGHT) / double_area  # (T,)
        self._colours = mesh.colours
        self._textured = mesh.texture_ids >= 0
        if self._textured.any():
            self._texels = _TexturePyramids(mesh, double_area)

    def cast(self, origins, directions, footprint):
        """First surface along each ray, past the holes that textures cut.

        origins, directions: (R, 3), directions of unit length
        footprint:           width of a pixel per unit of distance; picks the resolution of textures
        returns              triangle ids (R,), -1 where there is none; colours (R, 3) in [0, 1]; distances (R,)
        """
        num_rays = len(origins)
        triangle_ids = np.full(num_rays, -1)
        colours = np.zeros((num_rays, 3))
        distances = np.full(num_rays, np.inf)
        travelled = np.zeros(num_rays)
        active = np.arange(num_rays)
        for _ in range(MAX_CUTOUTS):
            starts = origins[active] + travelled[active, None] * directions[active]
            hit = self._tree.run(starts.astype(np.float32), directions[active].astype(np.float32), output=True)
            found = hit["primID"] >= 0
            active, ids = active[found], hit["primID"][found]
            reached = travelled[active] + hit["tfar"][found]
            rgb, solid = self._appearance(ids, hit["u"][found], hit["v"][found], reached * footprint)
            seen = active[solid]
            triangle_ids[seen], colours[seen], distances[seen] = ids[solid], rgb[solid], reached[solid]
            active = active[~solid]
            if not len(active):
                break
            travelled[active] = reached[~solid] + PAST_CUTOUT
        return triangle_ids, colours, distances

    def _appearance(self, ids, u, v, width):
        """Shaded colours (R, 3) at barycentric (u, v) of triangles, and whether they stop the ray (R,)."""
        rgb, solid = self._colours[ids], np.ones(len(ids), dtype=bool)
        textured = self._textured[ids]
        if textured.any():
            rgba = self._texels.lookup(ids[textured], u[textured], v[textured], width[textured])
            rgb[textured], solid[textured] = rgba[:, :3], rgba[:, 3] >= 0.5
        return rgb * self._shade[ids, None], solid


class _TexturePyramids:
    """All textures at full, half, quarter ... resolution, one after the other in a single table of texels."""

    def __init__(self, mesh, double_area):
        levels = [_pyramid(texture) for texture in mesh.textures]
        depth = max(len(pyramid) for pyramid in levels)
        self._sizes = np.ones((len(levels), depth, 2), dtype=int)  # height, width
        self._first = np.zeros((len(levels), depth), dtype=int)
        self._last_level = np.array([len(pyramid) - 1 for pyramid in levels])
        table, filled = [], 0
        for i, pyramid in enumerate(levels):
            for j, image in enumerate(pyramid):
                self._sizes[i, j], self._first[i, j] = image.shape[:2], filled
                table.append(image.reshape(-1, 4))
                filled += len(table[-1])
        self._table = np.concatenate(table)
        self._texture_ids, self._corner_uv = mesh.texture_ids, mesh.corner_uv

        edges = mesh.corner_uv[:, 1:] - mesh.corner_uv[:, :1]  # (T, 2, 2)
        texels = np.prod(self._sizes[self._texture_ids, 0], axis=1)
        uv_area = np.abs(edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0])
        self._texels_per_length = np.sqrt(uv_area * texels / double_area)  # (T,)

    def lookup(self, ids, u, v, width):
        """Texels (R, 4) in [0, 1] at barycentric (u, v) of triangles, averaged over about `width`."""
        texture = self._texture_ids[ids]
        level = np.log2(np.maximum(width * self._texels_per_length[ids], 1)).round().astype(int)
        level = np.minimum(level, self._last_level[texture])
        corners = self._corner_uv[ids]  # (R, 3, 2)
        uv = corners[:, 0] * (1 - u - v)[:, None] + corners[:, 1] * u[:, None] + corners[:, 2] * v[:, None]
        height, columns = self._sizes[texture, level].T
        column = np.floor(uv[:, 0] * columns).astype(int) % columns
        row = np.floor(-uv[:, 1] * height).astype(int) % height  # v counts from the bottom
        return self._table[self._first[texture, level] + row * columns + column]


def _pyramid(texture):
    """(H, W, 4) uint8 to a list of (h, w, 4) float32 in [0, 1], each half as large as the one before."""
    image = texture.astype(np.float32) / 255
    image[..., :3] *= image[..., 3:]  # averages must not take colour from where the texture is cut away
    images = [image]
    while max(image.shape[:2]) > 1:
        for axis in (0, 1):
            if image.shape[axis] > 1:
                even = image.shape[axis] // 2 * 2
                first, second = (np.take(image, np.arange(start, even, 2), axis) for start in (0, 1))
                image = (first + second) / 2
        images.append(image)
    return [np.concatenate([i[..., :3] / np.maximum(i[..., 3:], 1e-6), i[..., 3:]], axis=-1) for i in images]


def render(scene, cam2world, intrinsics, height, width):
    """One posed view.

    cam2world:  (4, 4) float32 tensor
    intrinsics: (3, 3) float32 tensor, in pixels of the image
    returns     rgba (H, W, 4) uint8, alpha straight and 0 beside the object; seg_labels (H, W) uint8
    """
    rgba = np.zeros((height, width, 4), dtype=np.uint8)
    seg_labels = np.zeros((height, width), dtype=np.uint8)
    rows, columns = _window(scene.bounds, cam2world, intrinsics, height, width)
    window = (rows.stop - rows.start, columns.stop - columns.start)
    if min(window) == 0:
        return rgba, seg_labels

    uv = geometry.pixel_grid(*window, PIXEL_CENTER) + torch.tensor([columns.start, rows.start])
    uv = (uv + torch.tensor(SAMPLES)[:, None]).flatten(0, 1)  # (5 R, 2)
    directions = geometry.rays(uv, cam2world, intrinsics)[0].double().numpy()
    origin = geometry.camera_centre(cam2world)[0].double().numpy()
    pixel_width = 1 / float(intrinsics[0, 0])
    ids, colours, _ = scene.cast(np.broadcast_to(origin, directions.shape), directions, pixel_width)

    hits = (ids >= 0).reshape(len(SAMPLES), *window)
    coverage = hits.mean(axis=0)  # (h, w)
    colour = colours.reshape(len(SAMPLES), *window, 3).sum(axis=0) / np.maximum(hits.sum(axis=0), 1)[..., None]
    rgba[rows, columns] = np.concatenate([colour, coverage[..., None]], axis=-1) * 255 + 0.5
    central = ids.reshape(len(SAMPLES), *window)[0]
    seg_labels[rows, columns] = np.where(central >= 0, scene.labels[central], 0)
    return rgba, seg_labels


def _window(bounds, cam2world, intrinsics, height, width):
    """Slices of rows and columns outside which no ray can meet the box `bounds` (2, 3)."""
    x, y, z = np.meshgrid(*bounds.T, indexing="ij")
    corners = torch.tensor(np.stack([x, y, z], axis=-1).reshape(-1, 3), dtype=torch.float32)
    in_camera = geometry.world_to_camera(corners, cam2world)
    if in_camera[:, 2].min() < 1e-3:  # beside or behind the camera: no bound
        return slice(0, height), slice(0, width)
    uv = geometry.project(in_camera, intrinsics).numpy()
    low = np.clip(np.floor(uv.min(axis=0)).astype(int) - 1, 0, [width, height])
    high = np.clip(np.ceil(uv.max(axis=0)).astype(int) + 1, low, [width, height])
    return slice(low[1], high[1]), slice(low[0], high[0])


def _import_embree():
    try:
        from embreex import mesh_construction, rtcore_scene
    except ImportError as error:
        raise util.InputError(
            f"rendering meshes needs Embree, but {error}; run `pip install -r requirements-data.txt`"
        ) from None
    return rtcore_scene, mesh_construction


def require_embree():
    """An InputError that says what to install, where Embree is missing."""
    _import_embree()
