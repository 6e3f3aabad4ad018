"""``app.control``: commands to workers, with Celery's signatures (parity §15.2)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from ...transports.errors import TransportError
from .. import revoking, revoking_answers
from ..exceptions import ImproperlyConfigured
from ..revoked_keys import stamp_keys, task_key
from ..terminating import signal_of
from ..unique_purge import purge
from .collecting import Asker, request
from .inspect import Inspect
from .lamport import LamportClock
from .silent_workers import SilentWorkers
from .wire import Reply, Request

if TYPE_CHECKING:
    from ..app import App

Destination = Sequence[str] | str | None
Replies = list[dict[str, Any]] | None

_log = logging.getLogger("prefork.control")

# So long workers are waited for that are to say what runs.
_ANSWERS_S: Final = 1.0


class Control:
    """Sends commands to the workers of an app's broker. Safe to use from several threads.

    Every command takes, besides its own parameters, those of `broadcast`. Without ``reply=True`` it returns
    None at once, and nobody knows whether a worker heard it; with it, what each worker answered.

    :ivar clock: the logical clock of this process.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self.clock = LamportClock()
        self._asker: tuple[Any, Asker] | None = None  # written by any thread; a lost one is made again
        self._silent = SilentWorkers()

    def _sends(self) -> Asker:
        config = self._app.config
        made = self._asker
        if made is None or made[0] is not config:
            asker = Asker(lambda: self._app.client.transport, config, self.clock)
            # A client reads its workers' replies as it reads results.
            asker.table.allow_unpickling()
            made = self._asker = (config, asker)
        return made[1]

    def broadcast(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        destination: Destination = None,
        connection: Any = None,
        reply: bool = False,
        timeout: float = 1.0,
        limit: int | None = None,
        callback: Callable[[dict[str, Any]], Any] | None = None,
        channel: Any = None,
        pattern: str | None = None,
        matcher: str | None = None,
        **extra_kwargs: Any,
    ) -> Replies:
        """Send a command to all workers, or to some.

        :param arguments: of the command; `extra_kwargs` are added.
        :param destination: names of the workers that are meant.
        :param connection: accepted and not used, and `channel` likewise: the app's broker is.
        :param reply: wait for answers and return them, a list of ``{node: answer}``.
        :param timeout: seconds that are waited.
        :param limit: how many answers are enough; None is the number of destinations, if there are any.
        :param callback: called with every answer as it comes.
        :param pattern: of the names that are meant, with `matcher` (``glob`` or ``pcre``).
        :raises BrokerUnavailable: the broker cannot be reached.
        :raises ImproperlyConfigured: this transport carries no remote control.
        """
        asked = request(command, {**(arguments or {}), **extra_kwargs}, destination, pattern, matcher)
        if not reply:
            self._sends().cast(asked)
            return None
        if limit is None and asked.destination:
            limit = len(asked.destination)
        each = None if callback is None else lambda one: callback({one.node: one.answer})
        replies = self._sends().ask(asked, timeout, limit=limit, each=each)
        return [{one.node: one.answer} for one in replies]

    # -- tasks --------------------------------------------------------------------------------

    def revoke(
        self,
        task_id: str | Iterable[str],
        destination: Destination = None,
        terminate: bool = False,
        signal: str | int = "SIGTERM",
        **kwargs: Any,
    ) -> Replies:
        """Have tasks not run; with `terminate`, end those that run.

        Where the broker can remember it, workers that start later know it, too.

        REVOKED is stored at once for tasks that no worker runs, where the broker knows its workers and all of
        them say so within a second; for others when a worker meets them. Nobody is waited for while one of
        them is known to be silent: it did not answer a call of the last 15 s.

        :param task_id: an id, or several: one call for many costs what one for a single one does.
        :param signal: what ends a running task (`terminate`).
        :raises ValueError: there is no such signal, or it ends no process; nobody was told anything.
        :raises BrokerUnavailable: the broker cannot be reached, also not within `broker_publish_timeout`.
        :raises TransportError: the broker does not remember it. Where that was possible, the workers that
            run were told.
        :raises ResultStoreUnavailable: they are revoked, but the result store cannot be reached.
        """
        number = signal_of(signal)
        ids = [task_id] if isinstance(task_id, str) else list(task_id)
        arguments: dict[str, Any] = {"task_id": task_id if isinstance(task_id, str) else ids}
        if destination is not None or kwargs.get("pattern"):
            return self._ending("revoke", arguments, destination, terminate, signal, kwargs)
        with self._telling_all_the_same("revoke", arguments, terminate, signal):
            revoking.remember(self._app, [task_key(one) for one in ids])
        workers = revoking.workers_to_ask(self._app, terminate, number)
        replies: Replies = None
        answers: list[Any] = []
        if kwargs.get("reply"):
            if workers:
                arguments[revoking_answers.TELL] = True
            replies = self._ending("revoke", arguments, None, terminate, signal, kwargs)
            answers = [answer for reply in replies or () for answer in reply.values()]
        elif not workers or self._silent.any_of(workers):
            self._ending("revoke", arguments, None, terminate, signal, kwargs)
        else:
            arguments |= {"terminate": terminate, "signal": signal, revoking_answers.TELL: True}
            answers = self._asked(request("revoke", arguments), workers)
            self._silent.note(revoking_answers.silent(workers, answers))
        if workers is not None:
            revoking.mark(self._app, revoking_answers.never_run(ids, workers, answers))
        return replies

    def _asked(self, asked: Request, workers: list[str]) -> list[Any]:
        """What workers answer, until each of these has, but not for long."""
        answers: list[Any] = []

        def enough(reply: Reply) -> bool:
            answers.append(reply.answer)
            return not revoking_answers.silent(workers, answers)

        self._sends().ask(asked, _ANSWERS_S, enough=enough)
        return answers

    def revoke_by_stamped_headers(
        self,
        headers: Mapping[str, Any] | Iterable[str],
        destination: Destination = None,
        terminate: bool = False,
        signal: str | int = "SIGTERM",
        **kwargs: Any,
    ) -> Replies:
        """Have no task run that is stamped with one of these values.

        :param headers: a value, or a list of them, by header.
        :raises ValueError: and the other errors: as in `revoke`.
        """
        signal_of(signal)
        command = "revoke_by_stamped_headers"
        given = dict(headers) if isinstance(headers, Mapping) else list(headers)
        arguments = {"headers": given}
        if destination is None and not kwargs.get("pattern"):
            keys = stamp_keys(given)
            with self._telling_all_the_same(command, arguments, terminate, signal):
                revoking.remember(self._app, keys)
        return self._ending(command, arguments, destination, terminate, signal, kwargs)

    def terminate(
        self,
        task_id: str | Iterable[str],
        destination: Destination = None,
        signal: str | int = "SIGTERM",
        **kwargs: Any,
    ) -> Replies:
        """Revoke tasks, and end those that run."""
        return self.revoke(task_id, destination=destination, terminate=True, signal=signal, **kwargs)

    def _ending(
        self,
        command: str,
        arguments: dict[str, Any],
        destination: Destination,
        terminate: bool,
        signal: str | int,
        kwargs: dict[str, Any],
    ) -> Replies:
        arguments = {**arguments, "terminate": terminate, "signal": signal}
        return self.broadcast(command, arguments=arguments, destination=destination, **kwargs)

    @contextmanager
    def _telling_all_the_same(
        self, command: str, arguments: dict[str, Any], terminate: bool, signal: str | int
    ) -> Iterator[None]:
        """If the broker does not remember it, tell the workers that run, which do, before that is raised."""
        try:
            yield
        except TransportError:
            try:
                self._ending(command, arguments, None, terminate, signal, {})
            except (TransportError, ImproperlyConfigured) as error:
                _log.debug("the workers were not told either: %s", error)
            raise

    def rate_limit(
        self, task_name: str, rate_limit: str | float | None, destination: Destination = None, **kwargs: Any
    ) -> Replies:
        """Give tasks of a kind another rate limit in each worker, until it restarts.

        :param rate_limit: ``"10/s"``, ``"100/m"``, ``"5/h"``, a number of tasks a second; 0 pauses them, and
            None lifts the limit.
        """
        arguments = {"task_name": task_name, "rate_limit": rate_limit}
        return self.broadcast("rate_limit", arguments=arguments, destination=destination, **kwargs)

    def time_limit(
        self,
        task_name: str,
        soft: float | None = None,
        hard: float | None = None,
        destination: Destination = None,
        **kwargs: Any,
    ) -> Replies:
        """Give tasks of a kind other time limits in each worker, in seconds, until it restarts.

        What a call asks for wins; None goes back to the worker's own (`task_time_limit`).
        """
        arguments = {"task_name": task_name, "hard": hard, "soft": soft}
        return self.broadcast("time_limit", arguments=arguments, destination=destination, **kwargs)

    # -- workers ------------------------------------------------------------------------------

    def ping(self, destination: Destination = None, timeout: float = 1.0, **kwargs: Any) -> Replies:
        """Who is there: a list of ``{node: {"ok": "pong"}}``."""
        return self.broadcast("ping", destination=destination, timeout=timeout, reply=True, **kwargs)

    def inspect(self, *args: Any, **kwargs: Any) -> Inspect:
        """What workers say about themselves; parameters as in `Inspect`."""
        return Inspect(*args, control=self, **kwargs)

    def shutdown(self, destination: Destination = None, **kwargs: Any) -> Replies:
        """Have workers finish what runs and leave. They do not answer."""
        return self.broadcast("shutdown", arguments={}, destination=destination, **kwargs)

    def pool_grow(self, n: int = 1, destination: Destination = None, **kwargs: Any) -> Replies:
        """Have workers start so many children more."""
        return self.broadcast("pool_grow", arguments={"n": n}, destination=destination, **kwargs)

    def pool_shrink(self, n: int = 1, destination: Destination = None, **kwargs: Any) -> Replies:
        """Have workers let so many children go."""
        return self.broadcast("pool_shrink", arguments={"n": n}, destination=destination, **kwargs)

    def autoscale(self, max: int, min: int, destination: Destination = None, **kwargs: Any) -> Replies:
        """Change the bounds of workers that scale by themselves."""
        return self.broadcast(
            "autoscale", arguments={"max": max, "min": min}, destination=destination, **kwargs
        )

    def pool_restart(
        self,
        modules: Sequence[str] | None = None,
        reload: bool = False,
        reloader: Any = None,
        destination: Destination = None,
        **kwargs: Any,
    ) -> Replies:
        """Have workers replace their children."""
        arguments = {"modules": modules, "reload": reload, "reloader": reloader}
        return self.broadcast("pool_restart", arguments=arguments, destination=destination, **kwargs)

    def add_consumer(
        self,
        queue: str,
        exchange: str | None = None,
        exchange_type: str = "direct",
        routing_key: str | None = None,
        options: Mapping[str, Any] | None = None,
        destination: Destination = None,
        **kwargs: Any,
    ) -> Replies:
        """Have workers consume from one more queue."""
        arguments = {
            "queue": queue,
            "exchange": exchange,
            "exchange_type": exchange_type,
            "routing_key": routing_key,
            **(options or {}),
        }
        return self.broadcast("add_consumer", arguments=arguments, destination=destination, **kwargs)

    def cancel_consumer(self, queue: str, destination: Destination = None, **kwargs: Any) -> Replies:
        """Have workers consume from a queue no longer."""
        return self.broadcast(
            "cancel_consumer", arguments={"queue": queue}, destination=destination, **kwargs
        )

    def enable_events(self, destination: Destination = None, **kwargs: Any) -> Replies:
        """Have workers send task events."""
        return self.broadcast("enable_events", arguments={}, destination=destination, **kwargs)

    def disable_events(self, destination: Destination = None, **kwargs: Any) -> Replies:
        """Have workers send no task events."""
        return self.broadcast("disable_events", arguments={}, destination=destination, **kwargs)

    def heartbeat(self, destination: Destination = None, **kwargs: Any) -> Replies:
        """Have workers send a heartbeat event at once."""
        return self.broadcast("heartbeat", arguments={}, destination=destination, **kwargs)

    def election(self, id: str, topic: str, action: Any = None, connection: Any = None) -> Replies:
        """Have Celery's workers elect one of them."""
        return self.broadcast("election", arguments={"id": id, "topic": topic, "action": action})

    # -- queues -------------------------------------------------------------------------------

    def purge(self, connection: Any = None) -> int:
        """Drop what waits in every queue of the configuration; returns how many messages that were."""
        client = self._app.client
        return sum(
            purge(client.transport, name, self._app.tasks, client.table).dropped
            for name in client.router.queues
        )

    discard_all = purge
