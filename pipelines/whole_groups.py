"""Jobs whose capture groups may reach `max_open_flows`: run again with these groups in one piece."""

from collections.abc import Callable

from flowloom.schemas.corpus.flow_definition import FlowDefinition
from flowloom.schemas.errors import FlowloomError
from flowloom.schemas.progress import Progress
from flowloom.transforms.io.staging import empty_folder
from flowloom.transforms.io.verdict import asked_whole


class CrowdedGroupsError(FlowloomError):
    """Groups that were metered in parts and may have reached `max_open_flows`; they must be metered in one piece.

    Attributes:
      groups: their names.
    """

    def __init__(self, groups: list[str]):
        super().__init__(
            f"{len(groups):,} capture groups must be metered in one piece, because they may have more open flows than "
            "max_open_flows of the flow definition; raise max_open_flows, or remove the meter cache and run again"
        )
        self.groups = tuple(groups)


def require_room(staging: str) -> None:
    """Checks that a job did not ask for groups in one piece.

    Raises:
      CrowdedGroupsError: if it did.
    """
    if crowded := asked_whole(staging):
        raise CrowdedGroupsError(crowded)


def run_with_room(
    run: Callable[[tuple[str, ...]], None],
    staging: str,
    definition: FlowDefinition,
    progress: Callable[[Progress], None],
) -> None:
    """Runs a job, and again as long as it asks for groups in one piece.

    Args:
      run: runs the job; its argument is the names of the groups to meter in one piece.
      staging: the folder that the job writes to; it is emptied before another run.
    """
    whole: tuple[str, ...] = ()
    while True:
        run(whole)
        crowded = asked_whole(staging)
        if not crowded:
            return
        whole = (*whole, *crowded)
        text = (
            f"{len(crowded):,} capture groups may have more than max_open_flows={definition.max_open_flows:,} open "
            "flows; each of them is metered again in one piece"
        )
        progress(Progress(text, stays=True))
        empty_folder(staging)


def tell_ended_early(flows: int, definition: FlowDefinition, progress: Callable[[Progress], None]) -> None:
    """Reports the flows that ended for lack of resources, if there are any."""
    if flows:
        text = (
            f"warning: {flows:,} flows ended early (end reason 5), because more than "
            f"max_open_flows={definition.max_open_flows:,} were open; raise it if there is memory, about 0.5 KB a flow"
        )
        progress(Progress(text, stays=True))
