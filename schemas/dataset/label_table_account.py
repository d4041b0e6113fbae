"""Account of a label table in the card: its rows by the flows that they match, with sentences for people."""

from typing import Literal

import pydantic

_STRICT = pydantic.ConfigDict(frozen=True, extra="forbid")
_MANY = 0.1
"""Share of the rows in the time of the captures from which on rows without a flow are a fault."""


class UnmatchedCause(pydantic.BaseModel):
    """Likely cause why rows of a label table match no flow, tried on a sample of them."""

    model_config = _STRICT

    kind: Literal["clock", "tolerance", "protocol", "ports", "hosts"]
    """`clock`: another clock within 14 hours. `tolerance`: up to half a minute. `protocol`: another protocol. `ports`:
    exchanged ports. `hosts`: no flow between these hosts."""
    rows: int
    """Sampled rows without a flow that this explains."""
    of: int
    """Sampled rows without a flow."""
    clock_offset_s: float | None = None
    """With `clock`, the value of `clock_offset_s` under which these rows match, to the minute."""


class LabelTableAccount(pydantic.BaseModel):
    """Rows of one label table for one task; `rows == unreadable + matched + several + unmatched + outside`."""

    model_config = _STRICT

    task: str
    source: str
    rows: int
    unreadable: int
    """Rows without a readable time, address, port, protocol or label; `rejects.parquet` has their causes."""
    matched: int
    """Rows that match one flow."""
    several: int
    """Rows that match two flows or more."""
    unmatched: int
    """Rows that match no flow, although captures have their time."""
    outside: int
    """Rows that match no flow and whose time no capture has."""
    flows: int
    """Flows of the captures that the table is for."""
    flows_without_row: int
    """Flows that match no row."""
    causes: tuple[UnmatchedCause, ...] = ()
    """Likely causes of rows without a flow, the best first."""
    twelve_hour_from: int | None = None
    """First hour of a day, if hours seem to be of a clock of twelve hours without AM and PM that the manifest does not
    mention."""

    @property
    def counted(self) -> str:
        """The numbers of rows in one line."""
        numbers = {
            "match one flow": self.matched, "several": self.several, "none": self.unmatched,
            "outside the time of the captures": self.outside, "unreadable": self.unreadable,
        }  # fmt: skip
        told = ", ".join(f"{count:,} {what}" for what, count in numbers.items() if count or what == "match one flow")
        rows = f"{self.rows:,} row{'' if self.rows == 1 else 's'}"
        flows = f"{self.flows_without_row:,} of {self.flows:,} flows have no row"
        return f"{self.source} (task {self.task}): {rows}: {told}; {flows}"

    @property
    def fault(self) -> str | None:
        """A sentence with a correction if many rows match no flow; None if few do."""
        lost = self.unmatched + self.outside
        inside = self.matched + self.several + self.unmatched
        mends = [_mend(cause) for cause in self.causes if cause.kind != "hosts"]
        if self.twelve_hour_from is not None:
            mends.insert(
                0,
                "its hours never are above 12 and go back from morning to afternoon, as of a clock without AM and PM: "
                f"write twelve_hour_from: {self.twelve_hour_from}",
            )
        elif not lost or (not mends and self.unmatched <= _MANY * inside and inside):
            return None
        mends += [_mend(cause) for cause in self.causes if cause.kind == "hosts"]
        why = "; ".join(mends) or "no cause was found: check addresses, clock and tolerance_s"
        return f"{self.counted}; {why}"


def _mend(cause: UnmatchedCause) -> str:
    of = f"{cause.rows:,} of {cause.of:,} sampled rows without a flow"
    if cause.kind == "clock":
        return f"{of} match under clock_offset_s: {cause.clock_offset_s:g}"
    if cause.kind == "tolerance":
        return f"{of} are within half a minute of a flow: write a larger tolerance_s"
    if cause.kind == "protocol":
        return f"{of} match flows of another protocol: check the column of protocol"
    if cause.kind == "ports":
        return f"{of} match if their ports are exchanged: exchange src_port and dst_port in columns"
    return f"the captures have no flow between the hosts of {of}"
