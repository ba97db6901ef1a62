"""Compares evaluations: a Markdown table with a column per run and the best score of each row in bold.

python compare_results.py logs/Chair/single_shot_results logs/Chair/multi_shot_results
"""

import argparse
import csv
import json
import math
import sys
from pathlib import Path

import util
from evaluation.score_names import CATEGORY_SCORES, IMAGE_SCORES, LABEL_SCORES, SCORES_3D, TITLES

LOWER_IS_BETTER = ("cloud_distance",)


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="results folder of test.py, or its results.json")
    parser.add_argument("--csv", action="store_true", help="print comma-separated values; notes go to stderr")
    return parser


def load(path):
    """The contents of a run's results.json, a dict."""
    path = Path(path)
    path = path / "results.json" if path.is_dir() else path
    try:
        results = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise util.InputError(f"{path}: cannot read it ({error}); expected the results.json of test.py") from None
    if not isinstance(results, dict) or not isinstance(results.get("num_images"), int):
        raise util.InputError(f"{path}: found no scores; expected the results.json of test.py")
    return results


def column_names(paths):
    """The folders' names; the paths as given if two folders have the same name."""
    folders = [Path(path).resolve() for path in paths]
    names = [folder.parent.name if folder.name == "results.json" else folder.name for folder in folders]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def rows_of(results):
    """[(title, key, [a number or None per run])], without the rows that have no number."""
    rows = [("images", "num_images"), ("instances", "num_instances")]
    for score in (*IMAGE_SCORES, *LABEL_SCORES):
        rows += [(TITLES[score], score), (f"{TITLES[score]}, mean over instances", f"{score}_instances")]
    rows += [(TITLES[score], score) for score in CATEGORY_SCORES]
    rows += [(f"IoU {name}", ("part_iou", name)) for name in class_names(results, "part_iou")]
    rows += [("labelled point clouds", "num_clouds")]
    rows += [(TITLES[score], score) for score in SCORES_3D]
    rows += [(f"3-D IoU {name}", ("part_iou_3d", name)) for name in class_names(results, "part_iou_3d")]
    rows = [(title, key, [value(result, key) for result in results]) for title, key in rows]
    return [row for row in rows if any(number is not None for number in row[2])]


def class_names(results, kind):
    """The classes of all runs, in the order of the first run that has them."""
    return list(dict.fromkeys(name for result in results for name in result.get(kind) or {}))


def value(result, key):
    """A finite number of results.json, or None. Runs without labels and runs of older versions lack some."""
    kind, name = key if isinstance(key, tuple) else (None, key)
    found = (result.get(kind) or {} if kind else result).get(name)
    return found if isinstance(found, (int, float)) and math.isfinite(found) else None


def cells_of(key, numbers, bold):
    """A row's numbers as text, "" for None. With `bold`, the best of two or more is set in bold."""
    texts = ["" if x is None else f"{x:.4f}" if isinstance(x, float) else str(x) for x in numbers]
    known = [number for number in numbers if number is not None]
    if not bold or len(known) < 2 or str(key).startswith("num_"):
        return texts
    best = min(known) if key in LOWER_IS_BETTER else max(known)
    return [f"**{text}**" if text == f"{best:.4f}" else text for text in texts]


def markdown(titles, rows):
    lines = [["score", *titles], ["---", *("---:" for _ in titles)]]
    for title, key, numbers in rows:
        lines.append([title, *(cell or "-" for cell in cells_of(key, numbers, bold=True))])
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def notes_on(names, results):
    """Sentences on differences between the runs that make their scores hard to compare."""
    runs = [result.get("run") or {} for result in results]
    silent = [name for name, run in zip(names, runs) if not run]
    notes = [f"{', '.join(silent)}: results.json does not say what was evaluated."] if silent else []
    for difference, facts in (
        ("scored different numbers of images", [result["num_images"] for result in results]),
        ("read data from different folders", [run.get("data_root") for run in runs]),
        ("rendered at different sides", [run.get("img_sidelength") for run in runs]),
    ):
        if differ(facts):
            of_runs = ", ".join(f"{name}: {fact}" for name, fact in zip(names, facts) if fact)
            notes.append(f"The runs {difference} ({of_runs}).")
    if differ([sorted(row["instance_id"] for row in result.get("instances") or []) for result in results]):
        notes.append("The runs scored different instances.")
    elif differ([run.get("views_digest") for run in runs]):
        notes.append("The runs scored different views.")
    return notes


def differ(facts):
    """Whether two of the facts differ; empty ones are unknown and ignored."""
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
        text = "\nCompare with care:\n\n" + "\n".join(f"* {note}" for note in notes)
        print(text, file=sys.stderr if options.csv else sys.stdout)


if __name__ == "__main__":
    main()
