"""A release: its citation, workflows, wheels and pinned tools say the same as the package."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import yaml

import pmemheap

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINNED = dict(
    line.split("==") for line in (ROOT / ".ci/constraints.txt").read_text().lower().splitlines()
)


def loaded(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


def name_of(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None
    return found.group().lower()


def pinned(requirement: str) -> bool:
    """Whether a release is listed, by any spelling of its name."""
    return any(re.fullmatch(re.sub("[-_.]+", "[-_.]+", name_of(requirement)), n) for n in PINNED)


def test_the_citation_is_that_of_this_release() -> None:
    citation = loaded("CITATION.cff")
    assert {"cff-version", "message", "authors", "title"} <= citation.keys()
    assert citation["version"] == pmemheap.__version__
    assert citation["license"] == PROJECT["project"]["license"]
    assert citation["repository-code"] == PROJECT["project"]["urls"]["Homepage"]


def test_the_changelog_opens_with_this_release() -> None:
    found = re.search(r"^## (\S+?),? ", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert found is not None
    assert found.group(1) == pmemheap.__version__


def test_every_tool_has_a_pinned_release() -> None:
    wanted = [
        each for extra in PROJECT["project"]["optional-dependencies"].values() for each in extra
    ]
    wanted += [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
    assert [each for each in wanted if not pinned(each)] == [], "make constraints"


def test_ci_runs_the_versions_of_python_that_are_named() -> None:
    named = {
        found.group(1)
        for each in PROJECT["project"]["classifiers"]
        if (found := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", each))
    }
    matrix = loaded(".github/workflows/ci.yml")["jobs"]["installed"]["strategy"]["matrix"]
    assert set(matrix["python"]) == named
    assert PROJECT["project"]["requires-python"] == f">={min(named, key=lambda v: int(v[2:]))}"


def test_wheels_are_tested_with_files_that_are_there() -> None:
    words = shlex.split(PROJECT["tool"]["cibuildwheel"]["test-command"].replace("\\\n", " "))
    files = [word for word in words if word.startswith("{project}/")]
    assert files
    for file in files:
        assert Path(file.format(project=ROOT)).is_file(), file


def test_a_release_waits_for_the_tests() -> None:
    jobs = loaded(".github/workflows/release.yml")["jobs"]
    assert {"test", "sdist", "wheels"} <= set(jobs["publish"]["needs"])
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert (ROOT / jobs["test"]["uses"]).is_file()


def test_forms_for_issues_have_what_a_form_needs() -> None:
    forms = [
        path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"
    ]
    assert forms
    for form in forms:
        content = yaml.safe_load(form.read_text())
        assert {"name", "description", "body"} <= content.keys(), form.name
        kinds = {each["type"] for each in content["body"]}
        assert kinds <= {"markdown", "textarea", "input", "dropdown", "checkboxes"}, form.name
