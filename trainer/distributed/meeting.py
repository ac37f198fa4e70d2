"""Where the ranks of one attempt meet: a store that no earlier attempt has written to.

torchrun's agent keeps one store over all restarts, and its keys with it: a rank that is started
anew would connect to the dead ones. How often it was restarted does not help, as the agents of
several nodes do not count alike. So rank 0 opens a store of its own for each attempt.
"""

from __future__ import annotations

import os
import secrets
import time
from datetime import timedelta

import torch.distributed as dist
from torch._C._distributed_c10d import Store, TCPStore
from torch.distributed.rendezvous import rendezvous

PLACE = "cifar-tui/meeting"
TRY_SECONDS = 2.0


def meet(rank: int, limit: timedelta) -> Store:
    """The attempt's store, from torchrun's environment.

    Raises:
        RuntimeError, ValueError: rank 0 was not found in time.
    """
    agents: Store
    agents, _, _ = next(iter(rendezvous("env://", timeout=limit)))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return agents  # rank 0 has just opened it
    host = os.environ["MASTER_ADDR"]
    if rank == 0:
        name = secrets.token_hex(8)
        store = TCPStore(host, 0, None, True, limit, wait_for_workers=False)
        store.set("name", name)
        agents.set(PLACE, f"{store.port} {name}")
        return store
    until = time.monotonic() + limit.total_seconds()
    while True:
        port, name = agents.get(PLACE).decode().split()
        try:
            store = TCPStore(
                host, int(port), None, False, timedelta(seconds=TRY_SECONDS), wait_for_workers=False
            )
            if store.get("name").decode() == name:
                store.set_timeout(limit)
                return store
        except dist.DistError:  # of an attempt that is over: rank 0 is not here yet
            if time.monotonic() > until:
                raise
        time.sleep(0.1)
