"""Makes the denoiser as large as a benchmark wants it, in every process that has this folder in its PYTHONPATH.

A federation trains what is installed and nothing else, so a benchmark cannot hand it a network of its own. This changes
the installed one while it is imported: a parameter of FEDWARD_BALLAST numbers that takes no part in the arithmetic
but travels, is clipped, gets its noise and is masked like any other.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from types import ModuleType

TARGET = "shared.imaging.denoise"


class Widened(importlib.abc.Loader):
    """The real loader, and then the change."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        import torch  # noqa: PLC0415  # only where the module is imported, which brings it anyhow

        small = module.UNet

        class Wide(small):  # type: ignore[misc, valid-type]
            def __init__(self, *arguments: object, **options: object) -> None:
                super().__init__(*arguments, **options)
                self.ballast = torch.nn.Parameter(torch.zeros(int(os.environ["FEDWARD_BALLAST"])))

            def forward(self, x: "torch.Tensor") -> "torch.Tensor":
                return super().forward(x) + 0.0 * self.ballast[:1].sum()

        module.UNet = Wide  # type: ignore[attr-defined]


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != TARGET:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = Widened(spec.loader)
        return spec


if "FEDWARD_BALLAST" in os.environ:
    sys.meta_path.insert(0, Finder())
