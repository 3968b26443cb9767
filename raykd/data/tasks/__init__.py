"""Tasks that are drawn, not read: as many rows as one wants, and the truth is known.

parity.py    is the product of k of d signs positive? As numbers, and as tokens
pcfg.py      strings of a grammar: what comes next?
masked.py    any source of tokens, with some of them hidden
"""

from raykd.data.tasks.masked import Masked, Remasked
from raykd.data.tasks.parity import Parity, ParityTokens, Redrawn, RedrawnTokens
from raykd.data.tasks.pcfg import CFG3B, PCFG, Grammar, Rule

__all__ = [
    "CFG3B",
    "PCFG",
    "Grammar",
    "Masked",
    "Parity",
    "ParityTokens",
    "Redrawn",
    "RedrawnTokens",
    "Remasked",
    "Rule",
]
