from __future__ import annotations

import ast
import builtins
import pickle
import subprocess
import sys
from datetime import datetime, timezone

import celery.exceptions
import pytest

from prefork.engine import exceptions
from prefork.engine.retrying import RetryPlan

# Names of Celery's that are machinery of its own and mean nothing to users of tasks.
NOT_OURS = {"UnpickleableExceptionWrapper", "CeleryCommandException", "reraise", "get_pickled_exception"}


def test_every_name_that_users_import_exists() -> None:
    missing = [
        name for name in celery.exceptions.__all__ if name not in NOT_OURS and not hasattr(exceptions, name)
    ]
    assert missing == []


def test_a_star_import_gives_every_class_and_nothing_else() -> None:
    code = "from prefork.engine.exceptions import *; print(sorted(n for n in dir() if n[:1] != '_'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    given = set(ast.literal_eval(done.stdout))
    assert {"TimeLimitExceeded", "SoftTimeLimitExceeded", "WorkerLostError", "Terminated"} <= given
    assert set(celery.exceptions.__all__) - NOT_OURS <= given
    classes = {name for name, value in vars(exceptions).items() if isinstance(value, type)}
    assert given == exceptions.FROM_BILLIARD | (classes - {"Any", "Sequence", "datetime", "timedelta"})


def test_the_limit_classes_are_those_that_users_catch_already() -> None:
    import billiard.exceptions

    assert exceptions.SoftTimeLimitExceeded is billiard.exceptions.SoftTimeLimitExceeded
    assert issubclass(exceptions.WorkerLostError, Exception)
    with pytest.raises(AttributeError, match="NoSuchName"):
        exceptions.NoSuchName  # noqa: B018


def test_importing_the_exceptions_does_not_import_billiard() -> None:
    code = "import prefork.engine.exceptions, sys; print('billiard' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_our_timeout_is_also_pythons() -> None:
    assert issubclass(exceptions.TimeoutError, builtins.TimeoutError)


def test_retry_says_when_and_why() -> None:
    plain = exceptions.Retry("again")
    assert str(plain) == "again"
    because = exceptions.Retry(exc=ValueError("x"), when=3, plan=RetryPlan(1, 3.0))
    assert str(because) == "Retry in 3s: ValueError('x')"
    assert because.plan is not None and because.plan.retries == 1
    later = exceptions.Retry(when=datetime(2030, 1, 1, tzinfo=timezone.utc), exc="text")
    assert later.humanize().startswith("at 2030")
    assert later.exc is None and later.excs == "text"
    assert str(exceptions.Retry(when=2)) == "Retry in 2s"


def test_errors_carry_data() -> None:
    reject = exceptions.Reject("bad", requeue=True)
    assert (reject.reason, reject.requeue) == ("bad", True)
    spent = exceptions.MaxRetriesExceededError("no", task_args=[1], task_kwargs={"a": 2})
    assert (spent.task_args, spent.task_kwargs) == ([1], {"a": 2})
    assert "proj.add" in str(exceptions.NotRegistered("proj.add"))
    remote = exceptions.RemoteTaskError("mod.Type", "'x'", "Traceback")
    assert (remote.type_name, remote.text, remote.traceback) == ("mod.Type", "'x'", "Traceback")
    assert str(remote) == "mod.Type('x')"
    assert exceptions.BackendGetMetaError("m", task_id="t").task_id == "t"
    assert exceptions.BackendStoreError("m", state="S", task_id="t").state == "S"


def test_a_not_registered_error_survives_pickling() -> None:
    copy = pickle.loads(pickle.dumps(exceptions.NotRegistered("a.b")))
    assert copy.args == ("a.b",)
