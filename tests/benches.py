"""Helpers of the tests of bench/."""

from bench import measuring


def tables_in(text):
    """The Markdown tables in a text, each as {title of a column: list of its cells}."""
    found, lines = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            lines.append([cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")])
        elif lines:
            assert lines[1] == ["---"] * len(lines[0])
            found.append({title: [row[i] for row in lines[2:]] for i, title in enumerate(lines[0])})
            lines = []
    return found


def stay_in_process(monkeypatch):
    """Measure in this process, since a new one takes seconds to start."""
    monkeypatch.setattr(measuring, "in_own_process", lambda function, *args: function(*args))
    monkeypatch.setattr(measuring, "product_limit", lambda *_: 10.0)
