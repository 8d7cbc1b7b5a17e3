from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from loradex.errors import RegistryFailed
from loradex.registry import schema
from loradex.registry.migrate import known
from loradex.registry.registry import Registry
from tests.adapters.making import BASE, make_adapter, make_tensors


def test_the_steps_make_the_tables_of_the_code(home: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    Registry(home).close()
    with create_engine(f"sqlite:///{home / 'registry.db'}").connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert context.get_current_revision() == schema.HEAD
        assert compare_metadata(context, schema.metadata) == []
    assert schema.HEAD in known()


def test_steps_go_back_too(home: Path) -> None:
    from alembic import command

    from loradex.registry import migrate

    Registry(home).close()
    with create_engine(f"sqlite:///{home / 'registry.db'}").begin() as connection:
        config = migrate._config()
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    Registry(home).close()


def test_the_store_is_written_ahead_and_holds_its_keys(registry: Registry) -> None:
    with registry._database.read() as connection:
        found = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "foreign_keys")]
    assert found == ["wal", 1]


def test_a_store_of_a_newer_version_is_left_alone(home: Path) -> None:
    Registry(home).close()
    with sqlite3.connect(home / "registry.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    content = (home / "registry.db").read_bytes()
    with pytest.raises(RegistryFailed, match="schema 9999") as error:
        Registry(home)
    assert "Upgrade" in error.value.hint
    assert (home / "registry.db").read_bytes() == content


def test_a_damaged_store_is_named(home: Path) -> None:
    home.mkdir()
    (home / "registry.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(RegistryFailed, match="not a database") as error:
        Registry(home)
    assert error.value.hint


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for home in (tmp_path / "file", tmp_path / "file" / "home"):
        with pytest.raises(RegistryFailed, match="cannot be made"):
            Registry(home)
    (tmp_path / "home" / "registry.db").mkdir(parents=True)
    with pytest.raises(RegistryFailed, match="could not be opened"):
        Registry(tmp_path / "home")


def test_odd_characters_in_the_path_do_no_harm(tmp_path: Path) -> None:
    home = tmp_path / "50%?mode=ro#x;y 'z'"
    Registry(home).close()
    assert (home / "registry.db").is_file()


def test_a_store_that_others_hold_is_waited_for_and_then_named(home: Path, tmp_path: Path) -> None:
    with Registry(home, busy_seconds=0.05) as registry:
        staged = registry.stage(make_adapter(tmp_path / "a"), BASE, max_rank=16)
        holder = sqlite3.connect(home / "registry.db", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(RegistryFailed, match="locked"):
            registry.commit("medical", staged)
        assert registry.list() == []  # reading goes on
        holder.execute("ROLLBACK")
        holder.close()
        assert registry.commit("medical", staged).version == 1


def test_opening_waits_for_who_is_opening(home: Path) -> None:
    from loradex.registry.lock import file_lock

    home.mkdir()
    with file_lock(home / "registry.lock", 1), pytest.raises(RegistryFailed, match="held by another process"):
        Registry(home, busy_seconds=0.05)
    Registry(home).close()


def test_a_store_that_may_only_be_read_can_be_read(registry: Registry, tmp_path: Path, home: Path) -> None:
    registry.commit("medical", registry.stage(make_adapter(tmp_path / "a"), BASE, max_rank=16))
    with registry._database._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA query_only=ON")  # this connection goes back to the pool as it is
    with pytest.raises(RegistryFailed, match="readonly"):
        registry.enable("medical", False)
    assert registry.get("medical").enabled


def test_threads_lose_nothing(registry: Registry, tmp_path: Path) -> None:
    folders = [make_adapter(tmp_path / str(n), make_tensors(seed=n)) for n in range(6)]
    start = threading.Barrier(6)

    def work(folder: Path) -> int:
        start.wait()
        ref = registry.commit("medical", registry.stage(folder, BASE, max_rank=16), serve=True)
        registry.promote("medical", ref.version, "prod")
        registry.list()
        return ref.version

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(work, folders)) == [1, 2, 3, 4, 5, 6]
    record = registry.get("medical")
    assert record.current == 6
    assert len({version.digest for version in record.versions}) == 6
    assert len(registry.history("medical")) == 12


WORK = """
import sys
from pathlib import Path
from loradex.registry.registry import Registry
from tests.adapters.making import BASE, make_adapter, make_tensors

home, out, first = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
with Registry(home) as registry:
    for seed in (0, first, first + 1):
        folder = make_adapter(out / f"{first}-{seed}", make_tensors(seed=seed))
        registry.commit("medical", registry.stage(folder, BASE, max_rank=16), serve=True)
"""


def test_two_processes_may_open_and_commit_at_once(home: Path, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORK, str(home), str(tmp_path), str(first)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=root,
            text=True,
        )
        for first in (10, 20)
    ]
    for worker in workers:
        assert worker.stdout
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin
        worker.stdin.write("\n")
        worker.stdin.flush()
    for worker in workers:
        worker.communicate(timeout=60)
        assert worker.returncode == 0
    with Registry(home) as registry:
        record = registry.get("medical")
        assert [version.version for version in record.versions] == [1, 2, 3, 4, 5]  # the shared content once
        for version in record.versions:
            registry.adapter(version.digest)


def test_neither_torch_nor_alembic_is_imported_to_open_a_store(home: Path, empty_store: bytes) -> None:
    home.mkdir()
    (home / "registry.db").write_bytes(empty_store)
    code = (
        "import sys; from pathlib import Path; from loradex.registry.registry import Registry;"
        "Registry(Path(sys.argv[1])).list();"
        "print([name for name in ('torch', 'transformers', 'peft', 'alembic', 'numpy') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code, str(home)], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
