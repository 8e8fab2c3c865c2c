"""`palate prepare`: click logs as text, of any size, become packed shards that training reads by memory map.

Three passes, each in blocks, each of which can be killed at any moment and is taken up by the same command:

    read     raw text   -> DIR/.work/rows/     parsed once: numbers, raw keys, missing values; damaged lines are set aside
    count    .work/rows -> DIR/vocabulary/     the values of each column that stand often enough in the training rows
    encode   .work/rows -> DIR/<split>/        ids; whatever is encoded is removed from .work, which is gone at the end

The last day's first half is `valid`, its second half `test`, all days before are `train`; each day is a split of its own, too.

Memory does not grow with the number of rows: some 60 MB of buffers, about 60 MB a thread while reading and 200 MB a thread (at most 4)
while encoding, and 12 bytes for each value of the vocabularies (16 where the values are text). Disk beside the result: as much again
while it runs.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from palate.data import vocabulary
from palate.data.blocks import BLOCK, Block, Reader, sha256_of, stamp
from palate.data.clicks import Format, Parsed
from palate.data.fields import FRONT, LINE
from palate.data.shards import MANIFEST, Manifest, Shard, open_shard, read_manifest, write_manifest, write_shard
from palate.progress import RowsBar, Steps
from palate.types import BundleError, ConfigError, DataError, Inputs, PalateError, SparseInput

PIECE = 1 << 17  # bytes of text parsed at once: what fits the processor's cache
SHARD = 1 << 19  # rows a shard
GROUP = 1 << 20  # rows a run of counted keys
WORK = ".work"
BAD_ROWS = "bad_rows.tsv"
In = TypeVar("In")
Out = TypeVar("Out")
Dense = Literal["log", "log-square", "none"]


class Interrupted(PalateError, KeyboardInterrupt):  # noqa: N818 - nothing went wrong
    """Ctrl-C. Both a PalateError (one line) and a KeyboardInterrupt."""


@dataclass(frozen=True)
class Options:
    """dense: what becomes of the integers, see `transformed`. min_count: a value that stands less often in its column's training rows is
    RARE. buckets: instead of a vocabulary, hash each column into that many ids. max_ind_range: keys modulo this, before they are counted.
    days: equal parts of a single file (None: as many as the format has).
    """

    dense: Dense = "log"
    min_count: int = 1
    buckets: int | None = None
    max_ind_range: int | None = None
    days: int | None = None

    def check(self) -> None:
        """Errors: ConfigError for what cannot be, or cannot be together."""
        if self.dense not in ("log", "log-square", "none"):
            raise ConfigError(f"--dense: log, log-square or none, got {self.dense!r}")
        for name, value, least in (
            ("min-count", self.min_count, 1),
            ("buckets", self.buckets, 1),
            ("max-ind-range", self.max_ind_range, 1),
            ("days", self.days, 2),
        ):
            if value is not None and not least <= value < 2**31 - vocabulary.FIRST:
                raise ConfigError(f"--{name}: from {least} to 2,147,483,645, got {value:,}")
        if self.buckets is not None and (self.min_count > 1 or self.max_ind_range is not None):
            other = "--min-count" if self.min_count > 1 else "--max-ind-range"
            raise ConfigError(f"--buckets hashes and counts nothing, so {other} has no meaning beside it; give one of them")


@dataclass(frozen=True)
class Raw:
    """A raw file. changed: its time of last change, nanoseconds."""

    path: Path
    bytes: int
    changed: int

    @property
    def plain(self) -> dict[str, Any]:
        return {"name": self.path.name, "bytes": self.bytes, "changed": self.changed}


@dataclass(frozen=True)
class Plan:
    """What the first pass found. blocks: (file, block, rows) in order. sha256: of each raw file. lines, bad: of all of them."""

    blocks: tuple[tuple[int, int, int], ...]
    sha256: tuple[str, ...]
    lines: int
    bad: int


@dataclass(frozen=True)
class Part:
    """Rows [start, stop) of all good rows, one split of one day."""

    split: str
    day: str
    start: int
    stop: int


def prepare(
    form: Format, raw: Sequence[Path], out: Path, options: Options = Options(), *, max_bad: float = 0.001, workers: int | None = None,
    quiet: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Prepares `raw` into the folder `out` and says what is there now; does nothing where that was done before.

    Errors: DataError for raw files that are not what `form` says, more than `max_bad` (a share) of damaged lines, a folder that holds
    something else, or what was made of other files or with other options.
    """
    start = time.perf_counter()
    options.check()
    if not 0 <= max_bad <= 1:
        raise ConfigError(f"--max-bad: a share from 0 to 1, got {max_bad:g}")
    files = [Raw(path, *stamp(path)) for path in in_order_of_days(raw)]
    identity = {"format": json.loads(json.dumps(asdict(form))), "options": asdict(options), "raw": [file.plain for file in files]}
    work = out / WORK
    try:
        if (out / MANIFEST).is_file():
            _same(out, files, identity)
            shutil.rmtree(work, ignore_errors=True)
            return _told(out, start, reused=True)
        _begin(out, work, identity)
        with _alone(out, work), ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
            _Job(form, files, out, work, options, max_bad, pool, workers or os.cpu_count() or 1, quiet).run(identity)
        shutil.rmtree(work)
    except KeyboardInterrupt:
        raise Interrupted(f"{out}: stopped; the same command goes on from there") from None
    except OSError as error:
        where = error.filename or out
        raise DataError(f"{where}: {error.strerror or error}; mend that, and the same command goes on from there") from None
    except SafetensorError as error:
        raise DataError(f"{out}: {error}; delete {work} and start again") from None
    return _told(out, start, reused=False)


def in_order_of_days(raw: Sequence[Path]) -> list[Path]:
    """The files, by the numbers in their names where nothing else tells them apart (a shell puts day_10 before day_2)."""
    if not raw:
        raise ConfigError("prepare: no raw file; give --raw FILE ...")
    twice = {path for path in raw if [other.absolute() for other in raw].count(path.absolute()) > 1}
    if twice:
        raise ConfigError(f"prepare: {min(twice)} is given twice")
    pieces = [re.split(r"(\d+)", path.name) for path in raw]
    if len({tuple(piece[::2]) for piece in pieces}) == 1 and len({path.parent for path in raw}) == 1:
        return [path for _, path in sorted(zip([[int(n) for n in piece[1::2]] for piece in pieces], raw, strict=True))]
    return list(raw)


def transformed(values: npt.NDArray[np.int64], dense: Dense) -> npt.NDArray[Any]:
    """Integers [R, F] (0 where missing) as the network sees them.

    log          float32  ln(1 + max(x, 0)): missing and negative values are 0, as in DLRM's reference
    none         float32  x
    log-square   int64    categories: floor(ln(x)^2) where x > 2, else x; the natural logarithm (the winners of Criteo's challenge)
    """
    if dense == "log":
        return np.log1p(np.maximum(values, 0).astype(np.float32))
    if dense == "none":
        return values.astype(np.float32)
    large = np.maximum(values, 3).astype(np.float64)
    return np.where(values > 2, np.floor(np.log(large) ** 2).astype(np.int64), values)


@dataclass
class _Job:
    """One run of the three passes."""

    form: Format
    files: list[Raw]
    out: Path
    work: Path
    options: Options
    max_bad: float
    pool: ThreadPoolExecutor
    workers: int
    quiet: bool

    def run(self, identity: dict[str, Any]) -> None:
        """All three passes, and the manifest."""
        names = ", ".join(file.path.name for file in self.files[:3]) + (" ..." if len(self.files) > 3 else "")
        with Steps(3, quiet=self.quiet) as steps:
            with steps.step(f"read {names}"):
                plan = self.read()
            rows = sum(block[2] for block in plan.blocks)
            parts = self.parts(plan)
            with steps.step("count" if self.options.buckets is None else "count (nothing: values are hashed)"):
                sizes = self.count(plan, max(part.stop for part in parts if part.split == "train"))
            with steps.step(f"encode {rows:,} rows"):
                splits = self.encode(plan, parts, sizes)
        raw = [{**file.plain, "sha256": digest} for file, digest in zip(self.files, plan.sha256, strict=True)]
        days = {day: sum(part.stop - part.start for part in parts if part.day == day) for day in dict.fromkeys(p.day for p in parts)}
        about = {
            **identity, "raw": raw, "rows": rows, "lines": plan.lines, "bad_rows": plan.bad, "days": days,
            "ids": {"missing": vocabulary.PAD, "rare or unknown": vocabulary.RARE, "first value": vocabulary.FIRST},
        }  # fmt: skip
        write_manifest(self.out, Manifest(self.inputs(sizes), splits, about))

    @property
    def sparse(self) -> tuple[str, ...]:
        """The categorical columns, the integers' categories first."""
        return (*(self.form.dense_names if self.options.dense == "log-square" else ()), *self.form.sparse_names)

    def inputs(self, sizes: Sequence[int]) -> Inputs:
        """What a network is built for."""
        features = tuple(SparseInput(name, name, vocabulary.FIRST + size) for name, size in zip(self.sparse, sizes, strict=True))
        return Inputs(() if self.options.dense == "log-square" else self.form.dense_names, features, ("click",))

    # Pass 1

    def read(self) -> Plan:
        """Parses every block that is not there yet."""
        kept = self.work / "plan.json"
        if kept.is_file():
            found = json.loads(kept.read_text(encoding="utf-8"))
            plan = Plan(tuple(tuple(block) for block in found["blocks"]), tuple(found["sha256"]), found["lines"], found["bad"])
            self._refuse_too_many(plan.bad, plan.lines)
            return plan
        (self.work / "rows").mkdir(exist_ok=True)
        blocks, digests, lines, bad = [], [], 0, 0
        with RowsBar("read", sum(file.bytes for file in self.files), quiet=self.quiet) as bar:
            for number, file in enumerate(self.files):
                done = self._read_file(number, file, bar)
                blocks += [(number, place, rows) for place, (rows, _) in enumerate(done["blocks"])]
                digests.append(done["sha256"])
                lines, bad = lines + done["lines"], bad + sum(wrong for _, wrong in done["blocks"])
        self._write_bad_rows([block[:2] for block in blocks] if bad else [])
        self._refuse_too_many(bad, lines)
        plan = Plan(tuple(blocks), tuple(digests), lines, bad)
        _write_json(kept, asdict(plan))
        return plan

    def _read_file(self, number: int, file: Raw, bar: RowsBar) -> dict[str, Any]:
        kept = self.work / f"file-{number:04d}.json"
        if kept.is_file():
            bar.advance(file.bytes)
            return _read_json(kept)
        reader = Reader(file.path, bar.advance, BLOCK)
        blocks: list[tuple[int, int]] = []
        rows = wrong = 0
        for good, bad in _flow(self.pool, lambda block: self._parse(number, file.path, block), reader, self.workers + 1):
            blocks.append((good, bad))
            rows, wrong = rows + good, wrong + bad
            bar.count(good)
            if wrong >= 1000 and wrong > rows:
                self._write_bad_rows([(number, place) for place in range(len(blocks))])
                raise DataError(
                    f"{file.path}: {wrong:,} of the first {rows + wrong:,} lines are no rows of {self.form.name}; {self._first_bad()}"
                )
        if stamp(file.path) != (file.bytes, file.changed):
            raise DataError(f"{file.path}: changed while it was read; delete {self.work} and start again")
        if not rows:
            self._write_bad_rows([(number, place) for place in range(len(blocks))])
            raise DataError(f"{file.path}: holds no row of {self.form.name}{'; ' + self._first_bad() if wrong else ''}")
        done = {"sha256": reader.sha256, "lines": rows + wrong, "blocks": blocks}
        _write_json(kept, done)
        return done

    def _parse(self, number: int, path: Path, block: Block) -> tuple[int, int]:
        """Parses a block into `.work/rows` unless it is there; how many good and bad rows it has."""
        target = self._block(number, block.number)
        if target.is_file():
            with safe_open(target, "np") as file:
                meta = file.metadata()
            return int(meta["rows"]), int(meta["bad_count"])
        start, line = self.form.skip_header(block.text, path) if block.number == 0 else (FRONT, 0)
        stop = len(block.text)
        parsed: list[Parsed] = []
        wrong: list[tuple[int, str]] = []
        while start < stop or not parsed:
            end = line_end(block.text, start, min(start + PIECE, stop))
            piece = self.form.parse(block.text, start, end)
            wrong += [(line + problem.line, problem.reason) for problem in piece.problems]
            parsed.append(piece)
            line += piece.lines
            start = end
        kind = self.form.key_type
        labels, dense = (np.concatenate([getattr(p, name) for p in parsed]) for name in ("labels", "dense"))
        keys, missing = (np.concatenate([getattr(p, name) for p in parsed]) for name in ("keys", "missing"))
        values = transformed(dense, self.options.dense)
        if self.options.max_ind_range is not None:
            keys = (keys if self.form.hex_keys else vocabulary.mix(keys)) % kind(self.options.max_ind_range)
        if self.options.dense == "log-square":
            keys = np.concatenate([values.astype(np.int64).astype(kind), keys], axis=1)
            missing = np.concatenate([np.zeros(values.shape, dtype=np.bool_), missing], axis=1)
            values = np.zeros((len(labels), 0), dtype=np.float32)
        if self.options.buckets is not None:
            keys = np.stack([vocabulary.bucket(keys[:, c], self.options.buckets, c) for c in range(keys.shape[1])], axis=1)
            keys[missing] = vocabulary.PAD
        texts = _lines(block, [place for place, _ in wrong]) if wrong else []
        bad = [(block.first_line + place + 1, reason, text) for (place, reason), text in zip(wrong, texts, strict=True)]
        meta = {"rows": str(len(labels)), "bad_count": str(len(bad)), "bad": json.dumps(bad)}
        arrays = {"labels": labels, "dense": values, "keys": keys, "missing": np.packbits(missing, axis=1)}
        _save(arrays, target, meta)
        return len(labels), len(bad)

    def _block(self, file: int, block: int) -> Path:
        return self.work / "rows" / f"{file:04d}-{block:07d}.safetensors"

    def _write_bad_rows(self, blocks: Iterable[tuple[int, int]]) -> None:
        """`bad_rows.tsv`: file, line, reason and the line itself. Its lines come in the order of the files."""
        path = self.out / BAD_ROWS
        half = path.with_suffix(".half")
        some = False
        with half.open("w", encoding="utf-8", newline="") as to:
            to.write("file\tline\treason\ttext\n")
            for file, block in blocks:
                with safe_open(self._block(file, block), "np") as staged:
                    for line, reason, text in json.loads(staged.metadata()["bad"]):
                        some = True
                        to.write(f"{self.files[file].path.name}\t{line}\t{reason}\t{text}\n")
        if some:
            os.replace(half, path)
        else:
            half.unlink()
            path.unlink(missing_ok=True)

    def _first_bad(self) -> str:
        with (self.out / BAD_ROWS).open(encoding="utf-8", newline="") as file:
            file.readline()
            name, line, reason, _ = file.readline().split("\t", 3)
        return f"the first is {name} line {line}: {reason}; all are in {self.out / BAD_ROWS}"

    def _refuse_too_many(self, bad: int, lines: int) -> None:
        if bad > self.max_bad * lines:
            raise DataError(
                f"{bad:,} of {lines:,} lines are damaged ({bad / lines:.2%}, more than --max-bad {self.max_bad:g}); {self._first_bad()}"
            )

    def parts(self, plan: Plan) -> list[Part]:
        """Which rows are which day, and which split."""
        rows = np.array([block[2] for block in plan.blocks], dtype=np.int64)
        if len(self.files) > 1:
            sizes = [int(rows[[block[0] == file for block in plan.blocks]].sum()) for file in range(len(self.files))]
        else:
            days = self.options.days or self.form.days
            sizes = [len(part) for part in np.array_split(np.empty(int(rows.sum()), dtype=np.bool_), days)]
        if sizes[0] == 0 or sizes[-1] < 2:
            raise DataError(f"{self.files[-1].path}: {int(rows.sum()):,} rows are too few for {len(sizes)} days; give --days, or more rows")
        ends = np.cumsum(sizes)
        parts = [Part("train", f"day_{day}", int(end - size), int(end)) for day, (size, end) in enumerate(zip(sizes, ends, strict=True))]
        last = parts.pop()
        middle = last.start + (sizes[-1] + 1) // 2
        return [*parts, replace(last, split="valid", stop=middle), replace(last, split="test", start=middle)]

    # Pass 2

    def count(self, plan: Plan, training: int) -> list[int]:
        """Writes the vocabularies, from the first `training` rows; how many values each column has."""
        columns = len(self.sparse)
        if self.options.buckets is not None:
            return [self.options.buckets] * columns
        kept = self.work / "sizes.json"
        if kept.is_file():
            return list(_read_json(kept)["sizes"])
        (self.work / "runs").mkdir(exist_ok=True)
        (self.out / "vocabulary").mkdir(exist_ok=True)
        groups = list(_groups(plan, training))
        with RowsBar("count", training, quiet=self.quiet) as bar:
            for number, group in enumerate(groups):
                target = self.work / "runs" / f"{number:06d}.safetensors"
                if not target.is_file():
                    self._write_run(target, group)
                bar.advance(sum(rows for _, _, rows in group))
                bar.count(sum(rows for _, _, rows in group))
        sizes = list(_flow(self.pool, lambda column: self._merge(column, len(groups)), range(columns), 2))
        _write_json(kept, {"sizes": sizes})
        shutil.rmtree(self.work / "runs")
        return sizes

    def _write_run(self, target: Path, group: Sequence[tuple[int, int, int]]) -> None:
        loaded = [(load_file(self._block(file, block)), rows) for file, block, rows in group]
        keys = np.concatenate([staged["keys"][:rows] for staged, rows in loaded])
        missing = _unpacked(np.concatenate([staged["missing"][:rows] for staged, rows in loaded]), keys.shape[1])
        del loaded

        def one(column: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
            return vocabulary.counted(vocabulary.mix(keys[:, column][~missing[:, column]]))

        found = list(_flow(self.pool, one, range(keys.shape[1]), self.workers + 1))
        _save({f"{c}.{what}": array for c, run in enumerate(found) for what, array in zip(("keys", "counts"), run, strict=True)}, target)

    def _merge(self, column: int, runs: int) -> int:
        target = self.out / "vocabulary" / f"{column:03d}.safetensors"
        if not target.is_file():
            names = (f"{column}.keys", f"{column}.counts")
            maps = [_maps(self.work / "runs" / f"{number:06d}.safetensors", names) for number in range(runs)]
            keys = vocabulary.frequent([(m[names[0]], m[names[1]]) for m in maps], self.options.min_count, self.form.key_type)
            _save({"keys": keys}, target)
        return int(_maps(target, ("keys",))["keys"].shape[0])

    # Pass 3

    def encode(self, plan: Plan, parts: Sequence[Part], sizes: Sequence[int]) -> dict[str, tuple[Shard, ...]]:
        """Writes every shard that is not there yet, and forgets the blocks that are no longer needed."""
        ends = np.cumsum([block[2] for block in plan.blocks])
        jobs = [
            (Shard(f"{part.split}/{part.day}-{place:05d}.safetensors", min(SHARD, part.stop - start)), start, part)
            for part in parts
            for place, start in enumerate(range(part.start, part.stop, SHARD))
        ]
        words = None
        if self.options.buckets is None and any(not (self.out / shard.path).is_file() for shard, _, _ in jobs):
            words = [
                vocabulary.Vocabulary(load_file(self.out / "vocabulary" / f"{column:03d}.safetensors")["keys"])
                for column in range(len(sizes))
            ]
        gone = 0
        with RowsBar("encode", int(ends[-1]), quiet=self.quiet) as bar:

            def work(job: tuple[Shard, int, Part]) -> tuple[Shard, int]:
                self._encode(plan, ends, words, job[0], job[1])
                return job[:2]

            for shard, start in _flow(self.pool, work, jobs, min(self.workers, 4)):
                bar.advance(shard.rows)
                bar.count(shard.rows)
                while gone < len(ends) and ends[gone] <= start + shard.rows:
                    self._block(*plan.blocks[gone][:2]).unlink(missing_ok=True)
                    gone += 1
        splits: dict[str, tuple[Shard, ...]] = {}
        for shard, _, part in jobs:
            for name in (part.split, part.day):
                splits[name] = (*splits.get(name, ()), shard)
        return {name: splits[name] for name in sorted(splits, key=lambda name: (name.startswith("day_"), 0))}

    def _encode(self, plan: Plan, ends: npt.NDArray[Any], words: Sequence[vocabulary.Vocabulary] | None, shard: Shard, start: int) -> None:
        target = self.out / shard.path
        if target.is_file() and len(open_shard(target)["labels"]) == shard.rows:
            return
        stop = start + shard.rows
        columns = len(self.sparse)
        dense = np.zeros((shard.rows, 0 if self.options.dense == "log-square" else len(self.form.dense)), dtype=np.float32)
        ids, labels = np.empty((shard.rows, columns), dtype=np.int32), np.empty((shard.rows, 1), dtype=np.uint8)
        for place in range(int(np.searchsorted(ends, start, side="right")), len(ends)):
            file, block, rows = plan.blocks[place]
            first = int(ends[place]) - rows
            if first >= stop:
                break
            staged = load_file(self._block(file, block))
            mine = slice(max(start - first, 0), min(stop - first, rows))
            to = slice(first + mine.start - start, first + mine.stop - start)
            labels[to, 0], dense[to] = staged["labels"][mine], staged["dense"][mine]
            keys = staged["keys"][mine]
            if words is None:
                ids[to] = keys
                continue
            missing = _unpacked(staged["missing"][mine], columns)
            for column, known in enumerate(words):
                ids[to, column] = known.ids(np.ascontiguousarray(keys[:, column]))
            ids[to][missing] = vocabulary.PAD
        write_shard(target, dense, ids, labels)


def line_end(text: npt.NDArray[np.uint8], start: int, stop: int) -> int:
    """Behind the last line that ends in `text[start:stop]`; if none does, behind the first that ends later. The text ends in a line end."""
    for first in (max(start, stop - 4096), start):
        found = np.flatnonzero(text[first:stop] == LINE)
        if len(found):
            return first + int(found[-1]) + 1
    return stop + int(np.argmax(text[stop:] == LINE)) + 1 if start < stop else stop


def _lines(block: Block, which: Sequence[int]) -> list[str]:
    """Lines of a block as texts without an end of line."""
    ends = np.flatnonzero(block.text == LINE)[FRONT:]  # what stands before the text are line ends, too
    starts = np.r_[FRONT, ends[:-1] + 1]
    return [block.text[starts[n] : ends[n]].tobytes().decode("utf-8", "backslashreplace").replace("\r", "") for n in which]


def _unpacked(bits: npt.NDArray[np.uint8], columns: int) -> npt.NDArray[np.bool_]:
    return np.unpackbits(bits, axis=1, count=columns).astype(np.bool_)


def _groups(plan: Plan, training: int) -> Iterator[list[tuple[int, int, int]]]:
    """The blocks of the first `training` rows, some GROUP rows at a time: (file, block, how many of its rows)."""
    group: list[tuple[int, int, int]] = []
    rows = before = 0
    for file, block, size in plan.blocks:
        take = min(size, training - before)
        if take <= 0:
            break
        group.append((file, block, take))
        before, rows = before + size, rows + take
        if rows >= GROUP:
            yield group
            group, rows = [], 0
    if group:
        yield group


def _flow(pool: ThreadPoolExecutor, work: Callable[[In], Out], items: Iterable[In], ahead: int) -> Iterator[Out]:
    """`work(item)` of all items, in order, at most `ahead` of them begun and not yet taken: what bounds the memory."""
    begun: deque[Future[Out]] = deque()
    try:
        for item in items:
            begun.append(pool.submit(work, item))
            del item
            while len(begun) >= ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        for future in begun:
            future.cancel()


def _save(arrays: dict[str, npt.NDArray[Any]], path: Path, metadata: dict[str, str] | None = None) -> None:
    """A file that is there is whole: it is renamed into place."""
    half = path.with_suffix(".half")
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, half, metadata)
    os.replace(half, path)


def _maps(path: Path, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Some arrays of a safetensors file as memory maps, which keep no file open."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    kinds: dict[str, Any] = {"U32": np.dtype("<u4"), "U64": np.dtype("<u8")}
    found: dict[str, npt.NDArray[Any]] = {}
    for name in names:
        kind, shape, start = kinds[header[name]["dtype"]], tuple(header[name]["shape"]), header[name]["data_offsets"][0]
        found[name] = np.memmap(path, kind, "r", 8 + length + start, shape) if shape[0] else np.zeros(shape, kind)
    return found


def _write_json(path: Path, value: Any) -> None:
    half = path.with_suffix(".half")
    half.write_text(json.dumps(value), encoding="utf-8")
    os.replace(half, path)


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _begin(out: Path, work: Path, identity: dict[str, Any]) -> None:
    """Makes the folder, or takes up what was begun there with the same files and options."""
    kept = work / "identity.json"
    if kept.is_file():
        difference = _difference(_read_json(kept), identity)
        if difference:
            raise DataError(f"{out}: an unfinished preparation of other data is there ({difference}); choose another --out or delete {out}")
        return
    if out.exists() and (not out.is_dir() or any(entry.name not in (WORK, BAD_ROWS) for entry in out.iterdir())):
        raise DataError(f"{out}: exists and holds something else; choose another --out")
    work.mkdir(parents=True, exist_ok=True)
    _write_json(kept, identity)


@contextmanager
def _alone(out: Path, work: Path) -> Iterator[None]:
    """Errors: DataError where another process is at it."""
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{out}: another `palate prepare` is at work there; wait for it") from None
        yield


def _same(out: Path, files: Sequence[Raw], identity: dict[str, Any]) -> None:
    """Errors: DataError unless the folder was made of these files with these options."""
    about = read_manifest(out).about
    known = about.get("raw", [])
    touched = [
        (file, entry)
        for file, entry in zip(files, known, strict=False)
        if (file.path.name, file.bytes) == (entry["name"], entry["bytes"]) and file.changed != entry["changed"]
    ]
    for file, entry in touched:  # same name and size, another date: the contents decide
        if sha256_of(file.path) != entry["sha256"]:
            raise DataError(
                f"{out}: {file.path} has changed since it was prepared (its sha256 differs); delete {out} or choose another --out"
            )
    before = {**{key: about.get(key) for key in ("format", "options")}, "raw": [{k: e[k] for k in ("name", "bytes")} for e in known]}
    difference = _difference(before, {**identity, "raw": [{k: e[k] for k in ("name", "bytes")} for e in identity["raw"]]})
    if difference:
        raise DataError(f"{out}: was prepared from other data ({difference}); choose another --out or delete {out}")


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The first thing that differs, in words; empty if nothing does."""
    for key in now["options"]:
        if before["options"].get(key) != now["options"][key]:
            return f"--{key.replace('_', '-')} was {before['options'].get(key)}, now {now['options'][key]}"
    names = [[entry["name"] for entry in side["raw"]] for side in (before, now)]
    if names[0] != names[1]:
        return f"raw files were {' '.join(names[0])}, now {' '.join(names[1])}"
    for old, new in zip(before["raw"], now["raw"], strict=True):
        if old != new:
            what = "bytes" if old["bytes"] != new["bytes"] else "changed"
            return f"{new['name']} has changed since ({old[what]:,} {what}, now {new[what]:,})"
    return (
        ""
        if before["format"] == now["format"]
        else f"its format was {before['format']['name']}, now {now['format']['name']}, or its columns"
    )


def _told(out: Path, start: float, *, reused: bool) -> dict[str, Any]:
    """What is there, as plain values."""
    try:
        manifest = read_manifest(out)
    except BundleError as error:
        raise DataError(str(error)) from None
    about = manifest.about
    return {
        "out": str(out), "reused": reused, "rows": about["rows"], "bad_rows": about["bad_rows"], "days": about["days"],
        "splits": {name: sum(shard.rows for shard in shards) for name, shards in manifest.splits.items() if not name.startswith("day_")},
        "dense": list(manifest.inputs.dense), "tables": {feature.name: feature.rows for feature in manifest.inputs.sparse},
        "table_rows": sum(feature.rows for feature in manifest.inputs.sparse), "options": about["options"], "raw": about["raw"],
        "seconds": round(time.perf_counter() - start, 3),
    }  # fmt: skip
