"""The cache: the only door between labeling and training. A teacher sees an input once, ever.

    cache = SignalCache(root)                           store.py     which entry; what is in its key
    entry = cache.entry(key, ids_N=ids, shape=(C,))     record.py    entry.json: foreign entries are refused
    for slot in entry.missing(replicas):                shards.py    which shards, missing | good | quarantined
        with entry.lease(slot):                         entry.py     missing | lease | commit | open | verify
            entry.commit(Shard(slot, ids, sums, z))     shard.py     slots and shards    codecs/     values as columns
    reader = entry.open(replicas)                       arrow.py     the file of a shard seal.py     its checksum
    reader.check_inputs(replicas_B, positions_B, x_B)   checksum.py  of inputs           window.py   all files, one array
    z_BC = reader.gather(replicas_B, positions_B)       reader.py    any rows, from that array; waits for those to come

    collect(cache, max_bytes)                           gc.py        who must go          pins.py     who may stay
    export_entry(entry, path)                           archive.py   a folder or a tar file to publish, and back: parts.py

An entry is write-once, complete or absent, blind to the order of commits, and never serves a byte that was not committed.
It lies in a folder or in a bucket (`raykd.places`).
"""

from raykd.cache.checksum import input_checksums
from raykd.cache.codecs import Codec, DenseF16
from raykd.cache.entry import Entry, Holdings, Report
from raykd.cache.reader import IncompleteEntry, Misaligned, Reader
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
