"""What type checkers must refuse, each line marked; nothing here runs."""

from __future__ import annotations

from typing import Any

from prefork.engine import App, AsyncResult, Task, shared_task

app = App("typed")


@app.task
def add(x: int, y: int = 0) -> int:
    return x + y


@app.task(bind=True)
def bound(self: Task[Any, Any], x: int) -> float:
    return x / 2


@shared_task(name="shared")
def shared(x: bytes) -> None: ...


class Doubling(Task[[int], int]):
    def run(self, x: int) -> int:
        return 2 * x


@app.task
async def fetch(url: str) -> bytes:
    return url.encode()


doubling = app.register_task(Doubling())

add.delay(1, "x")  # refused
add.delay()  # refused
add.delay(1, 2, 3)  # refused
add.delay(1, z=2)  # refused
add("1")  # refused
bound.delay("x")  # refused
bound.delay(bound, 1)  # refused
shared.delay("text")  # refused
doubling.delay("x")  # refused
result: AsyncResult[str] = add.delay(1)  # refused
value: str = add.delay(1).get()  # refused
app.task(3)  # refused
fetch.delay(1)  # refused
fetch.adelay(1)  # refused
fetched: bytes = fetch("url")  # refused
fetch_result: AsyncResult[str] = fetch.delay("url")  # refused
print(app.config.no_such_setting)  # refused
