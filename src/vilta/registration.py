"""After ``import vilta``, transformers' Auto classes know the model, at no cost until needed.

Registering imports torch and transformers, which takes seconds that ``vilta --help`` must not cost,
and transformers has no entry point for models outside of it. So vilta registers at once if
transformers is already loaded, and otherwise as soon as it is imported. See the design log in
docs/development.
"""

from __future__ import annotations

import importlib
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def register_with_transformers() -> None:
    """Register vilta's classes now if transformers is loaded, else right after its import."""
    if "transformers" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _AfterTransformers())


def _register() -> None:
    """Import the model; it registers its classes itself (and is doing so if half imported)."""
    importlib.import_module("vilta.model")


class _AfterTransformers(MetaPathFinder):
    """Finds transformers as the other finders do, and has its loader call ``_register`` after."""

    def find_spec(
        self, fullname: str, path: Any, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return transformers' own spec; None for every other module.

        ``path`` is a list of folders, or what a namespace package has in place of one.
        """
        if fullname != "transformers":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            _register()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
