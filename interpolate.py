"""Interpolate: go from one object's latent code to the next while a camera goes round, and film it.

Below `<logging_root>/<log_dir>`: `rgb/ seg/ normals/ comparison/` with a PNG per frame, `rgb.mp4` (or .gif) and so
on for each of them, `params.txt`.
"""

import argparse

import imageio.v3 as iio
import torch
from tqdm import tqdm

import checkpoints
import data_util
import dataio
import geometry
import options as common
import util
import visual
from evaluation import picture_files, videos
from rendering import renderer

ELEVATION_DEG, UP = 20, "z"  # of an orbit, where the user leaves them open
SHOWN = ("rgb", "seg", "normals")  # side by side, in this order
GIF_FPS = 50  # at more, players slow a GIF down


def elevation(text):
    value = float(text)
    if not -89 <= value <= 89:
        raise argparse.ArgumentTypeError(f"expected degrees from -89 to 89, found {value:g}")
    return value


def build_parser():
    parser = common.parser(__doc__.splitlines()[0])
    parser.add("-c", "--config_filepath", is_config_file=True, help="YAML file of options; the command line wins")

    group = parser.add_argument_group("what is shown")
    group.add("--checkpoint_path", required=True, help="SRN with codes of the instances: a .pth file or a folder")
    group.add(
        "--linear_path", help="a head for the classes: a .pth file or a folder (default: the SRN's own U-Net, if it has one)"
    )
    group.add(
        "--specific_ins",
        type=common.comma_separated(str),
        help="names of the instances to go through, in "
        "this order, with commas; A,B,A comes back (default: the checkpoint's first two)",
    )
    group.add(
        "--tracing_steps", type=common.positive, help="steps of the ray marcher, for published checkpoints of other than 10"
    )

    group = parser.add_argument_group("camera")
    group.add(
        "--data_root",
        required=True,
        help="split folder whose cameras are used; its folders name the codes of a published checkpoint",
    )
    group.add(
        "--path",
        choices=("orbit", "views"),
        default="orbit",
        help="orbit: a full turn about the point "
        "that the first instance's cameras look at, at their mean distance; views: these cameras "
        "themselves, in order, spread evenly over the frames",
    )
    group.add("--elevation_deg", type=elevation, help=f"orbit: angle above the horizon (default: {ELEVATION_DEG})")
    group.add("--up", choices=("x", "y", "z"), help=f"orbit: the world's axis that points up (default: {UP})")

    group = parser.add_argument_group("frames")
    group.add("--num_frames", type=common.at_least(2), default=60, help="how many, over all instances")
    group.add("--img_sidelength", type=common.at_least(3), default=128, help="side of the rendered images")
    group.add("--batch_size", type=common.positive, default=32, help="images rendered at once")
    group.add(
        "--format",
        choices=("mp4", "gif", "none"),
        help="of the films (default: mp4 where imageio-ffmpeg is installed, else gif)",
    )
    group.add("--fps", type=common.positive, default=20, help="frames per second of the films")
    group.add("--logging_root", default="./logs", help="all runs are below this folder")
    group.add("--log_dir", required=True, help="folder of this run below --logging_root")
    group.add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    common.add_fused(group)
    return parser


def read_options(argv):
    parser = build_parser()
    options = parser.parse_args(argv)
    num_named = 2 if options.specific_ins is None else len(options.specific_ins)
    if num_named < 2:
        parser.error("--specific_ins: expected two names or more, with commas between them")
    if options.num_frames < num_named:
        parser.error(f"--num_frames {options.num_frames}: too few to go through {num_named} instances")
    if options.path == "views" and (options.elevation_deg is not None or options.up):
        parser.error("--elevation_deg and --up are for --path orbit: leave them out")
    if options.format is None:
        options.format = "mp4" if videos.can_write_mp4() else "gif"
    if options.format == "mp4" and not videos.can_write_mp4():
        parser.error("--format mp4 needs ffmpeg: pip install -r requirements-video.txt, or choose --format gif")
    if options.format == "gif" and options.fps > GIF_FPS:
        parser.error(f"--fps {options.fps}: a GIF shows {GIF_FPS} frames a second at most")
    return options


def blend(codes, num_frames):
    """Codes (F, D) on the straight lines from each code of (N, D) to the next, the first and the last included.

    Each leg is eased in and out, s = 3 t^2 - 2 t^3, so that the film lingers at every instance.
    """
    position = torch.linspace(0, len(codes) - 1, num_frames).to(codes)
    leg = position.long().clamp(max=len(codes) - 2)
    t = position - leg
    return torch.lerp(codes[leg], codes[leg + 1], (t**2 * (3 - 2 * t))[:, None])


def read_cameras(options):
    """Intrinsics and poses (V, 4, 4) of the first named instance that the split has, else of the split's first."""
    folders = dataio.instance_folders(options.data_root)
    of_name = {folder.name: folder for folder in folders}
    found = [of_name[name] for name in options.specific_ins if name in of_name]
    if not found:
        print(f"note: {options.data_root} has none of these instances; the cameras are those of {folders[0].name}")
    folder = (found or folders)[0]
    intrinsics = data_util.load_intrinsics(folder / "intrinsics.txt")
    paths = sorted((folder / "pose").glob("*.txt"))
    if not paths:
        raise util.InputError(f"{folder}: no poses; expected {folder}/pose/*.txt")
    poses = [torch.from_numpy(data_util.load_pose(path, intrinsics.poses_are_world2cam)) for path in paths]
    return intrinsics, torch.stack(poses)


def camera_path(options, poses):
    """cam2world (F, 4, 4) of the frames, from poses (V, 4, 4)."""
    if options.path == "views":
        spread = torch.linspace(0, len(poses) - 1, options.num_frames).round().long()
        return poses[spread]
    elevation_deg = ELEVATION_DEG if options.elevation_deg is None else options.elevation_deg
    target, distance = geometry.viewing_target(poses), geometry.viewing_distance(poses)
    return geometry.orbit(target, distance, elevation_deg, options.num_frames, options.up or UP)


def open_model(options, device):
    """The checkpoint with its instances' names, its SRN, and the head or None; refused where they cannot serve."""
    checkpoint = checkpoints.load(options.checkpoint_path)
    model = checkpoints.load_srn(checkpoint, tracing_steps=options.tracing_steps).to(device).eval()
    if model.latent_codes is None:
        raise util.InputError(f"{checkpoint['path']}: holds no latent codes to interpolate between; give an SRN of a class")
    head = None
    if options.linear_path:
        head = checkpoints.load_head(checkpoints.load(options.linear_path), model).to(device).eval()
    renderer.expect_side(options.img_sidelength, model, head)
    folders = [folder.name for folder in dataio.instance_folders(options.data_root)]
    return checkpoints.with_names(checkpoint, folders, options.data_root), model, head


@util.command
def main(argv=None):
    util.expect_one_process("interpolate.py")
    options = read_options(argv)
    util.keep_freed_memory()
    device = util.pick_device(options.device)
    common.use_fused(options, device)
    checkpoint, model, head = open_model(options, device)
    options.specific_ins = options.specific_ins or checkpoint["instances"][:2]
    if len(options.specific_ins) < 2:
        raise util.InputError(f"{checkpoint['path']}: holds one latent code only; interpolation needs two")
    rows = checkpoints.rows_of(checkpoint, options.specific_ins, "--specific_ins")
    intrinsics, poses = read_cameras(options)
    side = options.img_sidelength
    frames = {
        "z": blend(model.latent_codes.weight.detach()[rows], options.num_frames),
        "cam2world": camera_path(options, poses).to(device),
    }
    view = {
        "uv": geometry.pixel_grid(side, side, checkpoints.settings_of(checkpoint).pixel_center, device),
        "intrinsics": torch.from_numpy(intrinsics.matrix(side)).to(device),
    }
    folder = common.start_run(options)
    kinds = render_frames(options, model, head, frames, view, folder)
    if options.format != "none":
        write_films(options, kinds, folder)


@torch.inference_mode()
def render_frames(options, model, head, frames, view, folder):
    """Render every frame in order and write its pictures; returns the names of their folders.

    frames: z (F, D) and cam2world (F, 4, 4); view: uv (R, 2) and intrinsics (3, 3), the same for all frames
    """
    with picture_files.PictureWriter() as writer, tqdm(total=options.num_frames, unit="frame") as bar:
        for indices in torch.arange(options.num_frames).split(options.batch_size):
            batch = {name: tensor[indices] for name, tensor in frames.items()}
            batch |= {name: tensor.expand(len(indices), -1, -1) for name, tensor in view.items()}
            outputs = renderer.render(model, batch, head)
            for i, index in enumerate(indices.tolist()):
                num_classes = outputs["seg_logits"].shape[-1] if "seg_logits" in outputs else None
                pictures = visual.of_observation(outputs, batch, i, num_classes)
                pictures["comparison"] = visual.strip([pictures[kind] for kind in SHOWN if kind in pictures])
                for kind, picture in pictures.items():
                    writer.write(folder / kind / frame_name(index), picture)
            bar.update(len(indices))
    return list(pictures)


def frame_name(index):
    return f"{index:06d}.png"


def write_films(options, kinds, folder):
    """A film of each kind of pictures, read back from their folder."""
    for kind in kinds:
        pictures = (iio.imread(folder / kind / frame_name(i)) for i in range(options.num_frames))
        videos.write(folder / f"{kind}.{options.format}", pictures, options.fps)
    print(f"film: {folder / f'comparison.{options.format}'}")


if __name__ == "__main__":
    main()
