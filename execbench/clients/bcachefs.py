"""bcachefs: one unpack function for each btree node in memory, made while the node is locked. A what-if.

The generator is compiled out upstream, "pending a new interface for dynamically allocating executable memory"
(fs/bcachefs/bkey.h), and bcachefs has left the kernel since: this is what it would ask of such an interface.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from execbench.clients.arrivals import Arriving, Loop, Turn, loops
from execbench.clients.columns import Column
from execbench.clients.limits import at_least, shares
from execbench.contract import Entry, Estimate, Image, LockKind, Proc, Region, Request, Row, Setting, TextKind
from execbench.kernel.facade import Kernel
from execbench.kernel.locks import RwSem
from execbench.sim.dists import Dist, Exponential
from execbench.sim.locks import Lock

COSTS = {
    "visit": Entry(
        "node", "find a cached node, search it and unpack some keys (bch2_btree_node_get, bch2_btree_node_iter_init)",
        estimate=Estimate("0.4us", "0.1us", "3us", "assumed: a hash lookup, a search of three sets, some cache misses"),
    ),
    "evict": Entry(
        "node", "take a node's buffers for another one (btree_node_cannibalize, bch2_btree_node_hash_remove)",
        estimate=Estimate("0.3us", "0.1us", "3us", "assumed: two list operations and a hash removal"),
    ),
    "fill": Entry(
        "node", "check and sort what was read, without waiting for it (bch2_btree_node_read_done)",
        estimate=Estimate("30us", "5us", "300us", "assumed: checksum and sort of some tens of KiB of keys"),
    ),
    "compile": Entry(
        "function", "emit one unpack function into a buffer (bch2_compile_bkey_format)",
        estimate=Estimate("0.4us", "0.1us", "2us", "assumed: six fields, about sixty bytes"),
    ),
}  # fmt: skip
"""What bcachefs does around the verbs, one row per name under `[costs.client.bcachefs]`."""

CACHE_LOCK = LockKind("btree_cache.lock", "mutex", "fs/bcachefs/btree_types.h: struct btree_cache.lock")
NODE_LOCK = LockKind("btree_node.c.lock", "mutex", "fs/bcachefs/btree_types.h: struct btree_bkey_cached_common.lock")


COLUMNS = (Column("btree_kind", "text"), Column("code_bytes", least=1))
"""What is read of a file of functions."""


@dataclass(slots=True, eq=False)
class Node:
    """A btree node in memory: its SIX lock, the kind of its btree, its unpack function; place in the list of all."""

    lock: RwSem
    place: int
    btree: str = ""
    region: Region | None = None


@dataclass(frozen=True, kw_only=True)
class Bcachefs(Arriving):
    """A what-if: threads that share a full node cache; each operation visits some nodes and fills one that is missing.

    Each fill makes the node's unpack function inside its lock and calls it at once; the least recently used node goes,
    its function is freed, nobody waits for a grace period: who calls holds the node's lock. With the chance
    `reformats` another node's format changes behind it (split, merge, rewrite), so its function is written anew.
    """

    name: ClassVar[str] = "bcachefs"
    api_phases: ClassVar[frozenset[str]] = frozenset({"alloc", "write", "finalize", "rewrite", "free"})
    arrivals: ClassVar[frozenset[str]] = frozenset({"fill"})
    costs: ClassVar[Mapping[str, Entry]] = COSTS
    kinds: ClassVar[tuple[TextKind, ...]] = (TextKind.JIT,)
    caveat: ClassVar[str] = "a what-if: bcachefs compiled its generator out and has left the kernel since"

    data: str = field(default="bcachefs_unpack.csv", metadata={"kind": "data", "columns": COLUMNS})
    """Rows btree_kind, code_bytes: functions as the emitter makes them."""
    threads: int = 4
    think: Dist = field(default=Exponential(1e6), metadata={"unit": "time"})
    nodes: int = 1024
    """Nodes that the cache holds: a function lives for about `nodes` / fill rate."""
    visits: int = 3
    """Cached nodes visited before the missing one, each drawn with equal chance."""
    read: Dist = field(default=Exponential(80e3), metadata={"unit": "time"})
    """Reading a node from its device."""
    reformats: float = 0.05
    code_factor: float = 1.0
    """Bytes of a function over those that the x86_64 emitter makes."""

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        if self.nodes <= self.threads:
            raise ValueError("nodes: more than threads, each of which may hold one")
        at_least(self, 0, "visits", "nodes")
        shares(self, "reformats")
        if self.code_factor <= 0:
            raise ValueError("code_factor: above 0")

    def start(self, setting: Setting) -> None:
        """Fill the cache at time 0, then let the threads go."""
        _Run(self, setting).spawn_boot()


class _Run:
    """One replication: the cache, its functions, the threads."""

    def __init__(self, params: Bcachefs, setting: Setting) -> None:
        self.params = params
        self.setting = setting
        self.shared = shared = setting.shared
        shared.declare(CACHE_LOCK)
        rows: Sequence[Row] = setting.data(params.data)
        self.rows = [(row["btree_kind"], self._bytes(row)) for row in rows]
        self.of_kind: dict[str, list[int]] = defaultdict(list)
        for btree, size in self.rows:
            self.of_kind[btree].append(size)
        self.cached = [Node(RwSem(self._lock()), i) for i in range(params.nodes)]
        self.used = OrderedDict.fromkeys(self.cached)  # least recently used first

    def _bytes(self, row: Row) -> int:
        return max(int(int(row["code_bytes"]) * self.params.code_factor + 0.5), 1)

    def _lock(self) -> Lock:
        """Return one node's lock: not one of the kernel's list, which would have thousands of them."""
        machine = self.shared.machine
        return Lock(NODE_LOCK, machine.engine, machine.probe, self.shared.costs.ns("lock_handoff"))

    def spawn_boot(self) -> None:
        self.setting.spawn("bcachefs/boot", 0, self._boot)

    def _boot(self, k: Kernel) -> Proc[None]:
        """Put the functions of a full cache in place, as one group: the file system was in use before."""
        params, setting = self.params, self.setting
        stream = setting.stream("client.bcachefs/boot")
        for node in self.cached:
            node.btree, _ = self.rows[int(stream.u() * len(self.rows))]
        sizes = [self._size(node, stream.u()) for node in self.cached]
        regions = yield from self._install(k, sizes)
        for node, region in zip(self.cached, regions, strict=True):
            node.region = region
        yield from k.settle()
        own = loops(setting, params, "fill", 4 + params.visits + params.read.uniforms)
        for i, loop in enumerate(own):
            setting.spawn(f"bcachefs/{i}", i, partial(self._thread, loop), k.now)

    def _size(self, node: Node, uniform: float) -> int:
        """Return the bytes of a function for one of the formats of this btree's nodes."""
        sizes = self.of_kind[node.btree]
        return sizes[int(uniform * len(sizes))]

    def _install(self, k: Kernel, sizes: Sequence[int]) -> Proc[tuple[Region, ...]]:
        """The three verbs of the API for functions of these sizes (bytes), and the pointer that publishes them.

        inside = none: who calls has the node's lock, and who frees has it alone.
        """
        setting = self.setting
        k.phase("alloc")
        regions = yield from setting.alloc(k, [Request(size, TextKind.JIT) for size in sizes])
        k.phase("write")
        for region in regions:
            yield from setting.write(k, region, Image(region.id, region.size))
        k.phase("finalize")
        yield from setting.finalize(k, regions)
        k.phase("publish")
        for region in regions:
            yield from setting.publish(k, region, "pointer", "none")
        return regions

    def _thread(self, loop: Loop, k: Kernel) -> Proc[None]:
        visits = self.params.visits
        while (turn := (yield from loop.next(k))) is not None:
            yield from self._fill(k, turn)
            _, chance, which, what = turn.row[visits : visits + 4]
            if chance < self.params.reformats:
                yield from self._reformat(k, turn.number, which, what)
            yield from loop.done(k, turn)

    # --- a node that is missing -------------------------------------------------------------------------------------

    def _fill(self, k: Kernel, turn: Turn) -> Proc[None]:
        """bch2_btree_node_fill: on the way visit what is cached, take a node's buffers, read, make the function.

        Who wants the node meanwhile waits: for its lock, and for read_in_flight, which is the same lock here.
        """
        visits = self.params.visits
        k.begin(turn.operation, "visit")
        k.task.site = "bch2_btree_node_fill"
        for uniform in turn.row[:visits]:
            yield from self._visit(k, self.cached[int(uniform * len(self.cached))])
        k.phase("evict")
        node = yield from self._take(k)
        drawn, *rest = turn.row[visits:]
        with (yield from node.lock.write(k.task)):
            k.spend("client.bcachefs.evict")
            yield from self._free(k, node.region)
            k.phase("read")
            node.btree, size = self.rows[int(drawn * len(self.rows))]
            yield from k.settle()
            self._cache(node)
            yield from k.sleep_until(k.now + int(self.params.read.sample(rest[3:]) + 0.5))
            k.phase("fill")
            k.spend("client.bcachefs.fill")
            k.spend("client.bcachefs.compile")
            (node.region,) = yield from self._install(k, [size])
            k.phase("call")
            yield from self._search(k, node)
        k.end()

    def _visit(self, k: Kernel, node: Node) -> Proc[None]:
        """A lookup: the node's lock for reading, a search that calls its function."""
        yield from node.lock.read(k.task, self._search(k, node))
        if node in self.used:
            self.used.move_to_end(node)

    def _search(self, k: Kernel, node: Node) -> Proc[None]:
        assert node.region is not None
        yield from k.enter_text(node.region)
        k.spend("client.bcachefs.visit")

    def _take(self, k: Kernel) -> Proc[Node]:
        """bch2_btree_node_mem_alloc, btree_node_cannibalize: the least recently used node that nobody has locked."""
        with (yield from k.lock("btree_cache.lock")):
            for node in self.used:
                k.spend("list_walk")
                if not node.lock.readers and self._unlocked(node.lock.lock):
                    break
            del self.used[node]
            last = self.cached.pop()
            if last is not node:
                self.cached[node.place], last.place = last, node.place
        return node

    @staticmethod
    def _unlocked(lock: Lock) -> bool:
        """six_trylock: nobody has it, nobody waits for it."""
        lock.sync()
        return lock.hold is None and not lock.waiters

    def _cache(self, node: Node) -> None:
        """bch2_btree_node_hash_insert: others find it, and wait for it."""
        node.place = len(self.cached)
        self.cached.append(node)
        self.used[node] = None

    # --- a format that changes --------------------------------------------------------------------------------------

    def _reformat(self, k: Kernel, number: int, which: float, what: float) -> Proc[None]:
        """btree_node_set_format of a node in use: over the old function where the API can and the new one fits.

        Else a new function is made inside the lock, and the old one freed when others may have the node again.
        """
        setting = self.setting
        yield from k.settle()
        node = self.cached[int(which * len(self.cached))]
        k.begin(setting.operation("bcachefs", "reformat", number, k.now), "lock")
        k.task.site = "bch2_btree_node_rewrite"
        with (yield from node.lock.write(k.task)):
            k.phase("compile")
            k.spend("client.bcachefs.compile")
            size, old = self._size(node, what), node.region
            assert old is not None
            if setting.rewrites and size <= old.size:
                setting.retire(k, old)  # the lock keeps everybody out
                k.phase("rewrite")
                yield from setting.rewrite(k, old, Image(old.id, size))
                k.phase("publish")
                yield from setting.publish(k, old, "pointer", "none")
                old = None
            else:
                (node.region,) = yield from self._install(k, [size])
        if old is not None:
            yield from self._free(k, old)
        k.end()

    def _free(self, k: Kernel, region: Region | None) -> Proc[None]:
        """Free a function that nobody can be inside of: its node's lock was taken alone since the pointer was good."""
        assert region is not None
        k.phase("free")
        self.setting.retire(k, region)
        yield from self.setting.free(k, [region])
