"""Where a person waits: how far it is, in one place on a terminal, else by a line now and then."""

import io

import psycopg

from rota import terminal
from rota.db.deploy import deploy
from rota.terminal import Progress, columns, cut, printable
from tests.waiting import wait_until


class Screen(io.StringIO):
    """What a stream was written, as a terminal or as none."""

    encoding = "utf-8"

    def __init__(self, is_terminal=False):
        super().__init__()
        self.isatty = lambda: is_terminal


def test_a_terminal_shows_it_in_one_place_and_lines_that_stay_take_that_place(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "20")
    screen = Screen(is_terminal=True)
    progress = Progress(screen)

    progress.show("\u6f22" * 30 + "\x1b[31m")
    progress.aside(lambda line: screen.write(f"{line}\n"))("done")
    progress.clear()

    clear = "\r\x1b[K"
    assert screen.getvalue() == f"{clear}{chr(0x6F22) * 9}\u2026{clear}done\n"


def test_elsewhere_there_is_a_line_now_and_then(monkeypatch):
    screen = Screen()
    progress = Progress(screen)
    progress.show("too soon")
    monkeypatch.setattr(terminal, "PAUSE", 0)
    monkeypatch.setattr(terminal, "EVERY", 0)
    progress = Progress(screen)

    with progress.waiting("it takes"):
        wait_until(lambda: screen.getvalue().count("it takes, 0 s\n") > 1)

    assert "too soon" not in screen.getvalue() and "\r" not in screen.getvalue()


def test_what_is_cut_has_as_many_columns_as_there_are():
    for text in ("a" * 9, "\u6f22" * 5, "e\u0301" * 9, "\U0001f600" * 5):
        for width in range(1, 12):
            assert columns(cut(text, width)) <= width
        assert cut(text, 20) == text


def test_what_steers_a_terminal_is_no_part_of_a_text():
    assert printable("a\x1b[2J\r\n\t\x9b\u202e\u2028b") == "a [2J      b"


def test_a_deploy_shows_which_index_it_builds_and_who_holds_that_up(empty_db, monkeypatch):
    deploy(empty_db, report=lambda line: None)
    monkeypatch.setattr("rota.db.deploy.SMALL", -1)
    monkeypatch.setattr(terminal, "PAUSE", 0.05)
    monkeypatch.setattr(terminal, "EVERY", 0)
    screen = Screen()
    with (
        psycopg.connect(empty_db, autocommit=True) as conn,
        psycopg.connect(empty_db, application_name="a \x1b report") as writer,
    ):
        conn.execute(
            """
            drop index rota.finished_jobs_times;
            delete from rota._yoyo_migration where migration_id like '0100%';
            """
        )
        writer.execute("lock table rota.finished_jobs_default in row exclusive mode")
        held_up = f"held up by pid {writer.info.backend_pid} (user "

        class Watched(Screen):
            def write(self, text):
                if held_up in text:
                    writer.rollback()
                return super().write(text)

        screen = Watched()
        deploy(empty_db, report=lambda line: None, progress=Progress(screen))

    shown = screen.getvalue()
    assert "index on rota.finished_jobs_default: waiting for writers before build, " in shown
    assert held_up in shown and "\x1b" not in shown
