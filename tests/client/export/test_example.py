"""The example of docs/export.md, run as it stands there."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from client.evaluation.models import open_models
from shared.imaging import inference
from tests.shared.imaging.phantoms import study

PAGE = Path(__file__).parents[3] / "docs" / "export.md"


@pytest.mark.usefixtures("heads")
def test_the_example_gives_what_torch_gives(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("public-1", "--task", "denoise").exit_code == 0
    (text,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len([line for line in text.splitlines() if line]) <= 15
    series = 700 * study(50, 61, slices=3).noisy
    monkeypatch.chdir(tmp_path / "out")
    np.save("series.npy", series)
    exec(compile(text, str(PAGE), "exec"), {})  # noqa: S102  our own page
    top = np.percentile(series, 99.5)
    (model,) = open_models(["public-1"], task="denoise", charter="", quorum=None)
    whole = inference.run(model.network, np.clip(series / top, 0, 1))[:, 0]
    np.testing.assert_allclose(np.load("denoised.npy"), top * np.clip(whole, 0, 1), atol=2e-4 * top)
