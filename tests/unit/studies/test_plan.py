"""The study file: what it asks for, in which order, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mt.config_file import dump_config
from mt.errors import UserError
from tools.studies.cells import written_pairs
from tools.studies.measures import check_outcomes
from tools.studies.plan import Cell, TrainingText, cells_of, config_of, needed_by, read_study, work_of

ROOT = Path(__file__).resolve().parents[3]
STUDIES = sorted((ROOT / "configs" / "studies").glob("*.yaml"))
SMALL = """
title: small
corpora: {g: {config: demo-de-en.yaml, settings: {train.max_steps: 4}, tests: {test: {pairs: 5}}}}
variants: {ce: {loss.smoothing: 0}, ls: {loss.smoothing: 0.1}}
conditions:
  taught: {settings: {train.max_steps: 3}, models: {train.init_from: ls}}
searches: {wide: {beam: 20}}
grid:
  - {corpus: g, variants: [ce, ls], seeds: [1, 2]}
  - {corpus: g, variants: [ce], seeds: [1], condition: taught}
  - {corpus: g, variants: [ce], seeds: [2, 3], searches: [wide]}
questions:
  a: {statement: it helps, comparisons: [{first: g/plain/ls, second: g/plain/ce, outcome: bleu, claim: higher}]}
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_work_is_in_the_order_of_the_grid_and_a_cell_has_the_searches_of_all_rows(tmp_path: Path) -> None:
    study = read_study(written(tmp_path, SMALL))
    names = [(cell.name, cell.searches) for cell in work_of(study)]
    assert names[:4] == [(f"g/plain/{variant}/seed-{seed}", ()) for seed in (1, 2) for variant in ("ce", "ls")]
    assert names[4:] == [("g/taught/ce/seed-1", ()), ("g/plain/ce/seed-2", ("wide",)), ("g/plain/ce/seed-3", ("wide",))]
    merged = {cell.name: cell.searches for cell in cells_of(study)}
    assert len(merged) == 6
    assert merged["g/plain/ce/seed-2"] == ("wide",)


def test_cells_are_chosen_by_pattern_and_seed(tmp_path: Path) -> None:
    study = read_study(written(tmp_path, SMALL))
    assert {cell.name for cell in work_of(study, "*/plain/ls")} == {"g/plain/ls/seed-1", "g/plain/ls/seed-2"}
    assert {cell.seed for cell in work_of(study, seeds=(3,))} == {3}


def test_a_cell_that_is_taught_needs_the_teacher_of_its_own_seed(tmp_path: Path) -> None:
    study = read_study(written(tmp_path, SMALL))
    assert list(needed_by(study, Cell("g", "taught", "ce", 1))) == [Cell("g", "plain", "ls", 1)]
    assert list(needed_by(study, Cell("g", "plain", "ce", 1))) == []


def test_settings_of_corpus_condition_and_variant_come_together_in_the_config(tmp_path: Path) -> None:
    study = read_study(written(tmp_path, SMALL))
    config = config_of(study, Cell("g", "taught", "ls", 7), ROOT / "configs", {"run_dir": "here"})
    assert (config.train.max_steps, config.loss.smoothing, config.seed, config.run_dir) == (3, 0.1, 7, "here")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("variants: [ce], seeds: [1], condition: taught", "variants: [ec], seeds: [1]", "names ec"),
        ("condition: taught", "condition: tought", "names tought, which is not among its conditions"),
        ("searches: [wide]", "searches: [narrow]", "names narrow"),
        ("second: g/plain/ce", "second: g/plain/xx", "question a compares g/plain/xx, which the grid has not"),
        ("outcome: bleu", "outcome: blue", "question a: outcome is 'blue'"),
        ("claim: higher", "claim: better", "Invalid enum value 'better'"),
        ("claim: higher", "claim: higher, test: tset", "question a names tset, which is no text or search"),
        ("claim: higher", "claim: higher, less: wied", "question a names wied, which is no text or search"),
        ("tests: {test: {pairs: 5}}", "tests: {test: {source: a.de}}", "a text needs pairs (of the grammar), or"),
        ("title: small", "titel: small", "titel"),
    ],
)
def test_what_is_wrong_with_a_study_file_is_told_in_one_line(tmp_path: Path, old: str, new: str, told: str) -> None:
    path = written(tmp_path, SMALL.replace(old, new))
    with pytest.raises(UserError) as error:
        check_outcomes(read_study(path), path)
    assert told in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_each_cell_of_the_shipped_studies_has_a_config(path: Path, tmp_path: Path) -> None:
    study = read_study(path)
    for group, cell in {cell.group: cell for cell in cells_of(study)}.items():
        options = {"run_dir": "-", "data.root": "."}
        for needed in needed_by(study, cell):  # its config stands where a trained model's would
            made = config_of(study, needed, path.parents[1], options)
            (tmp_path / "config.yaml").write_text(dump_config(made), encoding="utf-8")
        models = study.conditions[cell.condition].models if cell.condition in study.conditions else {}
        config = config_of(study, cell, path.parents[1], options | dict.fromkeys(models, str(tmp_path)))
        assert config.train.max_steps > 0, group
        assert config.train.budget_minutes == 0, group  # never a budget: seeds are compared
        assert config.train.schedule == "cosine", group
        assert config.train.final_learning_rate == 0, group


def test_wrong_targets_are_those_of_other_pairs_and_as_many_as_said() -> None:
    clean = written_pairs(TrainingText(pairs=400), ("de", "en"))
    noisy = written_pairs(TrainingText(pairs=400, wrong_targets=0.3), ("de", "en"))
    assert [source for source, _ in noisy] == [source for source, _ in clean]
    assert sorted(target for _, target in noisy) == sorted(target for _, target in clean)
    assert 100 < sum(one != other for one, other in zip(clean, noisy)) <= 120  # a few of the others say the same


def test_short_sources_are_short_and_as_many_as_said() -> None:
    pairs = written_pairs(TrainingText(pairs=300, longest_source=6), ("de", "en"))
    assert len(pairs) == 300
    assert max(len(source.split()) for source, _ in pairs) == 6
