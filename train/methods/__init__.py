"""Methods by name: one file each."""

import importlib
import pkgutil

from train import tuned
from train.method import Config, Method, check_settings


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
    model = method(method.Config(**config))
    tuned.check(model.config)
    if not tuned.tuned_towers(model.config.tune):
        return model
    if not model.phases():
        raise ValueError(f"{name} learns nothing, so that nothing would tell CLIP's blocks how to move; leave out tune")
    return tuned.Tuned(model)


def needed(name: str, config: Config) -> frozenset[str]:
    """The features that a method of these settings reads from the shards."""
    return tuned.tuned_needs(load(name).needed(config), config.tune)
