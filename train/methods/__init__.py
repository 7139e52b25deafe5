"""Methods by name: one file each."""

import importlib
import pkgutil

from train.method import Method, check_settings


def names() -> list[str]:
    """Every method there is."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> type[Method]:
    """The class of the method in `train/methods/<name>.py`."""
    if name not in names():
        raise ValueError(f"no method {name!r}; there are: {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise ValueError(f"{module.__file__} should define one Method and defines {len(found)}")
    return found[0]


def build(name: str, config: dict) -> Method:
    """A new model of a method from its settings; unknown settings are an error."""
    method = load(name)
    check_settings(method.Config, config)
    return method(method.Config(**config))
