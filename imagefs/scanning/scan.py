"""A scan: every source is opened, every different layer read once, and results come as they are.

Owns the order of the work and the table of what failed. Nothing here reads an image; that is done
where the pool does it.
"""

import inspect
import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from imagefs.image.options import SourceOptions
from imagefs.progress import Progress, Silent
from imagefs.scanning import worker
from imagefs.scanning.model import Failure, Found, Function, Holder
from imagefs.scanning.plan import Part, Plan
from imagefs.scanning.pools import Cluster, Pool, Processes, Task
from imagefs.scanning.state import State
from imagefs.scanning.worker import Question, Read
from imagefs.source.opening import SourceRequest
from imagefs.text import counted

_IMAGES_TOGETHER = 16


class Scan:
    """What a scan finds, row by row, as layers are read: an iterable to go through once.

    `failures` is the table of what could not be read, `layers_read`, `layers_known` (from the
    state), `files_read` and `bytes_read` count what was done; all grow as the scan goes on.
    """

    def __init__(
        self,
        sources: Iterable[SourceRequest],
        function: Function,
        pool: Pool,
        state: State | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.failures: list[Failure] = []
        self.images = self.layers_read = self.layers_known = self.files_read = self.bytes_read = 0
        self._sources, self._function, self._pool = sources, function, pool
        self._state, self._progress = state, progress or Silent()
        self._name = uuid.uuid4().hex[:8]

    def __iter__(self) -> Iterator[Found]:
        try:
            self._progress.phase("opening images")
            plan = self._planned()
            self.images = plan.images
            self._progress.phase(
                f"reading {counted(plan.layers, 'layer')} of {counted(plan.images, 'image')}",
                plan.bytes,
            )
            yield from self._read(plan)
        finally:
            self._pool.close()

    def _planned(self) -> Plan:
        plan = Plan()
        tasks = (
            Task(f"plan-{number}-{self._name}", worker.plan, request)
            for number, request in enumerate(self._sources)
        )
        for task, done in self._pool.each(lambda: next(tasks, None)):
            if isinstance(done, BaseException):
                self._fail(task.argument.text, "", done)
                continue
            for image in done:
                plan.add(task.argument, image)
        return plan

    def _read(self, plan: Plan) -> Iterator[Found]:
        questions: deque[Task] = deque()
        parts = plan.parts()
        read = partial(worker.read, self._function)

        def following() -> Task | None:
            while not questions:
                part = next(parts, None)
                if part is None:
                    return None
                known = self._state.recall(part) if self._state else None
                if known is None:
                    return Task(f"read-{part.key}-{self._name}", read, part)
                self.layers_known += part.number == 0
                self._progress.advance(part.size)
                questions.extend(self._questions(plan, part, known))
            return questions.popleft()

        for task, done in self._pool.each(following):
            if isinstance(task.about, _Answer):
                self._answer(task, done)
                if task.about.missing == 0:
                    yield from task.about.found()
            elif isinstance(done, BaseException):
                part = task.argument
                self._fail(part.places[0].request.text, part.layer.diff_id, done)
            else:
                self._note(task.argument, done)
                questions.extend(self._questions(plan, task.argument, done))

    def _note(self, part: Part, done: Read) -> None:
        self.layers_read += part.number == 0
        self.files_read += done.files
        self.bytes_read += done.bytes
        self.failures += done.failures
        self._progress.advance(part.size)
        if self._state:
            self._state.remember(part, done)

    def _questions(self, plan: Plan, part: Part, done: Read) -> Iterator[Task]:
        """Yield what to ask before it can be told what was found: who shows the files."""
        if not done.found:
            return
        places, holders = plan.holders(part.layer.diff_id)
        rows = tuple(dict.fromkeys(number for number, _, _ in done.found))
        answer = _Answer(part, done, holders)
        for at in range(0, len(places), _IMAGES_TOGETHER):
            answer.missing += 1
            question = Question(self._name, places[at : at + _IMAGES_TOGETHER], rows, at)
            key = f"shown-{part.key}-{at}-{self._name}"
            yield Task(key, worker.shown, question, answer)

    def _answer(self, task: Task, done: Any) -> None:
        answer, question = task.about, task.argument
        answer.missing -= 1
        layer = answer.part.layer.diff_id
        if isinstance(done, BaseException):
            self._fail(question.places[0].request.text, layer, done)
            return
        for at, shown in enumerate(done, question.first):
            if isinstance(shown, Failure):
                self.failures.append(shown._replace(layer=layer))
            else:
                answer.shown[at] = dict(zip(question.rows, shown, strict=True))

    def _fail(self, source: str, layer: str, error: BaseException) -> None:
        self.failures.append(Failure(source, layer, "", str(error) or type(error).__name__))


class _Answer:
    """What was found in a part, until it is known which images show it."""

    def __init__(self, part: Part, done: Read, holders: tuple[Holder, ...]) -> None:
        self.part, self._done, self._holders = part, done, holders
        self.missing = 0
        self.shown: list[dict[int, bool]] = [{} for _ in holders]

    def found(self) -> Iterator[Found]:
        layer = self.part.layer
        for number, path, value in self._done.found:
            shown = tuple(known.get(number, False) for known in self.shown)
            yield Found(layer.diff_id, layer.step, path, value, self._holders, shown)


def scan(
    sources: Iterable[str],
    function: Function,
    *,
    client: Any = None,
    processes: int | None = None,
    state: str | Path | None = None,
    name: str | None = None,
    **options: Any,
) -> Scan:
    """Have `function` look at each regular file of each different layer of many images, once.

    `sources` are SOURCEs as the command line takes them; the options are SourceOptions's. The
    function gets a `File` and returns rows; it must pickle, since it runs in `processes` of this
    machine (as many as it has processors), or on the workers of `client`, a
    dask.distributed.Client. With `state`, a directory, layers that were read before are not read
    again by a function of the same `name`, which is made of its code where none is given.
    """
    given = SourceOptions(**options)
    requests = (SourceRequest(source, given) for source in sources)
    kept = State(Path(state), name or name_of(function)) if state is not None else None
    pool = Cluster(client) if client is not None else Processes(processes)
    return Scan(requests, function, pool, kept)


def name_of(function: Function) -> str:
    """Return what tells a function from others, and from itself after a change of its code."""
    try:
        code = inspect.getsource(function)
    except (OSError, TypeError):
        code = repr(function)
    return "\n".join(
        [getattr(function, "__module__", ""), getattr(function, "__qualname__", ""), code]
    )
