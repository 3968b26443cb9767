"""HPM-KD: a stage of plain distillation becomes one with learned attention, moving temperature and a chain of links.

    attention      alpha D(sum_m a_m z_m, z_S) + entropy R       for   alpha mean_m D(z_m, z_S)      `gate.py`
    temperature    tau/2 .. 3/2 tau, from tau                    for   tau                           `meta_temperature.py`
    chain          0, 1, ... links, as the student gains         for   none                          `auto_chain.py`

Each is a switch, and with all of them off the stage is itself, bit for bit. The other three components are not of a stage: the
configuration manager and the memory are `search.Adaptive`, the pipeline is the runner's (`--parallel 1` turns it off).

[interpretation] With one teacher there is nothing to attend to, so attention changes nothing. The draft's range of 2 to 6
about 4 is that of tau = 4, and moves with it, so that a search over tau is still one; it is revised after each tenth of the
epochs, 10 epochs at most. Links take the place of the largest teacher, and the others teach every link. The chain's epsilon
is relative.

Source: G. Haase, P. da Silva, "HPM-KD: Hierarchical Progressive Multi-Teacher Knowledge Distillation", arXiv 2512.09886, 2025.

Shapes: M teachers, S the student.
"""

from __future__ import annotations

from dataclasses import replace

from raykd.methods.auto_chain import auto_chain
from raykd.methods.gate import Gate, GateAccuracy, GateEntropy
from raykd.methods.meta_temperature import MetaTemperature
from raykd.models import Architecture, scaled, size
from raykd.objective import Objective, Weighted
from raykd.selection import Selection
from raykd.stage import Stage
from raykd.terms import Constant, Distill, DistillEnsemble, Uniform

GATE = Gate()


def hpm(
    stage: Stage, *, chain: bool = True, attention: bool = True, temperature: bool = True, epsilon: float = 0.005,
    most: int = 3, entropy: float = 0.01, accuracy: float = 0.0, gate: Gate = GATE,
) -> Stage | Selection:  # fmt: skip
    """A stage of plain distillation, `a * Distill(D, temperature=Constant(tau))` beside other terms, as HPM-KD.

    `epsilon`: what one more of at most `most` links must gain, as a share. `entropy`, `accuracy`: weights of the gate's own
    terms. With a chain it is a selection.

    Raises `ValueError` for an objective that is not plain distillation, and as `auto_chain` does.
    """
    place = _distilled(stage)
    if attention:
        stage = _attended(stage, place, gate, entropy, accuracy)
    if temperature:
        stage = _warmed(stage, place)
    return auto_chain(stage, most, epsilon=epsilon, relative=True, teacher=_largest(stage)) if chain else stage


def compressed(
    teacher: Architecture, *, target_params: int | None = None, compression: float | None = None
) -> Architecture:
    """The largest member of the teacher's family that has at most so many parameters, or is so many times smaller.

    As nearly as `scaled` tells sizes apart, which is 2 %. Raises `ValueError` for none or both of the targets, for one that no
    member is as small as, and for one that the teacher does not exceed.
    """
    large, least = size(teacher).parameters, size(scaled(teacher, 1)).parameters
    targets = {"target_params": target_params, "compression": compression}
    told = " and ".join(f"{name}={value:g}" for name, value in targets.items() if value is not None)
    if (target_params is None) == (compression is None):
        raise ValueError(f"{told or 'no target'} for {teacher}: one of target_params and compression would be right")
    limit = float(target_params or 0) if compression is None else large / max(compression, 1e-9)
    if not least <= limit < large:
        few, many = (f"{least:,}", f"{large - 1:,}") if compression is None else ("above 1", f"{large / least:.1f}")
        found = f"{told} of {teacher}, which has {large:,} parameters and no member of its family less than {least:,}"
        raise ValueError(f"{found}: {few} to {many} would be right")
    asked, member = limit, scaled(teacher, limit)
    while size(member).parameters > limit:
        asked *= 0.99
        member = scaled(teacher, max(asked, 1.0))
    return member


def _attended(stage: Stage, place: int, gate: Gate, entropy: float, accuracy: float) -> Stage:
    """One teacher that the gate mixes, instead of several that count the same."""
    term = stage.objective.terms[place].term
    assert isinstance(term, Distill)
    if len(term.teachers or stage.teachers) < 2:
        return stage
    mixed = DistillEnsemble(term.divergence, gate, term.temperature, term.teachers)
    own = entropy * GateEntropy(gate) + accuracy * GateAccuracy(gate)
    kept = tuple(each for each in (own.about(term.teachers) if term.teachers else own).terms if each.weight)
    return _with(stage, place, mixed, kept)


def _warmed(stage: Stage, place: int) -> Stage:
    """A temperature that moves about the fixed one."""
    term = stage.objective.terms[place].term
    assert isinstance(term, Distill | DistillEnsemble)
    assert isinstance(term.temperature, Constant)
    tau = float(term.temperature.tau)
    every = max(1, min(10, stage.budget.epochs // 10))
    return _with(stage, place, replace(term, temperature=MetaTemperature("auto", tau / 2, 1.5 * tau, tau, every)))


def _with(stage: Stage, place: int, term: Distill | DistillEnsemble, more: tuple[Weighted, ...] = ()) -> Stage:
    terms = list(stage.objective.terms)
    terms[place] = Weighted(terms[place].weight, term)
    return replace(stage, objective=Objective((*terms, *more))).credited(__name__)


def _distilled(stage: Stage) -> int:
    """Which term distils."""
    places = [i for i, each in enumerate(stage.objective.terms) if isinstance(each.term, Distill)]
    plain = [
        i
        for i in places
        if isinstance(term := stage.objective.terms[i].term, Distill)
        and isinstance(term.weights, Uniform)
        and isinstance(term.temperature, Constant)
    ]
    if len(places) != 1 or len(plain) != 1:
        right = "one Distill term with even weights and a constant temperature"
        raise ValueError(f"hpm of {stage}, whose objective is {stage.objective}: {right} would be right")
    return plain[0]


def _largest(stage: Stage) -> str:
    """The teacher with the most parameters; of equals the first by name."""
    return max(sorted(stage.teachers), key=lambda name: size(stage.teachers[name].architecture).parameters)
