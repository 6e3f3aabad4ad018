"""What type checkers must accept; nothing here runs."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from prefork.engine import App, AsyncResult, BulkResult, Celery, Task, chain, group, shared_task
from prefork.engine.exceptions import Retry, SoftTimeLimitExceeded
from prefork.engine.schedules import crontab

app = App("typed", broker="memory://", task_time_limit=30)
other: Celery = Celery("other")


@app.task
def add(x: int, y: int = 0) -> int:
    return x + y


@app.task(name="named", max_retries=3, autoretry_for=(OSError,))
def named(text: str, *, loud: bool = False) -> str:
    return text.upper() if loud else text


@app.task(bind=True)
def bound(self: Task[Any, Any], x: int) -> float:
    try:
        return x / 2
    except SoftTimeLimitExceeded as exc:
        raise self.retry(exc=exc, countdown=self.request.retries) from exc


@shared_task
def shared(x: bytes) -> None: ...


@shared_task(bind=True, ignore_result=True)
def shared_bound(self: Task[Any, Any], x: bytes) -> list[int]:
    return list(x)


class Doubling(Task[[int], int]):
    def run(self, x: int) -> int:
        return 2 * x


class Loose(Task):  # type: ignore[type-arg]
    def run(self, x: int, y: str) -> None: ...


doubling = app.register_task(Doubling())

number: int = add(1, 2)
text: str = named("a", loud=True)
half: float = bound(3)
doubled: int = doubling(4)

sum_result: AsyncResult[int] = add.delay(1, y=2)
text_result: AsyncResult[str] = named.delay("a", loud=True)
half_result: AsyncResult[float] = bound.delay(3)
list_result: AsyncResult[list[int]] = shared_bound.delay(b"x")
double_result: AsyncResult[int] = doubling.delay(1)
none_result: AsyncResult[None] = shared.delay(b"x")

got: int = add.delay(1).get(timeout=1)
later: AsyncResult[int] = add.apply_async((1,), {"y": 2}, countdown=3, queue="q", priority=5)
found: AsyncResult[int] = add.AsyncResult("id")
eager: int = add.apply((1,)).get()

many: BulkResult[int] = add.map_async(range(3), priority=5)
sums: list[int] = add.starmap_async([(1, 2), (3, 4)]).get(timeout=1)
texts: BulkResult[str] = named.map_async(iter("abc"), chunk_size=100)
mixed: BulkResult[Any] = app.send_tasks([add.s(1), (named, ("a",)), ("other.task", (1,), {"k": 2})])
with app.bulk(chunk_size=100) as bulk:
    bulked: AsyncResult[int] = add.delay(1)
accepted: int = bulk.accepted

workflow = chain(add.s(1), add.s(2)) | add.s(3)
side_by_side = group(add.s(i) for i in range(3))
schedule = crontab(minute=0, hour="*/2")
error: type[Exception] = Retry


@app.task
async def fetch(url: str, times: int = 1) -> bytes:
    return url.encode() * times


@app.task(bind=True, soft_time_limit=3)
async def fetch_bound(self: Task[Any, Any], url: str) -> int:
    return len(await fetch(url))


@shared_task(ignore_result=True)
async def fetch_shared(url: str) -> None: ...


coroutine: Coroutine[Any, Any, bytes] = fetch("url", times=2)
fetched: AsyncResult[bytes] = fetch.delay("url")
fetched_bytes: bytes = fetch.delay("url", times=2).get(timeout=1)
fetched_int: AsyncResult[int] = fetch_bound.delay("url")
fetched_none: AsyncResult[None] = fetch_shared.apply_async(("url",))
fetched_eagerly: bytes = fetch.apply(("url",)).get()


async def on_a_loop() -> None:
    total: int = await (await add.adelay(1, y=2)).aget(timeout=1)
    sent: AsyncResult[bytes] = await fetch.aapply_async(("url",), countdown=1)
    data: bytes = await sent.aget()
    named: AsyncResult[Any] = await app.asend_task("name", (1,))
    values: list[Any] = await group(add.s(i) for i in range(3)).apply_async().aget()
    async for task_id, found in app.ResultSet([sent]).aiter_native(timeout=1):
        print(task_id, found, total, data, named, values)
