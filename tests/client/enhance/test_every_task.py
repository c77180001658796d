"""Every task has what its results are called in a header, and every super-resolution says how much finer it is."""

import pytest
import torch

from client.enhance import derive
from client.enhance.model import Model, _require_dicom
from shared.errors import UsageError
from shared.imaging import tasks
from shared.imaging.inference import run
from shared.imaging.tasks import get_task
from tests.shared.imaging.phantoms import study


@pytest.mark.parametrize("name", tasks._MODULES)
def test_results_of_every_task_have_a_name_and_their_size(name: str) -> None:
    torch.set_num_threads(1)
    task = get_task(name)
    if name not in derive._STEPS:
        with pytest.raises(UsageError, match="makes nothing that is written as DICOM"):
            _require_dicom(task)
        return
    _require_dicom(task)
    model = Model("public-1", task, task.network(0), "0" * 64)
    images = study(32, 32, slices=1)
    made = run(model.network, task.inputs(images), scale=model.factor)
    assert made.shape[-2:] == task.truth(images).shape[-2:]
    assert model.factor == {"superres": 2, "superres_gan": 2, "superres4": 4, "superres4_gan": 4}.get(name, 1)
