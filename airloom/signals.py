"""What ends a server, and how one is run until then."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from airloom.log_text import OneLineFormatter


async def until_signalled() -> None:
    """Return on SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()


def run_until_done(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a server's coroutine with logging to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # The decode thread wants the interpreter back as soon as a pass ends, not 5 ms later.
    sys.setswitchinterval(0.00005)
    uvloop.run(main())
