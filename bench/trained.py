"""SRNs that `python -m bench.seeds` trained, and what a linear head reads of them. Shared by the studies of stage 2."""

from pathlib import Path
from typing import NamedTuple

import torch

import checkpoints
import data_util
import dataio
import srns
import util
from training import head_update

SIDE = 64  # of the images of the demo
LABELLED_VIEWS = (0, 1, 2)  # as in train_configs/demo_linear_update.yml


class Trained(NamedTuple):
    """A run of the demo. srn: of stage 1; fitted: the same with codes of unseen objects, fitted to one view of each."""

    name: str
    class_folder: Path
    srn: checkpoints.OpenSRN
    fitted: checkpoints.OpenSRN

    @property
    def num_classes(self):
        return len(data_util.load_class_names(dataio.find_class_list(self.split("train"), self.class_folder.name)))

    def split(self, name):
        return self.class_folder / f"{self.class_folder.name}.{name}"


class Rays(NamedTuple):
    """What a head reads (L, I), classes (L,), and the instance (L,) that each ray shows, by its place in `names`."""

    inputs: torch.Tensor
    labels: torch.Tensor
    instances: torch.Tensor
    names: list

    def of(self, wanted):
        """The rays of some instances, by their places."""
        is_wanted = torch.isin(self.instances, torch.as_tensor(wanted))
        return Rays(self.inputs[is_wanted], self.labels[is_wanted], self.instances[is_wanted], self.names)

    def some(self, number, seed=0):
        """At most `number` random ones."""
        chosen = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(seed))[:number]
        return Rays(self.inputs[chosen], self.labels[chosen], self.instances[chosen], self.names)


def add_runs(parser):
    """Options of a study that say which runs it reads; see `find`."""
    parser.add_argument("runs", nargs="*", help="names of runs (default: all)")
    parser.add_argument("--root", default="logs/seeds", help="folder of bench.seeds")


def find(root, names):
    """The Trained runs of these names below a folder of bench.seeds; all of them if none is named."""
    root = Path(root)
    found = names or sorted(path.name for path in root.glob("*") if (path / "logs").is_dir())
    if not found:
        raise util.InputError(f"{root}: holds no runs; train some with python -m bench.seeds")
    return [open_run(root / name) for name in found]


def open_run(folder):
    """The Trained run in a folder of bench.seeds."""
    class_folders = [path for path in (folder / "data").glob("*") if (path / f"{path.name}.train").is_dir()]
    if len(class_folders) != 1:
        raise util.InputError(f"{folder / 'data'}: expected the folder of one class, found {len(class_folders)}")
    runs = folder / "logs" / class_folders[0].name
    srn, fitted = (checkpoints.open_srn(runs / run) for run in ("vanilla_srn", "single_shot"))
    return Trained(folder.name, class_folders[0], srn, fitted)


def read_rays(run, srn, split, features, sidelength=None, **which):
    """Rays of a split as a linear head with these `features` reads them. which: options of dataio.index_split"""
    root = run.split(split)
    instances = dataio.index_split(root, with_labels=True, **which)
    settings = dataio.dataset_settings(root)
    head = srns.LinearHead(srns.LinearHead.num_inputs(srn.model.sizes, features), run.num_classes, features)
    names = [instance.name for instance in instances]
    found = []
    for place, (instance, row) in enumerate(zip(instances, srn.rows(names, root))):
        dataset = dataio.SceneClassDataset([instance], sidelength or SIDE, settings, run.num_classes)
        inputs, labels = head_update.read_by_head(srn.model.eval(), head, dataset, [row], torch.device("cpu"))
        found.append((inputs, labels, torch.full_like(labels, place)))
    return Rays(*map(torch.cat, zip(*found)), names)
