"""The quickstart notebook runs from top to bottom, in a kernel of its own."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "docs" / "quickstart.ipynb"


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.mark.filterwarnings("default:::jupyter_client", "default:::zmq", "default:::nbclient")
def test_the_notebook_runs_from_top_to_bottom(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    here = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=120, resources=here, kernel_name="python3").execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    complaints = [o.text for c in cells for o in c.outputs if o.get("name") == "stderr"]
    assert complaints == []


def test_the_notebook_is_kept_without_outputs(notebook):
    kept = [c.source for c in notebook.cells if c.cell_type == "code" and c.outputs]
    assert kept == [], "outputs grow stale: clear them before committing"
