"""Whole models: the Scene Representation Network, and the heads that read classes off its features.

Papers: SRN (Sitzmann et al., NeurIPS 2019); Semantic SRN (Kohli et al., 3DV 2020).
Attribute names are part of the checkpoint format: they give the published state-dict keys.
"""

import torch
from torch import nn

import custom_layers
import geometry
import hyperlayers
import unet
import util
from kernels.encoding import Encoding

CODE_STD = 0.01  # of fresh latent codes
NUM_LAYERS = 4  # of phi
CLASS_UNET_DOWN = 4  # down-samplings of the segmentation U-Net


class SRN(nn.Module):
    """Latent code -> hypernetwork -> phi; march rays through phi; features at the surface -> colour (and class).

    num_instances:   rows of the latent table
    latent_dim:      D, size of a latent code; also the width of the hypernetworks
    hidden_features: C, width of phi and of the colour head
    tracing_steps:   S, steps of the ray marcher
    rgb_channels:    3, or 4 for the published semantic system's RGBA
    num_classes:     K with a segmentation U-Net on the image of features, None without
    fit_single_srn:  one object only: phi is a network of its own, without codes and hypernetwork
    has_params:      codes come with the batch, there is no table
    use_unet_renderer: colours come from a U-Net on the image of features, not ray by ray
    positional_encoding: L, octaves of sines and cosines of the points that phi reads beside the points; 0 as published
    scene_radius:    in world units; half a period of the first octave

    `sizes` holds these arguments; a checkpoint keeps them, so that a model can be built from the file alone.
    """

    ADDED_SIZES = dict(positional_encoding=0, scene_radius=1.0)  # their values where a file does not store them

    def __init__(
        self,
        num_instances,
        latent_dim=256,
        hidden_features=256,
        tracing_steps=10,
        rgb_channels=3,
        num_classes=None,
        fit_single_srn=False,
        has_params=False,
        use_unet_renderer=False,
        positional_encoding=0,
        scene_radius=1.0,
    ):
        arguments = dict(locals())  # before other names exist
        super().__init__()
        self.sizes = {name: size for name, size in arguments.items() if name not in ("self", "__class__")}
        encoding = Encoding(positional_encoding, scene_radius)
        self.frozen = False
        self.latent_codes = self.hyper_phi = self.phi = self.class_generator = None
        if fit_single_srn:
            self.phi = custom_layers.FCBlock(3, hidden_features, 4, encoding=encoding)
        else:
            if not has_params:
                self.latent_codes = fresh_codes(num_instances, latent_dim)
            self.hyper_phi = hyperlayers.HyperPhi(latent_dim, latent_dim, hidden_features, encoding=encoding)
        self.ray_marcher = custom_layers.RayMarcher(hidden_features, num_steps=tracing_steps)
        if use_unet_renderer:
            self.pixel_generator = unet.UNetRenderer(hidden_features, rgb_channels)
        else:
            self.pixel_generator = custom_layers.FCBlock(hidden_features, hidden_features, 5, rgb_channels)
        if num_classes is not None:
            self.class_generator = unet.UNet(
                hidden_features, num_classes, num_down=CLASS_UNET_DOWN, base_channels=64, max_channels=128
            )

    def without_autocast(self):
        """A context in float32, for geometry and for the weights of phi, for which bfloat16 is too coarse."""
        return torch.autocast(self.ray_marcher.out_layer.bias.device.type, enabled=False)

    def scene(self, batch):
        """The codes z (B, D) of a batch, None of a single SRN, and phi, (B, R, 3) -> (B, R, C).

        batch: instance_idx (B,) int64; or instances (M,) with instance_of (B,), as dataio.collate gives them, where the
            hypernetwork runs once per instance; or z (B, D), codes that replace those of the table
        """
        if self.phi is not None:
            return None, self.phi
        with self.without_autocast():
            if "z" in batch:
                return batch["z"], self.hyper_phi(batch["z"])
            if "instances" not in batch:
                z = self.latent_codes(batch["instance_idx"])
                return z, self.hyper_phi(z)
            codes = self.latent_codes(batch["instances"])
            z = codes.index_select(0, batch["instance_of"])  # not `[]`, see Phi.of_views
            return z, self.hyper_phi(codes).of_views(batch["instance_of"])

    def surface(self, batch, scene=None, with_layers=False):
        """March the rays of a batch to the surface and read phi there.

        batch: uv (B, R, 2), cam2world (B, 4, 4), intrinsics (B, 3, 3), and what `scene` needs; initial_depth (B, R, 1) to
            start from depths of one's own; or, in place of the three, rays: geometry.Rays of B x R rays
        scene: z and phi where they are known
        with_layers: whether the features of all layers of phi are wanted
        returns a dict of
            z           (B, D) latent codes; none of a single SRN
            points      (B, R, 3) surface points in world space
            depth       (B, R, 1) of these points
            depth_steps (S, B, R, 1) depth after each march step
            features    (B, R, C) phi at the surface points, the output of its last layer
            layers      (B, R, 4 C) the outputs of all its layers, the first one first; only with_layers
        """
        z, phi = scene or self.scene(batch)
        with self.without_autocast():
            rays = batch["rays"] if "rays" in batch else geometry.cast(batch["uv"], batch["cam2world"], batch["intrinsics"])
        points, depth_steps = self.ray_marcher.march(phi, rays, batch.get("initial_depth"))
        outputs = {"points": points, "depth": depth_steps[-1], "depth_steps": depth_steps}
        if with_layers:
            layers = phi.all_layers(points)
            outputs |= {"layers": torch.cat(layers, dim=-1), "features": layers[-1]}
        else:
            outputs["features"] = phi(points)
        return outputs if z is None else outputs | {"z": z}

    def per_ray(self, batch, scene=None, head=None, with_layers=False):
        """As `surface`, plus rgb (B, R, 3 or 4) where colours do not need whole images.

        head: a FeatureHead, which adds its seg_logits (B, R, K), or None
        """
        outputs = self.surface(batch, scene, with_layers or head is not None and head.reads_layers)
        if head is not None:
            outputs["seg_logits"] = head(head.inputs(outputs))
        if not self.sizes["use_unet_renderer"]:
            outputs["rgb"] = self.pixel_generator(outputs["features"]).to(outputs["depth"])
        return outputs

    def per_image(self, features, with_classes=True):
        """What needs the features (B, R, C) of whole, square images: a dict of seg_logits and rgb, where U-Nets give them."""
        outputs = {}
        if self.sizes["use_unet_renderer"]:
            outputs["rgb"] = util.as_rays(self.pixel_generator(util.as_image(features)))
        if self.class_generator is not None and with_classes:
            outputs["seg_logits"] = util.as_rays(self.class_generator(util.as_image(features)))
        return outputs

    def forward(self, batch, with_classes=True):
        """As `surface`, plus rgb (B, R, 3 or 4) in about [-1, 1] and, with the U-Net, seg_logits (B, R, K).

        The U-Nets need the rays of whole, square images; `with_classes=False` leaves the segmentation out.
        """
        outputs = self.per_ray(batch)
        return outputs | self.per_image(outputs["features"], with_classes)

    def compile_rays(self):
        """Have torch.compile fuse the operations on every ray. Results and state dict stay the same."""
        self.ray_marcher.compile_step()
        if not self.sizes["use_unet_renderer"]:
            self.pixel_generator.forward = torch.compile(self.pixel_generator.forward)

    def side_multiple(self, with_classes=True):
        """The number of which a whole image's side must be a multiple: 1 where every ray stands for itself."""
        multiple = 2**CLASS_UNET_DOWN if self.class_generator is not None and with_classes else 1
        return max(multiple, self.pixel_generator.side_multiple if self.sizes["use_unet_renderer"] else 1)

    def networks(self):
        """Every parameter but the latent codes."""
        return [p for name, p in self.named_parameters() if not name.startswith("latent_codes.")]

    def freeze_networks(self):
        """Leave only the latent codes to learn: the networks take no gradient and stay in eval mode for good."""
        for parameter in self.networks():
            parameter.requires_grad_(False)
        self.frozen = True
        self.eval()

    def train(self, mode=True):
        return super().train(mode and not self.frozen)

    def new_codes(self, num_instances, start=None):
        """Replace the latent table: each code near `start` (D,), or near 0 where there is none."""
        weight = self.latent_codes.weight
        self.latent_codes = fresh_codes(num_instances, weight.shape[1]).to(weight.device)
        if start is not None:
            with torch.no_grad():
                self.latent_codes.weight += start
        self.sizes["num_instances"] = num_instances


def fresh_codes(num_instances, latent_dim):
    """A table (N, D) of codes near 0."""
    codes = nn.Embedding(num_instances, latent_dim, sparse=True)
    nn.init.normal_(codes.weight, std=CODE_STD)
    return codes


class FeatureHead(nn.Module):
    """A head that reads features, ray by ray: (..., I) -> (..., K).

    features: "last": those of phi's last layer, as published; "all": those of all its layers; "points+all": the surface
        point beside them
    """

    FEATURES = ("last", "all", "points+all")
    reads, side_multiple = "features", 1  # which of an SRN's outputs, and see SRN.side_multiple

    def __init__(self, in_features, num_classes, features):
        super().__init__()
        self.in_features, self.num_classes, self.features = in_features, num_classes, features

    @property
    def reads_layers(self):
        return self.features != "last"

    def inputs(self, outputs):
        """What the head reads of the outputs of SRN.surface, (..., I)."""
        if not self.reads_layers:
            return outputs["features"]
        points = [outputs["points"].to(outputs["layers"])] if self.features == "points+all" else []
        return torch.cat([*points, outputs["layers"]], dim=-1)

    @classmethod
    def num_inputs(cls, sizes, features="last"):
        """I, the numbers per ray that such a head reads of an SRN of these sizes."""
        width = sizes["hidden_features"]
        return {"last": width, "all": NUM_LAYERS * width, "points+all": 3 + NUM_LAYERS * width}[features]


class LinearHead(FeatureHead):
    """One linear layer from features to classes: the semantic update of the paper."""

    def __init__(self, in_features, num_classes, features="last"):
        super().__init__(in_features, num_classes, features)
        self.linear = nn.Linear(in_features, num_classes)
        custom_layers.init_linear(self.linear)

    def forward(self, features):
        return self.linear(features)


class MLPHead(FeatureHead):
    """Four hidden layers of the features' width between features and classes."""

    def __init__(self, in_features, num_classes, features="last"):
        super().__init__(in_features, num_classes, features)
        self.mlp = custom_layers.FCBlock(in_features, in_features, 4, num_classes)

    def forward(self, features):
        return self.mlp(features)


class UNetBaseline(nn.Module):
    """SRN + U-Net, which the paper compares with: a 2-D U-Net from the rendered image to classes.

    rgb of whole, square images (B, R, 3 or 4) -> (B, R, K). The side is a multiple of 128.
    """

    SIZES = dict(num_down=7, base_channels=64, max_channels=512, dropout=0.2)
    reads = "rgb"

    def __init__(self, in_features, num_classes):
        super().__init__()
        self.num_classes = num_classes
        self.side_multiple = 2 ** self.SIZES["num_down"]
        self.unet = unet.UNet(in_features, num_classes, **self.SIZES)

    def forward(self, rgb):
        return util.as_rays(self.unet(util.as_image(rgb)))

    @classmethod
    def num_inputs(cls, sizes):
        """The channels of the image of an SRN of these sizes."""
        return sizes["rgb_channels"]


HEADS = {"linear": LinearHead, "mlp": MLPHead, "unet": UNetBaseline}
