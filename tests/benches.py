"""What the tests of bench/ share."""

from bench import measuring


def tables_in(text):
    """The Markdown tables of a text, each a dict: title of a column -> its cells."""
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
    """Measure in this process: a new one takes seconds to start."""
    monkeypatch.setattr(measuring, "in_own_process", lambda function, *args: function(*args))
    monkeypatch.setattr(measuring, "product_limit", lambda *_: 10.0)
