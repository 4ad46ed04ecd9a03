"""The pages below docs/: what they link and name exists."""

import ast
import inspect
import re
from functools import cache
from pathlib import Path
from pkgutil import resolve_name

import lightning.pytorch as pl
import pytest
import yaml
from conftest import ROOT
from pages import DOCS, PAGES, TEXTS

from ffbp.files import CONF

QUOTED = {name: sorted(set(re.findall(r"`([^`\n]+)`", text))) for name, text in TEXTS.items()}
OWN = ("mine", "conf/algo/smoothed", "conf/model/wide", "conf/data/stripes", "conf/experiment/deep_ff")
"""What a reader writes."""


# -- links, paths, names and settings


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", TEXTS[page])
    for link in (link for link in links if not link.startswith("http")):
        target, _, anchor = link.partition("#")
        path = (DOCS / target) if target else DOCS / page
        assert path.exists(), link
        assert not anchor or anchor in anchors(path), link


def test_the_index_names_every_page_and_no_page_is_long():
    listed = re.findall(r"^\d+\. \[[^]]+\]\((\w+\.md)\)", PAGES["README.md"], re.MULTILINE)
    assert sorted([*listed, "README.md"]) == sorted(PAGES)
    assert {name: len(text.splitlines()) for name, text in PAGES.items() if len(text.splitlines()) > 230} == {}


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_a_page_quotes_exists(page):
    written = re.compile(r"(\.hydra/)?(config|overrides)\.yaml|(metrics|status|sweep)\.json|demo\.html")
    parts = [path for name in ("src", "tests", "conf") for path in (ROOT / name).rglob("*")]
    for name in QUOTED[page]:
        if not re.fullmatch(r"[\w./-]+\.(py|md|yaml|json|png|svg|js|toml)", name) or written.fullmatch(name):
            continue
        found = (ROOT / name).exists() or any(path.match(name) for path in parts)
        assert found or name.startswith(OWN), name


@cache
def defined() -> dict[str, set[str]]:
    """Names in the package's modules and classes, by the last word of the module or class."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "src").rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))]:
            names = found.setdefault(node.name if isinstance(node, ast.ClassDef) else path.stem, set())
            for part in ast.walk(node):
                names |= {part.name} if isinstance(part, ast.FunctionDef | ast.ClassDef) else set()
                names |= {part.attr} if isinstance(part, ast.Attribute) else set()
                names |= {part.id} if isinstance(part, ast.Name) else set()
    return found


def exists(name: str) -> bool:
    """Whether a dotted name is one of the package's, or of a library that it uses."""
    *place, last = name.split(".")
    if last in defined().get(place[-1], ()):
        return True
    try:
        return resolve_name(name) is not None
    except (ImportError, AttributeError):
        return False


VALUES = ("batch", "block", "stack", "model", "self", "part", "found", "products", "images", "labels", "activity")
"""What code that a page quotes calls its objects."""


@pytest.mark.parametrize("page", PAGES)
def test_every_dotted_name_that_a_page_quotes_exists(page):
    groups = {path.name for path in CONF.iterdir()} | {"checkpoint", "hydra", "os"}
    for name in QUOTED[page]:
        dotted = re.match(r"(?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*(?=\(|$)", name)
        if dotted and dotted[0].split(".")[0] not in {*groups, *VALUES} and not name.startswith(OWN):
            file = re.search(r"\.(py|md|yaml|json|csv|ckpt|npz|html|png|svg|journal|db|ipynb)$", name)
            assert file or exists(dotted[0]), name


@cache
def keys() -> set[str]:
    """All settings that a YAML of ours names, and the arguments of Lightning's Trainer."""

    def flat(part: object, place: str) -> set[str]:
        if not isinstance(part, dict):
            return {place}
        return {place}.union(*(flat(value, f"{place}.{name}") for name, value in part.items()))

    found = {f"trainer.{name}" for name in inspect.signature(pl.Trainer).parameters}
    for path in CONF.glob("*/*.yaml"):
        found |= flat(yaml.safe_load(path.read_text()) or {}, path.parent.name)
    return found | flat(yaml.safe_load((CONF / "train.yaml").read_text())["checkpoint"], "checkpoint")


@pytest.mark.parametrize("page", PAGES)
def test_every_setting_that_a_page_quotes_exists(page):
    for words in QUOTED[page]:
        for key in re.findall(
            r"(?<![\w./])((?:algo|model|data|trainer|callbacks|checkpoint|paths)(?:\.[a-z]\w*)+)(?=[=\s,]|$)", words
        ):
            assert key in keys() or key.endswith(".py"), words
