import json
import subprocess
import sys

import pytest
from benches import tables_in

pytestmark = pytest.mark.slow

pytest.importorskip("embreex")


def test_prints_a_table_and_writes_the_same_figures(tmp_path):
    sizes = ["--views", "8", "--faces", "400", "--sidelength", "16", "--num_workers", "1"]
    command = [sys.executable, "-m", "bench.meshes", *sizes, "--json", str(tmp_path / "figures.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["views"] == 8 and figures["faces"] == 400 and figures["sidelength"] == 16
    assert figures["seconds"] > 0 and figures["cpu_ms_per_view"] > 0
    (table,) = tables_in(done.stdout)
    assert table == {name.replace("_", " "): [f"{value:,}"] for name, value in figures.items()}
