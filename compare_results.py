"""Puts the scores of several evaluations side by side, as a Markdown table with the best of each row in bold.

python compare_results.py logs/Chair/single_shot_results logs/Chair/multi_shot_results
"""

import argparse
import csv
import json
import math
import sys
from pathlib import Path

import util
from evaluation import scoring

LESS_IS_BETTER = ("cloud_distance",)


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder that test.py wrote, or its results.json")
    parser.add_argument("--csv", action="store_true", help="comma-separated values; notes go to stderr")
    return parser


def load(path):
    """What results.json of a run says."""
    path = Path(path)
    path = path / "results.json" if path.is_dir() else path
    try:
        results = json.loads(path.read_text())
    except OSError as error:
        raise util.InputError(
            f"{path}: cannot be read ({error.strerror}); expected a folder with test.py's results.json"
        ) from None
    except ValueError as error:
        raise util.InputError(f"{path}: is not valid JSON ({error}); run test.py again") from None
    if not isinstance(results, dict) or not isinstance(results.get("num_images"), int):
        raise util.InputError(f"{path}: holds no scores; expected the results.json that test.py writes")
    return results


def column_names(paths):
    """The folders' names, or the paths as they were given where two of these are the same."""
    folders = [Path(path).resolve() for path in paths]
    names = [folder.parent.name if folder.name == "results.json" else folder.name for folder in folders]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def rows_of(results):
    """Titles and a value per run, None where it has none; rows without any value are left out."""
    rows = [("images", "num_images"), ("instances", "num_instances")]
    for score in (*scoring.IMAGE_SCORES, *scoring.LABEL_SCORES):
        title = scoring.TITLES[score]
        rows += [(title, score), (f"{title}, mean over instances", f"{score}_instances")]
    rows += [(scoring.TITLES[score], score) for score in ("category_miou", "category_miou_no_background")]
    rows += [(f"IoU {name}", ("part_iou", name)) for name in class_names(results, "part_iou")]
    rows += [("labelled point clouds", "num_clouds")]
    rows += [(scoring.TITLES[score], score) for score in ("miou_3d", "category_miou_3d", "cloud_distance")]
    rows += [(f"3-D IoU {name}", ("part_iou_3d", name)) for name in class_names(results, "part_iou_3d")]
    rows = [(title, key, [value(result, key) for result in results]) for title, key in rows]
    return [row for row in rows if any(number is not None for number in row[2])]


def class_names(results, kind):
    """The classes of all runs, those of the first one first."""
    return list(dict.fromkeys(name for result in results for name in result.get(kind) or {}))


def value(result, key):
    """A finite number of results.json, or None. Older runs, and runs without labels, lack some."""
    kind, name = key if isinstance(key, tuple) else (None, key)
    found = (result.get(kind) or {} if kind else result).get(name)
    return found if isinstance(found, (int, float)) and math.isfinite(found) else None


def cells_of(key, numbers, bold):
    """A row's numbers as text, "" for none; with `bold` the best of two or more are marked."""
    texts = ["" if x is None else f"{x:.4f}" if isinstance(x, float) else str(x) for x in numbers]
    known = [number for number in numbers if number is not None]
    if not bold or len(known) < 2 or str(key).startswith("num_"):
        return texts
    best = min(known) if key in LESS_IS_BETTER else max(known)
    return [f"**{text}**" if text == f"{best:.4f}" else text for text in texts]


def markdown(titles, rows):
    lines = [["score", *titles], ["---", *("---:" for _ in titles)]]
    for title, key, numbers in rows:
        lines.append([title, *(cell or "-" for cell in cells_of(key, numbers, bold=True))])
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def notes_on(names, results):
    """Sentences on what keeps the runs from being compared blindly."""
    runs = [result.get("run") or {} for result in results]
    untold = [name for name, run in zip(names, runs) if not run]
    notes = [f"{', '.join(untold)}: results.json does not say what was evaluated."] if untold else []
    for fault, facts in (
        ("scored different numbers of images", [result["num_images"] for result in results]),
        ("read data from different folders", [run.get("data_root") for run in runs]),
        ("rendered at different sides", [run.get("img_sidelength") for run in runs]),
    ):
        if differ(facts):
            told = ", ".join(f"{name}: {fact}" for name, fact in zip(names, facts) if fact)
            notes.append(f"The runs {fault} ({told}).")
    if differ([sorted(row["instance_id"] for row in result.get("instances") or []) for result in results]):
        notes.append("The runs scored different objects.")
    elif differ([run.get("views_digest") for run in runs]):
        notes.append("The runs scored different views.")
    return notes


def differ(facts):
    """Whether the runs that state the fact state different ones."""
    known = [fact for fact in facts if fact]
    return any(fact != known[0] for fact in known)


@util.command
def main(argv=None):
    options = build_parser().parse_args(argv)
    results, names = [load(path) for path in options.runs], column_names(options.runs)
    rows, notes = rows_of(results), notes_on(names, results)
    if options.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["score", *names])
        writer.writerows([title, *cells_of(key, numbers, bold=False)] for title, key, numbers in rows)
    else:
        print(markdown(names, rows))
    if notes:
        told = "\nCompare with care:\n\n" + "\n".join(f"* {note}" for note in notes)
        print(told, file=sys.stderr if options.csv else sys.stdout)


if __name__ == "__main__":
    main()
