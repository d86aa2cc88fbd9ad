"""The mutants still fit the source, and their killers are there; ``make mutants`` runs them."""

import pytest

from tests.mutants.__main__ import mutated
from tests.mutants.mutants import MUTANTS
from tests.named import ROOT, is_a_test


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.mistake)
def test_a_mutant_changes_its_file_and_has_a_killer(mutant):
    original = (ROOT / mutant.file).read_text()

    assert mutated(original, mutant) != original
    assert mutant.killers
    for killer in mutant.killers:
        assert is_a_test(killer), killer


def test_there_are_enough_mutants_and_none_twice():
    assert len(MUTANTS) >= 25
    assert len({mutant.mistake for mutant in MUTANTS}) == len(MUTANTS)
