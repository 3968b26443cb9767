"""The cache: the only door between labeling and training. A teacher sees an input once, ever.

    cache = SignalCache(root)                           store.py     which entry; what is in its key
    entry = cache.entry(key, ids_N=ids, shape=(C,))     entry.py     which shards, missing | commit | open | verify
    for slot in entry.missing(replicas):                record.py    entry.json: foreign entries are refused
        entry.commit(Shard(slot, ids, checksums, z))    shard.py     slots and shards    codec.py   values as columns
    reader = entry.open(replicas)                       arrow.py     the file of a shard seal.py    its checksum
    reader.check_inputs(replicas_B, positions_B, x_B)   checksum.py  of inputs           files.py   write once, atomically
    z_BC = reader.gather(replicas_B, positions_B)       reader.py    any rows, from one array

An entry is write-once, complete or absent, blind to the order of commits, and never serves a byte that was not committed.
"""

from raykd.cache.checksum import input_checksums
from raykd.cache.codec import Codec, DenseF16
from raykd.cache.entry import Entry, Holdings, IncompleteEntry, Report
from raykd.cache.reader import Misaligned, Reader
from raykd.cache.record import ForeignEntry
from raykd.cache.seal import CorruptShard
from raykd.cache.shard import Shard, Slot
from raykd.cache.store import SignalCache

__all__ = [
    "Codec",
    "CorruptShard",
    "DenseF16",
    "Entry",
    "ForeignEntry",
    "Holdings",
    "IncompleteEntry",
    "Misaligned",
    "Reader",
    "Report",
    "Shard",
    "SignalCache",
    "Slot",
    "input_checksums",
]
