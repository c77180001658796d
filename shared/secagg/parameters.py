"""Which thresholds keep one hospital's update hidden, and why.

n hospitals, t of them must answer, delta = n - t may drop, c may collude beside the coordinator.

- 2t > n + c: two different included sets of one round would both need t confirmations. The two groups overlap in at
  least 2t - n members; as long as that is more than c, one of them is honest and confirms one set only
  (Bonawitz et al., CCS 2017, section 6.2 and theorem 6.5).
- n - delta - c >= 2: of those who are summed, at least two do not collude; a sum over one honest hospital would be
  its update.
"""

from dataclasses import dataclass

from shared.errors import CharterError

MIN_MEMBERS = 3
MAX_MEMBERS = 100  # every hospital masks against every other; above this a sparse graph is wanted


@dataclass(frozen=True)
class Thresholds:
    """One row of the table: n, t, delta and the greatest c that the rule allows."""

    members: int
    threshold: int

    @property
    def drops(self) -> int:
        """Delta: how many hospitals may drop out of a round that still finishes."""
        return self.members - self.threshold

    @property
    def colluding(self) -> int:
        """C: how many hospitals may collude with the coordinator without learning another one's update; may be < 0."""
        return min(2 * self.threshold - self.members - 1, self.threshold - 2)


TABLE = tuple(
    Thresholds(members, members - drops)
    for members, drops in ((3, 0), (4, 1), (5, 1), (7, 1), (10, 2), (16, 3), (32, 4), (50, 5))
)


def recommended(members: int) -> Thresholds:
    """The table's row for so many members, or, between two rows, as many drop-outs as the row below has.

    Raises:
        CharterError: There are too few or too many.
    """
    check_parameters(members, members, 1)
    return Thresholds(members, members - max(row.drops for row in TABLE if row.members <= members))


def check_parameters(members: int, threshold: int, colluding: int) -> None:
    """Refuse a federation whose numbers do not protect its members.

    Args:
        members: N, 3 to 100.
        threshold: T, how many must answer.
        colluding: C, how many hospitals might work with the coordinator; at least 0.

    Raises:
        CharterError: 2t > n + c or n - delta - c >= 2 does not hold; the hint says which t would do.
    """
    if not MIN_MEMBERS <= members <= MAX_MEMBERS:
        raise CharterError(
            f"secure aggregation is for {MIN_MEMBERS} to {MAX_MEMBERS} hospitals, not {members}",
            hint="with two, each reads the other's update off the sum; 'fedward server approve' takes more of them in; "
            "a simulation makes its own masks: leave [secure_aggregation] out for it",
        )
    if colluding < 0 or not 1 <= threshold <= members:
        raise CharterError(
            f"threshold {threshold} and {colluding} colluding hospitals are impossible among {members}",
            hint=f"the threshold is 1 to {members}, and colluding at least 0",
        )
    least = max((members + colluding) // 2 + 1, colluding + 2)
    if threshold >= least:
        return
    if 2 * threshold <= members + colluding:
        why = (
            f"two groups of {threshold} among {members} may share only {max(2 * threshold - members, 0)} hospitals; if "
            f"{colluding} collude, the coordinator could have two different sums of one round, whose difference is "
            f"one hospital's update (the rule: 2t > n + c)"
        )
    else:
        why = (
            f"of {threshold} hospitals that are summed, {colluding} could subtract their own and be left with one "
            "(the rule: n - delta - c >= 2)"
        )
    if least <= members:
        hint = f"with {colluding} colluding a threshold of at least {least} is needed; {members - least} may then drop"
    else:
        hint = (
            f"{members} hospitals cannot withstand {colluding} colluding ones: take more hospitals or lower the claim"
        )
    raise CharterError(f"the threshold {threshold} is too low: {why}", hint=hint)
