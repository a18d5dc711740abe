"""Waits for nnU-Net's class lookup to be imported. Standard library only: it runs before nnU-Net does."""

# without typing, which would cost more than the rest
# pyright: reportMissingParameterType=false

import sys

TARGET = "nnunetv2.utilities.find_class_by_name"


class _Loader:
    """nnU-Net's own loader, followed by our wrapper around the one function."""

    def __init__(self, loader):
        self._loader = loader

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        self._loader.exec_module(module)
        try:
            _wrap(module)
        except Exception as error:  # whatever is wrong with us, nnU-Net's own import must succeed
            print(
                f"nnunet_mamba's trainers and planners are not known ({type(error).__name__}: {error}); "
                "pip install --force-reinstall nnunet-mamba",
                file=sys.stderr,
            )


class _Finder:
    """Answers for exactly one module, with what the other finders say."""

    def find_spec(self, name, path=None, target=None):
        if name != TARGET:
            return None
        for finder in sys.meta_path:
            if isinstance(finder, _Finder) or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader)  # pyright: ignore[reportAttributeAccessIssue]
                return spec
        return None


def install():
    """Make our names known in this process, whether nnU-Net has been imported already or not. Safe to call again."""
    module = sys.modules.get(TARGET)
    if module is not None:
        _wrap(module)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _wrap(module):
    from nnunet_mamba.discovery.resolve import wrap_lookup

    wrap_lookup(module)
