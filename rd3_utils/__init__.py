"""RD3: find out what a distilled dataset is really worth.

`import rd3_utils, timm` is all that a saved student needs: its architecture is registered with timm. As timm takes seconds
to import and most commands do not need it at once, that happens when timm is imported, before or after this package.
"""

import importlib.abc
import importlib.util
import sys

__version__ = "0.9.0"


class _Registering(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports timm as ever, then registers our architectures with it (learning/students.py), once."""

    def find_spec(self, name, path=None, target=None):
        if name != "timm":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        importlib.import_module("rd3_utils.learning.students")


if "timm" in sys.modules:
    importlib.import_module("rd3_utils.learning.students")
else:
    sys.meta_path.insert(0, _Registering())
