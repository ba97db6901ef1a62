"""Deviations of this project's numbers from the published ones, a function per fixture of tests/data/parity.

    python -m tests.deviations [--device cuda]        prints a Markdown table; about a minute on two cores

Each function computes with the project's own code and returns {quantity: (largest deviation, allowed)}. Deviations are
absolute, or relative to the published number where the quantity says "rel."; those of gradients are relative to the
norm of that entry's gradient. test_parity.py asserts every one of them.

Limits: in float64 the two programs differ only in the order of additions. In float32 the limit is several times the
difference between float32 and float64 in the published program. The large limits of U-Nets and of training cannot be
avoided: a leaky ReLU that flips at one of the few pixels of a deep level moves that level's gradient by a percent,
and Adam's first steps are close to the sign of the gradient.
"""

import argparse
import contextlib
import functools
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import scenes
import torch

import data_util
import geometry
import srns
import util
from evaluation import metrics
from training import loop, losses

F32, F64 = torch.float32, torch.float64
WEIGHTS = dict(image=200, seg=8, latent=1, depth=0.001)  # of the loss terms
PARITY = Path(__file__).parent / "data" / "parity"
THREADS = 2  # on a CPU the last digits of float32 depend on it
CUDA_FACTOR = 10  # factor on the limits of float32 on a GPU; an estimate
LOOSE = 1e-2  # limits from here on are not widened for a GPU


class Parity:
    """Inputs, weights and results of the published implementations; see data/parity/README.md."""

    def __init__(self, folder):
        self.folder = folder
        spec = importlib.util.spec_from_file_location("parity_weights", folder / "weights.py")
        self.weights = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.weights)
        self.manifest = json.loads((folder / "manifest.json").read_text())

    def load(self, name):
        """{name: array} of `<name>.npz`."""
        with np.load(self.folder / f"{name}.npz") as arrays:
            return dict(arrays)

    def state(self, variant, dtype=None, aliases=False):
        """{published key: tensor} of a variant of the manifest; `dtype` converts the floats."""
        entries = self.manifest["variants"][variant]["state_dict"]
        arrays = self.weights.make_state([e for e in entries if aliases or not e.get("alias_of")])
        tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
        return {key: t.to(dtype) if dtype and t.is_floating_point() else t for key, t in tensors.items()}


@dataclass(frozen=True)
class Published:
    """The published numbers of one dtype, and ours computed on a device."""

    parity: object
    dtype: torch.dtype
    device: str = "cpu"

    def results(self, name):
        """{quantity: array} of this dtype."""
        return self.parity.load(f"{name}_f64" if self.dtype == F64 else name)

    def inputs(self, name):
        """{name: tensor}. They are stored in float32, and widened."""
        return {key: self.tensor(array) for key, array in self.parity.load(name).items() if array.dtype.kind in "fiu"}

    def tensor(self, array):
        tensor = torch.as_tensor(array)
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else None, copy=True)

    def batch(self, name):
        """The inputs of SRN.forward, and the targets."""
        given = self.inputs(name)
        if name == "srn_unet_renderer":  # too large to store
            target = self.parity.weights.uniform("srn_unet_renderer/target_rgb", (2, 16384, 3), -1, 1)[:1]
            given |= {"uv": self.tensor(geometry.pixel_grid(128, 128))[None], "target_rgb": self.tensor(target)}
        return {
            "instance_idx": given["instance_idx"],
            "uv": given["uv"].to(self.dtype),
            "cam2world": given["pose"],
            "intrinsics": given["intrinsics"][:, :3, :3],
            "rgb": given["target_rgb"],
            **({"seg_labels": given["target_seg"][..., 0]} if "target_seg" in given else {}),
        }

    def model(self, make, variant):
        """The module that `make` returns, in eval mode, with the weights of a variant."""
        with torch.device("meta"):  # skips the random initialisation
            model = make()
        state = {ours(key): self.tensor(tensor) for key, tensor in state_of(self.parity, variant).items()}
        model.load_state_dict(state, assign=True)
        return model.requires_grad_(True).eval()

    def absolute(self, computed, published, f64=1e-10, f32=1e-4, widen=True):
        """(largest difference, limit for this dtype and device)"""
        return largest(difference(computed, published)), self.allowed(f64, f32, widen)

    def relative(self, computed, published, f64=1e-10, f32=2e-5):
        """The same, relative to each published number, or absolute if that is 0."""
        size = torch.as_tensor(published, dtype=F64).abs()
        return largest(difference(computed, published) / torch.where(size > 0, size, 1.0)), self.allowed(f64, f32)

    def allowed(self, f64, f32, widen=True):
        if self.dtype == F64:
            return f64
        return CUDA_FACTOR * f32 if widen and f32 < LOOSE and self.device != "cpu" else f32


def ours(name):
    """The semantic program names the hypernetworks differently."""
    return name.replace("slave_params", "hypo_params")


@functools.lru_cache(maxsize=1)
def state_of(parity, variant):
    """{published key: float32 tensor}, up to 75 million numbers, which successive measurements share."""
    return parity.state(variant)


@functools.lru_cache(maxsize=1)
def probes_of(parity, variant):
    """{published name of a parameter: probe, by which its gradient is multiplied}."""
    entries = {entry["key"]: entry for entry in parity.manifest["variants"][variant]["state_dict"]}
    names = parity.manifest["variants"][variant]["parameter_order"]
    noise = {name: parity.weights.noise(f"probe/{name}", entries[name]["shape"], np.float64) for name in names}
    return {name: torch.from_numpy(array) for name, array in noise.items()}


def forget():
    state_of.cache_clear()
    probes_of.cache_clear()


def difference(computed, published):
    """|computed - published| in float64, of tensors, arrays or nested lists of floats of the same shape."""
    computed, published = (torch.as_tensor(x, dtype=F64).detach().cpu() for x in (computed, published))
    if computed.shape != published.shape:
        raise AssertionError(f"computed {tuple(computed.shape)}, published {tuple(published.shape)}")
    return (computed - published).abs()


def largest(deviations):
    """The maximum, or nan if there is one."""
    return torch.as_tensor(deviations, dtype=F64).max().item()


# Losses and gradients


def loss_terms(outputs, batch):
    """The unweighted terms, and the weighted total."""
    terms = {}
    if "rgb" in outputs:
        terms["image"] = losses.image_loss(outputs["rgb"], batch["rgb"])
        terms["depth"] = losses.depth_loss(outputs["depth"])
    if "z" in outputs:
        terms["latent"] = losses.latent_loss(outputs["z"])
    if "seg_logits" in outputs:
        terms["seg"] = losses.segmentation_loss(outputs["seg_logits"], batch["seg_labels"])
    return terms | {"total": sum(WEIGHTS[name] * term for name, term in terms.items())}


def loss_deviations(on, terms, published, prefix=""):
    names = [key for key in published if key.startswith(f"{prefix}loss_")]
    expected = {name.removeprefix(f"{prefix}loss_"): published[name].item() for name in names}
    if expected.keys() != terms.keys():
        raise AssertionError(f"computed losses {sorted(terms)}, published {sorted(expected)}")
    computed = [terms[name].item() for name in expected]
    return {"losses (rel.)": on.relative(computed, list(expected.values()))}


def gradient_deviations(on, model, variant, published, prefix="", unet="no such entry"):
    """Deviations of gradient norms and of products with a probe. unet: prefix of the names of the U-Net's entries."""
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    names = published[f"{prefix}grad_names"].tolist()
    if {ours(name) for name in names} != set(gradients):
        raise AssertionError(f"gradients of other entries: {sorted({ours(name) for name in names} ^ set(gradients))}")
    deviations = {"gradients (rel.)": [], "gradients of the U-Net (rel.)": []}
    for name, norm, dot in zip(names, published[f"{prefix}grad_norm"], published[f"{prefix}grad_dot"]):
        gradient = gradients[ours(name)].to_dense().double().cpu()
        found = [gradient.norm().item(), (gradient * probes_of(on.parity, variant)[name]).sum().item()]
        group = "gradients of the U-Net (rel.)" if name.startswith(unet) else "gradients (rel.)"
        deviations[group].append(largest(difference(found, [norm, dot])) / (norm or 1.0))
    allowed = {"gradients (rel.)": on.allowed(1e-9, 1e-3), "gradients of the U-Net (rel.)": on.allowed(1e-9, 5e-2)}
    return {group: (largest(found), allowed[group]) for group, found in deviations.items() if found}


# SRNs

SEMANTIC = dict(rgb_channels=4, num_classes=7)


def srn(on, variant, **sizes):
    return on.model(lambda: srns.SRN(4, **sizes), variant), on.batch(variant), on.results(variant)


def rendered(on, variant, unet="no such entry", **sizes):
    """Model and outputs in eval mode, the published results, and the deviations of losses and gradients."""
    model, batch, published = srn(on, variant, **sizes)
    outputs = model(batch)
    terms = loss_terms(outputs, batch)
    terms["total"].backward()
    found = loss_deviations(on, terms, published) | gradient_deviations(on, model, variant, published, unet=unet)
    return model, outputs, published, found


def srn_semantic(on):
    model, outputs, published, found = rendered(on, "srn_semantic", unet="class_generator.", **SEMANTIC)
    ray_stride = 64 if on.dtype == F64 else 8
    layers = model.hyper_phi(outputs["z"]).layers
    predicted = {"phi0_weights": layers[0][0], "phi0_biases": layers[0][1], "phi3_biases": layers[3][1]}
    same_name = ("rgb", "depth", "points", "depth_steps")
    return {
        **{name: on.absolute(outputs[name], published[name]) for name in same_name},
        "seg_logits": on.absolute(outputs["seg_logits"], published["seg"]),
        "features": on.absolute(outputs["features"][:, ::ray_stride], published["features"], f32=2e-4),
        "z": on.absolute(outputs["z"], published["z"], f64=0, f32=0),
        **{name: on.absolute(layer, published[name], f32=5e-6) for name, layer in predicted.items()},
        **found,
    }


def srn_semantic_train_mode(on):
    """Batch statistics in the U-Net, and the running statistics after them."""
    model, batch, published = srn(on, "srn_semantic", **SEMANTIC)
    outputs = model.train()(batch)
    terms = loss_terms(outputs, batch)
    terms["total"].backward()
    state = model.state_dict()
    running = [state[name].double().norm().item() for name in published["train_stat_names"]]
    return {
        "seg_logits": on.absolute(outputs["seg_logits"], published["train_seg"], f32=5e-4),
        **loss_deviations(on, terms, published, "train_"),
        **gradient_deviations(on, model, "srn_semantic", published, "train_", unet="class_generator."),
        "running statistics (rel.)": on.relative(running, published["train_stat_norm"]),
    }


def srn_semantic_large_loss(on):
    """1000 times the loss, so that the gradient of the ray marcher's hidden state is clamped."""
    model, batch, published = srn(on, "srn_semantic", **SEMANTIC)
    (1000 * loss_terms(model(batch), batch)["total"]).backward()
    return gradient_deviations(on, model, "srn_semantic", published, "clamp_", unet="class_generator.")


def srn_vanilla(on):
    _, outputs, published, found = rendered(on, "srn_vanilla")
    return {name: on.absolute(outputs[name], published[name]) for name in ("rgb", "depth")} | found


def srn_vanilla_random_start(on):
    """Rays start at the depths that the published program drew."""
    model, batch, published = srn(on, "srn_vanilla")
    initial_depth = on.inputs("srn_vanilla")["random_initial_depth"]
    with torch.no_grad():
        outputs = model(batch | {"initial_depth": initial_depth})
    found = {name: on.absolute(outputs[name], published[f"random_{name}"]) for name in ("rgb", "depth")}
    return found | loss_deviations(on, loss_terms(outputs, batch), published, "random_")


def srn_single(on):
    _, outputs, published, found = rendered(on, "srn_single", fit_single_srn=True)
    return {name: on.absolute(outputs[name], published[name]) for name in ("rgb", "depth")} | found


def srn_unet_renderer(on):
    _, outputs, published, found = rendered(on, "srn_unet_renderer", unet="pixel_generator.", use_unet_renderer=True)
    rgb, depth = (outputs[name].detach().unflatten(1, (128, 128)) for name in ("rgb", "depth"))
    per_channel = rgb.double().flatten(1, 2)
    return {
        "rgb, every 4th pixel": on.absolute(rgb[:, ::4, ::4], published["rgb"], f32=5e-5),
        "rgb, mean": on.absolute(per_channel.mean(dim=1), published["rgb_mean"], f32=5e-6),
        "rgb, standard deviation": on.absolute(per_channel.std(dim=1), published["rgb_std"], f32=5e-6),
        "depth, every 4th pixel": on.absolute(depth[:, ::4, ::4], published["depth"]),
        **found,
    }


# Training, in the project's own loop


def follow(model, batch, optimizers, num_steps, after_step=lambda: None):
    """Train on one batch. returns, for each step, the losses before it {name: float}, and the results of after_step."""
    before, after = [], []

    def losses_of(batch):
        terms = loss_terms(model(batch), batch)
        before.append({name: term.item() for name, term in terms.items()})
        return {"total": terms["total"]}

    run = SimpleNamespace(to_device=lambda batch: batch, after_step=lambda *_: after.append(after_step()))
    loop.fit(losses_of, [batch] * num_steps, optimizers, run)
    return before, after


def columns(rows, *names):
    return [[row[name] for name in names] for row in rows]


def code_optimizer(model):
    return torch.optim.SparseAdam([model.latent_codes.weight], lr=4e-4, betas=(0.5, 0.5), eps=1e-5)


def network_optimizer(parameters):
    return torch.optim.Adam(parameters, lr=4e-4, fused=True)


def pretraining(on):
    """Four steps of every network and the codes.

    Codes move by little more than the learning rate per step, so a wider limit would detect nothing.
    """
    model, batch, _ = srn(on, "srn_semantic", **SEMANTIC)
    published = on.results("train_trace")
    optimizers = [code_optimizer(model), network_optimizer(model.networks())]
    rows, _ = follow(model.train(), batch, optimizers, num_steps=4)
    computed, expected = columns(rows, "image", "seg", "latent", "depth", "total"), published["train_losses"]
    before, after = state_of(on.parity, "srn_semantic"), model.state_dict()
    names = published["train_param_names"].tolist()
    change = [(after[ours(name)].double().cpu() - before[name]).norm().item() for name in names]
    return {
        "losses before the first step (rel.)": on.relative(computed[0], expected[0], f64=1e-8, f32=1e-5),
        "losses before steps 2 to 4 (rel.)": on.relative(computed[1:], expected[1:], f64=1e-8, f32=5e-2),
        "latent codes": on.absolute(
            model.latent_codes.weight, published["train_latent_codes"], f64=1e-8, f32=8e-4, widen=False
        ),
        "norm of each entry's change (rel.)": on.relative(change, published["train_delta_norm"], f64=1e-8, f32=0.2),
    }


def latent_fitting(on):
    """Five steps of the codes alone."""
    model, batch, _ = srn(on, "srn_semantic", **SEMANTIC)
    published = on.results("train_trace")
    model.freeze_networks()
    rows, codes = follow(
        functools.partial(model, with_classes=False),
        batch,
        [code_optimizer(model)],
        num_steps=5,
        after_step=lambda: model.latent_codes.weight.detach().clone(),
    )
    computed = columns(rows, "image", "latent", "depth", "total")
    return {
        "losses (rel.)": on.relative(computed, published["fit_losses"], f64=1e-9, f32=1e-3),
        "latent codes": on.absolute(torch.stack(codes), published["fit_latent_codes"], f64=1e-9, f32=4e-4, widen=False),
    }


# Heads and the U-Net baseline


def head(on, kind):
    """Logits and gradients, and five steps of learning."""
    variant = f"{kind}_head"
    given, published = on.inputs(variant), on.results(variant)
    model = on.model(lambda: srns.HEADS[kind](256, 7), variant)
    batch = {"features": given["features"], "seg_labels": given["target_seg"][..., 0]}

    def logits(batch):
        return {"seg_logits": model(batch["features"])}

    terms = loss_terms(logits(batch), batch)
    terms["total"].backward()
    before = {
        "seg_logits": on.absolute(logits(batch)["seg_logits"], published["seg"], f32=2e-5),
        "loss (rel.)": on.relative(terms["seg"], published["loss_seg"]),
        **gradient_deviations(on, model, variant, published),
    }
    rows, _ = follow(logits, batch, [network_optimizer(model.parameters())], num_steps=5)
    return before | {
        "losses of five steps (rel.)": on.relative([row["seg"] for row in rows], published["update_losses"]),
        "seg_logits after them": on.absolute(logits(batch)["seg_logits"], published["seg_after_update"], f32=2e-5),
    }


def unet_seg(on):
    published, weights = on.results("unet_seg"), on.parity.weights
    model = on.model(lambda: srns.HEADS["unet"](4, 7), "unet_seg")
    rgba = util.as_rays(on.tensor(weights.uniform("unet_seg/input", (2, 4, 128, 128), -1, 1)))
    seg_labels = on.tensor(weights.integers("unet_seg/target_seg", (2, 16384, 1), 7))[..., 0]
    seg_logits = model(rgba)
    loss = losses.segmentation_loss(seg_logits, seg_labels)
    loss.backward()
    strided, per_class = util.as_image(seg_logits)[..., ::4, ::4], seg_logits.detach().double()
    return {
        "seg_logits, every 4th pixel": on.absolute(strided, published["logits"], f32=5e-5),
        "seg_logits, mean": on.absolute(per_class.mean(dim=1), published["logits_mean"], f32=5e-6),
        "seg_logits, standard deviation": on.absolute(per_class.std(dim=1), published["logits_std"], f32=5e-6),
        "loss (rel.)": on.relative(loss, published["loss_seg"]),
        **gradient_deviations(on, model, "unet_seg", published, unet="unet."),
    }


# Cameras, scores, files


def cameras(on):
    given, published = on.inputs("geometry"), on.results("geometry")
    uv, depth, pose = given["uv"].to(on.dtype), given["depth"], given["pose"]
    intrinsics = given["intrinsics"][:, :3, :3]
    in_camera = geometry.lift(uv, depth, intrinsics)
    world = scenes.camera_to_world(in_camera, pose)
    in_front = world + world.new_tensor([0, 0, 4])  # the fixture takes these for camera-space points
    computed = {
        "ray_directions": geometry.rays(uv, pose, intrinsics)[0],
        "ray_directions_cam": geometry.rays(uv, torch.eye(4).to(pose), intrinsics)[0],
        "world_from_xy_depth": world,
        "depth_from_world": geometry.world_to_camera(world, pose)[..., 2:],
        "project": torch.cat([geometry.project(in_front, intrinsics), in_front[..., 2:]], dim=-1),
        "normal_map": geometry.normal_map(in_camera.mT.unflatten(2, (16, 16))),
    }
    # The published normals are v x u of two unit vectors, not brought to unit length, and point away from the camera.
    normals = published["normal_map"]
    published["normal_map"] = -normals / np.linalg.norm(normals, axis=1, keepdims=True)
    return {name: on.absolute(found, published[name], f64=1e-12, f32=5e-6) for name, found in computed.items()}


def scores(on):
    given, published = on.inputs("metrics"), on.parity.load("metrics")
    result = {}
    for name, channels in (("rgb", 3), ("rgba", 4)):
        images = [util.as_image(given[key][..., :channels]) for key in ("pred_rgb", "target_rgb")]
        for score in (metrics.psnr, metrics.ssim):
            key = f"{score.__name__}_{name}"
            expected = published[f"{key}_f64" if on.dtype == F64 else key]
            result[key] = on.absolute(score(*images), expected, f64=1e-9, f32=1e-5)
    confusion = metrics.confusion_matrix(given["logits"].argmax(dim=-1), given["labels"][..., 0], 7)
    per_image, of_all = metrics.mean_iou(confusion), confusion.sum(dim=0)
    hits = of_all.diagonal()
    computed = {
        "image_miou": per_image,
        "miou": per_image.mean(),
        "part_intersection": hits,
        "part_union": of_all.sum(dim=0) + of_all.sum(dim=1) - hits,
        "part_iou": metrics.iou_per_class(of_all),  # of classes with a union: all of them here
        "category_miou": metrics.mean_iou(of_all),
    }
    for name, found in computed.items():
        limit = 1e-12 if published[name].dtype == np.float64 else 1e-6
        result[name] = on.absolute(found, published[name], f64=limit, f32=limit)
    return result


def files(on):
    """Always in float32. Published vanilla images keep the colour of transparent pixels; ours are white there."""
    published, folder = on.parity.load("image_io"), on.parity.folder / "files"

    def pixels(loader, name, side, channels, foreground_only=False):
        image, foreground = data_util.load_image(folder / f"{name}.png", side)
        image = data_util.compose(image) if image.dtype == np.uint8 else image
        where = foreground if foreground_only else np.ones_like(foreground)
        expected = published[f"{loader}/{name}/{side}"].transpose(1, 2, 0)
        return largest(difference(image[where][:, :channels], expected[where]))

    result, wrong_labels = {}, 0
    for side in (None, 16, 20, 64):
        rgba = largest([pixels("semantic", name, side, 4) for name in ("rgba_40x28", "rgba_33x47")])
        result[f"rgba, side {side}"] = rgba, 1e-6
        result[f"rgb, side {side}"] = pixels("vanilla", "rgb_30x30", side, 3), 1e-6
        for name in ("seg_40x28", "seg_33x47"):
            labels = data_util.load_seg_labels(folder / f"{name}.npy", side)
            wrong_labels += difference(labels, published[f"seg/{name}/{side}"]).count_nonzero().item()
    foreground = [pixels("vanilla", name, None, 3, foreground_only=True) for name in ("rgba_40x28", "rgba_33x47")]
    return result | {"rgb of rgba, foreground": (largest(foreground), 1e-6), "wrong labels": (wrong_labels, 0)}


FIXTURES = {
    "geometry": cameras,
    "metrics": scores,
    "image_io": files,
    "linear_head": functools.partial(head, kind="linear"),
    "mlp_head": functools.partial(head, kind="mlp"),
    "srn_semantic": srn_semantic,
    "srn_semantic, train mode": srn_semantic_train_mode,
    "srn_semantic, 1000 x loss": srn_semantic_large_loss,
    "train_trace, pretraining": pretraining,
    "train_trace, latent fitting": latent_fitting,
    "srn_vanilla": srn_vanilla,
    "srn_vanilla, random start": srn_vanilla_random_start,
    "srn_single": srn_single,
    "srn_unet_renderer": srn_unet_renderer,
    "unet_seg": unet_seg,
}


def dtypes_of(fixture):
    return [F32] if fixture == "image_io" else [F64, F32]


def measure(parity, fixture, dtype, device="cpu"):
    """{quantity: (largest deviation, allowed)} of one of FIXTURES."""
    with full_float32():
        return FIXTURES[fixture](Published(parity, dtype, device))


@contextlib.contextmanager
def full_float32():
    """Turns TF32 off, which multiplies with 10 bits of mantissa."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


@util.command
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    device = str(util.pick_device(parser.parse_args(argv).device))
    torch.set_num_threads(THREADS)
    parity = Parity(PARITY)
    print(f"PyTorch {torch.__version__}, {device}, {THREADS} threads. In bold: more than is allowed.\n")
    print("| fixture | quantity | float64 | allowed | float32 | allowed |\n|---|---|---|---|---|---|")
    for fixture in FIXTURES:
        found = {dtype: measure(parity, fixture, dtype, device) for dtype in dtypes_of(fixture)}
        for quantity in found[F32]:
            cells = [cell for dtype in (F64, F32) for cell in cells_of(found.get(dtype, {}).get(quantity))]
            print(f"| {fixture} | {quantity} | {' | '.join(cells)} |", flush=True)


def cells_of(entry):
    if entry is None:
        return "", ""
    deviation, allowed = (f"{number:.1e}" if number else "0" for number in entry)
    return deviation if entry[0] <= entry[1] else f"**{deviation}**", allowed


if __name__ == "__main__":
    main()
