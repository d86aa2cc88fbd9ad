"""The mutants still fit the source, and their killers are there; ``make mutants`` runs them."""

import pytest

from tests.mutants.__main__ import mutated
from tests.mutants.mistakes_in_python import mistakes
from tests.mutants.mistakes_in_sql import Finder
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


FUNCTION = """\
create or replace function rota.f(job_id bigint, most integer default 3) returns void
    language plpgsql security definer as $$
begin
    if most < 1 then
        raise exception 'no' using errcode = 'RTV01';
    end if;
    update rota.t as j
    set a = coalesce(j.a, most), b = null
    where j.id = any(array(
        select k.id from rota.t as k where k.c and not k.d order by k.id limit most
        for no key update skip locked
    ));
    insert into rota.u (x, y) values (job_id, most);
end;
$$"""
MADE = [
    ("most < 1", "most <= 1"),
    ("if most < 1 then", "if false then"),
    ("'RTV01'", "'RTX99'"),
    ("a = coalesce(j.a, most), b = null", "a = coalesce(j.a, most)"),
    ("coalesce(j.a, most)", "coalesce(j.a)"),
    ("k.c and not k.d", "k.c"),
    ("not k.d", "k.d"),
    ("order by k.id limit", "limit"),
    ("limit most", ""),
    (" skip locked", ""),
    ("for no key update skip locked", ""),
    ("no key update", "update"),
    ("(x, y) values (job_id, most)", "(x) values (job_id)"),
    ("(job_id, most);", "(most, job_id);"),
    ("default 3", "default 4"),
    ("security definer", ""),
]


@pytest.mark.parametrize(("old", "new"), MADE)
def test_each_kind_of_mistake_in_sql_is_made(old, new):
    made = [
        " ".join(mistake.made_in(FUNCTION).split())
        for mistake in Finder(FUNCTION, 0, len(FUNCTION)).mistakes()
    ]

    assert FUNCTION.count(old) == 1
    assert " ".join(FUNCTION.replace(old, new).split()) in made


PROGRAM = """\
def f(a, b=True):
    if a < 1 and b:
        log.info("not for machines")
        raise KeyError(a)
    g(a, b, c=2)
    return [x for x in a if x]
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a < 1", "a <= 1"),
        ("a < 1 and b", "a < 1"),
        ("if a < 1 and b", "if False"),
        ("b=True", "b=False"),
        ("raise KeyError(a)", "pass"),
        ("g(a, b, c=2)", "g(b, a, c=2)"),
        ("b, c=2", "b, "),
        ("g(a, b, c=2)", "pass"),
        ("if x]", "if True]"),
        ("return [x for x in a if x]", "return None"),
    ],
)
def test_each_kind_of_mistake_in_python_is_made(old, new):
    made = [mistake.made_in(PROGRAM) for mistake in mistakes(PROGRAM)]

    assert PROGRAM.replace(old, new) in made
    assert not [text for text in made if "not for machines" not in text]
