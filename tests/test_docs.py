"""Documents tell the truth where a program can check it: settings, modules, imports, links, commands, their parts."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from config import Settings
from main import app

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted((ROOT / "Docs").glob("*.md"))
PAGES = [*DOCS, ROOT / "README.md", ROOT / "QUICK_START.md"]
MODULES = {path.name for path in ROOT.glob("*.py")}

# By the owner's specification; what else there is, is welcome.
REQUIRED = {
    "ARCHITECTURE",
    "CONTRACT_IMPLEMENTATION_PLAN",
    "DASHBOARD_GUIDE",
    "DATA_CONTRACT",
    "ESSENTIAL_RAG",
    "INDEX",
    "MIGRATIONS",
    "PROJECT_CODEX",
    "PROJECT_SUMMARY",
    "SERVER_PROFILES",
    "UNKNOWN_SERVER_HANDLING",
}


def prose(page: Path) -> str:
    """Text of a page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.replace("`", "")).strip().lower().replace(" ", "-") for heading in headings}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_all_documents_of_the_specification_are_there():
    assert {page.stem for page in DOCS} >= REQUIRED


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_page_has_purpose_prerequisites_examples_troubleshooting_and_a_date(page):
    text = page.read_text(encoding="utf-8")
    for part in (r"\*\*Purpose\.\*\*", r"\*\*Prerequisites\.\*\*", r"[Ll]ast updated[:*. ]+\d{4}-\d\d-\d\d"):
        assert re.search(part, text, re.MULTILINE), part
    assert "```" in text, "an example"
    assert re.search(r"^##+ Troubleshooting", text, re.MULTILINE)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name_of)
def test_links_and_their_anchors_resolve(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_files_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    commands = {command.name for command in (*app.registered_commands, *app.registered_groups)}
    for command in re.findall(r"python main\.py ([a-z][a-z-]*)", text):
        assert command in commands, command
    for script in re.findall(r"(?:python|streamlit run) ([a-z_/]+\.py)", text):
        assert (ROOT / script).is_file(), script
    for path in re.findall(r"`((?:tests|benchmarks)/\w+\.py)`", text):
        assert (ROOT / path).is_file(), path
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for target in re.findall(r"`make ([a-z]+)", text):
        assert target in targets, target


def test_the_index_lists_every_document():
    index = (ROOT / "Docs" / "INDEX.md").read_text(encoding="utf-8")
    assert {page.name for page in DOCS} - set(re.findall(r"\]\(([\w./]+)\)", index)) == {"INDEX.md"}


def test_the_eight_questions_of_the_specification_are_answered_in_two_clicks_from_the_index():
    index = (ROOT / "Docs" / "INDEX.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?\?) \| \[in short\]\((\S+?)#(\S+)\) \| \[.+?\]\((\S+)\) \|$", index, re.MULTILINE)
    assert len(rows) == 8
    for question, page, anchor, more in rows:
        text = (ROOT / "Docs" / page).read_text(encoding="utf-8")
        assert anchor == re.sub(r"[^\w ]", "", question).lower().replace(" ", "-")
        answer = text.split(f"## {question}\n")[1].split("\n## ")[0]
        assert len(answer.split()) > 20, question
        path, _, further = more.partition("#")
        assert not further or further in anchors(ROOT / "Docs" / path), more


def test_the_settings_of_the_quick_reference_are_those_of_the_program():
    text = (ROOT / "Docs" / "ESSENTIAL_RAG.md").read_text(encoding="utf-8")
    table = re.search(r"^\| setting \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)[1]
    told = [[cell.strip().strip("`") for cell in line.strip().strip("|").split("|")] for line in table.splitlines()]
    known = [
        [
            name,
            json.dumps(field.default) if isinstance(field.default, dict) else str(field.default),
            field.description.replace("|", r"\|"),
        ]
        for name, field in Settings.model_fields.items()
    ]
    assert told == known


# --------------------------------------------------------------------------------------------------------- the modules
def modules_of_the_architecture() -> list[str]:
    text = (ROOT / "Docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    section = text.split("## One file, one question")[1].split("\n## ")[0]
    return re.findall(r"^\| `(\w+\.py)` \|", section, re.MULTILINE)


def imports_of(module: str) -> set[str]:
    """Our own modules that a module imports, at the top or later; `main` is what scripts call under `__main__`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(f"{node.module}.py")
        elif isinstance(node, ast.Import):
            found |= {f"{name.name}.py" for name in node.names}
    return (found & MODULES) - {"main.py"}


def test_the_architecture_lists_every_module_once():
    listed = modules_of_the_architecture()
    assert sorted(listed) == sorted(MODULES)


def test_imports_only_go_up_the_list_of_the_architecture():
    listed = modules_of_the_architecture()
    wrong = {
        module: sorted(name for name in imports_of(module) if listed.index(name) > place)
        for place, module in enumerate(listed)
    }
    assert {module: names for module, names in wrong.items() if names} == {}


def test_every_module_says_in_its_first_line_what_it_answers():
    for module in MODULES:
        docstring = ast.get_docstring(ast.parse((ROOT / module).read_text(encoding="utf-8")))
        assert docstring and len(docstring.splitlines()[0]) > 20, module


def test_the_tree_of_the_readme_says_of_each_module_what_the_architecture_says():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    architecture = (ROOT / "Docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    answers = dict(re.findall(r"^\| `(\w+\.py)` \| (.+?) \| ", architecture, re.MULTILINE))
    tree = dict(re.findall(r"^(\w+\.py) +(\S.*)$", readme, re.MULTILINE))
    assert tree == {module: answer.replace("*", "") for module, answer in answers.items()}
    assert set(tree) == MODULES


def test_the_heavy_packages_stay_where_they_belong():
    def top_level_imports(module: str) -> set[str]:
        found: set[str] = set()
        for node in ast.parse((ROOT / module).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
            elif isinstance(node, ast.Import):
                found |= {name.name.split(".")[0] for name in node.names}
        return found

    with_torch = {module for module in MODULES if top_level_imports(module) & {"torch", "lightning"}}
    assert {
        module for module in with_torch if module.startswith(("daemon_", "dashboard_", "fleet_", "import_"))
    } == set()
    assert not with_torch & {
        "main.py",
        "data_contract.py",
        "config.py",
        "data_validator.py",
        "tft_risk.py",
        "tft_status.py",
    }
    with_streamlit = {module for module in MODULES if "streamlit" in top_level_imports(module)}
    assert all(module.startswith(("dashboard_", "tft_dashboard")) for module in with_streamlit)
    with_fastapi = {module for module in MODULES if "fastapi" in top_level_imports(module)}
    assert all(module.startswith("daemon_") or module == "tft_inference.py" for module in with_fastapi)
