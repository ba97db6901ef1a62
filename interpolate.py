"""Interpolates between latent codes while a camera moves, and writes pictures and videos.

Writes to `<logging_root>/<log_dir>`: `rgb/ seg/ normals/ comparison/` with a PNG per frame, a video of each of them
(`rgb.mp4` or `rgb.gif`, ...), `params.txt`.
"""

import options as common  # first: it reports a missing package in one sentence

# isort: split

import imageio.v3 as iio
import torch
from tqdm import tqdm

import checkpoints
import dataio
import geometry
import util
import visual
from evaluation import picture_writer, videos
from options import at_least, comma_separated, positive_int
from rendering import renderer
from runs import folders, resuming, stopping

PROGRAM = "interpolate.py"
ELEVATION_DEG, UP = 20, "z"  # defaults of an orbit
SHOWN = ("rgb", "seg", "normals")  # side by side, in this order
GIF_FPS = 50  # players slow faster GIFs down


def build_parser():
    parser = common.parser(__doc__.splitlines()[0])
    parser.add("-c", "--config_filepath", is_config_file=True, help="YAML file of options; the command line wins")

    group = parser.add_argument_group("model and instances")
    group.add("--checkpoint_path", required=True, help="SRN with codes of the instances: a .pth file or its folder")
    group.add("--linear_path", help="head that predicts classes: a .pth file or its folder (default: the SRN's own U-Net)")
    group.add("--specific_ins", type=comma_separated(str), help="instances in order, such as A,B,A (default: first two)")
    group.add("--tracing_steps", type=positive_int, help="steps of the ray marcher; published checkpoints do not store it")

    group = parser.add_argument_group("camera")
    group.add("--data_root", required=True, help="split folder, whose cameras are used; it names codes without names, too")
    group.add("--path", choices=("orbit", "views"), default="orbit", help="around the object, or through its cameras' poses")
    degrees = common.number("degrees from -89 to 89", lambda angle: -89 <= angle <= 89)
    group.add("--elevation_deg", type=degrees, help=f"orbit: angle above the horizon (default: {ELEVATION_DEG})")
    group.add("--up", choices=("x", "y", "z"), help=f"orbit: axis of the world that points up (default: {UP})")

    group = parser.add_argument_group("frames")
    group.add("--num_frames", type=at_least(2), default=60, help="frames of the whole video")
    group.add("--img_sidelength", type=at_least(3), default=128, help="side of the rendered images, in pixels")
    group.add("--batch_size", type=positive_int, default=32, help="images rendered at once")
    formats = ("mp4", "gif", "none")
    group.add("--format", choices=formats, help="of the videos; none: pictures only (default: mp4 if possible, else gif)")
    group.add("--fps", type=positive_int, default=20, help="frames per second of the videos")
    group.add("--logging_root", default="./logs", help="parent folder of all runs")
    group.add("--log_dir", required=True, help="folder of this run, relative to --logging_root")
    common.add_resume(group)
    group.add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    common.add_fused(group)
    return parser


def read_options(argv):
    parser = build_parser()
    options = parser.parse_args(argv)
    num_named = 2 if options.specific_ins is None else len(options.specific_ins)
    if num_named < 2:
        parser.error("--specific_ins: expected two or more names, with commas between them")
    if options.num_frames < num_named:
        parser.error(f"--num_frames {options.num_frames}: expected at least {num_named}, one per instance")
    if options.path == "views" and (options.elevation_deg is not None or options.up):
        parser.error("--path views: --elevation_deg and --up need --path orbit; leave them out")
    if options.format is None:
        options.format = "mp4" if videos.can_write_mp4() else "gif"
    if options.format == "mp4" and not videos.can_write_mp4():
        parser.error("--format mp4 needs ffmpeg; pip install -r requirements/video.txt, or choose --format gif")
    if options.format == "gif" and options.fps > GIF_FPS:
        parser.error(f"--fps {options.fps}: expected at most {GIF_FPS} with --format gif")
    return options


def blend(codes, num_frames):
    """Codes (F, D) on straight lines from each code of (N, D) to the next, the first and the last included.

    The video slows down at every instance: the fraction of a line is s = 3 t^2 - 2 t^3.
    """
    position = torch.linspace(0, len(codes) - 1, num_frames).to(codes)
    start = position.long().clamp(max=len(codes) - 2)
    t = position - start
    return torch.lerp(codes[start], codes[start + 1], (t**2 * (3 - 2 * t))[:, None])


def read_cameras(options):
    """Intrinsics and poses (V, 4, 4) of the first named instance in the split; if there is none, of its first instance."""
    names = [folder.name for folder in dataio.instance_folders(options.data_root)]
    name = next((name for name in options.specific_ins if name in names), names[0])
    if name not in options.specific_ins:
        print(f"note: {options.data_root} has none of these instances; the cameras are those of {name}")
    (instance,) = dataio.index_split(options.data_root, specific_ins=[name], with_rgb=False, cached=False)
    return instance.intrinsics, torch.from_numpy(instance.poses)


def camera_path(options, poses):
    """cam2world (F, 4, 4) of the frames, from poses (V, 4, 4)."""
    if options.path == "views":
        spread = torch.linspace(0, len(poses) - 1, options.num_frames).round().long()
        return poses[spread]
    elevation_deg = ELEVATION_DEG if options.elevation_deg is None else options.elevation_deg
    target, distance = geometry.viewing_target(poses), geometry.viewing_distance(poses)
    return geometry.orbit(target, distance, elevation_deg, options.num_frames, options.up or UP)


def open_models(options, device):
    """The checkpoints.OpenSRN and the head (or None), on the device. Sets --specific_ins to its default.

    Raises util.InputError if the checkpoints do not fit each other or the options.
    """
    srn = checkpoints.open_srn(options.checkpoint_path, options.data_root, tracing_steps=options.tracing_steps)
    model = srn.model.to(device).eval()
    if model.latent_codes is None:
        raise util.InputError(f"{srn.path}: found no latent codes; interpolation needs the SRN of a class")
    options.specific_ins = options.specific_ins or srn.instances[:2]
    if len(options.specific_ins) < 2:
        raise util.InputError(f"{srn.path}: found one latent code; interpolation needs two")
    head = checkpoints.open_head(options.linear_path, model)[0].to(device).eval() if options.linear_path else None
    renderer.expect_side(options.img_sidelength, model, head)
    return srn, head


@util.command
def main(argv=None):
    util.expect_one_process(PROGRAM)
    with stopping.listening():
        interpolate(read_options(argv))


def interpolate(options):
    util.keep_freed_memory()
    device = util.pick_device(options.device)
    common.use_fused(options, device)
    srn, head = open_models(options, device)  # which sets defaults
    inputs = resuming.inputs_of(options, ("checkpoint_path", "linear_path"))
    if resuming.is_done(options, inputs):
        return
    codes = srn.model.latent_codes.weight.detach()[srn.rows(options.specific_ins, "--specific_ins")]
    intrinsics, poses = read_cameras(options)
    side = options.img_sidelength
    frames = {"z": blend(codes, options.num_frames), "cam2world": camera_path(options, poses).to(device)}
    view = {
        "uv": geometry.pixel_grid(side, side, srn.settings.pixel_center, device),
        "intrinsics": torch.from_numpy(intrinsics.matrix(side)).to(device),
    }
    with folders.start(options, PROGRAM, options.resume == "auto", inputs) as folder:
        kinds = render_frames(options, srn.model, head, frames, view, folder)
        if options.format != "none":
            for kind in kinds:
                pictures = map(iio.imread, sorted((folder.path / kind).iterdir()))
                videos.write(folder.path / f"{kind}.{options.format}", pictures, options.fps)
            print(f"video: {folder.path / f'comparison.{options.format}'}")


@torch.inference_mode()
def render_frames(options, srn, head, frames, view, folder):
    """Render every frame in order and write its pictures. Returns the kinds of pictures, which name their folders.

    frames: z (F, D) and cam2world (F, 4, 4)
    view:   uv (R, 2) and intrinsics (3, 3), the same for all frames
    """
    with picture_writer.PictureWriter() as writer, tqdm(total=options.num_frames, unit="frame") as bar:
        for indices in torch.arange(options.num_frames).split(options.batch_size):
            batch = {name: tensor[indices] for name, tensor in frames.items()}
            batch |= {name: tensor.expand(len(indices), -1, -1) for name, tensor in view.items()}
            outputs = renderer.render(srn, batch, head)
            num_classes = outputs["seg_logits"].shape[-1] if "seg_logits" in outputs else None
            shown, cameras = visual.to_host(outputs), {"cam2world": batch["cam2world"].cpu()}
            for i, index in enumerate(indices.tolist()):
                pictures = visual.of_observation(shown, cameras, i, num_classes)
                pictures["comparison"] = visual.strip([pictures[kind] for kind in SHOWN if kind in pictures])
                for kind, picture in pictures.items():
                    writer.do(picture_writer.write_picture, folder.path / kind / f"{index:06d}.png", picture)
            bar.update(len(indices))
            folder.after_part(bar.n, options.num_frames)
    return list(pictures)


if __name__ == "__main__":
    main()
