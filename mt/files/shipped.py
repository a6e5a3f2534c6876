"""What comes with the program beside its modules: configs, studies, benchmarks."""

from __future__ import annotations

from pathlib import Path

from mt.errors import UserError


def shipped() -> Path:
    """The folder that holds `configs`, `tools` and `benchmarks`: the repository, or its like in an installed copy."""
    package = Path(__file__).parents[1]
    return package / "shipped" if (package / "shipped").is_dir() else package.parent


def shipped_configs() -> dict[str, Path]:
    """The configs of runs by name, and those of studies as studies/NAME."""
    folder = shipped() / "configs"
    files = sorted([*folder.glob("*.yaml"), *folder.glob("studies/*.yaml")])
    return {str(path.relative_to(folder).with_suffix("")): path for path in files}


def config_path(path: Path) -> Path:
    """The file that a user means: a path, or else the name of a shipped config. Raises UserError for neither."""
    if path.exists():
        return path
    if found := shipped_configs().get(str(path)):
        return found
    raise UserError(f"no config file {path}; check the name, or take one of the shipped: mt configs lists them")
