"""The worker check as a Beam transform."""

import dataclasses

import apache_beam as beam

from flowloom.pipelines.engines.worker_check import REQUESTS, WorkerCheck


@dataclasses.dataclass
class AnswerWorkerCheck(beam.PTransform):
    """Answers the requests of a worker check (`answer_worker_check`), spread over the engine's workers.

    The output has the requests that were answered.
    """

    check: WorkerCheck

    def expand(self, root: beam.pvalue.PBegin) -> beam.PCollection[int]:
        """Creates the requests, spreads them and answers each on a worker."""
        requests = root | "Requests" >> beam.Create(range(REQUESTS), reshuffle=False)
        spread = requests | "Spread" >> beam.Reshuffle()
        return spread | "Answer" >> beam.Map(self.check.answer).with_output_types(int)
