"""The contact sheet of an evaluation: a whole run at one look."""

import numpy as np

import visual
from evaluation import picture_files

NUM_INSTANCES = 8


class Sheet:
    """For the first instances, the first given view and two others beside their truth.

    Of the views in the order of their angle to the given one, these are the middle one and the last.
    given:   set of (instance, view)
    seen_as: kind of picture that the model was given of such a view, "rgb_gt" or "seg_gt"
    """

    def __init__(self, dataset, given, seen_as="rgb_gt"):
        self.seen_as = seen_as
        self.chosen, self.input_of, self.pictures = {}, {}, {}
        for instance in dataset.instances[:NUM_INSTANCES]:
            views = instance.views
            inputs = [i for i, view in enumerate(views) if (instance.name, view) in given]
            axes = instance.poses[:, :3, 2]
            likeness = axes @ axes[inputs[0] if inputs else 0]
            others = [i for i in np.argsort(-likeness, kind="stable") if i not in inputs] or list(range(len(views)))
            self.chosen[instance.name] = [views[i] for i in dict.fromkeys((others[len(others) // 2], others[-1]))]
            self.input_of[instance.name] = views[inputs[0]] if inputs else None

    def add(self, instance, view, pictures):
        if view in self.chosen.get(instance, ()) or view == self.input_of.get(instance, ""):
            self.pictures[instance, view] = pictures

    def write(self, path, scores, class_names):
        kinds = {"rgb_gt": "truth", "rgb": "rendered", "normals": "normals", "seg_gt": "true parts", "seg": "parts"}
        some = next(iter(self.pictures.values()))
        kinds = {kind: title for kind, title in kinds.items() if kind in some}
        score_of = {row["instance_id"]: row for row in scores.per_instance()}
        with_input = any(self.input_of.values())
        num_views = max(map(len, self.chosen.values()))
        rows, titles = [], []
        for instance, views in self.chosen.items():
            row = [self.pictures[instance, view][kind] for view in views for kind in kinds]
            row += [None] * (num_views * len(kinds) - len(row))
            if with_input:
                given = self.pictures.get((instance, self.input_of[instance]))
                row.insert(0, given[self.seen_as] if given else None)
            rows.append(row)
            titles.append("\n".join([instance, *format_scores(score_of.get(instance))]))
        titles_above = ["given view"] * with_input + list(kinds.values()) * num_views
        which = " over the views that were not given" if with_input else " over all views"
        summary = scores.summary()
        title = f"{path.parent.name}: {', '.join(format_scores(summary))}{which if summary['num_images'] else ''}"
        picture_files.write_picture(path, visual.contact_sheet(rows, titles_above, titles, title, class_names))


def format_scores(row):
    if row is None or row["num_images"] == 0:
        return ["every view was given"]
    shown = [f"PSNR {row['psnr']:.1f} dB", f"SSIM {row['ssim']:.2f}"]
    return shown + ([f"mIoU {row['miou']:.2f}"] if row["miou"] == row["miou"] else [])
