"""The contact sheet of an evaluation: a whole run on one page."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import visual

NUM_INSTANCES = 8
TITLES = {"rgb_gt": "truth", "rgb": "rendered", "normals": "normals", "seg_gt": "true parts", "seg": "parts"}
NAME_WIDTH = 190  # pixels left of the pictures, for names and scores
TITLE, HEADING, SCORE = 44, 30, 23  # heights in pixels: the title; a line of column titles or of the key; of a score
MARGIN, GAP = 24, 10  # pixels around the sheet and between pictures
WIDTH = 1500  # approximate, in pixels; pictures are enlarged by a whole factor to fill it
INK, FAINT_INK, FRAME, RULE = (30,) * 3, (110,) * 3, (205,) * 3, (225,) * 3  # names, scores, frames, lines between rows


class Sheet:
    """For the first instances: an input view, and two other views beside their ground truth.

    The other views are the median and the last one when sorted by their angle to the input view.

    instances:   list of dataio.Instance
    input_views: set of (instance, view) that the codes were fitted to
    input_kind:  the kind of picture they were fitted to, "rgb_gt" or "seg_gt"
    """

    def __init__(self, instances, input_views, input_kind="rgb_gt"):
        self.input_kind = input_kind
        self.views, self.input_of, self.pictures = {}, {}, {}
        for instance in instances[:NUM_INSTANCES]:
            views = instance.views
            inputs = [i for i, view in enumerate(views) if (instance.name, view) in input_views]
            axes = instance.poses[:, :3, 2]
            likeness = axes @ axes[inputs[0] if inputs else 0]
            others = [i for i in np.argsort(-likeness, kind="stable") if i not in inputs] or list(range(len(views)))
            self.views[instance.name] = [views[i] for i in dict.fromkeys((others[len(others) // 2], others[-1]))]
            self.input_of[instance.name] = views[inputs[0]] if inputs else None

    def needs(self, instance, view):
        return view in self.views.get(instance, ()) or view == self.input_of.get(instance, "")

    def add(self, instance, view, pictures):
        """pictures: {kind: picture} of a view that the sheet needs, as visual.of_observation returns."""
        self.pictures[instance, view] = pictures

    def draw(self, name, scores, class_names):
        """The sheet as a picture. `name` is the run's, scores is a scoring.Scores."""
        kinds = [kind for kind in TITLES if kind in next(iter(self.pictures.values()))]
        scores_of = {row["instance_id"]: row for row in scores.per_instance()}
        has_input = any(self.input_of.values())
        num_views = max(map(len, self.views.values()))
        rows, row_titles = [], []
        for instance, views in self.views.items():
            of_input = self.pictures.get((instance, self.input_of[instance]), {})
            row = [of_input.get(self.input_kind)] * has_input
            row += [self.pictures[instance, view][kind] for view in views for kind in kinds]
            rows.append(row + [None] * ((num_views - len(views)) * len(kinds)))
            row_titles.append("\n".join([instance, *format_scores(scores_of.get(instance))]))
        column_titles = ["input view"] * has_input + [TITLES[kind] for kind in kinds] * num_views
        return draw(rows, column_titles, row_titles, title_of(name, scores.summary()), class_names)


def title_of(name, summary):
    """The run's name, its mean scores, and the number of views that they are means of."""
    over = f" over {summary['num_images']} views of {summary['num_instances']} instances" if summary["num_images"] else ""
    return f"{name}: {', '.join(format_scores(summary))}{over}"


def format_scores(row):
    """Scores of an instance or of all, as a list of texts."""
    if row is None or row["num_images"] == 0:
        return ["no view scored"]
    shown = [f"PSNR {row['psnr']:.1f} dB", f"SSIM {row['ssim']:.2f}"]
    return shown + ([f"mIoU {row['miou']:.2f}"] if row["miou"] == row["miou"] else [])


# Drawing


def draw(rows, column_titles, row_titles, title, class_names=None):
    """A grid of pictures with titles, as a picture.

    rows:          a list of rows, each a list of pictures, None for an empty place
    column_titles: one per column, such as "input view", "truth", "rendered"
    row_titles:    one per row; the first line is the instance's name, further lines its scores
    class_names:   adds a key to the colours of label pictures, background first
    Raises ValueError if the numbers of titles and of pictures differ.
    """
    sizes = [picture.shape[:2] for row in rows for picture in row if picture is not None]
    height, picture_width = np.max(sizes, axis=0).tolist()
    columns = len(column_titles)
    factor = max(1, round((WIDTH - 2 * MARGIN - NAME_WIDTH - columns * GAP) / (columns * picture_width)))
    tile = (picture_width * factor, height * factor)
    lefts = [MARGIN + NAME_WIDTH + column * (tile[0] + GAP) for column in range(columns)]
    right = lefts[-1] + tile[0]
    row_height = 2 * GAP + max(tile[1], SCORE * max(text.count("\n") + 1 for text in row_titles) + 10)

    most = 2 * MARGIN + TITLE + HEADING + row_height * len(rows) + HEADING * len(class_names or ())
    sheet = Image.new("RGB", (right + MARGIN, most), "white")  # cropped at the end
    brush = ImageDraw.Draw(sheet)
    _write(brush, MARGIN, MARGIN, title, 26, right - MARGIN)
    top = MARGIN + TITLE
    for left, column_title in zip(lefts, column_titles):
        _write(brush, left + tile[0] / 2, top, column_title, 19, tile[0] + GAP, anchor="ma")
    top += HEADING
    for pictures, row_title in zip(rows, row_titles, strict=True):
        brush.line([(MARGIN, top), (right, top)], fill=RULE)
        for number, line in enumerate(row_title.split("\n")):
            size, ink, y = (16, FAINT_INK, 9 + SCORE * number) if number else (19, INK, 1)
            _write(brush, MARGIN, top + GAP + y, line, size, NAME_WIDTH - 16, ink)
        for left, picture in zip(lefts, pictures, strict=True):
            if picture is not None:
                enlarged = Image.fromarray(visual.enlarge(picture, factor))
                sheet.paste(enlarged, (left + (tile[0] - enlarged.width) // 2, top + GAP + (tile[1] - enlarged.height) // 2))
                # Most pictures are white near their border; the frame shows where they end.
                brush.rectangle([left - 1, top + GAP - 1, left + tile[0], top + GAP + tile[1]], outline=FRAME)
        top += row_height
    if class_names:
        top = _draw_key(brush, top, right, class_names)
    return np.asarray(sheet.crop((0, 0, sheet.width, top + MARGIN)))


def _write(brush, x, y, text, size, width, ink=INK, anchor="la"):
    """Write a line; if it is wider than `width`, only its end, since the ends of instance names tell them apart."""
    font, shown = ImageFont.load_default(size), text
    while text and font.getlength(shown) > width:
        text = text[1:]
        shown = f"...{text}"
    brush.text((x, y), shown, ink, font=font, anchor=anchor)


def _draw_key(brush, top, right, class_names):
    """The classes' colours and names, on as many lines as they need. Returns the bottom."""
    left, font, swatch = MARGIN, ImageFont.load_default(16), 18
    palette = visual.label_colors(np.arange(len(class_names)), len(class_names)).tolist()
    for name, color in zip(class_names, palette):
        entry_width = swatch + 8 + font.getlength(name)
        if left > MARGIN and left + entry_width > right:
            left, top = MARGIN, top + HEADING
        brush.rectangle([left, top + 8, left + swatch, top + 8 + swatch], fill=tuple(color), outline=FRAME)
        brush.text((left + swatch + 8, top + 8 + swatch / 2), name, INK, font=font, anchor="lm")
        left += entry_width + 28
    return top + HEADING
