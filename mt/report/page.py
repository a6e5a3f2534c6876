"""Templates to pages: everything is escaped, nothing is loaded from elsewhere."""

from __future__ import annotations

from typing import Any

from mt.report.rows import script_json

MOST_BYTES = 2_950_000
"""a page stays under 3 MB"""


def render(template: str, **values: Any) -> str:
    """The page of a template in `mt/report/templates`. What a template asks for and is not there shows as a dash."""
    from jinja2 import ChainableUndefined, Environment, PackageLoader
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("mt.report", "templates"),
        autoescape=True,
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=_number, percent=_percent, p_value=_p_value, words=_words)
    environment.filters["script_json"] = lambda value: Markup(script_json(value))
    for part in ("page.css", "page.js"):
        loader = environment.loader
        assert loader is not None
        environment.globals[part.replace(".", "_")] = Markup(loader.get_source(environment, part)[0])
    page = environment.get_template(template).render(**values)
    return page.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate in a record is no UTF-8


def _known(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(value: Any, digits: int = 1, sign: bool = False) -> str:
    """A figure of the tables; a dash where there is none."""
    if not _known(value):
        return "–"
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "\u2212")


def _percent(value: Any, digits: int = 1, sign: bool = False) -> str:
    """A share from 0 to 1 as per cent."""
    return _number(100 * value, digits, sign) + "\u00a0%" if _known(value) else "–"


def _p_value(value: Any) -> str:
    if not _known(value):
        return "–"
    return "<\u2009" + "0.001" if value < 0.001 else f"{value:.3f}"


def _words(value: Any) -> str:
    """Anything of results.json in a line: mappings as name: value, lists with commas."""
    if value is None:
        return "–"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_words(part)}" for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_words(part) for part in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
