"""What tensorboard shows: losses, scores, latent codes, pictures. The tags are those of the published system."""

import util
import visual

NUM_PICTURES = 4  # observations shown per image summary


def write_losses(writer, losses, step):
    """losses: {"distortion": float, ...}, weighted. Writes scaled_<name>_loss each, and total_loss."""
    for name, value in losses.items():
        writer.add_scalar(f"scaled_{name}_loss", value, step)
    writer.add_scalar("total_loss", sum(losses.values()), step)


def write_scores(writer, scores, step):
    """scores: {"psnr": float, ...}. Writes val_<name> each."""
    for name, value in scores.items():
        writer.add_scalar(f"val_{name}", value, step)


def write_code_range(writer, codes, step):
    """embed_min and embed_max of the latent codes (N, D)."""
    writer.add_scalar("embed_min", codes.min().item(), step)
    writer.add_scalar("embed_max", codes.max().item(), step)


def write_code_projector(writer, codes, names, step):
    """The latent codes (N, D) for tensorboard's embedding projector, with the instances' names."""
    writer.add_embedding(codes.detach().cpu(), metadata=names, global_step=step, tag="latent_codes")


def write_pictures(writer, outputs, batch, step, num_classes=None, prefix=""):
    """Pictures of the first observations of whole square images, as renderer.render gives them.

    Where the batch has no images or no labels, what would compare with them is left out.
    """

    def add(tag, pictures):
        writer.add_image(prefix + tag, pictures, step, dataformats="HWC")

    rgb = util.as_image(outputs["rgb"][:NUM_PICTURES, :, :3])
    depth = util.as_image(outputs["depth"][:NUM_PICTURES])
    normals = visual.camera_normals(outputs["points"], batch["cam2world"])[:NUM_PICTURES]
    if "rgb" in batch:
        target = util.as_image(batch["rgb"][:NUM_PICTURES, :, :3])
        error = (rgb - target).abs().mean(dim=1, keepdim=True)
        add("Output_vs_gt", visual.grid([visual.to_uint8(x) for x in (*rgb, *target)], len(rgb)))
        add("rgb_error_fig", visual.strip([visual.to_uint8(x.expand(3, -1, -1) - 1) for x in error]))
    add("pred_depth", visual.strip([visual.depth_picture(x) for x in depth]))
    add("normals", visual.strip([visual.normal_picture(x) for x in normals]))
    steps = util.as_image(outputs["depth_steps"][:, 0])  # (S, 1, H, W) of one observation
    add("raycast_progress", visual.strip([visual.depth_picture(x) for x in steps]))
    writer.add_histogram(prefix + "stopping_distances", outputs["depth"], step)
    if "seg_logits" in outputs and "seg_labels" in batch:
        predicted = util.as_image(outputs["seg_logits"][:NUM_PICTURES].argmax(dim=-1, keepdim=True))
        labels = util.as_image(batch["seg_labels"][:NUM_PICTURES, :, None])
        pictures = [visual.label_colors(x[0], num_classes) for x in (*predicted, *labels)]
        add("Output_vs_gt_seg", visual.grid(pictures, len(predicted)))
