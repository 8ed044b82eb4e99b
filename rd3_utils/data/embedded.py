"""What the package carries: image sets of the digits, two teachers, configs and studies. Names alone, nothing is read."""

from pathlib import Path

PACKAGE = Path(__file__).parent.parent
EMBEDDED = PACKAGE / "embedded"


def carried(folder: str, installed: str, name: str) -> Path:
    """The file `name` of `folder`, which is beside the package in a checkout and, as `installed`, inside of it in a wheel."""
    checkout = PACKAGE.parent / folder / name
    return checkout if checkout.exists() else PACKAGE / installed / name


def image_sets() -> list[str]:
    """Names of the image sets that the package carries."""
    return sorted(path.parent.name for path in EMBEDDED.glob("*/train-*.parquet"))
