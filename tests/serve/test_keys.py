"""Keys: only their hash is kept, wrong ones are refused in one way, scopes hold, changes of the file are seen, nothing tells a secret."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from palate.errors import ConfigError
from palate.serve import keys as module
from palate.serve.keys import Forbidden, Keys, KeysUnavailable, Unauthorized, create, entries, revoke


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is looked at with every check, not once a second."""
    monkeypatch.setattr(module, "LOOK_EVERY", 0.0)


def bearer(key: str) -> str:
    return f"Bearer {key}"


def test_a_key_is_let_in_for_its_scopes_only(file: Path) -> None:
    made, key = create(file, "shop", ["events", "recommend"])
    keys = Keys.load(file)
    granted = keys.check(bearer(key), "recommend")
    assert (granted.id, granted.name, granted.scopes) == (made.id, "shop", ("recommend", "events"))
    keys.check(f"bearer  {key}", "events")
    with pytest.raises(Forbidden, match="lacks the scope 'admin'; it has recommend, events") as refused:
        keys.check(bearer(key), "admin")
    assert refused.value.status == 403


def test_admin_implies_the_others(file: Path) -> None:
    _, key = create(file, "root", ["admin"])
    keys = Keys.load(file)
    assert all(keys.check(bearer(key), scope).name == "root" for scope in module.SCOPES)


def test_only_the_hash_is_kept_and_the_file_is_its_owners(file: Path) -> None:
    _, key = create(file, "shop", ["recommend"])
    head, id_, secret = key.split("_")
    assert (head, len(id_), len(secret)) == ("palate", 8, 64)
    assert secret not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    held = json.loads(file.read_text())["keys"][0]
    by_hand = hashlib.blake2b(secret.encode(), key=bytes.fromhex(held["salt"]), digest_size=32, person=b"palate-key").hexdigest()
    assert held["digest"] == by_hand
    assert [path.name for path in file.parent.iterdir()] == ["keys.json"]  # nothing half-written is left


def test_two_keys_with_one_secret_have_two_hashes() -> None:
    assert module._digest("00" * 32, bytes(16)) != module._digest("00" * 32, bytes(15) + b"\1")


@pytest.mark.parametrize(
    "header",
    [
        None, "", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "Bearer palate", "Bearer palate__", "Bearer palate_00000000_", "palate_0_0",
        "Bearer " + "x" * 100_000, "Bearer palate_０0000000_" + "0" * 64, "Bearer palate_00000000_" + "0" * 63 + "\n",
        "Bearer palate_00000000_" + "0" * 64, "Bearer palate_00000000_" + "0" * 64 + "\n",
    ],
)  # fmt: skip
def test_whatever_is_no_key_is_refused(file: Path, header: str | None) -> None:
    create(file, "shop", ["recommend"])
    with pytest.raises(Unauthorized) as refused:
        Keys.load(file).check(header, "recommend")
    assert refused.value.status == 401
    assert refused.value.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_wrong_id_and_a_wrong_secret_look_and_cost_the_same(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, key = create(file, "shop", ["recommend"])
    keys, compared = Keys.load(file), []
    real = hmac.compare_digest
    monkeypatch.setattr(module.hmac, "compare_digest", lambda one, other: compared.append((len(one), len(other))) or real(one, other))
    said = set()
    for wrong in (f"palate_{made.id}_{'0' * 64}", f"palate_ffffffff_{key.split('_')[2]}"):
        with pytest.raises(Unauthorized) as refused:
            keys.check(bearer(wrong), "recommend")
        said.add(str(refused.value))
        assert wrong.split("_")[2] not in str(refused.value)
    assert len(said) == 1
    assert compared == [(32, 32)] * 2  # both were hashed and compared


def test_no_secret_in_any_repr_or_error(file: Path) -> None:
    made, key = create(file, "shop", ["recommend"])
    secret, keys = key.split("_")[2], Keys.load(file)
    told = f"{made!r} {keys!r} {keys.check(bearer(key), 'recommend')!r} {entries(file)!r}"
    assert secret not in told
    assert made.digest not in told
    assert made.salt not in told
    with pytest.raises(Forbidden) as refused:
        keys.check(bearer(key), "admin")
    assert secret not in str(refused.value)


@pytest.mark.usefixtures("at_once")
def test_new_and_revoked_keys_are_seen(file: Path) -> None:
    first, first_key = create(file, "one", ["recommend"])
    keys = Keys.load(file)
    _, second_key = create(file, "two", ["recommend"])
    assert keys.check(bearer(second_key), "recommend").name == "two"
    assert revoke(file, first.id).name == "one"
    with pytest.raises(Unauthorized):
        keys.check(bearer(first_key), "recommend")
    assert len(keys) == 1


def test_a_revoked_key_is_dead_within_a_second_or_so(file: Path) -> None:
    made, key = create(file, "one", ["recommend"])
    keys = Keys.load(file)
    revoke(file, made.id)
    time.sleep(module.LOOK_EVERY + 0.05)
    with pytest.raises(Unauthorized):
        keys.check(bearer(key), "recommend")


def test_the_file_is_looked_at_once_a_second(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, key = create(file, "one", ["recommend"])
    keys, looks = Keys.load(file), []
    monkeypatch.setattr(keys, "_look", lambda: looks.append(1))
    for _ in range(1000):
        keys.check(bearer(key), "recommend")
    assert not looks


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("harm", ["gone", "damaged", "open"])
def test_a_file_that_cannot_be_read_lets_nobody_in_until_it_is_mended(file: Path, harm: str, caplog: pytest.LogCaptureFixture) -> None:
    _, key = create(file, "one", ["recommend"])
    keys, text = Keys.load(file), file.read_text()
    if harm == "gone":
        file.unlink()
    elif harm == "damaged":
        file.write_text(text[:-20])
    else:
        file.chmod(0o644)
    for _ in range(3):
        with pytest.raises(KeysUnavailable) as refused:
            keys.check(bearer(key), "recommend")
    assert refused.value.status == 503
    assert "Retry-After" in refused.value.headers
    assert len(caplog.messages) == 1  # told once
    file.touch(mode=0o600)
    file.chmod(0o600)
    file.write_text(text)
    assert keys.check(bearer(key), "recommend").name == "one"
    assert "can be read again" in caplog.messages[-1]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620, 0o602, 0o644])
def test_a_file_that_others_may_read_or_write_is_refused(file: Path, mode: int) -> None:
    create(file, "one", ["recommend"])
    file.chmod(mode)
    for use in (Keys.load, entries, lambda path: create(path, "two", ["events"]), lambda path: revoke(path, "00000000")):
        with pytest.raises(ConfigError, match=f"mode {mode:04o}.*chmod 600") as refused:
            use(file)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "3", "null", '{"keys": []}', '{"format": "palate-keys", "format_version": 2, "keys": []}', "\udcff",
        '{"format": "palate-keys", "format_version": 1, "keys": [{"id": "00000000"}]}',
        '{"format": "palate-keys", "format_version": 1, "keys": 7}',
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_in_one_line(file: Path, text: str) -> None:
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    file.chmod(0o600)
    with pytest.raises(ConfigError, match="damaged") as refused:
        Keys.load(file)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("id", "../x"), ("id", 5), ("salt", "00"), ("digest", "zz"), ("scopes", "admin"), ("scopes", ["root"]), ("scopes", [])],
)
def test_an_entry_that_is_not_whole_is_refused_and_not_told(file: Path, name: str, value: object) -> None:
    made, _ = create(file, "one", ["recommend"])
    held = json.loads(file.read_text())
    held["keys"][0][name] = value
    file.write_text(json.dumps(held))
    with pytest.raises(ConfigError, match="damaged") as refused:
        Keys.load(file)
    assert made.digest not in str(refused.value)


def test_a_missing_file_says_how_to_make_one(file: Path) -> None:
    with pytest.raises(ConfigError, match="palate key create"):
        Keys.load(file)


@pytest.mark.parametrize(("name", "scopes"), [("", ["admin"]), ("a\nb", ["admin"]), ("x" * 101, ["admin"]), ("x", []), ("x", ["root"])])
def test_what_makes_no_key(file: Path, name: str, scopes: list[str]) -> None:
    with pytest.raises(ConfigError):
        create(file, name, scopes)
    assert not file.exists()


def test_keys_made_at_the_same_time_are_all_there(file: Path) -> None:
    threads = [threading.Thread(target=create, args=(file, f"n{number}", ["events"])) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key.name for key in entries(file)) == sorted(f"n{number}" for number in range(16))


def test_a_link_to_the_file_stays_a_link(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    create(file, "one", ["recommend"])
    link.symlink_to(file)
    create(link, "two", ["recommend"])
    assert link.is_symlink()
    assert len(entries(file)) == 2


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="no key file can be made"):
        create(tmp_path / "file" / "keys.json", "one", ["recommend"])


def test_commands(file: Path) -> None:
    def palate(*arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"COLUMNS": "120"}
        done = subprocess.run([sys.executable, "-m", "palate.cli", "key", *arguments], capture_output=True, text=True, env=environment)
        assert done.returncode == expect, done.stderr
        return done

    made = palate("create", "--keys", str(file), "--name", "shop [bold]", "--scope", "recommend", "--scope", "events")
    key = made.stdout.strip()
    assert Keys.load(file).check(bearer(key), "events").name == "shop [bold]"
    assert key not in made.stderr
    listed = palate("list", "--keys", str(file)).stdout
    id_ = key.split("_")[1]
    assert id_ in listed
    assert "shop [bold]" in listed
    assert key.split("_")[2] not in listed
    (entry,) = json.loads(palate("list", "--keys", str(file), "--json").stdout)
    assert set(entry) == {"id", "name", "scopes", "made"}
    palate("revoke", id_, "--keys", str(file))
    assert len(Keys.load(file)) == 0
    again = palate("revoke", id_, "--keys", str(file), expect=1)
    assert again.stderr.count("\n") == 1
    assert "Traceback" not in again.stderr
