"""A process that has modules imported and forks a child per run: a run costs a fork, and not an interpreter.

Started with the number of a socket (SOCK_SEQPACKET) and the modules (see ``forks``). An order comes in as JSON, with
it the run's own socket and the child's standard streams. On the run's socket the child's pid goes out; the child waits
for ``go``, so that strace can be attached to it before it does anything; its result goes out, unless it is killed; and
then its wait status.
"""

import contextlib
import ctypes
import encodings.idna  # noqa: F401 - imported at the first connection otherwise
import gc
import importlib
import json
import os
import selectors
import socket
import sys
import traceback
from typing import Any

from syncd.errors import SyncdError

MESSAGE = 1 << 16
GO = b"go"
DESCRIPTORS = 4  # of an order: the run's socket, stdin, stdout, stderr
UNEXPECTED = 70  # exit code: something else than SyncdError was raised
_PR_SET_PTRACER = 0x59616D61  # linux/prctl.h: lets strace attach where Yama restricts it
_ANYBODY = ctypes.c_ulong(-1)


def main() -> None:
    """Take orders until the test process closes its end."""
    orders = socket.socket(fileno=int(sys.argv[1]))
    for module in sys.argv[2:]:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    with selectors.DefaultSelector() as ready:
        ready.register(orders, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fileobj is not orders:
                    _ended(ready, key)
                elif not _take(ready, orders):
                    return


def _take(ready: selectors.BaseSelector, orders: socket.socket) -> bool:
    """Begin one run; False: there will be none any more."""
    order, descriptors, _, _ = socket.recv_fds(orders, MESSAGE, DESCRIPTORS)
    if not order:
        return False
    run = socket.socket(fileno=descriptors[0])
    run.set_inheritable(False)  # what the child starts has nothing to do with it
    pid = os.fork()
    if pid == 0:
        code = UNEXPECTED
        with contextlib.suppress(OSError):  # the test process has gone
            _close_others(ready, orders)
            code = _child(run, json.loads(order), descriptors[1:])
        os._exit(code)
    for descriptor in descriptors[1:]:
        os.close(descriptor)
    ready.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, run))
    with contextlib.suppress(OSError):  # likewise
        run.send(json.dumps({"pid": pid}).encode())
    return True


def _ended(ready: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    pid, run = key.data
    ready.unregister(key.fileobj)
    os.close(key.fd)
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):  # killed before it took it; left there, the other end would hear of a reset
        run.recv(MESSAGE, socket.MSG_DONTWAIT)
    with run, contextlib.suppress(OSError):  # the test process has gone
        run.send(json.dumps({"status": status}).encode())


def _close_others(ready: selectors.BaseSelector, orders: socket.socket) -> None:
    """What a new process would not have: the forker's own socket, and other runs."""
    for key in ready.get_map().values():
        if key.data is not None:
            key.data[1].close()
            os.close(key.fd)
    orders.close()
    ready.close()


def _child(run: socket.socket, order: dict[str, Any], streams: list[int]) -> int:
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    if order["environ"] is not None:
        os.environ.clear()
        os.environ.update(order["environ"])
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANYBODY, 0, 0, 0)
    if run.recv(MESSAGE) != GO:
        return UNEXPECTED
    module, _, name = order["call"].partition(":")
    code = 0
    try:
        result = getattr(importlib.import_module(module), name)(**order["arguments"])
    except SyncdError as error:
        code = int(error.exit_code)
        result = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    except BaseException:  # noqa: BLE001 - whatever it is, the test has to see it
        code = UNEXPECTED
        result = {"unexpected": traceback.format_exc()[-MESSAGE // 4 :]}
    # Not by write(2): that call may be the one that fails.
    run.send(json.dumps(result or {}).encode())
    return code


if __name__ == "__main__":
    main()
