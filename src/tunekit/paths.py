"""Where conf/ and recipes/ are, in a checkout, an editable install and a wheel; and where converted weights are kept."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def shipped(folder: str) -> Path:
    """The folder `conf` or `recipes`: inside the package in a wheel, at the top of the checkout otherwise."""
    inside = PACKAGE / folder
    return inside if inside.is_dir() else PACKAGE.parent.parent / folder


CONF = shipped("conf")
RECIPES = shipped("recipes")


def cache() -> Path:
    """The user's cache folder for weights that tunekit builds or converts: $TUNEKIT_CACHE, else the XDG cache."""
    base = os.environ.get("TUNEKIT_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tunekit"
