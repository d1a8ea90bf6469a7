from __future__ import annotations

import logging
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from jitr_core.errors import ConfigError, StoreError
from jitr_core.store import Store, database, migrations, schema
from jitr_core.types import Example, Task

ROOT = Path(__file__).parents[1]

FIRST_ROWS = """
INSERT INTO tasks (id, app, tenant, name, state, reason, created)
VALUES ('t', 'shop', '', 'triage', 'observing', '', 1);
INSERT INTO templates (id, task, app, tenant, step, contract, literals)
VALUES ('T', 't', 'shop', '', '', '', '["a",""]');
INSERT INTO observations (id, app, tenant, step, contract, model, time, replaceable, task, template, slots, input_hash,
  kind, reason, audit, audit_share, asked, labelled, answer, input_chars, output_chars, kept)
VALUES ('1', 'shop', '', '', '', 'gpt', 1, 1, 't', 'T', '["x"]', 'h',
  'teacher', 'no_release', 1, 1, 1, 1, 'yes', 2, 3, 1);
UPDATE counters SET value = 7 WHERE name = 'version';
"""
"""What a store of the first schema holds; never to be changed."""


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder}/jitr.db"


def at_first_revision(folder: Path) -> None:
    """A file as the first schema left it."""
    from sqlalchemy import create_engine

    engine = create_engine(url_of(folder))
    with engine.begin() as connection:
        migrations.upgrade(connection, "0001")
    engine.dispose()
    plain = sqlite3.connect(folder / "jitr.db")
    plain.executescript(FIRST_ROWS)
    plain.close()


def check_first_rows(store: Store) -> None:
    assert store.tasks() == [Task("t", "shop", "", "triage")]
    assert store.templates()[0].literals == ("a", "")
    assert store.examples("t") == [Example(("x",), "yes", "h", 0, template="T")]
    assert store.version() == 7
    assert store.verify() == []


def later_revision(folder: Path, monkeypatch, body: str) -> None:
    """Adds a revision to a copy of the migrations."""
    copy = folder / "migrations"
    shutil.copytree(migrations.FOLDER, copy, ignore=shutil.ignore_patterns("__pycache__"))
    head = (
        'from alembic import op\nimport sqlalchemy as sa\nrevision, down_revision = "next", "'
        + schema.REVISIONS[-1]
        + '"\n'
    )
    (copy / "versions" / "next.py").write_text(f"{head}def upgrade():\n{body}")
    monkeypatch.setattr(migrations, "FOLDER", copy)
    monkeypatch.setattr(database, "REVISIONS", (*schema.REVISIONS, "next"))


def test_an_empty_file_becomes_a_store(tmp_path):
    (tmp_path / "jitr.db").touch()
    with Store(url_of(tmp_path)) as store:
        assert store.version() == 0
        assert store.verify() == []


def test_a_store_of_the_first_schema_opens_with_its_rows(tmp_path):
    at_first_revision(tmp_path)
    with Store(url_of(tmp_path)) as store:
        check_first_rows(store)


def test_artifacts_of_an_older_state_are_found_wherever_it_lies_now(tmp_path):
    at_first_revision(tmp_path)
    plain = sqlite3.connect(tmp_path / "jitr.db")
    insert = "INSERT INTO releases (id, task, state, family, path, size_bytes, certificate, created, templates) "
    certificate = '{"target": 0.9, "delta": 0.1, "threshold": 0.5, "coverage": 1, "calls": 9, "errors": 0, '
    certificate += '"agreement_low": 0.9}'
    for name, path in (("r1", "/once/artifacts/t/r1"), ("r2", r"C:\once\artifacts\t\r2"), ("r3", "/own/place")):
        plain.execute(f"{insert} VALUES (?, 't', 'retired', 'lexical', ?, 1, ?, 1, '[]')", (name, path, certificate))
    plain.commit()
    plain.close()
    with Store(url_of(tmp_path)) as store:
        paths = [release.path for release in store.releases("t")]
    beside = tmp_path.resolve() / "artifacts" / "t"
    assert paths == [str(beside / "r1"), str(beside / "r2"), "/own/place"]


def test_the_migrations_lead_to_the_schema_that_the_code_uses(tmp_path):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    with Store(url_of(tmp_path)) as store, store._database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
    found = [each.revision for each in ScriptDirectory(str(migrations.FOLDER)).walk_revisions()]
    assert tuple(reversed(found)) == schema.REVISIONS


def test_an_older_schema_is_migrated_on_opening(tmp_path, monkeypatch):
    at_first_revision(tmp_path)
    later_revision(tmp_path, monkeypatch, '    op.add_column("tasks", sa.Column("colour", sa.String()))\n')
    with Store(url_of(tmp_path)) as store:
        check_first_rows(store)
        with store._database.read() as connection:
            assert connection.exec_driver_sql("SELECT colour FROM tasks").scalar() is None
            assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == "next"


def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    at_first_revision(tmp_path)
    with monkeypatch.context() as patch:
        body = '    op.add_column("tasks", sa.Column("colour", sa.String()))\n    op.drop_table("no_such_table")\n'
        later_revision(tmp_path, patch, body)
        with pytest.raises(StoreError, match="no such table"):
            Store(url_of(tmp_path))
    with Store(url_of(tmp_path)) as store:
        check_first_rows(store)


def test_opening_a_current_store_imports_no_alembic(tmp_path):
    Store(url_of(tmp_path)).close()
    code = f"import sys; from jitr_core.store import Store; Store({url_of(tmp_path)!r}).close()"
    code += "; print('alembic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"


def test_an_app_that_logs_everything_hears_nothing_of_a_migration(tmp_path):
    code = (
        "import logging; logging.basicConfig(level=logging.INFO)\n"
        "from jitr_core.store import Store; "
        f"Store({url_of(tmp_path)!r}).close()\n"
        "logging.getLogger('alembic.runtime.migration').info('of the app')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == ["INFO:alembic.runtime.migration:of the app"]


def test_two_states_that_are_opened_at_a_time_leave_the_log_of_an_app_as_it_was():
    log, (one, other) = logging.getLogger("alembic"), (migrations._hushed(), migrations._hushed())
    before = log.level
    one.__enter__()
    other.__enter__()
    assert not log.isEnabledFor(logging.INFO)
    one.__exit__(None, None, None)
    other.__exit__(None, None, None)
    assert log.level == before


def test_a_newer_schema_is_refused_with_a_way_out(tmp_path):
    Store(url_of(tmp_path)).close()
    plain = sqlite3.connect(tmp_path / "jitr.db")
    plain.execute("UPDATE alembic_version SET version_num = '9999'")
    plain.commit()
    plain.close()
    with pytest.raises(StoreError, match=r"newer version .*schema 9999.*pip install -U"):
        Store(url_of(tmp_path))


def test_the_database_of_another_program_is_left_alone(tmp_path):
    plain = sqlite3.connect(tmp_path / "jitr.db")
    plain.execute("CREATE TABLE recipes (name)")
    plain.commit()
    plain.close()
    with pytest.raises(StoreError, match="another program"):
        Store(url_of(tmp_path))


def test_a_file_that_is_no_database_is_refused_with_a_hint(tmp_path):
    (tmp_path / "jitr.db").write_bytes(b"no database, " * 500)
    with pytest.raises(StoreError, match=r"damaged.*Restore a copy, or move it away"):
        Store(url_of(tmp_path))


def test_damage_within_the_file_becomes_a_store_error_or_a_problem_found(tmp_path):
    with Store(url_of(tmp_path)) as store:
        for number in range(2_000):
            store.record("note", None, {"number": number, "text": "x" * 200})
        store._database.checkpoint()
    file = tmp_path / "jitr.db"
    content = bytearray(file.read_bytes())
    begin = len(content) * 3 // 4  # behind what opening reads
    content[begin:] = b"\xff" * (len(content) - begin)
    file.write_bytes(content)
    with pytest.raises(StoreError, match="damaged"):
        with Store(url_of(tmp_path)) as store:
            store.ledger()
    with Store(url_of(tmp_path)) as store:
        assert any("damaged" in problem for problem in store.verify())


def test_a_folder_that_cannot_be_made_is_a_store_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be made"):
        Store(url_of(tmp_path / "file" / "sub"))


def test_a_place_that_cannot_be_written_is_a_store_error(tmp_path):
    (tmp_path / "jitr.db").mkdir()
    with pytest.raises(StoreError, match="cannot be opened for writing"):
        Store(url_of(tmp_path))


@pytest.mark.parametrize("url", ["", "jitr.db", "sqlite://", "sqlite:///:memory:", "mysql://host/db"])
def test_a_url_that_names_no_sqlite_file_is_a_config_error(url):
    with pytest.raises(ConfigError, match="sqlite:///"):
        Store(url)


def test_a_lock_that_is_never_released_is_a_store_error(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.05)
    with Store(url_of(tmp_path)) as store:
        other = sqlite3.connect(store.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked by another process"):
            store.record("note", None, {})
        assert store.ledger() == [], "reading goes on meanwhile"
        other.close()
        store.record("note", None, {})
