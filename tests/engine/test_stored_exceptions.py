"""What a caller gets of an exception of ours that was stored as a result, or pickled: the same again."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import pytest

import prefork.engine
import prefork.serializers
import prefork.transports
from prefork.engine import exceptions as engine
from prefork.engine.bench.trial import TrialFailed
from prefork.engine.canvas import ChordNeeded
from prefork.engine.child.following import Unmade
from prefork.engine.cli.failures import CommandError
from prefork.engine.config.errors import ConfigError, ConfigFrozen, Problem
from prefork.engine.config.toml_file import UnreadableFile
from prefork.engine.control.wire import MalformedControl
from prefork.engine.control_socket import ControlError, RuntimeDirectoryError
from prefork.engine.crontab_fields import ParseException
from prefork.engine.embed import WorkerBootError, WorkerError
from prefork.engine.limits.board import TableBusy
from prefork.engine.log_file import BadLogFileTemplate
from prefork.engine.log_lines import LogFileError
from prefork.engine.message import Malformed, MalformedMessage
from prefork.engine.process_link import PacketError
from prefork.engine.replacing import Replaced
from prefork.engine.result_document import MalformedResult, decode, encode, rebuild_exception
from prefork.engine.state_file import ForeignStateFile
from prefork.engine.supervisor.options import OptionsError
from prefork.engine.supervisor.pidfile import PidfileError
from prefork.engine.testing.worker import WorkerStuck
from prefork.serializers import base as serializers
from prefork.serializers.compression import UnknownCompression
from prefork.serializers.registry import SerializerTable
from prefork.transports import errors as transports
from prefork.transports.amqp import codec as amqp_codec
from prefork.transports.amqp import errors as amqp
from prefork.transports.amqp.settings import InvalidOption as AmqpOption
from prefork.transports.amqp.wire import Garbled
from prefork.transports.database.codec import NoDocument
from prefork.transports.database.old_pickle import UnsafePickle
from prefork.transports.database.settings import InvalidOption as DatabaseOption
from prefork.transports.envelope import EnvelopeFault, MalformedEnvelope
from prefork.transports.filesystem.fileops import ForeignObject
from prefork.transports.kombu.address import InvalidOption as KombuOption
from prefork.transports.redis import faults as redis
from prefork.transports.redis.option_values import invalid_option
from prefork.transports.url import InvalidUrl

CLASH = "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/'"

STORED: tuple[Exception, ...] = (
    MalformedMessage(Malformed.BAD_ETA, "'garbage' is no time", "id-1", "proj.add"),
    MalformedMessage(Malformed.NO_ID, "no id"),
    MalformedEnvelope(EnvelopeFault.BAD_BASE64, "at byte 3"),
    serializers.DecodeError(serializers.DecodeFault.TOO_DEEP, "64 levels"),
    serializers.EncodeError((1, "user", ((1, 2),)), "object", "give an id", serializer="json", root="args"),
    serializers.EncodeError((), "object", "give an id", serializer="json"),
    serializers.ContentDisallowed("application/x-python-serialize", ["application/json"]),
    serializers.UnknownSerializer("yml", ("json", "msgpack")),
    serializers.SerializerError("it"),
    UnknownCompression("zstd", "install it"),
    engine.PreforkError("it"),
    engine.ImproperlyConfigured("it"),
    engine.SecurityError("it"),
    engine.TaskPredicate("it"),
    engine.Retry("again", ValueError("x"), 3),
    engine.Retry(exc="text", when=datetime(2030, 1, 1, tzinfo=timezone.utc)),
    engine.Ignore("why"),
    engine.Snooze(5),
    engine.Snooze(timedelta(minutes=1)),
    engine.Reject("bad", requeue=True),
    engine.TaskError("it"),
    engine.QueueNotFound("q"),
    engine.IncompleteStream("it"),
    engine.NotRegistered("proj.add"),
    engine.AlreadyRegistered("proj.add"),
    engine.MaxRetriesExceededError("no more", task_args=[1], task_kwargs={"a": 2}),
    engine.MaxSnoozesExceededError("no more"),
    engine.TaskRevokedError("revoked"),
    engine.TaskCancelledError("cancelled"),
    engine.InvalidTaskError("it"),
    engine.InvalidArguments("proj.add", "x", ["x: not a number", "y: too long"]),
    engine.PayloadTooLarge("proj.add", 10, 5),
    engine.DuplicateTaskError("proj.add", "0a", "id-1"),
    engine.ChordError("it"),
    engine.RemoteTaskError("proj.Mine", "'text'"),
    engine.TimeoutError("no result within 3 s"),
    engine.BackendError("away"),
    engine.BackendGetMetaError("away", task_id="id-1"),
    engine.BackendStoreError("away", task_id="id-1", state="SUCCESS"),
    engine.TimeLimitExceeded(10.0),
    engine.SoftTimeLimitExceeded(),
    engine.WorkerLostError("killed by the kernel"),
    engine.Terminated("SIGTERM"),
    engine.PreforkWarning("it"),
    engine.AlwaysEagerIgnored("it"),
    engine.DuplicateNodenameWarning("it"),
    engine.DuplicateTaskNameWarning("it"),
    engine.FixupWarning("it"),
    engine.AppNotFound("no module named shop"),
    engine.MisspeltOptionWarning("it"),
    engine.NotConfigured("it"),
    engine.SecurityWarning("it"),
    engine.CPendingDeprecationWarning("it"),
    engine.CDeprecationWarning("it"),
    ChordNeeded("it needs a chord"),
    ConfigError([Problem("task_time_limt", "3", "env", "no such setting"), Problem("a", "", "file", "b")]),
    ConfigFrozen("task_time_limit"),
    UnreadableFile("/etc/prefork.toml", "it is not TOML"),
    MalformedControl("no method"),
    ControlError("/run/s", "nobody answers"),
    RuntimeDirectoryError("/run", "others may write"),
    ParseException("61 is no minute"),
    WorkerError("it is closed"),
    WorkerBootError("ImportError", 78),
    WorkerBootError("it had to be killed", None),
    WorkerStuck(5.0, None, "File x, line 1"),
    TableBusy("proj.add"),
    MalformedResult("it has no status"),
    OptionsError("it"),
    transports.TransportError("it"),
    transports.Unacceptable("too large"),
    transports.BrokerUnavailable("away", outcome_unknown=True),
    transports.BrokerFull("no space"),
    transports.ResultStoreUnavailable("away"),
    transports.UnsupportedTransport("gopher", ("redis", "amqp"), "no transport for gopher"),
    transports.UnsafeStorage("/tmp/q", "others may write"),
    transports.OwnerLost("w1.0", "recovered"),
    transports.LeasesHeld({"w1": 12.0, "w2": 3.0}),
    transports.Unroutable("", "q", "NO_ROUTE"),
    amqp.DeclarationClash("q", CLASH),
    amqp.Refused("ACCESS_REFUSED", permanent=True),
    amqp_codec.Unencodable("it"),
    amqp_codec.Undecodable("it"),
    AmqpOption("ssl", "'x'", "known are ca_certs"),
    Garbled("it"),
    NoDocument("it"),
    UnsafePickle("os.system"),
    DatabaseOption("database_engine_options", "no such thing"),
    KombuOption("polling_interval", "-1", "must be a number of seconds above 0"),
    redis.WrongKeyType("q", "the key 'q' is not of the type of a queue"),
    redis.DamagedOwner("w1.0", "the entry of w1.0 cannot be read"),
    redis.CommandRefused("NOPERM", "no right to EVALSHA"),
    redis.ScriptError("LOST", "w1.0", "a script refused: LOST w1.0"),
    invalid_option("password", "secret", "must be a text"),
    invalid_option("priority_steps", [1], "must be ascending numbers that begin with 0"),
    InvalidUrl("redis:/x", "give two slashes"),
)

# What its arguments cannot say in a document, since they may be long or objects: a caller gets the text.
AS_TEXT: tuple[Exception, ...] = (
    engine.BulkSendError(1, ["id-2"], ["id-3"], transports.BrokerUnavailable("away")),
)

# They end a process or a command, or only pass between parts of a worker.
INSIDE = frozenset(
    {
        BadLogFileTemplate,
        CommandError,
        ForeignObject,
        ForeignStateFile,
        LogFileError,
        PacketError,
        PidfileError,
        Replaced,
        TrialFailed,
        Unmade,
        redis.ServerError,
    }
)

SERIALIZERS = ("json", "msgpack", "pickle")


def our_exceptions() -> Iterator[type[Exception]]:
    for package in (prefork.engine, prefork.transports, prefork.serializers):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if found.name.endswith("__main__"):
                continue
            module = importlib.import_module(found.name)
            for value in vars(module).values():
                if (
                    isinstance(value, type)
                    and issubclass(value, Exception)
                    and value.__module__ == found.name
                ):
                    yield value


def stored_and_read(exc: Exception, serializer: str) -> Exception:
    table = SerializerTable(SERIALIZERS, SERIALIZERS)
    table.allow_unpickling()
    codec = table.by_name(serializer)
    document = encode("FAILURE", exc, task_id="t", serializer=codec)
    return rebuild_exception(decode(document, codec).result)


def assert_same(found: Exception, exc: Exception) -> None:
    assert type(found) is type(exc)
    assert (str(found), repr(found), found.args) == (str(exc), repr(exc), exc.args)


def test_every_exception_of_ours_is_named_here() -> None:
    named = {type(exc) for exc in (*STORED, *AS_TEXT)} | INSIDE
    assert [found for found in our_exceptions() if found not in named] == []


@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest.mark.parametrize("exc", STORED, ids=lambda exc: type(exc).__name__)
def test_an_exception_comes_back_from_a_result_as_it_was(exc: Exception, serializer: str) -> None:
    found = stored_and_read(exc, serializer)
    assert_same(found, exc)
    assert_same(stored_and_read(found, serializer), exc)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("exc", (*STORED, *AS_TEXT), ids=lambda exc: type(exc).__name__)
def test_an_exception_comes_back_from_a_pickle_as_it_was(exc: Exception, protocol: int) -> None:
    found = pickle.loads(pickle.dumps(exc, protocol))
    assert_same(found, exc)
    assert {key: repr(value) for key, value in vars(found).items() if key != "steps"} == {
        key: repr(value) for key, value in vars(exc).items() if key != "steps"
    }


@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest.mark.parametrize("exc", AS_TEXT, ids=lambda exc: type(exc).__name__)
def test_of_other_exceptions_the_text_comes_back(exc: Exception, serializer: str) -> None:
    found = stored_and_read(exc, serializer)
    assert isinstance(found, engine.RemoteTaskError)
    assert type(exc).__name__ in found.type_name and str(exc) in str(found)


def test_a_reason_that_is_not_known_here_is_shown_as_text() -> None:
    value = {
        "exc_type": "MalformedMessage",
        "exc_module": MalformedMessage.__module__,
        "exc_message": ["bad-moon", "it rises", "id-1", "proj.add"],
    }
    found = rebuild_exception(value)
    assert isinstance(found, engine.RemoteTaskError)
    assert "bad-moon" in str(found) and "it rises" in str(found)


def test_a_reason_is_stored_as_plain_text_for_readers_that_do_not_have_the_class() -> None:
    assert [type(arg) for arg in STORED[0].args] == [str, str, str, str]
